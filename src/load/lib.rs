//! Finds and reads the configuration, in the library and in the command alike: the environment's `SOCKOPT_…`
//! variables, and the file that they name or the system's.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use policy::units::Count;
use policy::variables::{self, Level, PREFIX};
use policy::{Configuration, Process, Rules, Source, matcher};
use socket::Errno;

/// The file that is read where no variable names one.
pub const DEFAULT_FILE: &str = "/etc/sockopt/sockopt.toml";
/// The same for system calls.
pub const DEFAULT_FILE_C: &std::ffi::CStr = c"/etc/sockopt/sockopt.toml";

/// No rule set that people write comes near.
const LARGEST_FILE: u64 = 16 << 20;

/// What the environment asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// The document and the variables, unread files left out.
    pub configuration: Configuration,
    /// Files and paths that could not be taken: the configuration is not to be used then.
    pub failures: Vec<String>,
    /// SOCKOPT_LOG.
    pub level: Level,
    /// SOCKOPT_LOG_FILE, absolute.
    pub log_file: Option<PathBuf>,
    /// SOCKOPT_STRICT.
    pub strict: bool,
    /// SOCKOPT_DISABLE.
    pub disabled: bool,
    /// SOCKOPT_CHECKED: the [`digest`](policy::error::digest) of warnings that `sockopt run` has shown.
    pub checked: Option<u64>,
}

impl Loaded {
    /// Whether anything says what to set, were it wrongly.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.failures.is_empty()
            || self.configuration.document.is_some()
            || self.configuration.variables.iter().any(|v| variables::is_option(&v.name) && !v.text.trim().is_empty())
    }

    /// What came of it, in a line.
    #[must_use]
    pub fn summary(&self, rules: &Rules) -> String {
        let name = self.configuration.document.as_ref().map_or("no file", |source| source.name.as_str());
        let of_environment = self.configuration.variables.iter().any(|variable| variables::is_option(&variable.name));
        let environment = match (of_environment, rules.has_shortcuts()) {
            (false, _) => "",
            (true, true) => ", options from the environment",
            (true, false) => ", options from the environment (not for this process)",
        };
        let (all, here) = (Count(rules.rule_count(), "rule"), rules.rules().count());
        format!("configuration: {name}: {all}, {here} for this process{environment}")
    }

    /// Whether rules look at the process, so that [`this_process`] is worth its price.
    #[must_use]
    pub fn asks_for_process(&self) -> bool {
        // Escapes are not read here.
        let names = |text: &str| ["process", "command", "\\"].iter().any(|part| text.contains(part));
        self.configuration.document.as_ref().is_some_and(|source| names(&source.text))
            || self.configuration.variables.iter().any(|variable| variable.name == "SOCKOPT_PROCESS")
    }

    /// Whether rules may name hosts, so that [`search_domains`] are worth their price.
    #[must_use]
    pub fn may_name_hosts(&self) -> bool {
        let listed = |source: &Source| source.text.split(',').any(matcher::names_host);
        self.configuration.document.as_ref().is_some_and(|source| matcher::may_name_hosts(&source.text))
            || self.configuration.variables.iter().any(|variable| variable.name == "SOCKOPT_TO" && listed(variable))
    }
}

/// Whether a variable (`NAME=VALUE`) may as well be read when the first socket is made: it names no file, asks for
/// nothing before that, and whether its rules ask for the process or name hosts is known without reading it: they do not.
#[must_use]
pub fn can_wait(variable: &[u8]) -> bool {
    let mut parts = variable.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default().strip_prefix(PREFIX.as_bytes());
    !matches!(name, Some(b"CONFIG" | b"CONFIG_TOML" | b"PROCESS" | b"STRICT" | b"TO"))
}

/// Reads what the environment names, and the system's file where it names none. Relative paths are refused: a program's
/// current directory is not ours.
#[must_use]
pub fn from_environment(environment: impl Iterator<Item = (OsString, OsString)>) -> Loaded {
    from_variables(environment, Some(Path::new(DEFAULT_FILE)))
}

