//! `sockopt run`: becomes a program, with the library in front of it.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::ArgMatches;
use launch::{Backend, Library, Outlook, Program, Verdict, find, named, neighbours, privilege, program};
use policy::error::digest;
use policy::{Phases, Process, Rules, compile};
use rustix::io::{FdFlags, fcntl_setfd};
use socket::line::Identity;
use socket::{Errno, ffi};

use crate::{args, check, exit, output};

/// What is used where nothing is configured.
const BUILT_IN: (&str, &str) = ("SOCKOPT_DEAD_PEER_TIMEOUT", "60s");

/// Whether SIGPIPE was ignored when the command was started, as systemd has it for services. Rust's runtime ignores it
/// before main, and the program is to get what its starter meant.
static IGNORES_SIGPIPE: AtomicBool = AtomicBool::new(false);
socket::before_main!(remember_sigpipe);
extern "C" fn remember_sigpipe() {
    IGNORES_SIGPIPE.store(ffi::is_sigpipe_ignored(), Relaxed);
    CLOSED.iter().zip(0..).for_each(|(is_closed, fd)| is_closed.store(Identity::of(fd).is_none(), Relaxed));
}

/// Which of the standard descriptors were closed. Rust's runtime opens /dev/null in their place before main.
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// Has the program find them closed as well.
fn close_again() {
    let [is_in, is_out, is_err] = CLOSED.each_ref().map(|is_closed| is_closed.load(Relaxed));
    let close = |is_closed, fd: BorrowedFd<'_>| is_closed && fcntl_setfd(fd, FdFlags::CLOEXEC).is_ok();
    close(is_in, io::stdin().as_fd());
    close(is_out, io::stdout().as_fd());
    close(is_err, io::stderr().as_fd());
}

