//! The wrappers that are known, and how each takes its arguments.

use Effect::{
    EmptiesEnvironment, Exec, Folder, KeepsLibrary, NoNewPrivileges, Nothing, OtherLibrary, Rights, Root,
    StartsNothing, Unclear, User, Variables,
};

/// How an option, or a word before the program, bears on what is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Unclear,
    /// The wrapper prints, or works on processes that run already.
    StartsNothing,
    Folder,
    Root,
    User,
    Rights,
    NoNewPrivileges,
    EmptiesEnvironment,
    /// LD_PRELOAD is given another value, without what it had.
    OtherLibrary,
    /// It is left as it is, for all that.
    KeepsLibrary,
    /// A folder whose files are named as variables, and hold their values.
    Variables,
    Exec,
}

/// How the rest of the command line is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// As the program and its arguments.
    Words,
    /// Or behind `-c` as a text for the shell.
    WordsOrText,
    /// Joined, as a text for the shell, unless an option ([`Effect::Exec`]) says otherwise.
    Text,
}

/// How a wrapper takes its arguments, in the manner of getopt(3), to the first word that is no option.
pub(crate) struct Wrapper {
    pub(crate) names: &'static [&'static str],
    /// Letters; one colon behind those with a value, two where it must be attached.
    pub(crate) short: &'static str,
    /// Words; `=` behind those with a value, `=?` where it must be attached. `*` stands for all others, attached.
    pub(crate) long: &'static [&'static str],
    /// Words between the options and the program, and what each is.
    pub(crate) operands: &'static [Effect],
    pub(crate) rest: Rest,
    pub(crate) effects: &'static [(&'static str, Effect)],
    /// What it does with any options.
    pub(crate) always: Effect,
}

pub(crate) const PLAIN: Wrapper =
    Wrapper { names: &[], short: "", long: &[], operands: &[], rest: Rest::Words, effects: &[], always: Nothing };
const ANY: &[Effect] = &[Nothing];