/// The same with another file, or none, where none is named.
#[must_use]
pub fn from_variables(environment: impl Iterator<Item = (OsString, OsString)>, default_file: Option<&Path>) -> Loaded {
    let mut loaded = Loaded::default();
    // Of two with one name the first counts, as for getenv(3).
    let mut known = BTreeSet::new();
    let raw: Vec<(OsString, OsString)> = environment
        .filter(|(name, _)| name.as_bytes().starts_with(PREFIX.as_bytes()) && known.insert(name.clone()))
        .collect();
    let text = |os: &OsStr| os.to_string_lossy().into_owned();
    let variables: Vec<Source> =
        raw.iter().map(|(name, value)| Source { name: text(name), text: text(value) }).collect();
    let value = |name: &str| {
        let found = variables.iter().find(|variable| variable.name.strip_prefix(PREFIX) == Some(name));
        found.map(|variable| variable.text.as_str()).filter(|text| !text.is_empty())
    };
    loaded.disabled = value("DISABLE").is_some_and(variables::is_on);
    loaded.strict = value("STRICT").is_some_and(variables::is_on);
    loaded.checked = value("CHECKED").and_then(|digest| u64::from_str_radix(digest, 16).ok());
    loaded.level = value("LOG").and_then(Level::from_name).unwrap_or_default();
    if loaded.disabled {
        return loaded;
    }
    // A path need not be UTF-8.
    let mut absolute = |name: &str| {
        let named =
            raw.iter().find(|(known, _)| known.as_bytes().strip_prefix(PREFIX.as_bytes()) == Some(name.as_bytes()));
        let path = named.map(|(_, path)| Path::new(path)).filter(|path| !path.as_os_str().is_empty())?;
        if !path.is_absolute() {
            loaded.failures.push(format!("{PREFIX}{name}: \"{}\" is not an absolute path", path.display()));
            return None;
        }
        Some(path.to_owned())
    };
    loaded.log_file = absolute("LOG_FILE");
    let file = absolute("CONFIG");
    let document = match (value("CONFIG"), value("CONFIG_TOML")) {
        (Some(_), _) => file.map(|path| read_file(&path)),
        (None, Some(toml)) => Some(Ok(Source { name: "SOCKOPT_CONFIG_TOML".into(), text: toml.into() })),
        (None, None) => match default_file.map(read_file) {
            Some(Err(Unreadable { why: Why::Errno(Errno(libc::ENOENT | libc::ENOTDIR)), .. })) => None,
            found => found,
        },
    };
    match document.transpose() {
        Ok(document) => loaded.configuration.document = document,
        Err(unreadable) => loaded.failures.push(unreadable.to_string()),
    }
    loaded.configuration.variables =
        variables.into_iter().filter(|variable| variable.name != "SOCKOPT_CONFIG_TOML").collect();
    loaded
}

/// A configuration file that was not taken.
#[derive(Debug)]
pub struct Unreadable {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Errno(Errno),
    NotAFile,
    TooLarge,
    Changed,
    NotUtf8(usize),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            // With std's words for it: "No such file or directory (os error 2)".
            Why::Errno(errno) => write!(f, "{path} cannot be read: {}", std::io::Error::from_raw_os_error(errno.0)),
            Why::NotAFile => write!(f, "{path} is not a regular file"),
            Why::TooLarge => write!(f, "{path} is larger than {} MiB", LARGEST_FILE >> 20),
            Why::Changed => write!(f, "{path} changed while it was read"),
            Why::NotUtf8(offset) => write!(f, "{path} is not UTF-8 at byte {offset}"),
        }
    }
}

