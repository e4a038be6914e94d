//! Texts of somebody else's making, such as names of rules, files and programs, as they may be shown to people.

use std::fmt;

/// Whether a character draws nothing by itself and changes what is shown around it: control characters, which a terminal
/// takes for orders, line breaks, what turns the direction of the text, and what has no width.
#[must_use]
pub const fn is_unseen(c: char) -> bool {
    // Unicode: Cc, Zl, Zp, and Default_Ignorable_Code_Point but for the selectors that choose the look of an emoji.
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A text in which such characters are written out: `\n`, `\u{202e}`.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, f)
    }
}

/// Writes a text so.
///
/// # Errors
/// Those of the writer.
pub fn write(text: &str, to: &mut impl fmt::Write) -> fmt::Result {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unseen(*c)) {
        to.write_str(rest.get(..at).unwrap_or_default())?;
        c.escape_default().try_for_each(|escaped| to.write_char(escaped))?;
        rest = rest.get(at + c.len_utf8()..).unwrap_or_default();
    }
    to.write_str(rest)
}
