//! Who is compared: nothing, the program itself, the library with some configuration, and its neighbours.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{self, Failure};

/// A way to run a workload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variant {
    pub(crate) label: String,
    /// LD_PRELOAD and what configures it.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// How many options the workload sets itself.
    pub(crate) options: usize,
    /// The control group that it runs in, if not the harness's.
    pub(crate) group: Option<PathBuf>,
}

impl Variant {
    /// The workload as it is.
    pub(crate) fn none() -> Variant {
        Variant { label: "no preload".to_owned(), ..Variant::default() }
    }

    /// The floor: the program sets the options itself.
    pub(crate) fn floor(options: usize) -> Variant {
        let s = if options == 1 { "" } else { "s" };
        Variant { label: format!("the program sets {options} option{s} itself"), options, ..Variant::default() }
    }

    fn preloaded(label: impl Into<String>, library: &Path) -> Variant {
        let environment = vec![("LD_PRELOAD", library.display().to_string())];
        Variant { label: label.into(), environment, ..Variant::default() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Variant {
        self.environment.push((name, value.into()));
        self
    }

    /// dead_peer_timeout = "15s" is to be in force, which the workloads look at.
    fn expecting_it(self) -> Variant {
        self.with("EXPECT", "14000")
    }

    /// Puts a command under it.
    pub(crate) fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)))
    }
}

/// What the rows are made of.
pub(crate) struct Variants {
    scratch: PathBuf,
    libraries: Vec<PathBuf>,
    pub(crate) empty: Variant,
    keepalive: Option<Variant>,
    dontdie: Option<Variant>,
    proxychains: Option<Variant>,
}

/// For all of the loopback; the workloads choose their ports when they run.
const TO: &str = "[[rule]]\nto = [\"127.0.0.0/8\"]\n";
const LISTEN: &str = "[[rule]]\nlisten = [\"127.0.0.0/8\"]\n";
const FROM: &str = "[[rule]]\nfrom = [\"127.0.0.0/8\"]\n";

impl Variants {
    pub(crate) fn new(scratch: &Path, libraries: Vec<PathBuf>) -> Result<Variants, Failure> {
        let chains = scratch.join("proxychains.conf");
        fs::write(
            &chains,
            "strict_chain\nquiet_mode\nlocalnet 127.0.0.0/255.0.0.0\n[ProxyList]\nsocks4 127.0.0.1 9\n",
        )?;
        let keepalive = lab::find(&["libkeepalive.so.0", "libkeepalive.so"]).map(|library| {
            Variant::preloaded("libkeepalive0, 4 options", &library)
                .with("KEEPIDLE", "5")
                .with("KEEPINTVL", "3")
                .with("KEEPCNT", "3")
        });
        let dontdie = lab::find(&["libdontdie.so.0", "libdontdie.so"]).map(|library| {
            Variant::preloaded("libdontdie0, 4 options", &library)
                .with("DD_TCP_KEEPALIVE_TIME", "5")
                .with("DD_TCP_KEEPALIVE_INTVL", "3")
                .with("DD_TCP_KEEPALIVE_PROBES", "3")
        });
        let proxychains = lab::find(&["libproxychains.so.4", "proxychains-ng/libproxychains4.so"]).map(|library| {
            Variant::preloaded("proxychains4, nothing to proxy", &library)
                .with("PROXYCHAINS_CONF_FILE", chains.display().to_string())
        });
        let empty = Variant::preloaded("a C library of nothing", &scratch.join("empty.so"));
        Ok(Variants { scratch: scratch.to_owned(), libraries, empty, keepalive, dontdie, proxychains })
    }

    /// The two that set keepalive.
    pub(crate) fn keepalives(&self) -> Vec<Variant> {
        self.keepalive.iter().chain(&self.dontdie).cloned().collect()
    }

    /// Every neighbour that is installed.
    pub(crate) fn neighbours(&self) -> Vec<Variant> {
        self.keepalives().into_iter().chain(self.proxychains.clone()).collect()
    }

    /// A line that says which neighbours are not.
    pub(crate) fn missing(&self) -> Option<String> {
        let all =
            [("libkeepalive0", &self.keepalive), ("libdontdie0", &self.dontdie), ("proxychains4", &self.proxychains)];
        let missing: Vec<&str> = all.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
        (!missing.is_empty()).then(|| format!("Not installed: {}.", missing.join(", ")))
    }

    /// The library, once for each build of it, with a configuration file.
    fn ours(&self, label: &str, file: &str, toml: &str) -> Result<Vec<Variant>, Failure> {
        let path = self.scratch.join(file).with_extension("toml");
        if !path.exists() {
            fs::write(&path, toml)?;
        }
        Ok(self.each(label).into_iter().map(|ours| ours.with("SOCKOPT_CONFIG", path.display().to_string())).collect())
    }