/// By their manuals: coreutils, util-linux, procps, findutils, busybox, and those that containers begin with.
#[rustfmt::skip]
pub(crate) const WRAPPERS: &[Wrapper] = &[
    Wrapper { names: &["timeout"], short: "fpvk:s:", operands: ANY,
        long: &["foreground", "preserve-status", "verbose", "kill-after=", "signal="], ..PLAIN },
    Wrapper { names: &["nice"], short: "n:0::1::2::3::4::5::6::7::8::9::", long: &["adjustment="], ..PLAIN },
    Wrapper { names: &["nohup"], ..PLAIN },
    Wrapper { names: &["setsid"], short: "cfw", long: &["ctty", "fork", "wait"], ..PLAIN },
    Wrapper { names: &["stdbuf"], short: "i:o:e:", long: &["input=", "output=", "error="], ..PLAIN },
    Wrapper { names: &["chroot"], long: &["userspec=", "groups=", "skip-chdir"], operands: &[Root],
        effects: &[("userspec", User)], ..PLAIN },
    Wrapper { names: &["taskset"], short: "acp", long: &["all-tasks", "cpu-list", "pid"], operands: ANY,
        effects: &[("p", StartsNothing), ("pid", StartsNothing)], ..PLAIN },
    Wrapper { names: &["ionice"], short: "c:n:tp:P:u:", long: &["class=", "classdata=", "ignore", "pid=", "pgid=", "uid="],
        effects: &[("p", StartsNothing), ("P", StartsNothing), ("u", StartsNothing), ("pid", StartsNothing),
            ("pgid", StartsNothing), ("uid", StartsNothing)], ..PLAIN },
    Wrapper { names: &["chrt"], short: "abdfiormpRvT:P:D:", operands: ANY,
        long: &["all-tasks", "batch", "deadline", "fifo", "idle", "other", "rr", "reset-on-fork", "verbose",
            "sched-runtime=", "sched-period=", "sched-deadline=", "max", "pid"],
        effects: &[("m", StartsNothing), ("max", StartsNothing), ("p", StartsNothing), ("pid", StartsNothing)], ..PLAIN },
    Wrapper { names: &["prlimit"], short: "c::d::e::f::i::l::m::n::p:q::r::s::t::u::v::x::y::",
        long: &["*", "pid=", "output="],
        effects: &[("p", StartsNothing), ("pid", StartsNothing)], ..PLAIN },
    Wrapper { names: &["numactl"], short: "abli:p:P:m:N:C:", ..PLAIN },
    Wrapper { names: &["xargs"], short: "0rtpoxa:d:E:I:L:n:P:s:e::i::l::",
        long: &["null", "no-run-if-empty", "verbose", "interactive", "open-tty", "exit", "arg-file=", "delimiter=",
            "max-lines=?", "max-args=", "max-procs=", "max-chars=", "replace=?", "eof=?", "process-slot-var="], ..PLAIN },
    Wrapper { names: &["time"], short: "af:o:pqv", long: &["append", "format=", "output=", "portability", "quiet",
            "verbose"], ..PLAIN },
    Wrapper { names: &["flock"], short: "sexnuoFw:E:", operands: ANY, rest: Rest::WordsOrText,
        long: &["shared", "exclusive", "nonblock", "nb", "unlock", "close", "no-fork", "verbose", "timeout=", "wait=",
            "conflict-exit-code="], ..PLAIN },
    Wrapper { names: &["watch"], short: "bcd::egptwxn:q:", rest: Rest::Text, effects: &[("x", Exec), ("exec", Exec)],
        long: &["beep", "color", "no-color", "differences=?", "errexit", "chgexit", "precise", "no-title", "no-wrap",
            "exec", "interval=", "equexit="], ..PLAIN },
    Wrapper { names: &["faketime"], short: "mfp:", long: &["exclude-monotonic", "date-prog="], operands: ANY, ..PLAIN },
    Wrapper { names: &["strace"], short: "AcCdDfFhiknqrtTvwxyYzZa:b:e:I:o:O:p:P:s:S:u:X:", effects: &[("u", User)],
        long: &["attach=", "follow-forks", "trace=", "output=", "quiet=?", "user="], ..PLAIN },
    Wrapper { names: &["valgrind"], short: "qvd", long: &["*"], ..PLAIN },
    Wrapper { names: &["eatmydata"], ..PLAIN },
    // They change the user, what it may do, or what it sees.
    Wrapper { names: &["gosu", "su-exec"], operands: &[User], ..PLAIN },
    Wrapper { names: &["setpriv"],
        long: &["nnp", "no-new-privs", "clear-groups", "keep-groups", "init-groups", "reset-env", "ambient-caps=",
            "inh-caps=", "bounding-set=", "reuid=", "regid=", "groups=", "securebits=", "pdeathsig=", "selinux-label=",
            "apparmor-profile="],
        effects: &[("reuid", User), ("regid", Rights), ("inh-caps", Rights), ("bounding-set", Rights),
            ("securebits", Rights), ("nnp", NoNewPrivileges), ("no-new-privs", NoNewPrivileges),
            ("reset-env", EmptiesEnvironment)], ..PLAIN },
    Wrapper { names: &["runuser"], short: "u:g:G:mpfPw:", effects: &[("u", User), ("user", User)],
        long: &["user=", "group=", "supp-group=", "preserve-environment", "fast", "pty", "whitelist-environment="],
        ..PLAIN },
    Wrapper { names: &["unshare"], short: "muinpUCTfrcR:w:S:G:",
        long: &["mount=?", "uts=?", "ipc=?", "net=?", "pid=?", "user=?", "cgroup=?", "time=?", "fork", "map-user=",
            "map-group=", "map-users=", "map-groups=", "map-root-user", "map-current-user", "map-auto", "kill-child=?",
            "mount-proc=?", "propagation=", "setgroups=", "keep-caps", "root=", "wd=", "setuid=", "setgid=",
            "monotonic=", "boottime="],
        effects: &[("R", Root), ("root", Root), ("w", Folder), ("wd", Folder), ("S", User), ("setuid", User),
            ("U", Rights), ("user", Rights), ("r", Rights), ("map-root-user", Rights), ("c", Rights),
            ("map-current-user", Rights), ("map-user", Rights), ("map-users", Rights), ("map-auto", Rights)], ..PLAIN },
    // Of the mount namespaces of others nothing is known.
    Wrapper { names: &["nsenter"], short: "t:u::i::n::p::C::U::T::S:G:F",
        long: &["target=", "uts=?", "ipc=?", "net=?", "pid=?", "user=?", "cgroup=?", "time=?", "setuid=", "setgid=",
            "preserve-credentials", "no-fork"],
        effects: &[("S", User), ("setuid", User), ("U", Rights), ("user", Rights)], ..PLAIN },
    // The first process of a container.
    Wrapper { names: &["tini", "tini-static", "docker-init"], short: "svwglp:e:", ..PLAIN },
    Wrapper { names: &["dumb-init"], short: "cvr:", long: &["single-child", "verbose", "rewrite="], ..PLAIN },
    Wrapper { names: &["catatonit"], short: "gL", ..PLAIN },
    // Those of s6, runit and daemontools.
    Wrapper { names: &["setuidgid", "s6-setuidgid"], operands: &[User], ..PLAIN },
    Wrapper { names: &["s6-applyuidgid"], short: "zUu:g:G:",
        effects: &[("u", User), ("U", Rights), ("g", Rights), ("G", Rights)], ..PLAIN },
    Wrapper { names: &["envdir"], operands: &[Variables], ..PLAIN },
    Wrapper { names: &["s6-envdir"], short: "IifnLc:", operands: &[Variables], ..PLAIN },
    Wrapper { names: &["envuidgid"], operands: ANY, ..PLAIN },
    Wrapper { names: &["s6-envuidgid"], short: "iD:ugBn", operands: ANY, ..PLAIN },
    Wrapper { names: &["softlimit", "s6-softlimit"], short: "Hha:c:d:f:l:m:o:p:r:s:t:", ..PLAIN },
    Wrapper { names: &["setlock"], short: "nNxX", operands: ANY, ..PLAIN },
    Wrapper { names: &["s6-setlock"], short: "rwnNt:", operands: ANY, ..PLAIN },
    Wrapper { names: &["s6-setsid"], short: "sbfgiIqd:", ..PLAIN },
    Wrapper { names: &["s6-notifyoncheck"], short: "d3:s:T:t:w:n:c:", ..PLAIN },
    Wrapper { names: &["s6-ipcclient"], short: "qQvp:l:", operands: ANY, ..PLAIN },
    Wrapper { names: &["s6-permafailon"], operands: &[Nothing, Nothing, Nothing], ..PLAIN },
    Wrapper { names: &["pgrphack", "fghack", "s6-fghack"], ..PLAIN },
    Wrapper { names: &["chpst"], short: "vVP012u:U:b:e:/:C:n:l:L:m:d:o:p:f:c:r:t:",
        effects: &[("u", User), ("e", Variables), ("/", Root), ("C", Folder)], ..PLAIN },
    // They preload a library themselves, beside those that are there.
    Wrapper { names: &["proxychains", "proxychains3", "proxychains4"], short: "qf:", ..PLAIN },
    Wrapper { names: &["tsocks"], ..PLAIN },
    Wrapper { names: &["fakeroot"], short: "us:i:l:b:", long: &["unknown-is-real", "lib=", "faked="], ..PLAIN },
    Wrapper { names: &["datefudge"], short: "s", long: &["static"], operands: ANY, ..PLAIN },
    Wrapper { names: &["authbind"], long: &["deep", "depth="], ..PLAIN },
    // systemd's: one hands on of the environment only what -E names.
    Wrapper { names: &["systemd-inhibit"], long: &["no-pager", "no-legend", "what=", "who=", "why=", "mode=", "list"],
        effects: &[("list", StartsNothing)], ..PLAIN },
    Wrapper { names: &["systemd-socket-activate"], short: "l:daE:",
        long: &["listen=", "datagram", "seqpacket", "accept", "setenv=", "fdname=", "inetd"],
        always: EmptiesEnvironment, ..PLAIN },
    // They preload theirs in place of those that are there.
    Wrapper { names: &["socksify"], always: OtherLibrary, ..PLAIN },
    Wrapper { names: &["trickle"], short: "vsd:u:w:t:l:n:L:P:", always: OtherLibrary, ..PLAIN },
    Wrapper { names: &["hugectl"], short: "v",
        long: &["verbose=", "text=?", "data=?", "bss=?", "heap=?", "shm", "thp", "no-preload", "no-reserve",
            "force-preload", "dry-run", "library-use-path", "share-text", "library-path="],
        effects: &[("text", KeepsLibrary), ("data", KeepsLibrary), ("bss", KeepsLibrary), ("no-preload", KeepsLibrary),
            ("force-preload", Unclear), ("dry-run", Unclear)],
        always: OtherLibrary, ..PLAIN },
];

