//! What sockopt.toml takes is asked of what reads it: ranges, names and places are written down nowhere else.

use policy::matcher::Pattern;
use policy::{Code, Configuration, Key, Source};

use crate::note::{Kind, Notes, Place};

/// Which sockets a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Those that connect: `to`.
    To,
    /// UDP sockets that are bound: `listen` with `protocol = "udp"`. Before those of TCP, which may be for both.
    Udp,
    /// Those that listen, and what they accept: `listen`.
    Listen,
    /// All: `[defaults]`.
    Every,
}

impl Side {
    /// Whether it is about sockets that are bound, by their own address.
    pub(crate) fn is_server(self) -> bool {
        matches!(self, Self::Listen | Self::Udp)
    }

    fn header(self) -> &'static str {
        match self {
            Self::To => "[[rule]]\nto = [\"*\"]\n",
            Self::Listen => "[[rule]]\nlisten = [\"*\"]\n",
            Self::Udp => "[[rule]]\nlisten = [\"*\"]\nprotocol = \"udp\"\n",
            Self::Every => "[defaults]\n",
        }
    }
}

/// A value in TOML and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) toml: String,
    pub(crate) place: Place,
}

/// Whether a rule of this kind may have this value; if not, that is noted at its place.
pub(crate) fn accepts(side: Side, key: Key, given: &Given, notes: &mut Notes) -> bool {
    let text = format!("{}{} = {}\n", side.header(), key.name(), given.toml);
    let configuration = Configuration { document: Some(Source { name: String::new(), text }), variables: Vec::new() };
    let (refused, _) = configuration.parse().into_rules(None);
    let Err(errors) = refused else { return true };
    let first = errors.problems.into_iter().next();
    let (code, message, help) =
        first.map_or((Code::OutOfRange, String::new(), None), |problem| (problem.code, problem.message, problem.help));
    if (side, code) == (Side::Udp, Code::NotHere) {
        notes.add(Kind::NotAnOption, &given.place, "left out: UDP sockets have no such option", "");
        return false;
    }
    let kind = if code == Code::NotHere { Kind::NotHere } else { Kind::OutOfRange };
    notes.add(kind, &given.place, format!("left out: {message}"), help);
    false
}

/// A target as a pattern of `to` or `listen`.
pub(crate) fn target(side: Side, text: &str) -> Result<String, (String, String)> {
    match Pattern::parse(text) {
        Ok(pattern) if side.is_server() && pattern.host().is_some() => {
            Err((format!("\"{text}\" is a host's name; a listening socket has an address"), "write its address".into()))
        }
        Ok(pattern) => Ok(pattern.to_string()),
        Err(refused) => Err((refused.message, refused.help)),
    }
}
