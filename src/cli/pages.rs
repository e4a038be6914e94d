//! The manual pages that are about no subcommand: sockopt.toml(5), whose options come from the catalogue, and libsockopt(7).

use clap_mangen::roff::{Roff, bold, roman};
use load::DEFAULT_FILE;
use policy::CATALOG;

use crate::args;

/// A page beside those of the subcommands.
pub(crate) struct Page {
    pub(crate) name: &'static str,
    pub(crate) section: u8,
    manual: &'static str,
    write: fn(&mut Roff),
}

pub(crate) const PAGES: [Page; 2] = [
    Page { name: "sockopt.toml", section: 5, manual: "File Formats", write: configuration },
    Page { name: "libsockopt", section: 7, manual: "Miscellaneous Information", write: library },
];

impl Page {
    /// In roff.
    pub(crate) fn render(&self) -> String {
        let mut roff = Roff::new();
        (self.write)(&mut roff);
        let Self { name, section, manual, .. } = self;
        // As in the pages of the subcommands: no date, so that two builds are the same.
        let title = format!(
            ".TH {} {section} \"\" \"sockopt {}\" \"{manual}\"\n",
            name.to_uppercase(),
            env!("CARGO_PKG_VERSION")
        );
        title + &roff.render()
    }
}

fn heading(roff: &mut Roff, text: &str) {
    roff.control("SH", [text]);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []).text([roman(text)]);
}

fn entry(roff: &mut Roff, name: &str, meaning: &str) {
    roff.control("TP", []).text([bold(name)]);
    roff.text([roman(meaning)]);
}

fn example(roff: &mut Roff, lines: &str) {
    roff.control("RS", ["4"]).control("nf", []);
    roff.text([roman(lines)]);
    roff.control("fi", []).control("RE", []);
}

fn configuration(roff: &mut Roff) {
    heading(roff, "NAME");
    roff.text([roman("sockopt.toml - rules for the options of TCP sockets")]);
    heading(roff, "DESCRIPTION");
    roff.text([roman(
        "sockopt.toml says which options libsockopt(7) and sockopt(1) set on which sockets. It is a TOML file with a table [defaults] for \
         every TCP socket, and any number of tables [[rule]] for some sockets.",
    )]);
    paragraph(
        roff,
        "The first rule that matches is used, and no other. Its options override those of [defaults], key by key. The environment variables \
         for options (libsockopt(7)) override both. dead_peer_timeout counts as keepalive and user_timeout: where it has set them, a keepalive \
         with time, interval and probes in a later layer also changes the user timeout, to time + interval x probes. Any option may be \"system\": then it is not set, even \
         if [defaults] has it.",
    );
    paragraph(
        roff,
        "A rule with to is for sockets that connect. A rule with listen or from is for listening sockets and the connections that they accept. \
         A rule with none of the three is for both. One entry of a list must match; if a rule has several conditions, each must match.",
    );
    heading(roff, "CONDITIONS");
    for (name, meaning) in [
        ("name", "The name of the rule in log lines and in the output of the command."),
        (
            "to",
            "Destinations: addresses, networks, host names and ports, such as \"10.0.0.0/8:443\", \"[2001:db8::/32]:8000-8099\", \
                \"*.example.com:6379\", \":9092\". A host name means the addresses that libc returned to the program for this name. \
                An entry that begins with an exclamation mark is excluded: \"!10.0.0.1\".",
        ),
        (
            "listen",
            "Local addresses and ports of listening sockets, such as \":8080\". An address means the one that the socket is bound to, so \
                \"127.0.0.1:8080\" does not match a socket on 0.0.0.0. The sockets that they accept inherit the options. It also matches UDP \
                sockets that are bound there.",
        ),
        ("protocol", "\"tcp\" or \"udp\", together with listen: whose ports listen means. Without it, both."),
        ("from", "Addresses of clients, such as \"10.0.0.0/8\". The options are set on each accepted socket."),
        (
            "process",
            "Base names of executables or scripts, or the names that programs were started by; * and ? are wildcards.",
        ),
        ("command", "Whole command lines; * and ? are wildcards."),
    ] {
        entry(roff, name, meaning);
    }
    heading(roff, "OPTIONS");
    for row in CATALOG {
        let about =
            format!("{}\nIn the kernel (sockopt-attach(1)): {}.", args::description(row), row.in_kernel_in_words());
        entry(roff, row.key.name(), &about);
    }
    heading(roff, "EXAMPLES");
    example(
        roff,
        "[defaults]\nkeepalive = { time = \"60s\", interval = \"20s\", probes = 4 }\nuser_timeout = \"auto\"\n\n[[rule]]\nname = \
         \"gateway\"\nto = [\"10.0.0.0/8:443\", \"*.svc.cluster.local:6379\"]\ndead_peer_timeout = \"15s\"",
    );
    heading(roff, "FILES");
    entry(roff, DEFAULT_FILE, "is read if no variable names another file.");
    heading(roff, "SEE ALSO");
    roff.text([roman("sockopt(1), sockopt-check(1), sockopt-explain(1), libsockopt(7), tcp(7), socket(7)")]);
}