const SUDO: &str = "sudo and doas remove LD_PRELOAD";
pub(crate) const SYSTEMD: &str =
    "the program is started by systemd, not by systemd-run, and does not get this environment";
/// mptcpize(8) behind its word `run`.
pub(crate) const MPTCPIZE: Wrapper = Wrapper { short: "d", always: OtherLibrary, ..PLAIN };

/// Wrappers behind which the library does not get: names, why, and what to do instead; then, whether the supervisor gets there.
pub(crate) const WITHOUT_LIBRARY: &[(&[&str], &str, &str, bool)] = &[
    (&["sudo", "doas"], SUDO, "put sockopt run after it: sudo sockopt run ... -- PROGRAM", true),
    (&["pkexec"], "pkexec removes LD_PRELOAD", "put sockopt run after it: pkexec sockopt run ... -- PROGRAM", true),
    (
        &["torsocks"],
        "torsocks puts its own library first, which bypasses all others: libsockopt.so sees no connection",
        "put sockopt run after it, so that libsockopt.so comes first: torsocks sockopt run ... -- PROGRAM",
        // It would see the connections to the proxy alone.
        false,
    ),
];

/// Wrappers that are not followed: their command lines are languages of their own, or what they start sees other files, is
/// another user or has another environment.
pub(crate) const NOT_FOLLOWED: &[&str] = &[
    // They may begin a session, with an environment of its own.
    "su",
    "sg",
    "newgrp",
    "bwrap",
    "cgexec",
    "daemonize",
    "dbus-launch",
    "dbus-run-session",
    "fakechroot",
    "firejail",
    "gdbserver",
    "heaptrack",
    "hyperfine",
    "ltrace",
    "parallel",
    "perf",
    "rr",
    "script",
    "start-stop-daemon",
    // They start what a folder names, or a file, or a socket.
    "execlineb",
    "runsv",
    "runsvdir",
    "s6-connlimit",
    "s6-ipcserver",
    "s6-ipcserver-socketbinder",
    "s6-ipcserverd",
    "s6-sudo",
    "s6-sudoc",
    "s6-supervise",
    "s6-svscan",
    "supervise",
    "svscan",
    "systemd-nspawn",
    "xvfb-run",
];
