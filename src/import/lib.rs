//! Other people's configuration to sockopt.toml: what DestinationRules, EnvoyFilters, socket units, proxies' files, sysctls and
//! the variables of older shims ask for, each rule with the place that it comes from, and notes on what cannot be said.
//!
//! Pure, and the command's alone: nothing of it is in the library. What is printed passes `sockopt check` without errors,
//! since every value is asked of what `check` asks (`oracle`).
#![forbid(unsafe_code)]

mod cluster;
mod context;
mod draft;
mod envoy;
mod envoy_filter;
mod finish;
mod gateway;
mod haproxy;
mod istio;
mod kind;
mod kubernetes;
mod nginx;
mod note;
mod oracle;
mod shims;
mod socket_options;
mod sysctl;
mod systemd;
mod systemd_units;
mod text;
mod time;
mod yaml;

pub use context::Request;
pub use kind::Format;
pub use note::{Kind, Note, Place};
pub use policy::Source;

use context::Context;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The text of a sockopt.toml.
    pub toml: String,
    /// What is to be said, in the order of the sources.
    pub notes: Vec<Note>,
    /// How many notes there are beyond these.
    pub more: usize,
    /// Whether something that was asked for is not in the text.
    pub has_lost: bool,
}

/// Makes one configuration of some sources, whose format was told or seen ([`Format::of`]).
#[must_use]
pub fn import(sources: &[Source], formats: &[Format], request: &Request) -> Outcome {
    let mut context = Context::new(sources, request);
    let of = |format: Format| -> Vec<usize> {
        let numbered = formats.iter().take(sources.len()).enumerate();
        numbered.filter(|(_, own)| **own == format).map(|(source, _)| source).collect()
    };
    kubernetes::read(&of(Format::Yaml), &mut context);
    systemd_units::units(&of(Format::Systemd), &context).iter().for_each(|unit| systemd::read(unit, &mut context));
    of(Format::Haproxy).into_iter().for_each(|source| haproxy::read(source, &mut context));
    of(Format::Nginx).into_iter().for_each(|source| nginx::read(source, &mut context));
    of(Format::Sysctl).into_iter().for_each(|source| sysctl::read(source, &mut context));
    of(Format::Variables).into_iter().for_each(|source| shims::read(source, &mut context));
    let (toml, mut notes) = finish::write(context);
    notes.list.sort_by_key(|note| note.place.as_ref().map(|place| (place.source, place.span.start, place.span.end)));
    Outcome { toml, notes: notes.list, more: notes.more, has_lost: notes.has_lost }
}
