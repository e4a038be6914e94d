//! What `sockopt explain` has found, as `--json` prints it.

use policy::Enforce;
use policy::timers::{End, ROUND_TRIP_MS, Sysctls};
use serde::Serialize;

use crate::kernel::ByKernel;

/// What `--json` prints.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) connections: &'a [Explanation],
    pub(crate) notes: &'a [String],
    pub(crate) machine: Figures,
}

/// Everything that is to be said of one connection, or of several that get the same.
#[derive(Serialize)]
pub(crate) struct Explanation {
    pub(crate) addresses: Vec<String>,
    #[serde(flatten)]
    pub(crate) found: Found,
}

#[derive(Serialize, PartialEq)]
pub(crate) struct Found {
    /// `connect`, `listen` or `accept`.
    pub(crate) call: &'static str,
    /// The client.
    pub(crate) from: Option<String>,
    /// The rule that matches.
    pub(crate) rule: Option<RuleLine>,
    /// What counts where no rule matches.
    #[serde(skip)]
    pub(crate) otherwise: String,
    /// Every rule, in order; none but with --all.
    pub(crate) rules: Vec<RuleLine>,
    /// Who has the last word.
    #[serde(serialize_with = "as_written")]
    pub(crate) enforce: Enforce,
    pub(crate) steps: Vec<Step>,
    /// Options that are `"system"`.
    pub(crate) left_to_the_program: Vec<Place>,
    pub(crate) unnoticed: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

#[derive(Serialize, PartialEq, Clone)]
pub(crate) struct RuleLine {
    pub(crate) name: Option<String>,
    pub(crate) number: usize,
    pub(crate) file: String,
    pub(crate) line: usize,
    /// Why it does not match.
    pub(crate) mismatch: Option<String>,
}

/// The calls of one phase.
#[derive(Serialize, PartialEq)]
pub(crate) struct Step {
    /// `before connect`.
    pub(crate) when: &'static str,
    pub(crate) calls: Vec<Call>,
}

/// One setsockopt.
#[derive(Serialize, PartialEq)]
pub(crate) struct Call {
    pub(crate) level: String,
    pub(crate) name: String,
    /// A number, or what setsockopt(2) takes as text.
    pub(crate) value: serde_json::Value,
    pub(crate) from: Option<Place>,
    /// What sets it in the kernel, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<ByKernel>,
}

/// Where an option stands.
#[derive(Serialize, PartialEq, Clone)]
pub(crate) struct Place {
    /// The key that stands there.
    pub(crate) key: &'static str,
    /// `defaults`, `rule` or `environment`.
    pub(crate) layer: &'static str,
    /// The file or the variable.
    pub(crate) source: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// How long a peer may be gone, in one state.
#[derive(Serialize, PartialEq)]
pub(crate) struct Row {
    pub(crate) state: &'static str,
    #[serde(skip)]
    pub(crate) shown: &'static str,
    pub(crate) with: Times,
    pub(crate) without: Times,
}

/// Milliseconds; neither is never.
#[derive(Serialize, PartialEq)]
pub(crate) struct Times {
    pub(crate) earliest_ms: Option<u64>,
    pub(crate) latest_ms: Option<u64>,
    #[serde(skip)]
    pub(crate) end: End,
}

impl From<End> for Times {
    fn from(end: End) -> Self {
        let (earliest_ms, latest_ms) = match end {
            End::Between { earliest, latest } => (Some(earliest), Some(latest)),
            End::Never => (None, None),
        };
        Self { earliest_ms, latest_ms, end }
    }
}

/// What the times are computed from.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) tcp_keepalive_time: u64,
    pub(crate) tcp_keepalive_intvl: u64,
    pub(crate) tcp_keepalive_probes: u64,
    tcp_retries2: u64,
    pub(crate) tcp_orphan_retries: u64,
    pub(crate) tcp_syn_retries: u64,
    pub(crate) tcp_syn_linear_timeouts: u64,
    pub(crate) tcp_rto_min_us: u64,
    pub(crate) tcp_rto_max_ms: u64,
    pub(crate) tcp_fastopen: u64,
    pub(crate) ticks_per_second: Option<u64>,
    pub(crate) round_trip_ms: u64,
}

impl Figures {
    pub(crate) fn new(sysctls: &Sysctls) -> Self {
        Self {
            tcp_keepalive_time: sysctls.keepalive_time,
            tcp_keepalive_intvl: sysctls.keepalive_interval,
            tcp_keepalive_probes: sysctls.keepalive_probes,
            tcp_retries2: sysctls.retries2,
            tcp_orphan_retries: sysctls.orphan_retries,
            tcp_syn_retries: sysctls.syn_retries,
            tcp_syn_linear_timeouts: sysctls.syn_linear_timeouts,
            tcp_rto_min_us: sysctls.rto_min_us,
            tcp_rto_max_ms: sysctls.rto_max_ms,
            tcp_fastopen: sysctls.fastopen,
            ticks_per_second: sysctls.ticks_per_second,
            round_trip_ms: ROUND_TRIP_MS,
        }
    }
}

/// As the configuration has it.
fn as_written<S: serde::Serializer>(enforce: &Enforce, serializer: S) -> Result<S::Ok, S::Error> {
    match enforce {
        Enforce::Always => serializer.serialize_bool(true),
        Enforce::Never => serializer.serialize_bool(false),
        Enforce::Fill => serializer.serialize_str("fill"),
    }
}