fn library(roff: &mut Roff) {
    heading(roff, "NAME");
    roff.text([roman("libsockopt - set TCP socket options in unmodified programs")]);
    heading(roff, "SYNOPSIS");
    roff.text([bold("LD_PRELOAD=libsockopt.so SOCKOPT_DEAD_PEER_TIMEOUT=15s"), roman(" PROGRAM")]);
    heading(roff, "DESCRIPTION");
    roff.text([roman(
        "libsockopt.so is a library for LD_PRELOAD, see ld.so(8). When the program calls connect or listen, the library finds the first rule \
         that matches the socket, and sets the rule's options. Then it calls the real function, once, with the program's own arguments. \
         Accepted sockets inherit the options from the listening socket. An option that the kernel refuses never makes the program's call \
         fail: it is logged, once.",
    )]);
    paragraph(
        roff,
        "A rule overrides the program: if the program sets the same option later, its setsockopt returns success and changes nothing. With \
         enforce = false the program can override what the rule has set. With enforce = \"fill\" the library sets only options that the program has left at the \
         system's default.",
    );
    paragraph(
        roff,
        "The library reads its configuration when it is loaded, before main. Changes of the file or of the environment apply to programs that \
         are started later.",
    );
    heading(roff, "ENVIRONMENT");
    for (name, meaning) in [
        ("SOCKOPT_CONFIG", "Configuration file, sockopt.toml(5), absolute path."),
        ("SOCKOPT_CONFIG_TOML", "The configuration itself, if no file is named."),
        (
            "SOCKOPT_DEAD_PEER_TIMEOUT, SOCKOPT_KEEPALIVE, ...",
            "The option variables: any option of sockopt.toml(5) except raw, in capitals, such as SOCKOPT_KEEPALIVE=60s,20s,4. They override the file.",
        ),
        ("SOCKOPT_TO", "Apply the option variables only to these destinations: 10.0.0.0/8:443,:6379,*.example.com."),
        ("SOCKOPT_PROCESS", "Apply the option variables only in these processes: java,python3*."),
        ("SOCKOPT_LOG", "off, error, warn (the default), info, or debug, which logs every decision."),
        (
            "SOCKOPT_LOG_FILE",
            "Where to log instead of standard error, absolute path. It is created with mode 0600. If it is a symbolic link, the library logs to standard error.",
        ),
        (
            "SOCKOPT_STRICT",
            "1: end the program before main with status 78 if the configuration has errors. Without this variable, the program then runs as if the \
             library were not there.",
        ),
        ("SOCKOPT_DISABLE", "1: the library does nothing."),
        ("SOCKOPT_LIBRARY", "For sockopt-run(1): absolute path of the library."),
        (
            "SOCKOPT_CHECKED",
            "Set by sockopt-run(1): a hash of the warnings that it has shown, so that the library does not repeat them.",
        ),
    ] {
        entry(roff, name, meaning);
    }
    paragraph(
        roff,
        "The library warns of an unknown variable with this prefix. If the environment has a variable twice, the first one counts.",
    );
    paragraph(
        roff,
        "A variable that is empty counts as not set: with an empty SOCKOPT_TO or SOCKOPT_PROCESS, the option variables apply to every \
         destination, or in every process.",
    );
    heading(roff, "LOG");
    roff.text([roman(
        "The program never waits for a log line: if there is no room for it, the line is lost, and the next line says how many were lost. The \
         library logs to standard error only while that is the file that it was when the program started, and never to a socket (such as the \
         standard error of a systemd service).",
    )]);
    heading(roff, "FILES");
    entry(roff, DEFAULT_FILE, "is read if no variable names another file.");
    heading(roff, "LIMITS");
    let limits = [
        "Static programs and Go programs make their system calls without libc. Start them with sockopt-run(1), which uses a supervisor for them.",
        "The loader ignores LD_PRELOAD in setuid programs. Gain the privileges first: sudo sockopt run --dead-peer-timeout 15s. sudo drops the variables.",
        "io_uring and direct system calls bypass the library.",
        "A host name in a rule matches only if the program looks it up through libc.",
        "TCP_USER_TIMEOUT also ends a connection to a living peer that does not read for that long.",
    ];
    for limit in limits {
        roff.control("IP", ["\\(bu", "2"]).text([roman(limit)]);
    }
    heading(roff, "SEE ALSO");
    roff.text([roman("sockopt(1), sockopt-run(1), sockopt.toml(5), tcp(7), socket(7), ld.so(8)")]);
}
