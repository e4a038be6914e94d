//! What the library works by in this process: read when it is loaded, compiled when the first socket needs it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use load::Loaded;
use once_cell::race::OnceBox;
use policy::error::digest;
use policy::plan::Plan;
use policy::variables::{self, Level};
use policy::{Connection, HostSet, Phases, Process, Rules, compile_alone};
use socket::fill::AsNew;
use socket::{Errno, ffi, signal};

use crate::arena::{self, Failure, Memory, Reserved, SetupMemory};
use crate::log::Lines;
use crate::state::{NOTED, OFF, ON, READ, STATE, UNREAD, give_up};
use crate::{descriptors, fault, guard, log, lookup_table, neighbours, real, unwinding};

/// The configuration in force.
pub(crate) struct Runtime {
    pub(crate) rules: Rules,
    /// By [`policy::Setting::id`]: whether its failure was reported.
    pub(crate) warned: Box<[AtomicBool]>,
    /// What a new socket has of the options that are compared with it.
    pub(crate) new: AsNew,
    /// Whether anything was set on any socket yet; before that there is nothing to enforce.
    pub(crate) in_use: AtomicBool,
    /// By what the C library completes host names.
    pub(crate) search: &'static [String],
}

impl Runtime {
    /// What is set at some phases, by the peer's address and by the names that the program has looked up.
    pub(crate) fn plan(&self, connection: Connection, phases: Phases) -> Plan<'_> {
        match connection {
            Connection::Outbound { peer } if self.rules.names_hosts() => {
                self.rules.plan(connection, phases, &lookup_table::known_by(peer.ip()))
            }
            _ => self.rules.plan(connection, phases, &HostSet::NONE),
        }
    }
}

/// What was read.
struct Found {
    loaded: Loaded,
    log_file: Option<CString>,
    process: Process,
    may_name_hosts: bool,
    search: Vec<String>,
}

impl Found {
    /// None where there is nothing to be set up.
    fn of(loaded: Loaded) -> Option<Self> {
        if loaded.disabled || (!loaded.is_configured() && loaded.configuration.variables.is_empty()) {
            return None;
        }
        let log_file = loaded.log_file.as_ref().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        let process = if loaded.asks_for_process() { load::this_process() } else { Process::default() };
        let may_name_hosts = loaded.may_name_hosts();
        let search = if may_name_hosts { load::search_domains() } else { Vec::new() };
        Some(Self { loaded, log_file, process, may_name_hosts, search })
    }

    /// Makes it the one that counts; false if there is one already.
    fn publish(self) -> bool {
        FOUND.set(Box::new(self)).is_ok()
    }

    /// Tells everybody who does not wait for the rules.
    fn announce(&'static self) {
        log::configure(self.loaded.level, self.log_file.as_ref());
        lookup_table::set_enabled(self.may_name_hosts);
    }

    /// What is to be compiled.
    fn shape(&self) -> Shape {
        let configuration = &self.loaded.configuration;
        let sources = || configuration.document.iter().chain(&configuration.variables);
        let text = sources().map(|source| source.name.len() + source.text.len()).sum();
        let mut shape = Shape::of(text);
        if text > SHORT {
            (shape.rules, shape.longest) = (0, 0);
            for source in sources() {
                shape.rules += 1;
                let mut longest = 0;
                for piece in source.text.as_bytes().chunks(256) {
                    // In a form that the compiler makes vectors of; 255 pairs at most.
                    let pairs = piece.iter().zip(piece.get(1..).unwrap_or_default());
                    let found = pairs.fold(0_u8, |found, (a, b)| found + u8::from((*a == b'[') & (*b == b'[')));
                    shape.rules += usize::from(found);
                    longest = if found == 0 { longest + piece.len() } else { 2 * piece.len() };
                    shape.longest = shape.longest.max(longest);
                }
            }
        }
        // Brackets upon brackets are none.
        shape.rules = shape.rules.min(text / 32);
        shape
    }
}

static FOUND: OnceBox<Found> = OnceBox::new();
static RUNTIME: OnceBox<Runtime> = OnceBox::new();

/// EX_CONFIG, sysexits.h.
const EX_CONFIG: i32 = 78;

/// The rules, if there are any for this process.
#[inline]
pub(crate) fn runtime() -> Option<&'static Runtime> {
    match STATE.load(Ordering::Acquire) {
        ON => RUNTIME.get(),
        OFF => None,
        _ => guard::contained(set_up),
    }
}

/// Whether nothing is set at some phases, as far as that is known without set-up.
#[inline]
pub(crate) fn sets_nothing_at(phases: Phases) -> bool {
    match STATE.load(Ordering::Acquire) {
        ON => RUNTIME.get().is_some_and(|runtime| !runtime.rules.phases().intersects(phases)),
        state => state == OFF,
    }
}

