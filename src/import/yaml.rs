//! YAML as a tree with places, made by a walk over the parser's events. JSON is YAML.
//!
//! Decided on purpose, since YAML 1.1 and 1.2 differ: what reads these files decides. Kubernetes (sigs.k8s.io/yaml, on go-yaml 2) and Envoy
//! (yaml-cpp) both take `yes`, `on`, `y` and their opposites for booleans where a boolean is due, and `010` for the octal 8; so
//! does this. In quotes it is a text, which protobuf's JSON mapping takes for a decimal number where a number is due. `<<` merges
//! (go-yaml has it, YAML 1.2 has not). Of two keys with one name the last counts. An alias is the node that it names, never a
//! copy, so a small file cannot become a large tree; what is looked at again and again through aliases is bounded by [`BUDGET`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError};

/// Nodes that are looked at in all: more than any file that people write has, and a second of work.
const BUDGET: usize = 2_000_000;
/// How deep `<<` is followed.
const MERGES: usize = 8;

/// The nodes of a text.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    left: Cell<usize>,
}

#[derive(Debug)]
struct Node {
    span: Range<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Scalar { text: String, is_plain: bool },
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
}

/// What could not be read.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) place: usize,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// The documents of a stream, and what is broken: a document that is does not keep the next from being read.
pub(crate) struct Stream {
    pub(crate) tree: Tree,
    pub(crate) roots: Vec<usize>,
    pub(crate) broken: Vec<Broken>,
}

impl Stream {
    /// Every document.
    pub(crate) fn documents(&self) -> impl Iterator<Item = Value<'_>> {
        self.roots.iter().map(|&node| Value { tree: &self.tree, node })
    }
}

/// Reads a text.
pub(crate) fn read(text: &str) -> Stream {
    read_as(text, text)
}

/// Reads a text as long as another one, in which all places are between two letters.
pub(crate) fn read_as(text: &str, of: &str) -> Stream {
    let before = |at: usize| (0..=at.min(of.len())).rev().find(|at| of.is_char_boundary(*at)).unwrap_or(0);
    let mut options = Options::default();
    options.emit_unresolved_aliases = true;
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::new(text.len());
    let mut broken = Vec::new();
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                let place = span.byte_range().unwrap_or(0..0);
                builder.take(event, before(place.start)..before(place.end), &mut broken);
            }
            Err(error) => {
                broken.push(told(&error, before(error.marker().byte_offset().unwrap_or(of.len()))));
                builder.abandon();
                // A broken document costs what is behind it in the same document, not the others.
                if broken.len() > crate::note::MOST || !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
        }
    }
    Stream { tree: Tree { nodes: builder.nodes, left: Cell::new(BUDGET) }, roots: builder.roots, broken }
}

fn told(error: &ScanError, place: usize) -> Broken {
    let message = format!("this is no YAML: {}", error.info());
    Broken { place, message, help: "the rest of this document is not read" }
}

/// A collection that is not at its end.
struct Open {
    node: usize,
    children: Vec<usize>,
    is_map: bool,
}

struct Builder {
    nodes: Vec<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, usize>,
    roots: Vec<usize>,
    length: usize,
}

impl Builder {
    fn new(length: usize) -> Self {
        Self { nodes: Vec::new(), open: Vec::new(), anchors: BTreeMap::new(), roots: Vec::new(), length }
    }

    fn abandon(&mut self) {
        self.open.clear();
        self.anchors.clear();
    }

    fn take(&mut self, event: Event<'_>, span: Range<usize>, broken: &mut Vec<Broken>) {
        let anchor = event.anchor_id();
        match event {
            Event::DocumentStart(..) => self.abandon(),
            Event::Scalar(text, style, ..) => {
                let is_plain = style == ScalarStyle::Plain;
                let node = self.add(span, Kind::Scalar { text: text.into_owned(), is_plain }, anchor);
                self.place(node);
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                let is_map = matches!(event, Event::MappingStart(..));
                let kind = if is_map { Kind::Map(Vec::new()) } else { Kind::List(Vec::new()) };
                let node = self.add(span, kind, anchor);
                self.open.push(Open { node, children: Vec::new(), is_map });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { node, children, is_map }) = self.open.pop() else { return };
                let kind = if is_map {
                    Kind::Map(children.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect())
                } else {
                    Kind::List(children)
                };
                if let Some(own) = self.nodes.get_mut(node) {
                    own.kind = kind;
                    own.span.end = span.end.clamp(own.span.start, self.length);
                }
                self.place(node);
            }
            Event::Alias(id) => {
                let known = self.anchors.get(&id).copied();
                let node = known.unwrap_or_else(|| self.add(span, Kind::null(), None));
                self.place(node);
            }
            Event::UnresolvedAlias(name) => {
                let message = format!("there is no anchor &{name} before this alias");
                broken.push(Broken { place: span.start, message, help: "" });
                let node = self.add(span, Kind::null(), None);
                self.place(node);
            }
            _ => {}
        }
    }

    fn add(&mut self, span: Range<usize>, kind: Kind, anchor: Option<usize>) -> usize {
        self.nodes.push(Node { span, kind });
        let node = self.nodes.len() - 1;
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, node);
        }
        node
    }

    /// Puts a node where it stands.
    fn place(&mut self, node: usize) {
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.roots.push(node),
        }
    }
}

