//! Which file a command line starts in the end, as execvp(3) finds it, `#!` names its interpreter (execve(2)), and
//! wrappers such as env(1) their command; and what becomes of the library in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::ReadCache;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::executable::{self, Image, Libc, Outlook, TAKES_EFFECT, Verdict};
use crate::imports::{self, Reach};
use crate::library::Library;
use crate::privilege::{self, Caller, Elevation, Rights, elevation};
use crate::wrapper::{self, Call};

/// Exit code, as env(1) has it: the program was found and cannot be started.
pub const CANNOT_START: u8 = 126;
/// Exit code, as env(1) has it: there is no such program.
pub const NOT_FOUND: u8 = 127;

/// What a command line comes to.
#[derive(Debug)]
pub struct Program {
    /// The file that is executed in the end: for a script, its interpreter.
    pub file: PathBuf,
    /// The arguments that it gets, from the name that it is started by.
    pub words: Vec<OsString>,
    /// The script that named it, if any.
    pub script: Option<PathBuf>,
    /// The programs that start it, in their order.
    pub wrappers: Vec<PathBuf>,
    /// The wrapper that takes LD_PRELOAD away, and how.
    cleared: Option<(String, &'static str)>,
    /// As which user it is started, if not as this one.
    user: Option<OsString>,
    has_other_rights: bool,
    no_new_privileges: bool,
    /// What that file is.
    end: End,
}

/// Where the chain of interpreters and wrappers ends.
#[derive(Debug, Clone)]
enum End {
    Program(Image),
    /// No ELF file: the kernel may know another format (binfmt_misc), or refuse it.
    Foreign,
    /// Nobody may read it.
    Unreadable,
    /// A wrapper that is called in a way that is not followed.
    Unclear,
    /// A wrapper, and there is no such program as it is to start.
    Missing(OsString),
    /// A wrapper that starts something in another root.
    InRoot(PathBuf),
    /// A wrapper behind which the library does not get, why, and what to do instead.
    WithoutLibrary(&'static str, &'static str),
}

/// Why nothing can be started, with the exit code of env(1).
#[derive(Debug)]
pub struct Failure {
    /// The exit code that a start would have.
    pub code: u8,
    /// Why.
    pub why: String,
    /// What would help.
    pub help: Option<String>,
}

/// Scripts whose interpreter is a script: the kernel follows five (fs/exec.c), wrappers start anew.
const LONGEST_CHAIN: usize = 16;
/// As much of a file as the kernel looks at, BINPRM_BUF_SIZE.
const HEAD: usize = 256;

/// What the start of a file makes of it.
enum Head {
    Elf,
    /// Its interpreter, and the one argument that it may have.
    Script(OsString, Option<OsString>),
    /// Text without `#!`: execvp(3) has it run by sh.
    Text,
    Other,
    Unreadable,
}

fn head(file: &Path) -> Head {
    let mut start = [0; HEAD];
    let Ok(length) = File::open(file).and_then(|file| file.read_at(&mut start, 0)) else { return Head::Unreadable };
    let start = start.get(..length).unwrap_or_default();
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(line) = start.strip_prefix(b"#!") else {
        return match start {
            _ if start.starts_with(b"\x7fELF") => Head::Elf,
            _ if start.contains(&0) => Head::Other,
            _ => Head::Text,
        };
    };
    let line = line.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default().trim_ascii_start();
    let end = line.iter().position(is_blank).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at_checked(end).unwrap_or_default();
    let (first, last) = (rest.iter().position(|b| !is_blank(b)), rest.iter().rposition(|b| !is_blank(b)));
    let argument = first.zip(last).and_then(|(first, last)| rest.get(first..=last));
    let own = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    if interpreter.is_empty() { Head::Text } else { Head::Script(own(interpreter), argument.map(own)) }
}

/// Finds a program as execvp(3) does, in folders separated by colons of which an empty one is the current.
pub fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Failure> {
    let cannot = |code, why: &str| Failure { code, why: format!("{}: {why}", program.display()), help: None };
    let denied = || cannot(CANNOT_START, "Permission denied");
    let check = |file: &Path| match (file.metadata(), accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS)) {
        // Another answer may be a container's, whose seccomp filter does not know the call.
        (Ok(found), access) if found.is_file() && access != Err(Errno::ACCESS) => Ok(()),
        (Err(error), _) => Err(error.kind()),
        _ => Err(ErrorKind::PermissionDenied),
    };
    if program.as_bytes().contains(&b'/') {
        return match check(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(ErrorKind::NotFound) => Err(cannot(NOT_FOUND, "no such program")),
            Err(ErrorKind::NotADirectory) => Err(cannot(CANNOT_START, "Not a directory")),
            Err(_) => Err(denied()),
        };
    }
    let mut was_denied = false;
    for folder in env::split_paths(path).filter(|_| !program.is_empty()) {
        let file = if folder.as_os_str().is_empty() { Path::new(".").join(program) } else { folder.join(program) };
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(why) => was_denied |= !matches!(why, ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
    Err(if was_denied { denied() } else { cannot(NOT_FOUND, "no such program") })
}

fn path_of_environment() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| wrapper::DEFAULT_PATH.into())
}

