//! Where programs are attached, and which ones a policy needs.

use socket::Errno;

use crate::assembler::{NoProgram, Program};
use crate::compile::Tables;
use crate::dns;
use crate::ended;
use crate::programs::{self, Parts};
use crate::refusal::Refusal;
use crate::sys::ProgramType;

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Enforce,
    Events,
    Ended,
    Answers,
    Connect4,
    Connect6,
}

impl Place {
    /// In the order in which they are attached.
    pub(crate) const ALL: [Self; 6] =
        [Self::Enforce, Self::Events, Self::Ended, Self::Answers, Self::Connect4, Self::Connect6];

    /// The name of the pin.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "setsockopt",
            Self::Events => "sock_ops",
            Self::Ended => "sock_ops_metrics",
            Self::Answers => "ingress",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// linux/bpf.h
    pub(crate) const fn kind(self) -> ProgramType {
        match self {
            Self::Enforce => ProgramType { kind: 25, place: 22 },
            Self::Events | Self::Ended => ProgramType { kind: 13, place: 3 },
            Self::Answers => ProgramType { kind: 8, place: 0 },
            Self::Connect4 => ProgramType { kind: 18, place: 10 },
            Self::Connect6 => ProgramType { kind: 18, place: 11 },
        }
    }

    pub(crate) fn program(self, parts: Parts) -> Result<Program, Refusal> {
        let made = match self {
            Self::Enforce => programs::setsockopt(parts),
            Self::Events => programs::events(parts),
            Self::Ended => ended::ended(&ended::Fields::of_kernel()?),
            Self::Answers => dns::answers(),
            Self::Connect4 => programs::connect4(parts),
            Self::Connect6 => programs::connect6(parts),
        };
        made.map_err(|NoProgram| Refusal::kernel(self.step())(Errno(libc::EINVAL)))
    }

    /// What is done when it is loaded.
    pub(crate) fn step(self) -> String {
        let name = self.name();
        match self {
            Self::Ended => format!("the program for {name} is refused by the kernel (--metrics needs CAP_PERFMON too)"),
            _ => format!("the program for {name} is refused by the kernel"),
        }
    }

    /// Those that a policy needs.
    pub(crate) fn needed(tables: &Tables) -> Vec<Self> {
        let is_needed = |place: &Self| match place {
            Self::Enforce => tables.enforces || tables.takes_back(),
            Self::Events => tables.listens || tables.limits(),
            Self::Ended => tables.counts,
            Self::Answers => tables.asks_for_hosts(),
            Self::Connect4 | Self::Connect6 => tables.connects,
        };
        Self::ALL.into_iter().filter(is_needed).collect()
    }
}
