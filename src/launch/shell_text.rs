//! Which commands a shell's text names: the first words of its simple commands, with their arguments as far as they stand there.
//!
//! No shell is imitated. Words that the shell makes only when it runs (`$NAME`, `$(…)`) are not known, and what is not known is left out.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// In front of a command.
const KEYWORDS: &[&str] =
    &["!", "{", "}", "builtin", "command", "do", "elif", "else", "exec", "if", "then", "time", "until", "while"];

/// A word, as far as it is known.
#[derive(Default)]
struct Word {
    text: Vec<u8>,
    /// A part of it is made when the shell runs.
    is_unknown: bool,
}

/// A text that is being read. A text in parentheses, or in backquotes, is one within another.
struct Frame<'a> {
    /// The words of the command.
    words: Vec<Word>,
    word: Option<Word>,
    /// In double quotes.
    is_quoted: bool,
    /// It began with a backquote.
    is_by_backquote: bool,
    /// So many `case` have not ended.
    cases: usize,
    /// In front of the `)` of a pattern.
    is_pattern: bool,
    /// The script's own folder.
    own: &'a Path,
    /// Where it is; empty where it began.
    folder: PathBuf,
}

impl Default for Frame<'_> {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            word: None,
            is_quoted: false,
            is_by_backquote: false,
            cases: 0,
            is_pattern: false,
            own: Path::new(""),
            folder: PathBuf::new(),
        }
    }
}

/// The commands, in their order; at most so many. A relative path is that from where `cd` has gone before it. Where it goes that is not
/// written there, it mostly is the script's `own` folder (`cd "$(dirname "$0")"`).
pub(crate) fn commands(text: &[u8], own: &Path, at_most: usize) -> Vec<Vec<OsString>> {
    let mut found = Vec::new();
    let mut frames = vec![Frame { own, ..Frame::default() }];
    // The ends of the documents that begin with the next line.
    let mut documents: Vec<Vec<u8>> = Vec::new();
    let mut at = 0;
    while let (Some(&byte), Some(depth)) = (text.get(at), frames.len().checked_sub(1))
        && let Some(frame) = frames.get_mut(depth)
        && found.len() < at_most
    {
        let rest = text.get(at + 1..).unwrap_or_default();
        at += 1;
        match byte {
            b'\\' => {
                at += 1;
                match rest.first() {
                    None | Some(b'\n') => {}
                    next => frame.push(next.copied()),
                }
            }
            // Arithmetic.
            b'$' if rest.starts_with(b"((") => {
                frame.make_unknown();
                at += in_parentheses(rest);
            }
            b'(' if rest.starts_with(b"(") => {
                frame.make_unknown();
                at += in_parentheses(text.get(at - 1..).unwrap_or_default()) - 1;
            }
            b'$' if rest.starts_with(b"(") => {
                at += 1;
                frame.make_unknown();
                let within = frame.within();
                frames.push(within);
            }
            b'`' if frame.is_by_backquote => {
                found.extend(frame.end_command());
                frames.pop();
            }
            b'`' => {
                frame.make_unknown();
                let within = Frame { is_by_backquote: true, ..frame.within() };
                frames.push(within);
            }
            b'$' => frame.make_unknown(),
            b'"' => {
                frame.is_quoted = !frame.is_quoted;
                frame.push(None);
            }
            _ if frame.is_quoted => frame.push(Some(byte)),
            b'\'' => {
                let end = rest.iter().position(|byte| *byte == b'\'').unwrap_or(rest.len());
                rest.iter().take(end).for_each(|byte| frame.push(Some(*byte)));
                frame.push(None);
                at += end + 1;
            }
            b'#' if frame.word.is_none() => at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            b'<' if rest.starts_with(b"<<") => {
                at += 2;
                frame.end_word();
            }
            b'<' if rest.starts_with(b"<") => {
                let (end, length) = document(rest.get(1..).unwrap_or_default());
                documents.push(end);
                frame.end_word();
                at += 1 + length;
            }
            // `2>&1` and `&>file` end no command.
            b'&' if text.get(at.wrapping_sub(2)) == Some(&b'>') || rest.starts_with(b">") => frame.end_word(),
            b'\n' if frame.is_pattern => frame.end_word(),
            b'\n' => {
                found.extend(frame.end_command());
                at += documents.drain(..).fold(0, |length, end| length + behind(rest.get(length..), &end));
            }
            b';' if frame.cases > 0 && (rest.starts_with(b";") || rest.starts_with(b"&")) => {
                at += 1;
                found.extend(frame.end_command());
                frame.is_pattern = true;
            }
            b'(' | b'|' if frame.is_pattern => frame.end_word(),
            b')' if frame.is_pattern => frame.clear(),
            b';' | b'|' | b'&' => found.extend(frame.end_command()),
            b'(' => {
                // The words before it are a function's name.
                frame.clear();
                let within = frame.within();
                frames.push(within);
            }
            b')' if depth > 0 => {
                found.extend(frame.end_command());
                frames.pop();
            }
            b')' => frame.clear(),
            b' ' | b'\t' | b'\r' | b'<' | b'>' => frame.end_word(),
            _ => frame.push(Some(byte)),
        }
    }
    found.extend(frames.iter_mut().filter_map(Frame::end_command));
    found.truncate(at_most);
    found
}