/// Only returns if the program was not started: with the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let words = args::program(matches);
    let is_dry = matches.get_flag("dry-run");
    let mut variables = args::variables(matches);
    let mut loaded = args::loaded(&variables);
    if loaded.disabled {
        output::note("SOCKOPT_DISABLE is set: the program runs without the library");
        return if is_dry { foretell(&words) } else { start(&words, &[]) };
    }
    let is_built_in = !loaded.is_configured();
    if is_built_in {
        let unknown =
            |variable: &&policy::Source| !policy::variables::known_names().any(|known| known == variable.name);
        if loaded.configuration.variables.iter().any(|variable| unknown(&variable)) {
            let _ = check::report(&loaded, &compile(&loaded.configuration, &Process::default()));
            output::error("the only configuration is a variable that sockopt does not know", None);
            return exit::CONFIGURATION;
        }
        variables.push((BUILT_IN.0.into(), BUILT_IN.1.into()));
        loaded = args::loaded(&variables);
    }
    let target = program::resolve(&words);
    let process = target.as_ref().map_or_else(
        |_| Process::default(),
        |target| load::process(target.file.canonicalize().ok().as_deref(), target.words.iter().cloned()),
    );
    let compiled = compile(&loaded.configuration, &process);
    if let Err(code) = check::report(&loaded, &compiled) {
        return code;
    }
    if !compiled.warnings.is_empty() {
        // What was shown here is not to be said again by each process.
        variables
            .push(("SOCKOPT_CHECKED".into(), format!("{:x}", digest(&compiled.warnings, &compiled.sources)).into()));
    }
    let by = backend(matches);
    let is_forced = matches.get_flag("force");
    // What becomes of the library is asked where it may be used, and where it is told.
    let is_asked = is_dry
        || is_forced
        || match by {
            Some(by) => by == Backend::Library,
            None => !target.as_ref().is_ok_and(Program::is_for_supervisor),
        };
    let named = matches.get_one::<OsString>("library").map(OsString::as_os_str);
    let mut library = match is_asked.then(|| Library::find(named)).transpose() {
        Ok(library) => library,
        // No library would be of use.
        Err(_) if by == Some(Backend::Supervisor) => None,
        Err(_) if by.is_none() && target.as_ref().is_ok_and(Program::is_past_every_library) => None,
        Err(why) if is_forced => {
            output::warning(&why, None);
            None
        }
        Err(why) => {
            output::error(&why, None);
            return exit::CANNOT_WORK;
        }
    };
    let judged = target.as_ref().ok().filter(|_| is_asked).and_then(|target| Some(target.verdict(library.as_ref()?)));
    let is_supervised = match by {
        Some(by) => by == Backend::Supervisor,
        None => library.is_none() || judged.as_ref().is_some_and(|verdict| verdict.backend == Backend::Supervisor),
    };
    let mut ready = None;
    let mut verdict = judged;
    if is_supervised && target.is_err() && !is_dry {
        // Where it is may be known to who starts it alone, as in the folder that env -C changes to.
        let (rules, loaded) = (compiled.rules.clone().unwrap_or_default(), args::loaded(&variables));
        match begin(loaded, rules) {
            Ok(done) => ready = Some(done),
            Err(why) => verdict = Some(why),
        }
    }
    if is_supervised && let Ok(target) = &target {
        let (rules, loaded) = (compiled.rules.clone().unwrap_or_default(), args::loaded(&variables));
        match supervise(target, loaded, rules) {
            Ok(done) => {
                let why = verdict.filter(|verdict| verdict.backend == Backend::Supervisor).map(|verdict| verdict.why);
                let says = why.map(|why| Verdict::works(format!("{why}; the supervisor sets its options")));
                (ready, verdict) = (Some(done), Some(says.unwrap_or_else(|| target.supervised())));
            }
            Err(why) => {
                if !is_asked && by.is_none() {
                    library = Library::find(named).ok();
                    verdict = library.as_ref().map(|library| target.verdict(library));
                }
                verdict = Some(match verdict {
                    // Neither reaches it: for the library the outlook stays as it was.
                    Some(of_library) if by.is_none() => {
                        let others = of_library.instead.map(|help| match &why.instead {
                            Some(own) => format!("{own}; or {help}"),
                            None => help,
                        });
                        let instead = others.or(why.instead);
                        Verdict { why: format!("{}; {}", of_library.why, why.why), instead, ..of_library }
                    }
                    _ => why,
                });
            }
        }
    }
    if let (Some(Backend::Library), Some(verdict), Ok(target)) = (by, &mut verdict, &target)
        && verdict.outlook == Outlook::Cannot
        && verdict.backend == Backend::Supervisor
        && target.supervised().outlook != Outlook::Cannot
    {
        let others = verdict.instead.take().map(|help| format!("; or {help}"));
        let others = others.unwrap_or_default();
        verdict.instead = Some(format!("leave out --by library, and the supervisor sets its options{others}"));
    }
    if let (true, Some(Backend::Supervisor), Some(verdict)) = (is_forced, by, &mut verdict)
        && verdict.outlook == Outlook::Cannot
    {
        let others = verdict.instead.take().map(|help| format!("; or {help}")).unwrap_or_default();
        verdict.instead = Some(format!("leave out --by supervisor, and --force starts it without options{others}"));
    }
    let list = library
        .as_ref()
        // With --force as well, the program is to start.
        .filter(|_| ready.is_none() && target.as_ref().map_or(true, Program::starts_with_library))
        .map(|library| neighbours::with_library(&library.path, env::var_os("LD_PRELOAD").as_deref()));
    let wrappers = target.as_ref().map_or(&[][..], |target| &target.wrappers);
    let notes = list.as_ref().map(|list| neighbours::notes(list, wrappers)).unwrap_or_default();
    let needed = target.as_ref().map_or(&[][..], Program::needed);
    let sanitizer =
        neighbours::address_sanitizer(needed, env::var_os(neighbours::SANITIZER_VARIABLE)).filter(|_| list.is_some());
    let own = list.map(|list| ("LD_PRELOAD".into(), list));
    variables.splice(0..0, own.into_iter().chain(sanitizer));
    // Who asked for the supervisor does not mean to start it without one.
    let may_go_without = is_forced && by != Some(Backend::Supervisor);
    if let Some(verdict) = &verdict
        && !say(verdict, is_dry, may_go_without)
    {
        return exit::CANNOT_WORK;
    }
    if is_dry && target.is_ok() {
        show(&variables);
    }
    let library = library.as_ref().filter(|_| ready.is_none());
    if verdict.is_some_and(|verdict| verdict.outlook != Outlook::Cannot)
        && (ready.is_some() || library.is_some())
        && let Some(note) = target.as_ref().ok().and_then(|target| named::beyond_reach(target, library))
    {
        output::note(&note);
    }
    notes.into_iter().chain(target.as_ref().ok().and_then(named::by_daemon)).for_each(output::note);
    if ready.is_some() {
        let starts_others = target.as_ref().is_ok_and(Program::starts_others);
        if (is_dry || starts_others) && !privilege::Caller::this().may_filter_with_rights() {
            output::note(
                "without CAP_SYS_ADMIN, programs under the supervisor gain no privileges from setuid bits or file capabilities: sudo, su and the like fail",
            );
        }
        if (is_dry || starts_others) && !privilege::Caller::this().may_look_into_children() {
            output::warning(
                "kernel.yama.ptrace_scope is set here: the supervisor sets options in this program, but not in programs that it starts",
                Some("run sockopt with CAP_SYS_PTRACE, or put `sockopt run` directly before the program that connects"),
            );
        }
        if is_dry {
            output::note("the supervisor does not see connections that a program makes with io_uring");
            if ready.as_ref().is_some_and(supervise::Ready::makes_sockets) {
                output::note(
                    "pidfd_getfd is forbidden here, as in Docker's seccomp profile, so the supervisor creates the program's sockets itself",
                );
            }
        }
    }
    if is_dry && target.is_ok() && compiled.rules.as_ref().is_ok_and(|rules| rules.phases() == Phases::NONE) {
        let sets_elsewhere =
            loaded.configuration.parse().into_rules(None).0.is_ok_and(|every| every.phases() != Phases::NONE);
        output::note(&if sets_elsewhere {
            let name = process.names.first().map_or("this program", String::as_str);
            format!(
                "no option is set in {name} itself: the configuration is for other processes; {name} may start such processes"
            )
        } else {
            "no option is set: the configuration has none".to_owned()
        });
    }
    if is_built_in {
        let given = |name: &&str| {
            loaded.configuration.variables.iter().any(|one| one.name == *name && !one.text.trim().is_empty())
        };
        let limits: Vec<&str> = ["SOCKOPT_TO", "SOCKOPT_PROCESS"].into_iter().filter(given).collect();
        let (beside, there) = match limits.is_empty() {
            true => (String::new(), ""),
            false => (format!(", and no option together with {}", limits.join(" and ")), " there"),
        };
        output::note(&format!("no configuration{beside}: using dead_peer_timeout = \"{}\"{there}", BUILT_IN.1));
    }
    if is_dry {
        return foretell(&words);
    }
    if let Some(ready) = ready
        && let Err(refusal) = ready.enter()
    {
        output::error(&format!("the supervisor cannot start: {refusal}"), None);
        return exit::CANNOT_WORK;
    }
    start(&words, &variables)
}