impl Kind {
    fn null() -> Self {
        Self::Scalar { text: "~".to_owned(), is_plain: true }
    }
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'t> {
    tree: &'t Tree,
    node: usize,
}

impl<'t> Value<'t> {
    fn kind(self) -> Option<&'t Kind> {
        let left = self.tree.left.get().checked_sub(1)?;
        self.tree.left.set(left);
        self.tree.nodes.get(self.node).map(|node| &node.kind)
    }

    fn with(self, node: usize) -> Self {
        Self { tree: self.tree, node }
    }

    /// Whether so much was looked at that nothing more is.
    pub(crate) fn is_exhausted(self) -> bool {
        self.tree.left.get() == 0
    }

    /// Where it stands.
    pub(crate) fn span(self) -> Range<usize> {
        self.tree.nodes.get(self.node).map_or(0..0, |node| node.span.clone())
    }

    /// The value of a key, by its name as it stands in the API's definition or as protobuf's JSON has it: `socket_options`,
    /// `socketOptions`.
    pub(crate) fn get(self, key: &str) -> Option<Self> {
        let found = self.own(key, MERGES);
        if found.is_some() || !key.contains('_') {
            return found;
        }
        let mut camel = String::with_capacity(key.len());
        let mut is_first = true;
        for part in key.split('_') {
            let mut letters = part.chars();
            let first = letters.next().map(|first| if is_first { first } else { first.to_ascii_uppercase() });
            is_first = false;
            camel.extend(first.into_iter().chain(letters));
        }
        self.own(&camel, MERGES)
    }

    fn own(self, key: &str, merges: usize) -> Option<Self> {
        let Some(Kind::Map(entries)) = self.kind() else { return None };
        let of = |wanted: &str| {
            let is_it = |&&(name, _): &&(usize, usize)| self.with(name).raw_text() == Some(wanted);
            entries.iter().rev().find(is_it).map(|&(_, value)| self.with(value))
        };
        if let Some(found) = of(key) {
            return Some(found).filter(|found| !found.is_null());
        }
        let merged = of("<<").filter(|_| merges > 0)?;
        match merged.kind()? {
            Kind::Map(_) => merged.own(key, merges - 1),
            Kind::List(list) => list.iter().find_map(|&node| merged.with(node).own(key, merges - 1)),
            Kind::Scalar { .. } => None,
        }
    }

    /// What a path of keys leads to.
    pub(crate) fn at(self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self, |value, key| value.get(key))
    }

    /// The entries of a list.
    pub(crate) fn items(self) -> impl Iterator<Item = Self> {
        let list = match self.kind() {
            Some(Kind::List(list)) => list.as_slice(),
            _ => &[],
        };
        list.iter().map(move |&node| self.with(node)).take_while(|item| !item.is_exhausted())
    }

    /// The entries of a map, in the order of the text, without what is merged in.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'t str, Self, Self)> {
        let map = match self.kind() {
            Some(Kind::Map(map)) => map.as_slice(),
            _ => &[],
        };
        let entry = move |&(name, value): &(usize, usize)| {
            let name = self.with(name);
            name.raw_text().map(|text| (text, name, self.with(value)))
        };
        map.iter().filter_map(entry).take_while(|(.., value)| !value.is_exhausted())
    }

    pub(crate) fn is_map(self) -> bool {
        matches!(self.kind(), Some(Kind::Map(_)))
    }

    fn raw_text(self) -> Option<&'t str> {
        match self.kind()? {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    fn is_null(self) -> bool {
        let Some(Kind::Scalar { text, is_plain: true }) = self.kind() else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The text of a scalar.
    pub(crate) fn text(self) -> Option<&'t str> {
        self.raw_text().filter(|_| !self.is_null())
    }

    /// The text of a key's scalar.
    pub(crate) fn text_of(self, key: &str) -> Option<&'t str> {
        self.get(key)?.text()
    }

    /// A whole number: in quotes it is decimal.
    pub(crate) fn integer(self) -> Option<i64> {
        let Kind::Scalar { text, is_plain } = self.kind()? else { return None };
        if !is_plain {
            return text.trim().parse().ok();
        }
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (radix, digits) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
            [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
            [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
            [b'0', _, ..] if !digits.contains(['e', 'E', '.']) => (8, digits.get(1..)?),
            _ => (10, digits),
        };
        if let Ok(number) = i64::from_str_radix(digits, radix) {
            return number.checked_mul(sign);
        }
        // 6e1 is a whole number to JSON.
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
    }

    /// Whether a plain number is octal by a leading zero alone, which people overlook.
    pub(crate) fn is_old_octal(self) -> bool {
        let Some(Kind::Scalar { text, is_plain: true }) = self.kind() else { return false };
        text.len() > 1 && text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// A boolean, as go-yaml 2 and yaml-cpp have it.
    pub(crate) fn boolean(self) -> Option<bool> {
        let Kind::Scalar { text, is_plain } = self.kind()? else { return None };
        match text.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" if *is_plain => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" if *is_plain => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Stream {
        let stream = read(text);
        assert!(stream.broken.is_empty(), "{:?}", stream.broken);
        stream
    }

    #[test]
    fn scalars() {
        let stream = root("{a: 010, b: \"010\", c: 0x1F, d: on, e: 'on', f: -5, g: 6e1, h: ~, i: 1.5, j: 0, k: 0o17}");
        let root = stream.documents().next().expect("a document");
        let integer = |key| root.get(key).and_then(Value::integer);
        assert_eq!(integer("a"), Some(8));
        assert_eq!(integer("b"), Some(10));
        assert_eq!(integer("c"), Some(31));
        assert_eq!(integer("f"), Some(-5));
        assert_eq!(integer("g"), Some(60));
        assert_eq!(integer("i"), None);
        assert_eq!(integer("j"), Some(0));
        assert_eq!(integer("k"), Some(15));
        assert_eq!(root.get("d").and_then(Value::boolean), Some(true));
        assert_eq!(root.get("e").and_then(Value::boolean), None);
        assert!(root.get("h").is_none());
    }

    #[test]
    fn names_of_both_kinds_and_the_last_of_two() {
        let stream = root("socketOptions: 1\nbind_config: 2\na: 1\na: 2\n");
        let root = stream.documents().next().expect("a document");
        assert_eq!(root.get("socket_options").and_then(Value::integer), Some(1));
        assert_eq!(root.get("bind_config").and_then(Value::integer), Some(2));
        assert_eq!(root.get("a").and_then(Value::integer), Some(2));
    }

    #[test]
    fn merges_and_aliases() {
        let stream = root("base: &b {time: 60s, probes: 4}\nuse: {<<: *b, probes: 3}\nlist: {<<: [{x: 1}, *b]}\n");
        let root = stream.documents().next().expect("a document");
        assert_eq!(root.at("use.time").and_then(Value::text), Some("60s"));
        assert_eq!(root.at("use.probes").and_then(Value::integer), Some(3));
        assert_eq!(root.at("list.time").and_then(Value::text), Some("60s"));
    }

    #[test]
    fn a_node_within_itself_and_laughs() {
        let stream = root("a: &a {b: *a, <<: *a}\n");
        let root = stream.documents().next().expect("a document");
        assert!(root.at("a.b.b.b.nothing").is_none());
        let mut bomb = "a0: &a0 [x, x]\n".to_owned();
        for level in 1..60 {
            let before = level - 1;
            bomb += &format!("a{level}: &a{level} [*a{before}, *a{before}]\n");
        }
        let stream = read(&bomb);
        fn count(value: Value<'_>) -> usize {
            value.items().map(count).sum::<usize>() + 1
        }
        let top = stream.documents().next().and_then(|root| root.get("a59")).expect("the top");
        assert!(count(top) < 2 * BUDGET);
        assert!(top.is_exhausted());
    }

    #[test]
    fn places_and_what_is_broken() {
        let text = "ä: 1\n---\nb: [1\n---\nc: *nowhere\nd: x\n";
        let stream = read(text);
        assert_eq!(stream.broken.len(), 2, "{:?}", stream.broken);
        let last = stream.documents().last().expect("a document");
        let span = last.get("d").expect("d").span();
        assert_eq!(text.get(span), Some("x"));
        assert!(last.get("c").is_none());
    }
}