impl<'a> Frame<'a> {
    /// A text within this one: what changes the folder there does not here.
    fn within(&self) -> Self {
        Self { own: self.own, folder: self.folder.clone(), ..Self::default() }
    }

    /// Goes on with a word, or begins one.
    fn push(&mut self, byte: Option<u8>) {
        self.word.get_or_insert_default().text.extend(byte);
    }

    fn make_unknown(&mut self) {
        self.word.get_or_insert_default().is_unknown = true;
    }

    fn clear(&mut self) {
        (self.word, self.is_pattern) = (None, false);
        self.words.clear();
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        let is = |name: &[u8]| word.is(name);
        if self.is_pattern && is(b"esac") {
            self.cases = self.cases.saturating_sub(1);
            self.clear();
            return;
        }
        let is_of_case = self.words.first().is_some_and(|first| first.is(b"case"));
        if is_of_case && is(b"in") {
            self.cases += 1;
            self.clear();
            self.is_pattern = true;
            return;
        }
        if is(b"esac") && self.words.is_empty() {
            self.cases = self.cases.saturating_sub(1);
        }
        self.words.push(word);
    }

    /// The command, if it is known what it is.
    fn end_command(&mut self) -> Option<Vec<OsString>> {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        // An option of `command` or `exec` is no program: then nothing is found by that name.
        let words = words.into_iter().skip_while(Word::is_in_front);
        let mut known: Vec<OsString> =
            words.map_while(|word| (!word.is_unknown).then(|| OsString::from_vec(word.text))).collect();
        let (first, others) = known.split_first_mut()?;
        if first == "cd" {
            let to = others.iter().find(|word| !word.as_bytes().starts_with(b"-"));
            self.folder = to.map_or_else(|| self.own.to_owned(), |to| self.folder.join(to));
            return None;
        }
        if first.as_bytes().contains(&b'/') && !self.folder.as_os_str().is_empty() {
            let path = Path::new(&*first);
            *first = self.folder.join(path.strip_prefix("./").unwrap_or(path)).into_os_string();
        }
        Some(known)
    }
}

impl Word {
    fn is(&self, text: &[u8]) -> bool {
        !self.is_unknown && self.text == text
    }

    /// Whether it stands in front of a command.
    fn is_in_front(&self) -> bool {
        self.is_assignment() || KEYWORDS.iter().any(|known| self.is(known.as_bytes()))
    }

    fn is_assignment(&self) -> bool {
        let name = self.text.split(|byte| *byte == b'=').next().unwrap_or_default();
        let is_name = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_+".contains(byte));
        is_name && name.len() < self.text.len()
    }
}

