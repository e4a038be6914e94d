//! Host names in the form in which they are compared.

use crate::idn;

/// The longest name, without the trailing dot (RFC 1035 section 2.3.4, as text).
pub(crate) const LONGEST: usize = 253;

/// A host name as it is compared: in lower case, without a trailing dot, in ASCII.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Name {
    /// Of a name as a program writes it. None for what is none: nothing, an address in one of the forms of inet_aton(3)
    /// and inet_pton(3), more than a name can have, not UTF-8.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        Self::of_parts(&[without_dot(text)]).filter(|name| !is_address(name.as_str()))
    }

    /// The name with a search domain behind it (resolv.conf(5)); None where that is too long.
    #[must_use]
    pub fn completed(&self, domain: &str) -> Option<Self> {
        Self::of_parts(&[self.as_str().as_bytes(), b".", without_dot(domain.as_bytes())])
    }

    fn of_parts(parts: &[&[u8]]) -> Option<Self> {
        let mut name = Self { bytes: [0; LONGEST], length: 0 };
        for part in parts {
            if part.is_ascii() {
                let start = usize::from(name.length);
                let end = start + part.len();
                let to = name.bytes.get_mut(start..end)?;
                to.copy_from_slice(part);
                to.make_ascii_lowercase();
                name.length = u8::try_from(end).ok()?;
            } else {
                name.add_international(std::str::from_utf8(part).ok()?)?;
            }
        }
        (!name.as_str().is_empty()).then_some(name)
    }

    /// Adds a name outside ASCII in the form in which it is looked up.
    #[inline(never)]
    fn add_international(&mut self, text: &str) -> Option<()> {
        let mut fits = true;
        let is_name = idn::each_ascii_byte(text, |byte| match self.bytes.get_mut(usize::from(self.length)) {
            Some(to) => {
                *to = byte;
                self.length += 1;
            }
            None => fits = false,
        });
        (is_name && fits).then_some(())
    }

    /// The name; nothing where it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether it is a single label, which no name server has an address for: it was completed.
    pub(crate) fn is_single_label(&self) -> bool {
        !self.as_str().contains('.')
    }
}

fn without_dot(text: &[u8]) -> &[u8] {
    text.strip_suffix(b".").unwrap_or(text)
}

/// Whether a text is an address rather than a name: IPv6 has colons, and what ends in a number is IPv4, if anything
/// (`127.1`, `0x7f.1`).
pub(crate) fn is_address(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or(text);
    let is_number = |digits: &str, is_digit: fn(&u8) -> bool| digits.bytes().all(|byte| is_digit(&byte));
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    text.contains(':')
        || !last.is_empty() && is_number(last, u8::is_ascii_digit)
        || hexadecimal.is_some_and(|digits| is_number(digits, u8::is_ascii_hexdigit))
}

/// The ASCII form of a name outside ASCII that has letters, digits and what else a name may have; a wildcard stands for
/// nothing within a label that is written otherwise in ASCII.
pub(crate) fn international(address: &str) -> Option<Name> {
    let is_part = |c: char| {
        c.is_alphanumeric() || matches!(c, '-' | '_' | '*' | '?' | '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
    };
    let has_wildcard_inside = address.split('.').any(|label| !label.is_ascii() && label.contains(['*', '?']));
    if address.is_ascii() || has_wildcard_inside || !address.chars().all(is_part) {
        return None;
    }
    Name::new(address.as_bytes())
}
