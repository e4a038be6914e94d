//! A value as it was written, in TOML or in a variable.

use std::fmt;

use toml::de::DeValue;

/// A value as it was written.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    /// In TOML, where types are told apart.
    Toml(&'a DeValue<'a>),
    /// In an environment variable, where everything is text.
    Variable(&'a str),
}

impl<'a> Form<'a> {
    /// The text, if it is one.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Self::Toml(DeValue::String(text)) => Some(text),
            Self::Variable(text) => Some(text.trim()),
            Self::Toml(_) => None,
        }
    }

    /// The whole number, if it is one.
    pub(crate) fn integer(self) -> Option<i64> {
        match self {
            Self::Toml(DeValue::Integer(digits)) => i64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            Self::Variable(text) => text.trim().parse().ok(),
            Self::Toml(_) => None,
        }
    }

    /// The boolean, if it is one; of a variable, any word for it.
    pub(crate) fn boolean(self) -> Option<bool> {
        match self {
            Self::Toml(DeValue::Boolean(value)) => Some(*value),
            Self::Variable(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => Some(true),
                "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            Self::Toml(_) => None,
        }
    }
}

impl fmt::Display for Form<'_> {
    /// What stands there, for errors: `the integer 60`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(text) => write!(f, "\"{}\"", text.trim()),
            Self::Toml(DeValue::String(text)) => write!(f, "\"{text}\""),
            Self::Toml(DeValue::Integer(digits)) => write!(f, "the bare number {digits}"),
            Self::Toml(DeValue::Float(digits)) => write!(f, "the number {digits}"),
            Self::Toml(DeValue::Boolean(value)) => write!(f, "{value}"),
            Self::Toml(DeValue::Datetime(_)) => f.write_str("a date"),
            Self::Toml(DeValue::Array(_)) => f.write_str("a list"),
            Self::Toml(DeValue::Table(_)) => f.write_str("a table"),
        }
    }
}
