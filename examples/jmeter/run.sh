#!/bin/sh
# Runs plan.jmx with or without libsockopt.so.
#
#     ./run.sh with    RESULTS.csv [JMETER-OPTION...]
#     ./run.sh without RESULTS.csv [JMETER-OPTION...]
#
# for example: ./run.sh with out.csv -Jhost=192.0.2.10 -Jport=80 -Jthreads=40 -Jduration=120
# The plan's properties are listed at its top. JMeter's log goes to RESULTS.csv.log.
#
# From the environment:
#   JMETER            the command, default jmeter
#   SOCKOPT_LIBRARY   the library, an absolute path; default: this source tree's own, then
#                     /usr/local/lib/libsockopt.so, /usr/lib/libsockopt.so
#   SOCKOPT_CONFIG    default: sockopt.toml beside this script
#
# Exit status: 64 wrong usage, 69 something is missing, 124 threads were still stuck long
# after the end and JMeter was ended from outside, else JMeter's own.
set -eu

die() {
    status=$1
    shift
    printf 'run.sh: %s\n' "$*" >&2
    exit "$status"
}

mode=${1-}
results=${2-}
case $mode:$results in
with:?* | without:?*) shift 2 ;;
*) die 64 "usage: run.sh with|without RESULTS.csv [JMETER-OPTION...]" ;;
esac
# JMeter would append, and two runs in one file compare badly.
[ ! -e "$results" ] || die 64 "$results exists already"

here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
jmeter=${JMETER:-jmeter}
command -v "$jmeter" >/dev/null || die 69 "$jmeter not found; JMETER can name it"

scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Debian's JMeter 2.13 cannot read any plan without a replacement for one class; see README.md.
if [ "$(command -v "$jmeter")" = /usr/bin/jmeter ]; then
    # shellcheck disable=SC2016 # dpkg-query's own variable
    case $(dpkg-query -W -f '${Version}' jmeter 2>/dev/null) in
    2.13-*)
        command -v javac >/dev/null || die 69 "Debian's JMeter 2.13 needs javac here (apt-get install default-jdk-headless)"
        scratch=$(mktemp -d)
        javac -cp /usr/share/java/xstream.jar -d "$scratch" \
            "$here/debian-2.13/com/thoughtworks/xstream/security/NoTypePermission.java"
        JAVA_CLASSPATH=$scratch${JAVA_CLASSPATH:+:$JAVA_CLASSPATH}
        export JAVA_CLASSPATH
        ;;
    esac
fi

set -- "$jmeter" -n -t "$here/plan.jmx" -l "$results" -j "$results.log" "$@"

if [ "$mode" = with ]; then
    library=${SOCKOPT_LIBRARY-}
    if [ -z "$library" ]; then
        for library in "${here%/examples/jmeter}/target/release/libsockopt.so" \
            /usr/local/lib/libsockopt.so /usr/lib/libsockopt.so; do
            [ ! -f "$library" ] || break
        done
    fi
    [ -f "$library" ] || die 69 "libsockopt.so not found: build it (cargo build --release), or name it by SOCKOPT_LIBRARY"
    case $library in
    *[[:space:]:]*) die 69 "the loader splits LD_PRELOAD at a colon and at white space: '$library'" ;;
    /*) ;;
    *) die 69 "SOCKOPT_LIBRARY must be an absolute path: '$library'" ;;
    esac
    set -- env SOCKOPT_CONFIG="${SOCKOPT_CONFIG:-$here/sockopt.toml}" \
        LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}" "$@"
fi

# A thread that is stuck in a dead connection never ends, and JMeter waits for it for ever.
duration=30
for argument; do
    case $argument in -Jduration=*) duration=${argument#-Jduration=} ;; esac
done
case $duration in '' | *[!0-9]*) die 64 "-Jduration takes whole seconds, not '$duration'" ;; esac
status=0
if command -v timeout >/dev/null; then
    timeout --foreground -k 10 $((duration + 60)) "$@" || status=$?
    [ "$status" != 124 ] || printf 'run.sh: threads were still stuck 60 s after the end, JMeter was ended\n' >&2
else
    "$@" || status=$?
fi
exit "$status"
