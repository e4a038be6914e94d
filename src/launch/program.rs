//! Which file a command line starts in the end: `#!` names its interpreter (execve(2)), and wrappers such as env(1) their command.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::executable::Image;
use crate::find::{Failure, Head, NOT_FOUND, find, head, interpreter_at, path_of_environment};
use crate::root::Root;
use crate::wrapper::{self, Call};
use crate::{blocks, neighbours};

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
    pub(crate) cleared: Option<(String, &'static str)>,
    /// The wrapper that gives AddressSanitizer options with which it does not start behind the library.
    pub(crate) stops_sanitizer: Option<String>,
    /// As which user it is started, if not as this one.
    pub(crate) user: Option<OsString>,
    pub(crate) has_other_rights: bool,
    pub(crate) no_new_privileges: bool,
    /// What that file is.
    pub(crate) end: End,
}

/// Where the chain of interpreters and wrappers ends.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Program(Image),
    /// No ELF file: the kernel may know another format (binfmt_misc), or refuse it.
    Foreign,
    /// Nobody may read it.
    Unreadable,
    /// A wrapper that is called in a way that is not followed.
    Unclear,
    /// A wrapper, and there is no such program as it is to start.
    Missing(OsString),
    /// A wrapper that starts something in another root: which, and the program if it was found there.
    InRoot(PathBuf, Option<(PathBuf, Image)>),
    /// A wrapper behind which the library does not get, why, and what to do instead; then, whether the supervisor gets there.
    WithoutLibrary(&'static str, &'static str, bool),
}

/// Scripts whose interpreter is a script: the kernel follows five (fs/exec.c), wrappers start anew.
const LONGEST_CHAIN: usize = 16;

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

pub(crate) fn program_at(file: &Path) -> Result<End, Failure> {
    let image = blocks::open(file).ok().and_then(|file| Image::read(&file));
    let Some(image) = image else { return Ok(End::Foreign) };
    if let Some(loader) = image.loader_path()
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

/// The program that a word names in another root.
fn program_below(root: &Path, word: &OsStr, path: &OsStr) -> Option<(PathBuf, Image)> {
    let below = Root::open(root)?;
    let is_path = word.as_bytes().contains(&b'/');
    let folders = if is_path { vec![PathBuf::new()] } else { env::split_paths(path).collect() };
    folders.into_iter().find_map(|place| {
        let file = place.join(word);
        let image = Image::read(&blocks::open(&below.file(&file)?).ok()?)?;
        Some((root.join(file.strip_prefix("/").unwrap_or(&file)), image))
    })
}

/// Shells make no connections but for others.
pub(crate) fn is_shell(words: &[OsString]) -> bool {
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
    pub(crate) fn new(file: PathBuf, words: &[OsString]) -> Self {
        Self {
            file,
            words: words.to_vec(),
            script: None,
            wrappers: Vec::new(),
            cleared: None,
            stops_sanitizer: None,
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
            Some(Call::WithoutLibrary(why, instead, is_supervised)) => {
                return Ok(Step::End(End::WithoutLibrary(why, instead, is_supervised)));
            }
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
            let root = PathBuf::from(root);
            let program = start.command.first().and_then(|word| program_below(&root, word, path));
            return Ok(Step::End(End::InRoot(root, program)));
        }
        let is_env = name() == "env";
        if let Some(how) = start.cleared {
            self.cleared.get_or_insert((name().display().to_string(), how));
        }
        if let Some(lets_it) = start.lets_sanitizer_start {
            self.stops_sanitizer = (!lets_it).then(|| name().display().to_string());
        }
        self.user = start.user.or(self.user.take());
        self.has_other_rights |= start.has_other_rights;
        self.no_new_privileges |= start.no_new_privileges;
        if let Some(new) = start.path {
            *path = new;
        }
        let program = start.command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let is_searched = !program.as_bytes().contains(&b'/');
        if start.is_elsewhere && is_searched && env::split_paths(path).any(|folder| folder.is_relative()) {
            return Ok(Step::End(End::Unclear));
        }
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

    /// The wrapper by which a program with AddressSanitizer ends at once if the library is in front of its runtime.
    pub(crate) fn stopped_sanitizer(&self) -> Option<&str> {
        self.stops_sanitizer.as_deref().filter(|_| neighbours::loads_sanitizer_late(self.needed()))
    }

    /// Whether it starts where the library is loaded into it, as far as is known.
    pub fn starts_with_library(&self) -> bool {
        self.stopped_sanitizer().is_none()
    }

    /// The libraries that it names.
    pub fn needed(&self) -> &[String] {
        if let End::Program(image) = &self.end { &image.needed } else { &[] }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        let file = self.file.display();
        match &self.script {
            Some(script) => format!("{file} (which runs {})", script.display()),
            None => file.to_string(),
        }
    }

    /// Whether it is there to start other programs.
    pub fn starts_others(&self) -> bool {
        let is_wrapper = matches!(self.end, End::WithoutLibrary(..) | End::Unclear | End::InRoot(..));
        is_wrapper || !self.wrappers.is_empty() || is_shell(&self.words)
    }

    /// Whether no library can be loaded into it, whichever.
    pub fn is_past_every_library(&self) -> bool {
        self.executed().is_some_and(|(_, image)| image.is_past_every_library())
    }

    /// The program that is executed in the end, in whichever root, and what it is called in messages.
    pub(crate) fn executed(&self) -> Option<(String, &Image)> {
        match &self.end {
            End::Program(image) => Some((self.name(), image)),
            End::InRoot(_, Some((file, image))) => Some((file.display().to_string(), image)),
            _ => None,
        }
    }
}