impl From<std::io::Error> for Why {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// Reads a configuration file.
///
/// # Errors
/// What is wrong with it: it must be a regular file of at most 16 MiB of UTF-8 that holds still, or /dev/null, which is empty.
pub fn read_file(path: &Path) -> Result<Source, Unreadable> {
    read_text(path)
        .map(|text| Source { name: path.display().to_string(), text })
        .map_err(|why| Unreadable { path: path.to_owned(), why })
}

fn read_text(path: &Path) -> Result<String, Why> {
    // The memory comes before the descriptor: where there is none, nothing is left open.
    let expected = fs::metadata(path)?;
    if expected.file_type().is_char_device() && expected.rdev() == libc::makedev(1, 3) {
        return Ok(String::new());
    }
    if !expected.is_file() {
        return Err(Why::NotAFile);
    }
    if expected.len() > LARGEST_FILE {
        return Err(Why::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(expected.len()).unwrap_or(0) + 1);
    // Non-blocking: a FIFO in its place by now, without a writer, would hang the program.
    let file = Opened::at(path, libc::O_NONBLOCK | libc::O_NOCTTY)?;
    let before = file.metadata()?;
    if !before.is_file() || before.len() != expected.len() {
        return Err(Why::Changed);
    }
    file.read_to(&mut bytes, before.len() + 1)?;
    let after = file.metadata()?;
    let stamp = |metadata: &fs::Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if stamp(&before) != stamp(&after) || bytes.len() as u64 != before.len() {
        return Err(Why::Changed);
    }
    String::from_utf8(bytes).map_err(|error| Why::NotUtf8(error.utf8_error().valid_up_to()))
}

/// A file that is read, closed by the system call: std calls `close`, which may be that of a library before ours that is not
/// ready yet. What else std calls for files is the library's own (preload/libc_symbols.rs).
struct Opened(Option<File>);

impl Opened {
    fn at(path: &Path, flags: i32) -> io::Result<Self> {
        File::options().read(true).custom_flags(flags).open(path).map(|file| Self(Some(file)))
    }

    fn file(&self) -> io::Result<&File> {
        self.0.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file()?.metadata()
    }

    /// So many bytes of it at most.
    fn read_to(&self, bytes: &mut Vec<u8>, most: u64) -> io::Result<usize> {
        self.file()?.take(most).read_to_end(bytes)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(socket::ffi::close);
    }
}

/// No resolver's configuration that people write comes near.
const LARGEST_RESOLVER: u64 = 64 << 10;

/// The domains by which the C library completes names (resolv.conf(5)): those of LOCALDOMAIN, else the last `search` or
/// `domain`. Not the domain of the machine's own name, which glibc takes where nothing is said.
#[must_use]
pub fn search_domains() -> Vec<String> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if let Some(domains) = std::env::var_os("LOCALDOMAIN") {
        return words(&domains.to_string_lossy());
    }
    let mut text = Vec::new();
    // Non-blocking, should it be a FIFO; what cannot be read completes nothing.
    let file = Opened::at(Path::new("/etc/resolv.conf"), libc::O_NONBLOCK | libc::O_NOCTTY);
    let _ = file.and_then(|file| file.read_to(&mut text, LARGEST_RESOLVER));
    let text = String::from_utf8_lossy(&text);
    let mut given = text.lines().rev().filter_map(|line| {
        let (word, rest) = line.split_once(char::is_whitespace)?;
        match word {
            "search" => Some(words(rest)),
            "domain" => Some(words(rest).into_iter().take(1).collect()),
            _ => None,
        }
    });
    given.next().unwrap_or_default()
}

/// This process, as `process` and `command` see it (proc(5): exe, cmdline). Where there is no /proc, as it was started: under
/// musl that does not tell the arguments.
#[must_use]
pub fn this_process() -> Process {
    let found = process_in(Path::new("/proc/self"));
    if !found.names.is_empty() {
        return found;
    }
    let file = socket::ffi::started_file().map(|file| Path::new(OsStr::from_bytes(file.to_bytes())));
    process(file, std::env::args_os())
}

/// The process whose folder of proc(5) this is, as far as it can be read.
#[must_use]
pub fn process_in(folder: &Path) -> Process {
    let mut command = Vec::new();
    let _ = Opened::at(&folder.join("cmdline"), 0).and_then(|file| file.read_to(&mut command, u64::MAX));
    let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let executable = fs::read_link(folder.join("exe")).ok();
    // A program that was replaced while it runs keeps its name.
    let name = executable.as_deref().map(|path| path.as_os_str().as_bytes());
    let executable = name.map(|name| Path::new(OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name))));
    process(executable, words.map(|word| OsString::from_vec(word.to_vec())))
}

