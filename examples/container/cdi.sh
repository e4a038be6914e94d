#!/bin/sh
# Prints a specification for CDI, the Container Device Interface. With it podman, containerd and CRI-O mount the host's libsockopt.so
# into containers and set LD_PRELOAD, without changing the images.
#
#     cdi.sh --set SOCKOPT_DEAD_PEER_TIMEOUT=15s >/etc/cdi/sockopt.json
#     podman run --device sockopt.dev/preload=all IMAGE
#
#   --library FILE       the library on this host, an absolute path
#                        (default: /usr/local/lib/libsockopt.so, or that of the Debian package)
#   --config FILE        a configuration file, which is mounted at /etc/sockopt/sockopt.toml in the container
#   --set NAME=VALUE     a variable of the library (SOCKOPT_...); may be repeated
#   --behind LIST        libraries that the images name in LD_PRELOAD themselves, separated by colons. CDI replaces a variable and
#                        cannot add to it, so name them here: they are put after the library
#   --preload-file FILE  a file on this host that contains the line /opt/sockopt/libsockopt.so. With it there is a second device,
#                        sockopt.dev/preload=glibc, which mounts this file at /etc/ld.so.preload and leaves the image's
#                        LD_PRELOAD as it is. musl does not read that file.
#
# The library must be for the image's architecture: nothing checks that.
set -eu

target=/opt/sockopt/libsockopt.so
library='' config='' behind='' file='' variables=''

die() { printf 'cdi.sh: %s\n' "$*" >&2; exit 2; }

# quote TEXT: as JSON.
quote() {
    case $1 in *[[:cntrl:]]*) die "'$1' contains a control character" ;; esac
    printf '"%s"' "$(printf '%s' "$1" | sed 's/["\\]/\\&/g')"
}

# path FILE: is there, and is named from the root on.
path() {
    case $1 in /*) ;; *) die "'$1' is not an absolute path" ;; esac
    [ -f "$1" ] || die "$1 does not exist"
}

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || die "$1: its value is missing, or there is no such option"
    case $1 in
    --library) library=$2 ;;
    --config) config=$2 ;;
    --behind) behind=$2 ;;
    --preload-file) file=$2 ;;
    --set)
        case $2 in SOCKOPT_*=*) ;; *) die "--set $2: write --set SOCKOPT_NAME=VALUE" ;; esac
        variables="$variables, $(quote "$2")"
        ;;
    *) die "there is no option $1" ;;
    esac
    shift 2
done

if [ -z "$library" ]; then
    for library in /usr/local/lib/libsockopt.so "/usr/lib/$(uname -m)-linux-gnu/libsockopt.so"; do
        [ ! -f "$library" ] || break
    done
fi
path "$library"

# mount FROM TO
mount() {
    printf '{"hostPath": %s, "containerPath": "%s", "options": ["ro", "nosuid", "nodev", "bind"]}' "$(quote "$1")" "$2"
}
mounts=$(mount "$library" "$target")
if [ -n "$config" ]; then
    path "$config"
    mounts="$mounts, $(mount "$config" /etc/sockopt/sockopt.toml)"
fi

# device NAME VARIABLES MOUNTS
device() {
    printf '    {"name": "%s", "containerEdits": {"env": [%s], "mounts": [%s]}}' "$1" "$2" "$3"
}
devices=$(device all "$(quote "LD_PRELOAD=$target${behind:+:$behind}")$variables" "$mounts")
if [ -n "$file" ]; then
    path "$file"
    [ "$(cat "$file")" = "$target" ] || die "$file: its only line must be $target"
    devices="$devices,
$(device glibc "${variables#, }" "$mounts, $(mount "$file" /etc/ld.so.preload)")"
fi
cat <<EOF
{
  "cdiVersion": "0.3.0",
  "kind": "sockopt.dev/preload",
  "devices": [
$devices
  ]
}
EOF
