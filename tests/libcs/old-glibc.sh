#!/bin/sh
# Unpacks the C library of an older Debian release, or of another machine, into a folder, for the test that the library loads in it:
#   old-glibc.sh FOLDER [SUITE [MACHINE [PACKAGE...]]]
# Asks the server that this machine's apt is set up for; nothing is installed.
set -eu
folder=$1 suite=${2:-bullseye} machine=${3:-amd64}
[ -e "$folder/unpacked" ] && exit 0
if [ $# -gt 3 ]; then shift 3; else set -- libc6 libgcc-s1; fi
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder"
: >"$work/status"
echo "deb [arch=$machine signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" >"$work/sources.list"
cat >"$work/apt.conf" <<EOF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Architecture "$machine";
APT::Architectures "$machine";
APT::Sandbox::User "root";
EOF
export APT_CONFIG="$work/apt.conf"
apt-get update -qq
(cd "$work" && apt-get download -qq "$@")
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
touch "$folder/unpacked"