/// A process by its executable and its arguments, the first of which is the name that it was started by.
pub fn process(executable: Option<&Path>, arguments: impl Iterator<Item = OsString>) -> Process {
    let arguments: Vec<OsString> = arguments.collect();
    let words: Vec<&[u8]> = arguments.iter().map(|word| word.as_bytes()).collect();
    Process::new(executable.map(|path| path.as_os_str().as_bytes()), &words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{Connection, Endpoint, compile};

    fn environment(pairs: &[(&str, &str)]) -> Loaded {
        from_environment(pairs.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn what_the_environment_asks_for() {
        let text = "[[rule]]\nto = [\"10.0.0.0/8\", \"redis.example\"]\nnodelay = true\n";
        let loaded = environment(&[
            ("PATH", "/bin"),
            ("SOCKOPT_CONFIG_TOML", text),
            ("SOCKOPT_USER_TIMEOUT", "5s"),
            ("SOCKOPT_LOG", "debug"),
            ("SOCKOPT_LOG_FILE", "/tmp/log"),
            ("SOCKOPT_STRICT", "1"),
            ("SOCKOPT_CHECKED", "ff"),
        ]);
        assert_eq!(
            (loaded.level, loaded.strict, loaded.disabled, loaded.checked),
            (Level::Debug, true, false, Some(255))
        );
        assert_eq!(loaded.log_file.as_deref(), Some(Path::new("/tmp/log")));
        assert!(loaded.failures.is_empty() && loaded.is_configured() && loaded.may_name_hosts());
        assert!(!loaded.asks_for_process());
        let escaped =
            environment(&[("SOCKOPT_CONFIG_TOML", "rule = [{ \"pr\\u006fcess\" = [\"java\"], nodelay = true }]")]);
        assert!(escaped.asks_for_process(), "{escaped:?}");
        let names: Vec<&str> = loaded.configuration.variables.iter().map(|source| source.name.as_str()).collect();
        assert!(names.contains(&"SOCKOPT_USER_TIMEOUT") && !names.contains(&"PATH"), "{names:?}");
        assert_eq!(loaded.configuration.document.map(|source| source.text).as_deref(), Some(text));
    }

    #[test]
    fn what_can_wait_asks_for_nothing_before() {
        for (name, value) in [
            ("DEAD_PEER_TIMEOUT", "15s"),
            ("LINGER", "reset"),
            ("LOG", "debug"),
            ("LOG_FILE", "/tmp/log"),
            ("DISABLE", "1"),
            ("NO_SUCH", "thing"),
        ] {
            assert!(can_wait(format!("{PREFIX}{name}={value}").as_bytes()), "{name}");
            let loaded = from_variables([(format!("{PREFIX}{name}").into(), value.into())].into_iter(), None);
            assert!(!loaded.asks_for_process() && !loaded.may_name_hosts());
            assert!(!loaded.strict && loaded.failures.is_empty() && loaded.configuration.document.is_none());
        }
        for at_once in ["CONFIG=/etc/x", "CONFIG_TOML=", "STRICT=1", "PROCESS=java", "TO=redis.example:6379"] {
            assert!(!can_wait(format!("{PREFIX}{at_once}").as_bytes()), "{at_once}");
        }
        assert!(can_wait(b"SOCKOPT_LOG"), "without a value");
    }

    #[test]
    fn the_first_of_two_variables_counts() {
        let pairs = [
            ("SOCKOPT_LOG", "debug"),
            ("SOCKOPT_USER_TIMEOUT", "5s"),
            ("SOCKOPT_LOG", "off"),
            ("SOCKOPT_USER_TIMEOUT", "6s"),
        ];
        let pairs = pairs.map(|(name, value)| (name.into(), value.into()));
        let loaded = from_variables(pairs.into_iter(), None);
        assert_eq!((loaded.level, loaded.configuration.variables.len()), (Level::Debug, 2));
        assert_eq!(loaded.configuration.variables.last().map(|one| one.text.as_str()), Some("5s"));
    }

    #[test]
    fn what_is_refused_or_off() {
        let loaded = environment(&[("SOCKOPT_CONFIG", "sockopt.toml"), ("SOCKOPT_LOG_FILE", "log")]);
        assert_eq!(loaded.failures.len(), 2, "{:?}", loaded.failures);
        assert!(loaded.is_configured() && loaded.log_file.is_none());
        let loaded = environment(&[("SOCKOPT_DISABLE", "1"), ("SOCKOPT_CONFIG_TOML", "[[rule]]")]);
        assert!(loaded.disabled && !loaded.is_configured());
    }

    #[test]
    fn the_reference_configuration_from_text_to_decision() {
        let text = include_str!("../../config/sockopt.toml");
        // What is ready to be switched on is: `#key = value`.
        let is_off = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && !line.starts_with("#:");
        let on = |line: &str| if is_off(&line) && line != "#" { line[1..].to_owned() } else { line.to_owned() };
        let text: Vec<String> = text.lines().map(on).collect();
        // What excludes others of them stays off.
        let is_alone = |line: &&String| !["dead_peer_timeout", "time_wait"].iter().any(|key| line.starts_with(key));
        let text: Vec<String> = text.into_iter().filter(|line| is_alone(&line)).collect();
        let loaded = environment(&[("SOCKOPT_CONFIG_TOML", &text.join("\n"))]);
        let rules = compile(&loaded.configuration, &Process::default()).rules.expect("rules");
        let peer = Endpoint::new([127, 0, 0, 1].into(), 80);
        assert!(rules.setting_count() > 20);
        let _ = rules.decide(&Connection::Outbound { peer }).profile();
    }

    #[test]
    fn processes_and_their_names() {
        let words = ["./run", "-jar", "a b"].map(OsString::from);
        let found = process(Some(Path::new("/usr/bin/java")), words.into_iter());
        assert_eq!(found.names, ["java", "run"]);
        assert_eq!(found.command, "./run -jar a b");
    }
}