/// Reads the environment and the file, before the program can change its root, its user or its environment.
pub(crate) fn on_load() {
    if STATE.load(Ordering::Acquire) != UNREAD {
        return;
    }
    // Mostly without a guard, which would cost as much again: nothing can panic in this.
    let errno = ffi::errno();
    let asked = asked();
    if asked != Asked::Now {
        read(asked);
        return ffi::set_errno(errno);
    }
    guard::contained(|| {
        guard::not_reentered(|| {
            read(asked);
            let is_strict = FOUND.get().is_some_and(|found| found.loaded.strict);
            if is_strict { compile_first() } else { None }
        })
        .into_iter()
        .for_each(Report::make);
    });
}

/// A configuration, as far as it says how much memory compiling takes.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes.
    text: usize,
    /// At most, about.
    rules: usize,
    /// Bytes from where one rule begins to where the next does: this much is parsed at once.
    longest: usize,
}

/// Bytes of a configuration that is not worth counting in.
const SHORT: usize = 8 << 10;
/// Bytes of a configuration whose outcome has some megabytes.
const LARGE: usize = 512 << 10;

impl Shape {
    /// Of so many bytes that nobody has counted in.
    fn of(text: usize) -> Self {
        Self { text, rules: text / 32, longest: text }
    }

    /// For reading: the environment twice, the file of at most 16 MiB.
    fn reserve_to_read() -> Option<SetupMemory> {
        [64 << 20, 2 << 20].into_iter().find_map(|scratch| SetupMemory::reserve(scratch, scratch / 4, false))
    }

    /// For what people write, by what such files were measured to need: a quarter less, or half of it. It stays mapped
    /// until the first socket, and a program may lock all that is mapped into memory (mlockall(2)): so no more than that.
    fn reserve_usual(self) -> Option<SetupMemory> {
        let (rules, text) = (self.rules.saturating_mul(900), self.text.saturating_mul(6));
        let longest = self.longest.saturating_mul(36) + self.longest.min(SHORT / 2) * 92;
        let outcome = NOTES_READ + (64 << 10) + rules / 2 + self.text * 4 + self.longest * 6;
        SetupMemory::reserve((256 << 10) + rules + text + longest, outcome, self.text >= LARGE)
    }

    /// For anything, now that it is needed: a file of 16 KiB that is wrong in every character needs 500 bytes for each; of
    /// longer ones less is kept.
    fn reserve_generously(self) -> Option<SetupMemory> {
        let room = |(least, per_byte): (usize, usize)| {
            let scratch = least.saturating_add(self.text.saturating_mul(per_byte));
            SetupMemory::reserve(scratch, NOTES_READ + scratch / 4, self.text >= LARGE)
        };
        [(2 << 20, 1024), (256 << 10, 160)].into_iter().find_map(room)
    }
}

/// Room for compiling, reserved at load time: what the program allows itself later (RLIMIT_AS, a seccomp filter) does
/// not keep set-up from its memory, and set-up does not show among the program's own calls. Taken by the first.
static ROOM: Reserved = Reserved::none();

/// Our variables as they were at load time, a NUL behind each: most processes need no more of them, and reading them
/// there would double what the library adds to the start of each.
static NOTES: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
static NOTES_END: AtomicUsize = AtomicUsize::new(0);
/// What they take when they are read, should each have a letter only.
const NOTES_READ: usize = 64 << 10;

/// Whether our own failures end the process, SOCKOPT_STRICT.
static STRICT: AtomicBool = AtomicBool::new(false);

fn read(asked: Asked) {
    if asked != Asked::Nothing {
        log::begin();
        neighbours::look();
    }
    let state = if asked == Asked::Nothing {
        OFF
    } else if let Some((tables, reserve)) = arena::zeroes() {
        descriptors::begin(tables);
        arena::install_reserve(reserve);
        expect_panics();
        unwinding::begin();
        if asked == Asked::Now { find() } else { note() }
    } else {
        failed(Failure::Memory);
        OFF
    };
    let _ = STATE.compare_exchange(UNREAD, state, Ordering::AcqRel, Ordering::Acquire);
}

/// Leaves the variables as they were noted for later, with the room for that: the next state.
fn note() -> u8 {
    if let Some(room) = Shape::of(NOTES_END.load(Ordering::Relaxed)).reserve_usual() {
        ROOM.put(room);
    }
    NOTED
}

/// What is to be read at load time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Later,
    Now,
}

