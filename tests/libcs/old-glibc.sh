#!/bin/sh
# Unpacks the C library of an older Debian release into a folder, for the test that the library loads in it:
#   old-glibc.sh FOLDER [SUITE]
# Asks the server that this machine's apt is set up for; nothing is installed.
set -eu
folder=$1 suite=${2:-bullseye}
[ -e "$folder/lib/x86_64-linux-gnu/libc.so.6" ] && exit 0
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder"
: >"$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" >"$work/sources.list"
cat >"$work/apt.conf" <<EOF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
EOF
export APT_CONFIG="$work/apt.conf"
apt-get update -qq
(cd "$work" && apt-get download -qq libc6 libgcc-s1)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$folder"; done