    fn each(&self, label: &str) -> Vec<Variant> {
        let label = |library: &Path| match &*self.libraries {
            [_] => format!("sockopt: {label}"),
            _ => format!("{}: {label}", library.display()),
        };
        self.libraries.iter().map(|library| Variant::preloaded(label(library), library)).collect()
    }

    /// Loaded, and nothing configured.
    pub(crate) fn unconfigured(&self) -> Vec<Variant> {
        self.each("nothing configured")
    }

    /// By a variable alone.
    pub(crate) fn by_variable(&self) -> Vec<Variant> {
        let variants = self.each("SOCKOPT_DEAD_PEER_TIMEOUT=15s").into_iter();
        variants.map(|ours| ours.with("SOCKOPT_DEAD_PEER_TIMEOUT", "15s")).collect()
    }

    /// So many options on what connects: 4, 5 or 6.
    pub(crate) fn connecting(&self, options: usize) -> Result<Vec<Variant>, Failure> {
        let (label, keys) = match options {
            4 => ("keepalive, 4 options", "keepalive = { time = \"5s\", interval = \"3s\", probes = 3 }\n"),
            5 => ("dead_peer_timeout, 5 options", "dead_peer_timeout = \"15s\"\n"),
            _ => ("dead_peer_timeout and linger, 6 options", "dead_peer_timeout = \"15s\"\nlinger = \"reset\"\n"),
        };
        let ours = self.ours(label, &format!("connect{options}"), &format!("{TO}{keys}"))?;
        Ok(if options == 4 { ours } else { ours.into_iter().map(Variant::expecting_it).collect() })
    }

    /// Five options on a listener.
    pub(crate) fn listening(&self) -> Result<Vec<Variant>, Failure> {
        let toml = format!("{LISTEN}dead_peer_timeout = \"15s\"\n");
        Ok(self
            .ours("a rule with listen, 5 options", "listen", &toml)?
            .into_iter()
            .map(Variant::expecting_it)
            .collect())
    }

    /// One option on what is accepted from somewhere.
    pub(crate) fn accepting(&self) -> Result<Vec<Variant>, Failure> {
        self.ours("a rule with from, 1 option", "from", &format!("{FROM}keepalive = \"on\"\n"))
    }

    /// Rules of mixed kinds, none of which the workloads meet.
    pub(crate) fn unmatched(&self, count: usize) -> Result<Vec<Variant>, Failure> {
        let s = if count == 1 { "" } else { "s" };
        self.ours(&format!("{count} rule{s}, none matches"), &format!("unmatched{count}"), &document(count))
    }

    /// As many, and one at the end that the workloads do meet.
    pub(crate) fn last_of(&self, count: usize) -> Result<Vec<Variant>, Failure> {
        let toml = format!("{}{TO}dead_peer_timeout = \"15s\"\n", document(count - 1));
        let ours = self.ours(&format!("{count} rules, the last matches"), &format!("last{count}"), &toml)?;
        Ok(ours.into_iter().map(Variant::expecting_it).collect())
    }
}

/// What the rules of [`document`] are about, in turn.
pub(crate) const KINDS: usize = 8;

/// The n-th rule: networks, addresses, ports, ranges, IPv6, listeners, clients, other programs. None is about the
/// loopback, or about a port that the workloads may get (they are above 1024).
fn rule(text: &mut String, n: usize) {
    let (high, low) = ((n / KINDS) >> 8 & 0xff, (n / KINDS) & 0xff);
    let port = 1 + n / KINDS % 1000;
    let conditions = match n % KINDS {
        0 => format!("to = [\"10.{high}.{low}.0/24:443\"]"),
        1 => format!("to = [\"172.16.{high}.{low}\", \"172.17.{high}.{low}\"]"),
        2 => format!("to = [\":{port}\"]"),
        3 => format!("to = [\"[2001:db8:{high:x}:{low:x}::/64]:8000-8099\"]"),
        4 => format!("to = [\"10.{high}.0.0/16:{}-{}\"]", 10_000 + 4 * low, 10_003 + 4 * low),
        5 => format!("listen = [\":{port}\"]"),
        6 => format!("from = [\"192.168.{low}.0/24\"]\nlisten = [\"10.{high}.{low}.1:9000\"]"),
        _ => format!("process = [\"java\"]\nto = [\"192.0.2.{low}:{}\"]", 1025 + high),
    };
    let option = ["dead_peer_timeout = \"15s\"", "keepalive = { time = \"60s\", interval = \"20s\", probes = 4 }"];
    let _ = write!(text, "[[rule]]\nname = \"rule {n}\"\n{conditions}\n{}\n\n", option[n % 3 % 2]);
}

/// So many of those with `to` and without `process`, as a configuration file.
pub(crate) fn connecting_rules(count: usize) -> String {
    let mut text = String::new();
    (0..).filter(|n| n % KINDS < 5).take(count).for_each(|n| rule(&mut text, n));
    text
}

/// So many rules as a configuration file.
pub(crate) fn document(count: usize) -> String {
    let mut text = String::new();
    (0..count).for_each(|n| rule(&mut text, n));
    text
}