/// Looks for anything to read; most processes end here. The loader ignores LD_PRELOAD with a path in privileged
/// programs; a bare name in a trusted folder is loaded, but the environment is still somebody else's.
fn asked() -> Asked {
    if ffi::runs_privileged() {
        return Asked::Nothing;
    }
    // Should another library's constructor have two threads here: both write the same.
    let (mut end, mut can_wait, mut is_strict) = (0, true, None);
    real::each_variable(variables::PREFIX, |variable| {
        let free = NOTES.iter().skip(end);
        free.zip(variable.iter().chain(&[0])).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
        end += variable.len() + 1;
        can_wait &= load::can_wait(variable) && end <= NOTES.len();
        // Of two with one name the first counts.
        if let Some(value) = variable.strip_prefix(b"SOCKOPT_STRICT=") {
            is_strict.get_or_insert_with(|| std::str::from_utf8(value).is_ok_and(variables::is_on));
        }
    });
    if is_strict == Some(true) {
        STRICT.store(true, Ordering::Relaxed);
    }
    NOTES_END.store(end, Ordering::Relaxed);
    if !can_wait {
        return Asked::Now;
    }
    match ffi::find(load::DEFAULT_FILE_C) {
        Err(_) if end == 0 => Asked::Nothing,
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Asked::Later,
        _ => Asked::Now,
    }
}

/// Our own panics are reported by one line of ours, not by std's. Nothing can panic where nothing is asked for.
fn expect_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Finds the configuration, in memory that is kept: the next state.
fn find() -> u8 {
    let Some(SetupMemory { stack, scratch: memory, .. }) = Shape::reserve_to_read() else {
        failed(Failure::Memory);
        return OFF;
    };
    let found = arena::run(stack, &memory, || {
        fault::point("load");
        fault::point("exhaust load");
        let Some(found) = Found::of(load::from_environment(std::env::vars_os())) else { return false };
        if let Some(room) = found.shape().reserve_usual() {
            ROOM.put(room);
        }
        found.publish()
    });
    match found {
        Ok(true) => {
            memory.keep();
            let names_hosts = FOUND.get().is_some_and(|found| found.may_name_hosts);
            match names_hosts.then(arena::zeroes) {
                Some(None) => {
                    failed(Failure::Memory);
                    return OFF;
                }
                Some(Some(table)) => lookup_table::begin(table),
                None => {}
            }
            FOUND.get().into_iter().for_each(Found::announce);
            READ
        }
        // Another thread was faster, or there is nothing.
        Ok(false) => {
            if FOUND.get().is_some() {
                READ
            } else {
                OFF
            }
        }
        Err(failure) => {
            failed(failure);
            OFF
        }
    }
}

/// Reads what was noted at load time, into memory that is kept.
fn read_notes(kept: &mut Memory) -> Option<&'static Found> {
    fault::point("load");
    fault::point("exhaust load");
    let piece = kept.split_off(NOTES_READ);
    let is_first = piece.during(|| {
        let notes: Vec<u8> = NOTES.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let notes = notes.get(..NOTES_END.load(Ordering::Relaxed)).unwrap_or_default();
        let variables = notes.split(|byte| *byte == 0).filter_map(|variable| {
            let name = variable.iter().position(|byte| *byte == b'=')?;
            let (name, value) = variable.split_at(name);
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.get(1..)?.to_vec())))
        });
        // The system's file was looked for at load time, and there was none.
        Found::of(load::from_variables(variables, None)).is_some_and(Found::publish)
    });
    let found = FOUND.get();
    if is_first {
        piece.keep();
    }
    let _ =
        STATE.compare_exchange(NOTED, if found.is_some() { READ } else { OFF }, Ordering::AcqRel, Ordering::Acquire);
    found
}

/// Set-up that could not be carried out. Whoever ends it says so, once; a fault of ours ends it whoever else was
/// faster, want of memory only where nobody was.
fn failed(failure: Failure) {
    let (why, is_first) = match failure {
        Failure::Panic => ("internal error", give_up()),
        Failure::Memory => {
            let turn_off = |from| STATE.compare_exchange(from, OFF, Ordering::AcqRel, Ordering::Acquire).is_ok();
            ("no memory for the configuration", turn_off(UNREAD) || turn_off(NOTED) || turn_off(READ))
        }
    };
    if is_first {
        log::error(format_args!("{why}; the library is off in this process"));
        // Who asks for strictness does not want the program without its options either.
        if STRICT.load(Ordering::Relaxed) {
            ffi::exit_now(EX_CONFIG);
        }
    }
}

/// Compiles what was found, and reports it when signals are no longer blocked; of several threads that come here at
/// once, one reports.
fn set_up() -> Option<&'static Runtime> {
    // All of it, or a handler that jumps away leaves this thread in the middle of it for ever.
    let report = signal::without_signals(|_| guard::not_reentered(compile_first));
    report.into_iter().for_each(Report::make);
    // A thread that lost the race works by the winner's outcome, which may not have got as far as its state.
    RUNTIME.get().filter(|_| STATE.load(Ordering::Acquire) != OFF)
}