/// Follows a command line to the file that is executed in the end.
pub fn resolve(words: &[OsString]) -> Result<Program, Failure> {
    let mut path = path_of_environment();
    let file = find(words.first().map_or(OsStr::new(""), OsString::as_os_str), &path)?;
    let mut program = Program::new(file, words);
    for _ in 0..LONGEST_CHAIN {
        let kind = head(&program.file);
        let may_wrap = match kind {
            Head::Elf => true,
            Head::Script(..) => wrapper::is_script(&program.words),
            Head::Text | Head::Other | Head::Unreadable => false,
        };
        if may_wrap {
            match program.follow(&mut path)? {
                Step::Onward => continue,
                Step::End(end) => return Ok(Program { end, ..program }),
                Step::Stay => {}
            }
        }
        let (interpreter, argument) = match kind {
            Head::Script(interpreter, argument) => (interpreter, argument),
            // The shell that execvp(3) takes.
            Head::Text => ("/bin/sh".into(), None),
            Head::Elf => return Ok(Program { end: program_at(&program.file)?, ..program }),
            Head::Other => return Ok(program),
            Head::Unreadable => return Ok(Program { end: End::Unreadable, ..program }),
        };
        let next = interpreter_at(&program.file, &interpreter)?;
        let arguments = program.words.drain(..).skip(1);
        program.words = [Some(interpreter), argument, Some(program.file.clone().into_os_string())]
            .into_iter()
            .flatten()
            .chain(arguments)
            .collect();
        program.script.get_or_insert(program.file);
        program.file = next;
    }
    Ok(program)
}

/// The kernel takes what stands behind `#!` as a path, from the current directory.
fn interpreter_at(script: &Path, interpreter: &OsStr) -> Result<PathBuf, Failure> {
    let path =
        if interpreter.as_bytes().contains(&b'/') { interpreter.into() } else { Path::new(".").join(interpreter) };
    find(path.as_os_str(), OsStr::new("")).map_err(|failure| Failure {
        why: match failure.code {
            NOT_FOUND => {
                format!("{}: its interpreter {} does not exist", script.display(), interpreter.display())
            }
            _ => format!("{}: its interpreter {} may not be executed", script.display(), interpreter.display()),
        },
        help: interpreter
            .as_bytes()
            .ends_with(b"\r")
            .then(|| "its lines end as on Windows: take the carriage returns out".into()),
        ..failure
    })
}

fn program_at(file: &Path) -> Result<End, Failure> {
    let image = File::open(file).ok().and_then(|file| Image::read(&ReadCache::new(file)));
    let Some(image) = image else { return Ok(End::Foreign) };
    if let Some(loader) = image.loader.as_deref().map(|loader| Path::new(OsStr::from_bytes(loader)))
        && !loader.exists()
    {
        return Err(Failure {
            code: NOT_FOUND,
            why: format!("{}: its loader {} does not exist", file.display(), loader.display()),
            help: Some(format!("it is built for {}, for another system or another libc", image.architecture)),
        });
    }
    Ok(End::Program(image))
}

/// What is started in another root, where all paths mean other files.
fn in_root(name: &str, root: &Path, library: &Library) -> Verdict {
    let there = root.join(library.path.strip_prefix("/").unwrap_or(&library.path));
    let root = root.display();
    if there.is_file() {
        return Verdict::unknown(format!(
            "{name} starts a program in the root {root}, where sockopt does not judge it"
        ));
    }
    Verdict::cannot(
        format!(
            "{name} starts a program in the root {root}, which has no {}: the loader does not find the library",
            library.path.display()
        ),
        "put the library at the same place below that root",
    )
}

