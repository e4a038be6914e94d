//! What should be set on a socket, and for whom: options, catalogue, rules, matching, configuration, errors.
//!
//! Pure: no `unsafe`, no libc, no files, no environment, no clock. What it knows of the outside world its caller
//! hands in. The preload library executes a [`Decision`], the command prints it, the tests assert it.
#![forbid(unsafe_code)]

pub mod advice;
mod advice_text;
pub mod catalog;
pub mod code;
pub mod compile;
pub mod conditions;
pub mod connection;
pub mod constants;
mod document;
pub mod enforce;
pub mod error;
pub mod exclusion;
pub mod explain;
mod fault;
mod form;
pub mod glob;
mod hash;
pub mod health;
pub mod hosts;
mod idn;
pub mod in_kernel;
mod in_kernel_text;
mod index;
pub mod kernel;
pub mod key;
pub mod label;
pub mod matcher;
mod name;
pub mod options;
mod parsed;
pub mod plain;
pub mod plan;
mod ports;
mod process;
pub mod promise;
mod raw;
mod reader;
pub mod rules;
mod shadow;
mod slip;
mod syntax;
pub mod timers;
pub mod units;
mod values;
pub mod variables;

pub use catalog::{CATALOG, Entry, Key};
pub use code::{Code, Severity};
pub use compile::{Compiled, Configuration, Origin, set_at};
pub use conditions::{Conditions, Direction, Protocol};
pub use connection::{Connection, Endpoint};
pub use enforce::Enforce;
pub use error::{Listed, Problem, Remedy, Source};
pub use glob::Glob;
pub use hosts::{HostSet, Name};
pub use in_kernel::InKernel;
pub use in_kernel_text::table as table_of_the_kernel;
pub use options::{Phase, Phases, Setting, Value};
pub use parsed::{Parsed, compile, compile_alone};
pub use process::Process;
pub use rules::{Bypass, Decision, Rules};
