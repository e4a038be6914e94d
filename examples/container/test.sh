#!/bin/sh
# Runs sockopt-entrypoint and cdi.sh through their cases, once under each shell that they are meant for.
# Nothing is installed or left behind: the cases run on a copy whose fixed places
# (/usr/local/lib, /usr/lib, /etc/sockopt) lie in a temporary directory, and the library is
# a fake: any small library of this machine under our name.
#
#     ./test.sh          exit 0 all passed, 1 something failed
set -u

here=$(CDPATH='' cd "$(dirname "$0")" && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
tmp=$(CDPATH='' cd "$tmp" && pwd -P) || exit 1
chmod 755 "$tmp"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# The caller's own settings must not reach the cases.
for name in $(env | sed -n 's/^\(SOCKOPT_[A-Z_]*\)=.*/\1/p') LD_PRELOAD; do
    unset "$name"
done

passed=0 failed=0 skipped=0
tab=$(printf '\t')

pass() { passed=$((passed + 1)); echo "ok    $shell: $1"; }
skip() { skipped=$((skipped + 1)); echo "SKIP  $shell: $1"; }
fail() {
    failed=$((failed + 1))
    echo "FAIL  $shell: $1"
    echo "      $2"
    echo "      stdout: $out"
    echo "      stderr: $err"
}

# The copy under test, a directory as an image has it.
bin=$tmp/image/usr/local/bin
mkdir -p "$bin" "$tmp/image/usr/local/lib" "$tmp/image/usr/lib" "$tmp/image/etc" "$tmp/empty"
entry=$bin/sockopt-entrypoint
sed -e "s|/usr/local/lib/|$tmp/fixed/local/|g" -e "s|/usr/lib/|$tmp/fixed/lib/|g" \
    -e "s|/etc/sockopt/|$tmp/fixed/etc/|g" "$here/sockopt-entrypoint" >"$entry"
chmod +x "$entry"
mkdir -p "$tmp/fixed/local" "$tmp/fixed/lib" "$tmp/fixed/etc"

# The fake library.
fake=$tmp/fake/libsockopt.so
mkdir -p "$tmp/fake"
loads() { [ -z "$(LD_PRELOAD=$fake /bin/sh -c : 2>&1)" ] && LD_PRELOAD=$fake /bin/sh -c : 2>/dev/null; }
for donor in /lib/*-linux-gnu*/libdl.so.2 /lib64/libdl.so.2 /usr/lib/libdl.so.2 /lib/libz.so.1 /usr/lib/libz.so.1; do
    [ -f "$donor" ] || continue
    cp "$donor" "$fake" && chmod 644 "$fake" && loads && break
    rm -f "$fake"
done
if [ ! -f "$fake" ] && cc -shared -fPIC -x c /dev/null -o "$fake" 2>/dev/null; then
    loads || rm -f "$fake"
fi
if [ ! -f "$fake" ]; then
    echo "SKIP  everything: no library on this machine can play the fake one"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

# What the wrapped program is: it prints what it was given.
# shellcheck disable=SC2016 # meant for the program's shell
report='printf "%s|%s" "${LD_PRELOAD-unset}" "${SOCKOPT_DEAD_PEER_TIMEOUT-unset}"'

# run [VAR=VALUE...] [-- ARGUMENT...]: the wrapper with these variables and arguments
# (default: the reporting program). Leaves $out, $err, $status.
run() {
    assignments=
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        assignments="$assignments $(quote "$1")"
        shift
    done
    [ $# -eq 0 ] || shift
    if [ $# -eq 0 ] && [ "${no_arguments-}" != yes ]; then
        set -- sh -c "$report"
    fi
    # shellcheck disable=SC2086 # $shell may be two words
    eval "env $assignments $shell \"\$entry\" \"\$@\"" >"$tmp/out" 2>"$tmp/err"
    status=$?
    out=$(cat "$tmp/out")
    err=$(cat "$tmp/err")
}
quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# expect NAME STATUS STDOUT STDERR: exact status and standard output; standard error is
# "-" for nothing, else one line that contains these words in this order (a shell pattern).
expect() {
    if [ "$status" != "$2" ]; then
        fail "$1" "exit status $status, not $2"
    elif [ "$out" != "$3" ]; then
        fail "$1" "standard output is not: $3"
    elif [ "$4" = - ]; then
        if [ -z "$err" ]; then pass "$1"; else fail "$1" "standard error is not empty"; fi
    elif [ "$(printf '%s\n' "$err" | wc -l)" -ne 1 ]; then
        fail "$1" "standard error is not one line"
    else
        # shellcheck disable=SC2254 # a pattern is wanted
        case $err in
        sockopt-entrypoint:*$4*) pass "$1" ;;
        *) fail "$1" "standard error lacks: $4" ;;
        esac
    fi
}

lib=SOCKOPT_LIBRARY=$fake
set60='no configuration found, using SOCKOPT_DEAD_PEER_TIMEOUT=60s'

cases() {
    # --- where the library is
    run "$lib"
    expect "SOCKOPT_LIBRARY names the library" 0 "$fake|60s" "$set60"

    mkdir -p "$tmp/fixed/lib" && cp "$fake" "$tmp/fixed/lib/"
    run
    expect "found in /usr/lib" 0 "$tmp/fixed/lib/libsockopt.so|60s" "$set60"
    cp "$fake" "$tmp/fixed/local/"
    run
    expect "found in /usr/local/lib, before /usr/lib" 0 "$tmp/fixed/local/libsockopt.so|60s" "$set60"
    run "$lib"
    expect "SOCKOPT_LIBRARY before the fixed places" 0 "$fake|60s" "$set60"
    run "SOCKOPT_LIBRARY=$tmp/none.so"
    expect "SOCKOPT_LIBRARY wrong: no other place is tried" 0 "unset|unset" "warning: $tmp/none.so not found; sh runs without it"
    rm "$tmp/fixed/local/libsockopt.so" "$tmp/fixed/lib/libsockopt.so"

    # Where Debian's package puts it.
    mkdir -p "$tmp/fixed/lib/x86_64-linux-gnu" && cp "$fake" "$tmp/fixed/lib/x86_64-linux-gnu/"
    run
    expect "found in /usr/lib/x86_64-linux-gnu" 0 "$tmp/fixed/lib/x86_64-linux-gnu/libsockopt.so|60s" "$set60"
    rm -r "$tmp/fixed/lib/x86_64-linux-gnu"

    # --- another architecture's: the two bytes that say so are changed in the fake one.
    cp "$fake" "$tmp/foreign.so"
    for machine in '\267:aarch64' '\363:another architecture'; do
        # shellcheck disable=SC2059 # the number is meant to be read
        printf "${machine%%:*}" | dd of="$tmp/foreign.so" bs=1 seek=18 conv=notrunc 2>/dev/null
        run "SOCKOPT_LIBRARY=$tmp/foreign.so"
        expect "a library for ${machine#*:}" 0 "unset|unset" "warning: $tmp/foreign.so is for ${machine#*:}, and this image for*sh runs without it"
    done
    run "SOCKOPT_LIBRARY=$tmp/foreign.so" SOCKOPT_STRICT=1
    expect "the same, SOCKOPT_STRICT=1: exit 78" 78 "" "foreign.so is for another architecture, and this image for*not started*"
    cp "$tmp/foreign.so" "$tmp/fixed/local/libsockopt.so"
    mkdir -p "$tmp/fixed/lib/aarch64-linux-gnu" "$tmp/fixed/lib/x86_64-linux-gnu"
    cp "$tmp/foreign.so" "$tmp/fixed/lib/aarch64-linux-gnu/libsockopt.so"
    run
    expect "no other is there: it is named" 0 "unset|unset" "warning: $tmp/fixed/local/libsockopt.so is for another architecture*sh runs without it"
    cp "$fake" "$tmp/fixed/lib/x86_64-linux-gnu/"
    run
    expect "the one for this architecture is taken" 0 "$tmp/fixed/lib/x86_64-linux-gnu/libsockopt.so|60s" "$set60"
    rm -r "$tmp/fixed/lib/x86_64-linux-gnu" "$tmp/fixed/lib/aarch64-linux-gnu" "$tmp/fixed/local/libsockopt.so"

    cp "$fake" "$tmp/image/usr/local/lib/"
    run
    expect "found in ../lib of the script" 0 "$tmp/image/usr/local/lib/libsockopt.so|60s" "$set60"
    cp "$fake" "$bin/"
    run
    expect "found beside the script, before ../lib" 0 "$bin/libsockopt.so|60s" "$set60"
    ln -s "$entry" "$tmp/empty/link"
    kept=$entry entry=$tmp/empty/link
    run
    expect "script called by a symbolic link" 0 "$bin/libsockopt.so|60s" "$set60"
    entry=$kept
    rm "$tmp/empty/link" "$bin/libsockopt.so" "$tmp/image/usr/local/lib/libsockopt.so"

    cp "$fake" "$tmp/empty/"
    cd "$tmp/empty" || exit 1
    run
    expect "never from the current directory" 0 "unset|unset" "warning: libsockopt.so not found*sh runs without it"
    cp "$entry" "$tmp/empty/sockopt-entrypoint"
    kept=$entry entry=sockopt-entrypoint
    run
    expect "nor where the script's own place is not known" 0 "unset|unset" "warning: libsockopt.so not found*"
    entry=$kept
    run "SOCKOPT_LIBRARY=libsockopt.so"
    expect "a relative SOCKOPT_LIBRARY is refused" 0 "unset|unset" "'libsockopt.so' is not absolute; sh runs without it"
    cd "$tmp" || exit 1
    rm "$tmp/empty/libsockopt.so" "$tmp/empty/sockopt-entrypoint"

    # --- a library that cannot be used
    run
    expect "no library: warning, the program lives" 0 "unset|unset" "warning: libsockopt.so not found*"
    # shellcheck disable=SC2016 # meant for the program's shell
    run LD_PRELOAD="$tmp/fake/libother.so" -- sh -c 'printf %s "$LD_PRELOAD" 2>&1'
    case $out in
    "$tmp/fake/libother.so") pass "no library: an existing LD_PRELOAD is left as it is" ;;
    *) fail "no library: an existing LD_PRELOAD is left as it is" "LD_PRELOAD changed" ;;
    esac
    run SOCKOPT_STRICT=1
    expect "no library, SOCKOPT_STRICT=1: exit 78" 78 "" "libsockopt.so not found*not started, because SOCKOPT_STRICT=1"
    run "SOCKOPT_LIBRARY=$tmp/empty"
    expect "a directory is no library" 0 "unset|unset" "warning: $tmp/empty not found*"

    for odd in "a:b" "a b" "a${tab}b"; do
        mkdir -p "$tmp/$odd" && cp "$fake" "$tmp/$odd/"
        run "SOCKOPT_LIBRARY=$tmp/$odd/libsockopt.so"
        expect "path '$odd': refused, the program lives" 0 "unset|unset" "contains a colon or white space*sh runs without it"
        run "SOCKOPT_LIBRARY=$tmp/$odd/libsockopt.so" SOCKOPT_STRICT=1
        expect "path '$odd', SOCKOPT_STRICT=1: exit 78" 78 "" "contains a colon or white space*not started*"
    done

    echo "not a library" >"$tmp/text.so"
    run "SOCKOPT_LIBRARY=$tmp/text.so"
    expect "a file that is no library" 0 "unset|unset" "warning: $tmp/text.so is not a shared library; sh runs without it"
    run "SOCKOPT_LIBRARY=$tmp/text.so" SOCKOPT_STRICT=1
    expect "the same, SOCKOPT_STRICT=1: exit 78" 78 "" "$tmp/text.so is not a shared library; not started*"

    # One that needs another library that is not there, as a glibc library does in a musl image.
    if cc -shared -fPIC -x c /dev/null -o "$tmp/libgone.so" 2>/dev/null &&
        cc -shared -fPIC -x c /dev/null -Wl,--no-as-needed -x none "$tmp/libgone.so" -o "$tmp/needy.so" 2>/dev/null; then
        rm "$tmp/libgone.so"
        run "SOCKOPT_LIBRARY=$tmp/needy.so"
        expect "a library that cannot load" 0 "unset|unset" "warning: $tmp/needy.so does not load here: *libgone.so*sh runs without it"
        run "SOCKOPT_LIBRARY=$tmp/needy.so" SOCKOPT_STRICT=1
        expect "the same, SOCKOPT_STRICT=1: exit 78" 78 "" "$tmp/needy.so does not load here: *not started*"
    else
        skip "a library that cannot load (needs a C compiler)"
    fi

    cp "$fake" "$tmp/secret.so" && chmod 000 "$tmp/secret.so"
    kept=$shell
    if [ "$(id -u)" -eq 0 ]; then
        # Root reads everything, so somebody else must try.
        if setpriv --reuid=65534 --clear-groups true 2>/dev/null; then
            shell="setpriv --reuid=65534 --clear-groups $shell"
        else
            shell=
        fi
    fi
    if [ -n "$shell" ]; then
        run "SOCKOPT_LIBRARY=$tmp/secret.so"
        first="$status $out $err"
        run "SOCKOPT_LIBRARY=$tmp/secret.so" SOCKOPT_STRICT=1
        shell=$kept
        expect "not readable, SOCKOPT_STRICT=1: exit 78" 78 "" "$tmp/secret.so is not readable; not started*"
        case $first in
        "0 unset|unset sockopt-entrypoint: warning: $tmp/secret.so is not readable; sh runs without it")
            pass "not readable: warning, the program lives" ;;
        *) fail "not readable: warning, the program lives" "got: $first" ;;
        esac
    else
        shell=$kept
        skip "not readable (needs another user than root, or setpriv)"
    fi
    rm -f "$tmp/secret.so"

    # --- LD_PRELOAD
    other=$tmp/fake/libother.so
    cp "$fake" "$other"
    run "$lib" "LD_PRELOAD=$other"
    expect "in front of an existing LD_PRELOAD" 0 "$fake:$other|60s" "$set60"
    run "$lib" "LD_PRELOAD="
    expect "an empty LD_PRELOAD leaves no colon" 0 "$fake|60s" "$set60"
    for list in "$fake" "$fake:$other" "$other:$fake" "$other $fake"; do
        run "$lib" "LD_PRELOAD=$list"
        expect "not twice: LD_PRELOAD=$(echo "$list" | sed "s|$tmp/fake/||g")" 0 "$list|60s" "$set60"
    done
    run "LD_PRELOAD=$fake"
    expect "not twice: there by another path" 0 "$fake|60s" "$set60"
    run "$lib" "LD_PRELOAD=$tmp/fake/*.so"
    case $out in
    "$fake:$tmp/fake/*.so|60s") pass "a star in LD_PRELOAD is not expanded" ;;
    *) fail "a star in LD_PRELOAD is not expanded" "LD_PRELOAD differs" ;;
    esac
    rm -f "$other"

    # --- the configuration
    run "$lib" SOCKOPT_DEAD_PEER_TIMEOUT=15s
    expect "SOCKOPT_DEAD_PEER_TIMEOUT is kept, silently" 0 "$fake|15s" -
    run "$lib" SOCKOPT_DEAD_PEER_TIMEOUT=
    expect "an empty one counts as none" 0 "$fake|60s" "$set60"
    for variable in SOCKOPT_CONFIG=/x.toml "SOCKOPT_CONFIG_TOML=[defaults]" SOCKOPT_KEEPALIVE=60s,20s,4 \
        SOCKOPT_USER_TIMEOUT=auto SOCKOPT_LINGER=reset SOCKOPT_NODELAY=true SOCKOPT_REUSE_PORT=true; do
        run "$lib" "$variable"
        expect "no default with $variable" 0 "$fake|unset" -
    done
    for variable in SOCKOPT_TO=:443 SOCKOPT_PROCESS=sh SOCKOPT_LOG=info; do
        run "$lib" "$variable"
        expect "$variable is no option: default" 0 "$fake|60s" "$set60"
    done
    : >"$tmp/fixed/etc/sockopt.toml"
    run "$lib"
    expect "no default with /etc/sockopt/sockopt.toml" 0 "$fake|unset" -
    rm "$tmp/fixed/etc/sockopt.toml"

    # --- SOCKOPT_DISABLE
    run "$lib" SOCKOPT_DISABLE=1
    expect "SOCKOPT_DISABLE=1 changes nothing" 0 "unset|unset" -
    run SOCKOPT_DISABLE=1 SOCKOPT_STRICT=1
    expect "SOCKOPT_DISABLE=1 goes before SOCKOPT_STRICT=1" 0 "unset|unset" -
    for value in true On YES; do
        run "$lib" "SOCKOPT_DISABLE=$value"
        expect "SOCKOPT_DISABLE=$value is the same" 0 "unset|unset" -
        run "SOCKOPT_STRICT=$value"
        expect "SOCKOPT_STRICT=$value is like 1" 78 "" "not found*not started*"
    done
    for value in 0 no ''; do
        run "$lib" "SOCKOPT_DISABLE=$value"
        expect "SOCKOPT_DISABLE=$value disables nothing" 0 "$fake|60s" "$set60"
        run "SOCKOPT_STRICT=$value"
        expect "SOCKOPT_STRICT=$value lets it run" 0 "unset|unset" "warning: libsockopt.so not found*"
    done

    # --- a program that no library gets into: it runs, the library is there for what it starts, and one line says so
    if echo 'int main(void) { return 5; }' | cc -static -x c - -o "$tmp/static" 2>/dev/null; then
        run "$lib" SOCKOPT_USER_TIMEOUT=auto -- "$tmp/static"
        expect "a static program" 5 "" "warning: $tmp/static is statically linked, so no library can be loaded into it"
        run "$lib" SOCKOPT_USER_TIMEOUT=auto SOCKOPT_STRICT=1 -- "$tmp/static"
        expect "the same, SOCKOPT_STRICT=1: exit 78" 78 "" "is statically linked*not started, because SOCKOPT_STRICT=1"
        cp "$tmp/static" "$tmp/tini-static"
        run "$lib" SOCKOPT_USER_TIMEOUT=auto -- "$tmp/tini-static"
        expect "one that starts others is not judged" 5 "" -
        rm "$tmp/static" "$tmp/tini-static"
    else
        skip "a static program (needs a C compiler)"
    fi

    # --- the program
    no_arguments=yes
    run "$lib"
    no_arguments=
    expect "no program: usage, exit 64" 64 "" "usage: sockopt-entrypoint*PROGRAM*"
    run "$lib" -- --help
    expect "an option in the program's place: usage, exit 64" 64 "" "usage: *"
    run "$lib" SOCKOPT_USER_TIMEOUT=auto -- -- sh -c 'printf there'
    expect "-- in front of the program" 0 there -
    # shellcheck disable=SC2016 # meant for the program's shell
    run "$lib" SOCKOPT_USER_TIMEOUT=auto -- sh -c 'printf "<%s>" "$@"' - 'a b' '' '*' '$x' 'it'"'"'s' '\n' --
    expect "arguments arrive untouched" 0 "<a b><><*><\$x><it's><\\n><-->" -
    run "$lib" SOCKOPT_USER_TIMEOUT=auto -- sh -c 'exit 7'
    expect "the program's exit status" 7 "" -
    run "$lib" SOCKOPT_USER_TIMEOUT=auto -- "$tmp/nothing"
    if [ "$status" = 127 ] && [ -z "$out" ]; then
        pass "a program that is not there: exit 127"
    else
        fail "a program that is not there: exit 127" "exit status $status"
    fi
    run "$lib" SOCKOPT_USER_TIMEOUT=auto -- "$tmp/text.so"
    if [ "$status" = 126 ] && [ -z "$out" ]; then
        pass "a program that may not be run: exit 126"
    else
        fail "a program that may not be run: exit 126" "exit status $status"
    fi
    # shellcheck disable=SC2016,SC2086 # the program's own $$; $shell may be two words
    env "$lib" $shell "$entry" sh -c 'echo $$' >"$tmp/out" 2>"$tmp/err" &
    child=$!
    wait "$child"
    out=$(cat "$tmp/out") err=$(cat "$tmp/err")
    if [ "$out" = "$child" ]; then
        pass "the program takes over the process id"
    else
        fail "the program takes over the process id" "the wrapper was $child"
    fi
    # shellcheck disable=SC2086 # $shell may be two words
    out=$(env "$lib" $shell "$entry" sh -c 'printf lives' 2>&-)
    err=
    if [ "$out" = lives ]; then
        pass "standard error closed: the program lives"
    else
        fail "standard error closed: the program lives" "it did not run"
    fi
    # Nobody reads standard error any more: the notice must not kill by SIGPIPE.
    # shellcheck disable=SC2086 # $shell may be two words
    { sleep 1; env "$lib" $shell "$entry" sh -c "printf lives >'$tmp/out'"; } 2>&1 >/dev/null | :
    # The pipeline waits for both ends in some shells only.
    for _ in 1 2 3; do [ "$(cat "$tmp/out")" = lives ] && break; sleep 1; done
    out=$(cat "$tmp/out")
    if [ "$out" = lives ]; then
        pass "nobody reads standard error: the program lives"
    else
        fail "nobody reads standard error: the program lives" "it did not run"
    fi
}