/// How long it is, up to the parenthesis that ends what the first one begins.
fn in_parentheses(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return at + 1,
            b')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The end of a document (`<<END`), and how long what names it is.
fn document(text: &[u8]) -> (Vec<u8>, usize) {
    let in_front = text.iter().take_while(|byte| b"- \t".contains(byte)).count();
    let name = text.get(in_front..).unwrap_or_default();
    let length = name.iter().take_while(|byte| !byte.is_ascii_whitespace() && !b";|&)<>".contains(byte)).count();
    let name = name.get(..length).unwrap_or_default();
    (name.iter().copied().filter(|byte| !b"'\"\\".contains(byte)).collect(), in_front + length)
}

/// How much of a text is a document, with the line that ends it.
fn behind(text: Option<&[u8]>, end: &[u8]) -> usize {
    let mut length = 0;
    for line in text.unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        if line.trim_ascii() == end {
            break;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::commands;

    /// The commands, each by its words with a blank between them.
    fn of(text: &str) -> Vec<String> {
        let words = |command: Vec<std::ffi::OsString>| {
            command.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        commands(text.as_bytes(), Path::new("/own"), 100).into_iter().map(words).collect()
    }

    #[test]
    fn commands_of_a_text() {
        for (text, wanted) in [
            ("", &[][..]),
            ("a b\nc", &["a b", "c"]),
            ("  a 'b c' \"d e\" f\\ g # h\n#i\nj#k", &["a b c d e f g", "j#k"]),
            ("a;b&&c||d|e&f", &["a", "b", "c", "d", "e", "f"]),
            ("X=1 Y='2 3' a b=4\nZ=5", &["a b=4"]),
            ("if ! a; then b; elif c; then exec d; else e; fi", &["a", "b", "c", "d", "e", "fi"]),
            ("while a; do { b; }; done", &["a", "b", "done"]),
            ("for x in a b; do c $x d; done", &["for x in a b", "c", "done"]),
            ("$x a; \"$y\" b; a/$x b; $((1 + 2)) c", &[]),
            ("((x = 1 + a)); a; b $((2 * (3 + 4))) c", &["a", "b"]),
            ("x=$(a b) c; d $(e; f) g", &["a b", "c", "e", "f", "d"]),
            ("x=\"$(a \"b\" c)\"; d `e` \"`f`\"", &["a b c", "e", "f", "d"]),
            ("(a; b) | c", &["a", "b", "c"]),
            ("a() { b; }", &["b"]),
            ("case $x in a|b) c;; d) e ;; (f)\n g;;\n*) h; esac; i", &["c", "e", "g", "h", "esac", "i"]),
            ("case x in\na)\n b\n;;\nesac\nc", &["b", "c"]),
            ("a 2>&1 b >c <d &>e; f", &["a 2 1 b c d e", "f"]),
            ("a <<E b\nc $(d\nE\ne\nf <<-'G'\ng\n\tG\ni <<<j\nk", &["a b", "e", "f", "i j", "k"]),
            ("a <<-\"E\" | b\nc\n\tE\nd <<<e\nf", &["a", "b", "d e", "f"]),
            ("a \\\n b\r\nc", &["a b", "c"]),
            ("cd a && ./b; cd c; d/e f; g; cd /h; ./i; /j", &["a/b", "a/c/d/e f", "g", "/h/i", "/j"]),
            ("(cd a; ./b); ./c; x=$(cd d; ./e); cd -P f 2>g; ./h", &["a/b", "./c", "d/e", "f/h"]),
            ("cd \"$x\"; ./a; cd -; b/c; cd; ./d", &["/own/a", "/own/b/c", "/own/d"]),
            ("a 'b", &["a b"]),
            ("a $(b", &["a", "b"]),
            (") a", &["a"]),
        ] {
            assert_eq!(of(text), wanted, "{text}");
        }
        assert_eq!(commands(b"a;b;c", Path::new(""), 2).len(), 2);
    }
}
