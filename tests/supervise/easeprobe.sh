#!/bin/sh
# EaseProbe 1.6.0, the last release without an SO_LINGER of its own, built into a folder: easeprobe.sh FOLDER. Its source comes from
# EASEPROBE_SOURCE, a repository that git can read, or from where it is published. Where it cannot be had, nothing is built, and the tests
# that need it are skipped. The libraries are Debian's, unpacked and not installed. Left out are EaseProbe's seven clients of databases,
# whose libraries Debian does not have.
set -eu
[ -x "$1/easeprobe" ] && exit 0
mkdir -p "$1"
folder=$(realpath "$1")
source=${EASEPROBE_SOURCE:-https://github.com/megaease/easeprobe}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
own=$work/path/src/github.com/megaease/easeprobe
mkdir -p "$work/path/src/github.com/megaease" "$work/packages"
if ! GIT_TERMINAL_PROMPT=0 timeout 120 git clone --quiet --depth 1 --branch v1.6.0 "$source" "$own" 2>"$work/git"; then
  echo "EaseProbe's source cannot be had here, and its tests are skipped: $(tail -n 1 "$work/git")"
  exit 0
fi
(
  cd "$work/packages"
  apt-get -o APT::Sandbox::User=root download -qq golang-github-aws-aws-sdk-go-dev golang-github-beorn7-perks-dev \
    golang-github-cespare-xxhash-dev golang-github-go-chi-chi-dev golang-github-go-co-op-gocron-dev \
    golang-github-golang-protobuf-1-5-dev golang-github-jmespath-go-jmespath-dev golang-github-prometheus-client-golang-dev \
    golang-github-prometheus-client-model-dev golang-github-prometheus-common-dev golang-github-prometheus-procfs-dev \
    golang-github-robfig-cron-dev golang-github-sirupsen-logrus-dev golang-golang-x-crypto-dev golang-golang-x-exp-dev \
    golang-golang-x-sync-dev golang-golang-x-sys-dev golang-google-protobuf-dev golang-gopkg-natefinch-lumberjack.v2-dev \
    golang-gopkg-yaml.v3-dev golang-goprotobuf-dev golang-protobuf-extensions-dev
)
for package in "$work/packages"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done
clients='kafka\|memcache\|mongo\|mysql\|postgres\|redis\|zookeeper'
sed -i "/probe\/client\/\($clients\)\"/d; /= \($clients\)\.New(/d; /case conf\.\($clients\|postgresql\):/Id" "$own/probe/client/client.go"
cd "$own"
export GOPATH="$work/path:$work/unpacked/usr/share/gocode" GOCACHE="$work/cache" GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
go build -o "$folder/easeprobe" ./cmd/easeprobe