/// Reads and compiles, unless that is done; what is to be said of it.
fn compile_first() -> Option<Report> {
    if STATE.load(Ordering::Acquire) == UNREAD {
        read(asked());
    }
    if !matches!(STATE.load(Ordering::Acquire), NOTED | READ) {
        return None;
    }
    let in_room = |room: SetupMemory| {
        let SetupMemory { stack, scratch, mut outcome } = room;
        let done = arena::run(stack, &scratch, || {
            let mut lines = Lines::default();
            let next = FOUND.get().or_else(|| read_notes(&mut outcome)).and_then(|found| {
                // Who has read it may not have come so far.
                found.announce();
                compile_into(found, outcome, &mut lines)
            });
            (next, lines)
        });
        done.map(|(next, lines)| (next, Report { lines, memory: scratch }))
    };
    let reserved = ROOM.take();
    let shape = || FOUND.get().map_or_else(|| Shape::of(NOTES_END.load(Ordering::Relaxed)), Found::shape);
    let generous = || shape().reserve_generously().ok_or(Failure::Memory).and_then(in_room);
    let done = match reserved.map_or(Err(Failure::Memory), in_room) {
        // None was reserved, another thread has it, or it was too little.
        Err(Failure::Memory) => generous(),
        done => done,
    };
    let (next, report) = done.map_err(failed).ok()?;
    if let Some(next) = next {
        let _ = STATE.compare_exchange(READ, next, Ordering::AcqRel, Ordering::Acquire);
    }
    Some(report)
}

/// What set-up has to say in the end.
struct Report {
    /// In the memory, which goes after them.
    lines: Lines,
    #[expect(dead_code, reason = "kept until the lines are written")]
    memory: Memory,
}

impl Report {
    fn make(self) {
        self.lines.write();
        if self.lines.are_last_words() {
            ffi::exit_now(EX_CONFIG);
        }
    }
}

/// Compiles; the outcome lies in `kept`. The next state, unless it is set already.
fn compile_into(found: &'static Found, kept: Memory, lines: &mut Lines) -> Option<u8> {
    fault::point("compile");
    fault::point("exhaust compile");
    let configuration = &found.loaded.configuration;
    let (rules, warnings) = compile_alone(configuration, &found.process);
    let failures = &found.loaded.failures;
    let rules = match rules {
        Ok(rules) if failures.is_empty() => rules,
        rules => {
            if STATE.compare_exchange(READ, OFF, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                failures.iter().for_each(|failure| lines.error(format_args!("{failure}")));
                let (errors, sources) = (rules.err().unwrap_or_default(), configuration.sources());
                for problem in &errors {
                    lines.problem(Level::Error, format_args!("{}", problem.one_line(&sources)));
                }
                if errors.more > 0 {
                    lines.error(format_args!("and {} more", errors.more));
                }
                if found.loaded.strict {
                    lines.end_the_process();
                }
            }
            return None;
        }
    };
    let runtime = kept.during(|| {
        let warned = (0..rules.setting_count()).map(|_| AtomicBool::new(false)).collect();
        let new = AsNew::ask(rules.compared_with_new());
        Box::new(Runtime { rules: rules.clone(), warned, in_use: AtomicBool::new(false), new, search: &found.search })
    });
    let state = |runtime: &Runtime| {
        // At debug, what is left alone is logged as well.
        if runtime.rules.phases() == Phases::NONE && !log::enabled(Level::Debug) { OFF } else { ON }
    };
    // Whoever is first reports, and it is its outcome that is used.
    if RUNTIME.set(runtime).is_err() {
        return RUNTIME.get().map(state);
    }
    kept.keep();
    lookup_table::set_enabled(rules.names_hosts());
    let next = RUNTIME.get().map_or(OFF, state);
    let _ = STATE.compare_exchange(READ, next, Ordering::AcqRel, Ordering::Acquire);
    fault::point("report");
    if !warnings.is_empty() {
        let sources = configuration.sources();
        let is_new = found.loaded.checked != Some(digest(&warnings, &sources));
        for problem in warnings.iter().filter(|_| is_new) {
            lines.problem(Level::Warn, format_args!("{}", problem.one_line(&sources)));
        }
        if is_new && warnings.more > 0 {
            lines.problem(Level::Warn, format_args!("warning: and {} more", warnings.more));
        }
    }
    if let Some(trouble) = neighbours::trouble().filter(|_| rules.phases() != Phases::NONE) {
        lines.warn(format_args!("{trouble}"));
    }
    add_summary(found, &rules, lines);
    None
}

/// One line per configuration that was loaded.
fn add_summary(found: &Found, rules: &Rules, lines: &mut Lines) {
    lines.info(format_args!("{}", found.loaded.summary(rules)));
}
