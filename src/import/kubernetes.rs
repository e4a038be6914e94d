//! YAML documents, one after the other: each to the reader of its kind.

use crate::context::{Context, Document};
use crate::note::{Kind, Place};
use crate::yaml;
use crate::{cluster, envoy, envoy_filter, gateway, istio};

/// Kinds that are read. A Helm template of another kind is nobody's loss.
const KINDS: &[&str] = &["DestinationRule", "EnvoyFilter", "IstioOperator", "Listener", "Cluster", "List"];

/// Reads every document of some sources, which know of each other.
pub(crate) fn read(sources: &[usize], context: &mut Context<'_>) {
    let mut streams = Vec::new();
    for &source in sources {
        let (text, templates) = without_templates(context.text(source));
        for place in templates {
            let message = "a Helm template: its values are not there yet";
            context.notes.add(Kind::Template, &Place { source, span: place }, message, "run helm template first");
        }
        let written = context.text(source);
        // Blanks are single, where there may be letters of several bytes.
        let stream = yaml::read_as(&text, written);
        for broken in &stream.broken {
            let end = written.get(broken.place..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
            let place = Place { source, span: broken.place..broken.place + end };
            context.notes.add(Kind::Unreadable, &place, broken.message.clone(), broken.help);
        }
        streams.push((source, stream));
    }
    let mut documents = Vec::new();
    for (source, stream) in &streams {
        stream.documents().for_each(|root| unpack(Document { source: *source, root }, &mut documents, 4));
    }
    documents.iter().for_each(|document| istio::mesh(document, context));
    for document in &documents {
        match document.kind() {
            "DestinationRule" => istio::destination_rule(document, context),
            "EnvoyFilter" => envoy_filter::read(document, context),
            kind if gateway::KINDS.contains(&kind) => gateway::read(document, &documents, context),
            _ if envoy::is_envoy(document.root) => envoy::read(document, context),
            _ => cluster::read(document, context),
        }
        if document.root.is_exhausted() {
            let place = document.origin();
            context.notes.add(Kind::Unreadable, &place, "too much stands here again and again, by aliases", "");
        }
    }
}

/// A document, or those of a list: `kind: List`, or a sequence.
fn unpack<'t>(document: Document<'t>, documents: &mut Vec<Document<'t>>, deep: usize) {
    let root = document.root;
    let is_list = document.kind().ends_with("List") && root.get("items").is_some();
    let items = if is_list { root.get("items") } else { Some(root).filter(|root| !root.is_map()) };
    match items {
        Some(items) if deep > 0 => {
            items.items().for_each(|root| unpack(Document { root, ..document }, documents, deep - 1))
        }
        _ => documents.push(document),
    }
}

/// The text with blanks in place of documents that are templates, and where these show it.
fn without_templates(text: &str) -> (String, Vec<std::ops::Range<usize>>) {
    if !text.contains("{{") {
        return (text.to_owned(), Vec::new());
    }
    let (mut clean, mut places) = (String::with_capacity(text.len()), Vec::new());
    let mut start = 0;
    while start < text.len() {
        let rest = text.get(start..).unwrap_or_default();
        let length = rest.find("\n---").map_or(rest.len(), |at| at + 1);
        let chunk = rest.get(..length).unwrap_or(rest);
        match marker(chunk) {
            None => clean.push_str(chunk),
            Some(at) => {
                // The line that separates documents stays.
                let head =
                    if chunk.starts_with("---") { chunk.find('\n').map_or(chunk.len(), |end| end + 1) } else { 0 };
                let head = if chunk.get(..head).is_some_and(|line| line.contains("{{")) { 3 } else { head };
                clean.push_str(chunk.get(..head).unwrap_or_default());
                clean.extend(
                    chunk
                        .get(head..)
                        .unwrap_or_default()
                        .chars()
                        .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8())),
                );
                if is_wanted(chunk) {
                    places.push(start + at..start + at + 2);
                }
            }
        }
        start += length.max(1);
    }
    (clean, places)
}

/// Where an action of a template begins: not every `{{` is one.
fn marker(chunk: &str) -> Option<usize> {
    const WORDS: [&str; 16] = [
        "if ",
        "else",
        "end",
        "range ",
        "with ",
        "include ",
        "template ",
        "define ",
        "block ",
        "tpl ",
        "toYaml",
        "default ",
        "quote ",
        "printf ",
        "required ",
        "/*",
    ];
    chunk.match_indices("{{").map(|(at, _)| at).find(|at| {
        let inside = chunk.get(at + 2..).unwrap_or_default();
        let inside = inside.strip_prefix('-').unwrap_or(inside).trim_start();
        inside.starts_with(['.', '$']) || WORDS.iter().any(|word| inside.starts_with(word))
    })
}

/// Whether a template may be of a kind that is read.
fn is_wanted(chunk: &str) -> bool {
    let kind = chunk.lines().find_map(|line| line.strip_prefix("kind:")).map(str::trim);
    kind.is_none_or(|kind| KINDS.contains(&kind) || gateway::KINDS.contains(&kind)) || chunk.contains("tcpKeepalive")
}

/// Whether a text is of this kind: by a few keys that stand at the start of a line, or JSON's braces.
pub(crate) fn is_yaml(text: &str) -> bool {
    let is_key = |line: &str| {
        [
            "kind:",
            "apiVersion:",
            "static_resources:",
            "resources:",
            "meshConfig:",
            "---",
            "- kind:",
            "- apiVersion:",
            "{",
        ]
        .iter()
        .any(|key| line.starts_with(key))
    };
    text.lines().any(is_key)
}