/// Shells make no connections but for others.
fn is_shell(words: &[OsString]) -> bool {
    let name = |index: usize| words.get(index).and_then(|word| Path::new(word).file_name()).map(OsStr::as_bytes);
    let name = if matches!(name(0), Some(b"busybox" | b"toybox")) { name(1) } else { name(0) };
    matches!(name, Some(b"sh" | b"ash" | b"bash" | b"dash" | b"fish" | b"ksh" | b"mksh" | b"yash" | b"zsh"))
}

/// What becomes of a program that may be a wrapper.
enum Step {
    /// It is none.
    Stay,
    /// It is what it starts now.
    Onward,
    End(End),
}

impl Program {
    fn new(file: PathBuf, words: &[OsString]) -> Self {
        Self {
            file,
            words: words.to_vec(),
            script: None,
            wrappers: Vec::new(),
            cleared: None,
            user: None,
            has_other_rights: false,
            no_new_privileges: false,
            end: End::Foreign,
        }
    }

    /// Goes on to what it starts, if it is a wrapper.
    fn follow(&mut self, path: &mut OsString) -> Result<Step, Failure> {
        let name = || self.words.first().and_then(|word| Path::new(word).file_name()).unwrap_or_default();
        let start = match wrapper::read(&self.words) {
            Some(Call::Starts(start)) => start,
            Some(Call::Unclear) => return Ok(Step::End(End::Unclear)),
            Some(Call::WithoutLibrary(why, instead)) => return Ok(Step::End(End::WithoutLibrary(why, instead))),
            Some(Call::Nothing) => return Ok(Step::Stay),
            None if is_shell(&self.words) => {
                let command = wrapper::of_shell(&self.words);
                let found = command.and_then(|command| Some((find(command.first()?, path).ok()?, command)));
                let Some((file, command)) = found else { return Ok(Step::Stay) };
                self.wrappers.push(std::mem::replace(&mut self.file, file));
                self.words = command;
                return Ok(Step::Onward);
            }
            None => return Ok(Step::Stay),
        };
        if let Some(root) = start.root.filter(|root| root != "/") {
            return Ok(Step::End(End::InRoot(root.into())));
        }
        let is_env = name() == "env";
        if let Some(how) = start.cleared {
            self.cleared.get_or_insert((name().display().to_string(), how));
        }
        self.user = start.user.or(self.user.take());
        self.has_other_rights |= start.has_other_rights;
        self.no_new_privileges |= start.no_new_privileges;
        if let Some(new) = start.path {
            *path = new;
        }
        let program = start.command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let file = match find(program, path) {
            Ok(file) => file,
            Err(failure) if is_env => return Err(failure),
            // Each has an exit code of its own for that.
            Err(_) => return Ok(Step::End(End::Missing(program.to_owned()))),
        };
        self.wrappers.push(std::mem::replace(&mut self.file, file));
        self.words = start.command;
        Ok(Step::Onward)
    }

    /// The libraries that it names.
    pub fn needed(&self) -> &[String] {
        if let End::Program(image) = &self.end { &image.needed } else { &[] }
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        let file = self.file.display();
        match &self.script {
            Some(script) => format!("{file} (which runs {})", script.display()),
            None => file.to_string(),
        }
    }

    /// Whether it is there to start other programs.
    pub fn starts_others(&self) -> bool {
        !self.wrappers.is_empty() || is_shell(&self.words)
    }

    /// Whether no library can be loaded into it, whichever.
    pub fn is_past_every_library(&self) -> bool {
        matches!(&self.end, End::Program(image) if image.is_past_every_library())
    }

    /// What keeps the supervisor from it, if anything does.
    pub fn supervised(&self) -> Verdict {
        let name = self.name();
        match &self.end {
            End::WithoutLibrary(why, instead) => return Verdict::cannot((*why).to_owned(), *instead),
            End::Program(image) if !image.is_for_this_machine() => {
                return Verdict::cannot(
                    format!(
                        "{name} is for {}: the supervisor sees only calls of this machine's own programs",
                        image.architecture
                    ),
                    "use a build of it for this machine",
                );
            }
            _ => {}
        }
        let elevated = || {
            self.wrappers
                .iter()
                .find_map(|wrapper| Program::new(wrapper.clone(), &[]).elevated(""))
                .or_else(|| self.elevated(""))
        };
        if !Caller::this().may_filter_with_rights()
            && elevated().is_some_and(|verdict| verdict.outlook == Outlook::Cannot)
        {
            return Verdict::cannot(
                format!(
                    "{name} gets rights from its file (setuid, setgid or capabilities): under a supervisor without CAP_SYS_ADMIN it would not get them"
                ),
                "start sockopt as the user that the program is to run as, or as root",
            );
        }
        Verdict::works(format!("{name}: the supervisor sees its calls and sets the options"))
    }