# cdi NAME STATUS PATTERN ARGUMENT...: cdi.sh with these arguments; the pattern is for all that it prints.
cdi() {
    name=$1 wanted=$2 pattern=$3
    shift 3
    # shellcheck disable=SC2086 # $shell may be two words
    out=$($shell "$here/cdi.sh" "$@" 2>&1)
    status=$? err=
    if [ "$status" != "$wanted" ]; then
        fail "$name" "exit status $status, not $wanted"
    else
        # shellcheck disable=SC2254 # a pattern is wanted
        case $out in
        $pattern) pass "$name" ;;
        *) fail "$name" "this is not printed: $pattern" ;;
        esac
    fi
}

cdi_cases() {
    all='*"env": \["LD_PRELOAD=/opt/sockopt/libsockopt.so"\]*"hostPath": "'$fake'"*'
    cdi "cdi.sh: one device" 0 "$all" --library "$fake"
    case $out in
    *glibc*) fail "cdi.sh: no second one unasked" "there is one" ;;
    *) pass "cdi.sh: no second one unasked" ;;
    esac
    cdi "cdi.sh: what is in LD_PRELOAD already is kept" 0 '*LD_PRELOAD=/opt/sockopt/libsockopt.so:/a.so:/b.so"*' \
        --library "$fake" --behind /a.so:/b.so
    cdi "cdi.sh: a variable with quotation marks" 0 '*, "SOCKOPT_TO=a\\"b\\\\c"*' --library "$fake" --set 'SOCKOPT_TO=a"b\c'
    cdi "cdi.sh: a variable of another's" 2 "*write --set SOCKOPT_NAME=VALUE" --library "$fake" --set PATH=/x
    cdi "cdi.sh: no library" 2 "*$tmp/none.so does not exist" --library "$tmp/none.so"
    cdi "cdi.sh: a relative path" 2 "*'fake/libsockopt.so' is not an absolute path" --library fake/libsockopt.so
    cdi "cdi.sh: an unknown option" 2 "*there is no option --other" --other x
    echo /opt/other.so >"$tmp/ld.so.preload"
    cdi "cdi.sh: a wrong ld.so.preload" 2 "*its only line must be /opt/sockopt/libsockopt.so" \
        --library "$fake" --preload-file "$tmp/ld.so.preload"
    echo /opt/sockopt/libsockopt.so >"$tmp/ld.so.preload"
    cdi "cdi.sh: the second device" 0 '*"glibc"*"env": \[\]*"containerPath": "/etc/ld.so.preload"*' \
        --library "$fake" --preload-file "$tmp/ld.so.preload"
}

cd "$tmp" || exit 1
for shell in dash "busybox sh"; do
    if [ "$($shell -c 'echo works' 2>/dev/null)" = works ]; then
        cases
        cdi_cases
    else
        skip "not on this machine"
    fi
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
