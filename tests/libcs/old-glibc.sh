#!/bin/sh
# Unpacks the C library of an older Debian release, or of another architecture, into a directory, for the test that the library loads in it:
#   old-glibc.sh FOLDER [SUITE [MACHINE [PACKAGE...]]]
# A package named NAME+ comes with all that it needs. Asks the server that this machine's apt is set up for; nothing is installed.
set -eu
folder=$1 suite=${2:-bullseye} machine=${3:-amd64}
[ -e "$folder/unpacked" ] && exit 0
if [ $# -gt 3 ]; then shift 3; else set -- libc6 libgcc-s1; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"
# shellcheck source=tests/support/apt.sh
. "$(dirname "$0")/../support/apt.sh"
apt_of "$suite" "$machine" "$work"
case " $* " in
*+\ *)
  apt-get install -qq --yes --no-install-recommends --download-only "$@" >/dev/null
  mv "$work"/cache/archives/*.deb "$work"
  ;;
*) (cd "$work" && apt-get download -qq "$@") ;;
esac
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
touch "$folder/unpacked"