    /// What becomes of the library in it.
    pub fn verdict(&self, library: &Library) -> Verdict {
        let name = self.name();
        if let Some((who, how)) = &self.cleared {
            return Verdict::cannot(
                format!("{who} {how}: {name} is started without the library"),
                format!("put sockopt run behind {who}: {who} ... sockopt run ... -- PROGRAM"),
            )
            .for_supervisor();
        }
        if let Some(verdict) = self.wrappers.iter().find_map(|wrapper| self.stopped_by(wrapper, library)) {
            return verdict;
        }
        let is_its_own_reason = matches!(self.end, End::WithoutLibrary(..));
        if let Some(verdict) = self.elevated(&name).filter(|_| !is_its_own_reason) {
            return verdict;
        }
        let unknown =
            |what: &str| Verdict::unknown(format!("{name} {what}: whether the library takes effect is not known"));
        let image = match &self.end {
            End::Program(image) => image,
            End::Foreign => return unknown("is neither an ELF file nor a script"),
            End::Unreadable => return unknown("cannot be read"),
            End::Unclear => {
                return Verdict::unknown(format!(
                    "{name} is called in a way that sockopt does not know: what it starts is not judged"
                ));
            }
            End::Missing(program) => {
                return Verdict::unknown(format!("{}, which {name} is to start, is not found", program.display()));
            }
            End::InRoot(root) => return in_root(&name, root, library),
            End::WithoutLibrary(why, instead) => return Verdict::cannot((*why).to_owned(), *instead),
        };
        let calls_sockets = || {
            let Ok(file) = File::open(&self.file) else { return false };
            let cache = ReadCache::new(file);
            let calls = executable::symbols(&cache, false).unwrap_or_default();
            ["connect", "listen", "accept", "accept4"].iter().any(|call| calls.contains(*call))
        };
        let verdict = image.verdict(&name, library.image.architecture, calls_sockets);
        match verdict {
            Some(verdict)
                if is_shell(&self.words) && image.is_static() && image.architecture == library.image.architecture =>
            {
                Verdict::partly(
                    format!("{}; dynamically linked programs that it starts have the library", verdict.why),
                    "if its own connections matter, use a dynamically linked shell",
                )
                .for_supervisor()
            }
            Some(verdict) => verdict,
            None => self.unreadable(&name, library).unwrap_or_else(|| {
                let verdict = self.beside_libc(&name, image, library);
                let ends = verdict.outlook == Outlook::Cannot;
                self.within_reach(&name, image, if ends { verdict.for_supervisor() } else { verdict })
            }),
        }
    }

    /// What of the program the library sees, where it is loaded into it.
    fn within_reach(&self, name: &str, image: &Image, verdict: Verdict) -> Verdict {
        const SEEN: &str = "the functions that the library sees (connect, listen, accept, sendto, ...)";
        const INSTEAD: &str =
            "use what the program itself has for that, or the sysctls net.ipv4.tcp_keepalive_* and tcp_retries2";
        let Some(linked) = verdict.why.strip_suffix(TAKES_EFFECT).filter(|_| verdict.outlook == Outlook::Works) else {
            return verdict;
        };
        let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let first: Vec<PathBuf> = environment
            .as_bytes()
            .split(|byte| b":;".contains(byte))
            .filter(|folder| !folder.is_empty())
            .map(|folder| OsStr::from_bytes(folder).into())
            .collect();
        let what_it_starts =
            |starts: bool| if starts { "; dynamically linked programs that it starts have the library" } else { "" };
        match imports::reach(&self.file, image, &first) {
            Reach::Calls => verdict,
            Reach::Loads => Verdict::works(format!(
                "{linked}, and loads code while it runs: the library takes effect in the code that calls {SEEN}"
            )),
            Reach::LoadsOrMakes => Verdict::unknown(format!(
                "{name} calls none of {SEEN}, has system calls of its own, and loads code while it runs: whether the library sees its connections is not known"
            )),
            Reach::Nothing { starts } => Verdict::works(format!(
                "{linked}, and calls none of {SEEN}: nothing is set in it{}",
                what_it_starts(starts)
            )),
            Reach::Makes { starts } => Verdict::partly(
                format!(
                    "{name} calls none of {SEEN}, and has system calls of its own: it connects past every preloaded library{}",
                    what_it_starts(starts)
                ),
                INSTEAD,
            )
            .for_supervisor(),
            Reach::Unknown(file) => Verdict::unknown(format!(
                "{linked}, and needs {file}, which is not found or cannot be read: whether the library takes effect is not known"
            )),
        }
    }

