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
        "sockopt.toml says which options libsockopt(7) and sockopt(1) set on which sockets. It is a TOML file with a table [defaults], for \
         every TCP socket, and any number of tables [[rule]].",
    )]);
    paragraph(
        roff,
        "The first rule that matches is used, and no other. Its options override those of [defaults], key by key. The option variables of the \
         environment override both. Any option may be \"system\": it is then left to the program and the system.",
    );
    paragraph(
        roff,
        "A rule with to is for sockets that connect. A rule with listen or from is for sockets that accept. A rule with none of them is for \
         both. A list means alternatives; different conditions must all match.",
    );
    heading(roff, "CONDITIONS");
    for (name, meaning) in [
        ("name", "What log lines, explain and check call the rule."),
        (
            "to",
            "Destinations: addresses, networks, host names and ports, such as \"10.0.0.0/8:443\", \"[2001:db8::/32]:8000-8099\", \
                \"*.example.com:6379\", \":9092\". A host name means the addresses that libc told the program for it.",
        ),
        (
            "listen",
            "Local addresses and ports of listening sockets, such as \":8080\". What they accept inherits the options. UDP sockets that are \
                bound there are meant too.",
        ),
        ("protocol", "\"tcp\" or \"udp\", beside listen: whose ports it means. Both if it is left out."),
        ("from", "Clients of accepted connections, such as \"10.0.0.0/8\". This is decided at each accept."),
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
        "libsockopt.so is a library for LD_PRELOAD, ld.so(8). It finds the first rule that matches a socket, and sets the rule's options just \
         before connect and listen. Accepted sockets inherit them from the listener. Then it calls the function that the program meant, once, \
         with the program's own arguments. It never makes that call fail: an option that the kernel refuses is logged, once.",
    )]);
    paragraph(
        roff,
        "A rule overrides the program. If the program sets the same option later, its setsockopt returns success and changes nothing. With \
         enforce = false the program overrides the rule; with enforce = \"fill\" only what the program has left at the default is set.",
    );
    paragraph(
        roff,
        "The library keeps no record of connections; it asks the kernel. It reads its configuration when it is loaded, before main. Changes of \
         the file or of the environment count for programs that start later.",
    );
    heading(roff, "ENVIRONMENT");
    for (name, meaning) in [
        ("SOCKOPT_CONFIG", "Configuration file, sockopt.toml(5), absolute path."),
        ("SOCKOPT_CONFIG_TOML", "The configuration itself, if no file is named."),
        (
            "SOCKOPT_DEAD_PEER_TIMEOUT, SOCKOPT_KEEPALIVE, ...",
            "Any option of sockopt.toml(5) except raw, in capitals, such as SOCKOPT_KEEPALIVE=60s,20s,4. They override the file.",
        ),
        ("SOCKOPT_TO", "Apply the option variables only to these destinations: 10.0.0.0/8:443,:6379,*.example.com."),
        ("SOCKOPT_PROCESS", "Apply the option variables only in these processes: java,python3*."),
        ("SOCKOPT_LOG", "off, error, warn (the default), info, or debug, which logs every decision."),
        ("SOCKOPT_LOG_FILE", "Where to log instead of standard error, absolute path. It is created with mode 0600."),
        (
            "SOCKOPT_STRICT",
            "1: end the program before main with status 78 if the configuration has errors. Otherwise it runs as if the library were not there.",
        ),
        ("SOCKOPT_DISABLE", "1: the library does nothing."),
        ("SOCKOPT_LIBRARY", "For sockopt-run(1): absolute path of the library."),
        (
            "SOCKOPT_CHECKED",
            "Set by sockopt-run(1): the warnings that it has shown, so that the library does not repeat them.",
        ),
    ] {
        entry(roff, name, meaning);
    }
    paragraph(
        roff,
        "An unknown variable with this prefix is a warning. Of two variables with one name the first counts.",
    );
    heading(roff, "LOG");
    roff.text([roman(
        "The program never waits for a line of the log: if there is no room for it, the line is lost, and the next one says how many were. Lines \
         go to standard error only while that is the file that it was when the program started, and never to a socket.",
    )]);
    heading(roff, "FILES");
    entry(roff, DEFAULT_FILE, "is read if no variable names another file.");
    heading(roff, "LIMITS");
    let limits = [
        "Static programs and Go programs make their system calls themselves: start them by sockopt-run(1), which has a supervisor for them.",
        "The loader ignores LD_PRELOAD in setuid programs. Gain the privileges first: sudo sockopt run.",
        "io_uring and direct system calls bypass the library.",
        "Host names in rules are those that the program looks up through libc.",
        "TCP_USER_TIMEOUT also ends a connection to a living peer that does not read for that long.",
    ];
    for limit in limits {
        roff.control("IP", ["\\(bu", "2"]).text([roman(limit)]);
    }
    heading(roff, "SEE ALSO");
    roff.text([roman("sockopt(1), sockopt-run(1), sockopt.toml(5), tcp(7), socket(7), ld.so(8)")]);
}