/// The way that was asked for.
fn backend(matches: &ArgMatches) -> Option<Backend> {
    match matches.get_one::<String>("by")?.as_str() {
        "supervisor" => Some(Backend::Supervisor),
        _ => Some(Backend::Library),
    }
}

/// Starts a supervisor for a program, and says what it cannot do; else why there is none.
fn supervise(target: &Program, loaded: load::Loaded, rules: Rules) -> Result<supervise::Ready, Verdict> {
    let verdict = target.supervised();
    if verdict.outlook == Outlook::Cannot { Err(verdict) } else { begin(loaded, rules) }
}

/// The same for whatever is started.
fn begin(loaded: load::Loaded, rules: Rules) -> Result<supervise::Ready, Verdict> {
    let refused = |refusal: supervise::Refusal| {
        let instead = match refusal.errno.0 {
            libc::EMFILE => "raise the limit of descriptors (ulimit -n)",
            libc::EAGAIN => "raise the limit of processes (ulimit -u, or pids.max of the control group)",
            _ => "",
        };
        Verdict::cannot(format!("the supervisor cannot work here: {refusal}"), instead)
    };
    let [with_copies, without] = [false, true].map(|makes| supervise::what_it_cannot(&rules, makes));
    let ready = supervise::start(loaded, rules).map_err(refused)?;
    let lost = if ready.makes_sockets() { without } else { with_copies };
    lost.iter().for_each(|text| output::warning(text, None));
    Ok(ready)
}

