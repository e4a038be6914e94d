#!/bin/sh
# Builds the program that runs Kubernetes' own admission code (admit/main.go), with the sources and the Go that Debian's unstable
# release has of it; nothing is installed:
#   packages.sh FOLDER
# That release moves on: where it has another Kubernetes, and the program does not build with it, this says so and leaves none.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
made_for=0.36
if [ ! -e "$folder/unpacked" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # shellcheck source=tests/support/apt.sh
  . "$here/../support/apt.sh"
  apt_of sid amd64 "$work"
  # What the packages need for tests and for other programs is most of it, and left out.
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    golang-k8s-apiserver-dev golang-go | grep -E '^golang-' | sort -u |
    grep -vE '^golang-(github-(aws|pierrec-lz4|cloudflare|klauspost|apache|envoyproxy|mmcloughlin|nats-io|nxadm|pjbgf|sergi|charmbracelet)|google-(api|cloud)|golang-x-(tools|image)|mongodb|gonum|etcd-server)' |
    grep -vE ':|-(doc|race)$' >"$work/names"
  apt-cache show --no-all-versions golang-k8s-apiserver-dev | sed -n 's/^Version: //p' >"$folder/version"
  # shellcheck disable=SC2046 # words
  (cd "$work" && apt-get download -qq $(cat "$work/names"))
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
  unset APT_CONFIG
  touch "$folder/unpacked"
fi
go=$(echo "$folder"/root/usr/lib/go-*)
cd "$here/admit"
# A Go and its sources of their own; no network.
if ! env -u GOFLAGS PATH="$go/bin:$PATH" GOROOT="$go" GOPATH="$folder/root/usr/share/gocode" GOCACHE="$folder/cache" GO111MODULE=off \
  GOTOOLCHAIN=local GOPROXY=off CGO_ENABLED=0 go build -o "$folder/admit" .; then
  rm -f "$folder/admit"
  case $(cat "$folder/version") in
    "$made_for".*) exit 1 ;;
    *) echo "Kubernetes' admission code was not run: the program is for $made_for, and Debian has $(cat "$folder/version")" >&2 ;;
  esac
fi
