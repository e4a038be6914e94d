#!/bin/sh
# The seccomp profiles that Docker and Podman give containers, from Debian's packages, which are unpacked and not installed:
# profiles.sh FOLDER
set -eu
folder=$1
[ -s "$folder/docker.json" ] && [ -s "$folder/podman.json" ] && exit 0
mkdir -p "$folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && apt-get -o APT::Sandbox::User=root download -qq golang-github-docker-docker-dev golang-github-containers-common)
for package in "$scratch"/*.deb; do dpkg-deb -x "$package" "$scratch/unpacked"; done
cp "$scratch/unpacked/usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json" "$folder/docker.json"
cp "$scratch/unpacked/usr/share/containers/seccomp.json" "$folder/podman.json"
