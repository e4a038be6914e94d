//! Why a connection gets what it gets: which rules do not match and why, and where each option comes from.
//!
//! What is set is [`Rules::decide`](crate::Rules::decide)'s to say; this reads the same configuration once more, with its
//! places, for people. Called by the command, never by the library.

use std::ops::Range;

use crate::catalog::Key;
use crate::compile::{Origin, overlay};
use crate::conditions::{Conditions, Mismatch};
use crate::connection::{Connection, Endpoint};
use crate::document::RuleForm;
use crate::hosts::{HostSet, Hosts, Name};
use crate::matcher::Pattern;
use crate::parsed::Parsed;
use crate::process::Process;
use crate::rules::Rules;
use crate::values::Choice;
use crate::variables::Shortcuts;

/// The name by which an address was found, for rules that name hosts.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// As it was asked for.
    pub name: Option<Name>,
    /// The domains by which it may have been completed.
    pub domains: Vec<String>,
}

impl Asked {
    /// What of the rules' names it is known by, as the library would find it.
    #[must_use]
    pub fn hosts(&self, rules: &Rules) -> HostSet {
        let mut set = HostSet::NONE;
        if let Some(name) = &self.name {
            rules.add_hosts(&mut set, name);
            self.domains.iter().for_each(|domain| rules.add_completed_hosts(&mut set, name, domain));
        }
        set
    }

    /// Whether a pattern means an endpoint, by its address or by the name.
    fn is_meant(&self, pattern: &Pattern, endpoint: Endpoint) -> bool {
        let by_name = || {
            let name = self.name.as_ref().filter(|_| pattern.host().is_some())?;
            let (hosts, mut set) = (Hosts::new([(None, pattern)].into_iter()), HostSet::NONE);
            hosts.add(&mut set, name);
            self.domains.iter().for_each(|domain| hosts.add_completed(&mut set, name, domain));
            Some(hosts.is_in_scope(&set, endpoint.port()))
        };
        pattern.matches(endpoint) || by_name().unwrap_or(false)
    }
}

/// A configuration that compiles without errors, with the process that it is looked at for.
#[derive(Debug, Clone, Copy)]
pub struct Explainer<'a> {
    parsed: &'a Parsed<'a>,
    process: &'a Process,
    asked: &'a Asked,
}

/// A rule as it is seen by a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// Its number in the file, from 1.
    pub number: usize,
    /// The source that it stands in.
    pub source: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Why it does not match; none if it does.
    pub mismatch: Option<Mismatch<'a>>,
}

/// Where an option comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The option.
    pub key: Key,
    /// The key that stands there: `dead_peer_timeout` for the two that it stands for.
    pub written: Key,
    /// Its layer.
    pub origin: Origin,
    /// The source that it stands in.
    pub source: usize,
    /// Where in it.
    pub span: Range<usize>,
    /// It is `"system"`: the socket is left as it is.
    pub is_left: bool,
}

/// Whether the environment's options are for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// There are none.
    Empty,
    /// They are.
    InForce,
    /// SOCKOPT_PROCESS keeps them for other processes.
    OtherProcesses,
    /// SOCKOPT_TO keeps them for other destinations.
    OtherDestinations,
}

impl<'a> Explainer<'a> {
    /// Explains what a process gets.
    #[must_use]
    pub fn new(parsed: &'a Parsed<'a>, process: &'a Process, asked: &'a Asked) -> Self {
        Self { parsed, process, asked }
    }

    /// Every rule, in order: the first without a mismatch is the one that counts.
    #[must_use]
    pub fn candidates(&self, connection: &Connection) -> Vec<Candidate<'a>> {
        let candidate = |(form, line): (&'a RuleForm, usize)| {
            let mismatch = self.mismatch(form, connection);
            Candidate { name: form.name.as_deref(), number: form.number, source: 0, line, mismatch }
        };
        self.parsed.document.rules.iter().zip(self.parsed.document.lines(self.parsed.text())).map(candidate).collect()
    }

    /// Where the options of a connection come from, in the order in which they are set.
    #[must_use]
    pub fn given(&self, connection: &Connection) -> Vec<Given> {
        let form = self.parsed.document.rules.iter().find(|form| self.mismatch(form, connection).is_none());
        let environment = self.environment(connection) == Environment::InForce;
        let effective = overlay(&self.parsed.document, form, environment.then_some(&self.parsed.shortcuts.layer));
        let given = |&(key, (origin, given)): &(Key, (Origin, &crate::document::Given))| Given {
            key,
            written: given.written,
            origin,
            source: given.source,
            span: given.span.clone(),
            is_left: given.choice == Choice::System,
        };
        effective.iter().map(given).collect()
    }

    /// Whether the environment's options are for a connection.
    #[must_use]
    pub fn environment(&self, connection: &Connection) -> Environment {
        let Shortcuts { layer, conditions } = &self.parsed.shortcuts;
        if layer.0.is_empty() {
            return Environment::Empty;
        }
        if conditions.mismatch_by_process(self.process).is_some() {
            return Environment::OtherProcesses;
        }
        match self.mismatch_by_address(conditions, connection) {
            None => Environment::InForce,
            Some(_) => Environment::OtherDestinations,
        }
    }

    fn mismatch<'r>(&self, form: &'r RuleForm, connection: &Connection) -> Option<Mismatch<'r>> {
        let by_address = self.mismatch_by_address(&form.conditions, connection);
        by_address.or_else(|| form.conditions.mismatch_by_process(self.process))
    }

    fn mismatch_by_address<'r>(&self, conditions: &'r Conditions, connection: &Connection) -> Option<Mismatch<'r>> {
        conditions.mismatch_by_address(connection, |pattern, end| self.asked.is_meant(pattern, end))
    }
}
