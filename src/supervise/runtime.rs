//! The configuration in force, for each process that there may be.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::rc::Rc;

use policy::plan::Plan;
use policy::{Configuration, Connection, HostSet, Phases, Rules, compile_alone};
use socket::fill::AsNew;

/// With a name of its own, by which the linker places it (src/cli/layout.ld): it is all that a call needs of the command's constants.
/// Marked, or the compiler puts it together with others that are the same bytes.
#[used]
static NO_NAMES: HostSet = HostSet::NONE;

/// The configuration in force for one process.
pub(crate) struct Runtime {
    pub(crate) rules: Rules,
    /// By [`Setting::id`](policy::Setting::id): whether its failure was reported.
    pub(crate) warned: Box<[Cell<bool>]>,
    /// What a new socket has of the options that are compared with it.
    pub(crate) new: AsNew,
}

impl Runtime {
    pub(crate) fn new(rules: Rules) -> Self {
        let warned = (0..rules.setting_count()).map(|_| Cell::new(false)).collect();
        let new = AsNew::ask(rules.compared_with_new());
        Self { rules, warned, new }
    }

    pub(crate) fn plan(&self, connection: Connection, phases: Phases) -> Plan<'_> {
        // Go resolves names itself: which names an address is known by is not seen.
        self.rules.plan(connection, phases, &NO_NAMES)
    }
}

/// What is configured, for each process that there may be.
pub(crate) enum Policy {
    /// The same for all.
    One(Rc<Runtime>),
    /// Rules ask for the process.
    ByProcess { configuration: Configuration, known: HashMap<(Vec<u8>, Vec<u8>), Rc<Runtime>> },
}

/// So many programs at most are remembered with their rules.
const MOST_PROGRAMS: usize = 64;

impl Policy {
    /// That of a thread's process; none where its rules cannot be made.
    pub(crate) fn of(&mut self, thread: i32) -> Option<Rc<Runtime>> {
        let (configuration, known) = match self {
            Self::One(runtime) => return Some(Rc::clone(runtime)),
            Self::ByProcess { configuration, known } => (configuration, known),
        };
        let folder = std::path::PathBuf::from(format!("/proc/{thread}"));
        let executable = fs::read_link(folder.join("exe")).unwrap_or_default().into_os_string().into_encoded_bytes();
        let key = (executable, fs::read(folder.join("cmdline")).unwrap_or_default());
        if let Some(runtime) = known.get(&key) {
            return Some(Rc::clone(runtime));
        }
        let runtime = Rc::new(Runtime::new(compile_alone(configuration, &load::process_in(&folder)).0.ok()?));
        if known.len() >= MOST_PROGRAMS {
            known.clear();
        }
        known.insert(key, Rc::clone(&runtime));
        Some(runtime)
    }
}