/// Says what is to be known of a program; whether it may be started.
fn say(verdict: &Verdict, is_dry: bool, is_forced: bool) -> bool {
    let Verdict { outlook, why, instead, .. } = verdict;
    match outlook {
        Outlook::Works if is_dry => output::note(why),
        Outlook::Works => {}
        Outlook::Unknown => output::note(why),
        Outlook::Partly => output::warning(why, instead.as_deref()),
        Outlook::Cannot if is_forced => output::warning(why, instead.as_deref()),
        Outlook::Cannot => output::error(why, instead.as_deref()),
    }
    *outlook != Outlook::Cannot || is_forced
}

/// The exit code that a start would have at once, as far as the files tell.
fn foretell(words: &[OsString]) -> u8 {
    program::resolve(words).map_or_else(|failure| refuse(&failure), |_| exit::OK)
}

fn refuse(failure: &find::Failure) -> u8 {
    output::error(&failure.why, failure.help.as_deref());
    failure.code
}

/// Prints variables as a shell takes them.
fn show(variables: &[(String, OsString)]) {
    let mut out = io::stdout().lock();
    for (name, value) in variables {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+./:,%@=".contains(byte);
        let mut line = format!("{name}=").into_bytes();
        if value.as_bytes().iter().all(is_plain) {
            line.extend(value.as_bytes());
        } else {
            line.push(b'\'');
            let parts: Vec<&[u8]> = value.as_bytes().split(|byte| *byte == b'\'').collect();
            line.extend(parts.join(&b"'\\''"[..]));
            line.push(b'\'');
        }
        line.push(b'\n');
        output::written(out.write_all(&line));
    }
}

/// Becomes the program, with these variables over the environment; the exit code of env(1) if that fails.
fn start(words: &[OsString], variables: &[(String, OsString)]) -> u8 {
    let assigned = |name: &OsStr| variables.iter().any(|(own, _)| name == own.as_str());
    let inherited = env::vars_os().filter(|(name, _)| !assigned(name));
    let own = variables.iter().map(|(name, value)| (name.into(), value.clone()));
    let text = |os: OsString| CString::new(os.into_vec()).ok();
    let environment: Vec<CString> = inherited
        .chain(own)
        .filter_map(|(mut variable, value): (OsString, OsString)| {
            variable.push("=");
            variable.push(value);
            text(variable)
        })
        .collect();
    // No argument of a command line holds a NUL.
    let arguments: Vec<CString> = words.iter().cloned().filter_map(text).collect();
    let Some(program) = arguments.first() else { return exit::USAGE };
    ffi::ignore_sigpipe(IGNORES_SIGPIPE.load(Relaxed));
    close_again();
    let errno = ffi::become_program(program, &arguments, &environment);
    let code = if errno == Errno(libc::ENOENT) { exit::NOT_FOUND } else { exit::CANNOT_START };
    match program::resolve(words) {
        // It knows more: which file is missing.
        Err(failure) if failure.code == code => refuse(&failure),
        _ => {
            let error = io::Error::from_raw_os_error(errno.0);
            output::error(&format!("{}: {error}", words.first().map_or(OsStr::new(""), |word| word).display()), None);
            code
        }
    }
}