    /// What keeps the library from all that a wrapper starts: its own rights, or a loader that ends it.
    fn stopped_by(&self, wrapper: &Path, library: &Library) -> Option<Verdict> {
        let own = Program::new(wrapper.to_owned(), &[]);
        let name = wrapper.display().to_string();
        let ended = || match program_at(wrapper) {
            Ok(End::Program(image)) if image.loader.is_some() && image.architecture == library.image.architecture => {
                Some(own.beside_libc(&name, &image, library))
            }
            _ => None,
        };
        own.elevated(&name).or_else(ended).filter(|verdict| verdict.outlook == Outlook::Cannot)
    }

    /// Whether the user that a wrapper starts it as cannot be expected to get at the library.
    fn unreadable(&self, name: &str, library: &Library) -> Option<Verdict> {
        let user = self.user.as_deref()?;
        if privilege::may_read(user, &library.path) {
            return None;
        }
        let (user, path) = (user.display(), library.path.display());
        Some(Verdict::partly(
            format!(
                "{name} is started as user {user}, who may not read {path}: the loader starts it without the library"
            ),
            "move the library where everybody may read it, /usr/local/lib for example",
        ))
    }

    fn elevated(&self, name: &str) -> Option<Verdict> {
        let rights = Rights::of(&self.file)?;
        if self.has_other_rights {
            return rights.may_elevate().then(|| {
                Verdict::unknown(format!(
                    "{name} has rights of its own, and starts with other rights than yours: whether the library takes effect is not known"
                ))
            });
        }
        let mut caller = Caller::this();
        caller.no_new_privileges |= self.no_new_privileges;
        let elevation = elevation(caller, rights)?;
        let why = match elevation {
            Elevation::User(user) => {
                format!("{name} is setuid: it runs as user {user}, so the loader ignores LD_PRELOAD")
            }
            Elevation::Group(group) => {
                format!("{name} is setgid: it runs as group {group}, so the loader ignores LD_PRELOAD")
            }
            Elevation::Capabilities => format!("{name} has file capabilities, so the loader ignores LD_PRELOAD"),
            Elevation::Caller => {
                format!("the effective user or group is not the real one, so the loader of {name} ignores LD_PRELOAD")
            }
        };
        let instead = match elevation {
            Elevation::User(0) => "become root first: sudo sockopt run ... -- PROGRAM",
            Elevation::User(_) => "become that user first: sudo -u USER sockopt run ... -- PROGRAM",
            Elevation::Group(_) => "take that group first: sg GROUP -c \"sockopt run ... -- PROGRAM\"",
            Elevation::Capabilities => {
                "give it ambient capabilities instead of the file's: AmbientCapabilities= of systemd, setpriv --ambient-caps"
            }
            Elevation::Caller => "start sockopt as the user that the program is to run as",
        };
        Some(Verdict::cannot(why, instead))
    }

    /// Holds what the library needs against the libc that the program's loader belongs to.
    fn beside_libc(&self, name: &str, image: &Image, library: &Library) -> Verdict {
        let loader = PathBuf::from(OsString::from_vec(image.loader.clone().unwrap_or_default()));
        match image.libc() {
            Some(Libc::Glibc) => library.beside_glibc(name, self.folders(image).as_deref(), &loader),
            Some(Libc::Musl) => library.beside_musl(name, &loader),
            None => Verdict::unknown(format!(
                "{name} has the loader {}, which is neither glibc's nor musl's: whether it takes the library is not known",
                loader.display()
            )),
        }
    }

    /// Folders where the loader looks for libraries before its own; None if that cannot be told.
    fn folders(&self, image: &Image) -> Option<Vec<PathBuf>> {
        let origin = self.file.canonicalize().ok()?.parent()?.display().to_string();
        let named = image.search.as_ref()?.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
        let environment = env::var_os("LD_LIBRARY_PATH").unwrap_or_default().into_string().ok()?.replace(';', ":");
        let folders = named.split(':').chain(environment.split(':')).filter(|folder| !folder.is_empty());
        let folders: Vec<PathBuf> = folders.map(PathBuf::from).collect();
        folders.iter().all(|folder| !folder.as_os_str().as_bytes().contains(&b'$')).then_some(folders)
    }
}
