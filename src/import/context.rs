//! What all readers have in common: the request, the rules so far, the notes.

use std::ops::Range;

use policy::{Enforce, Source};

use crate::draft::{Draft, Keepalive, Options};
use crate::note::{Kind, Notes, Place};
use crate::yaml::Value;

/// What is asked for beside the files.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The namespace of documents that name none.
    pub namespace: Option<String>,
    /// `enforce` of the outcome.
    pub enforce: Option<Enforce>,
}

/// What is read into.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) sources: &'a [Source],
    pub(crate) request: &'a Request,
    pub(crate) notes: Notes,
    pub(crate) drafts: Vec<Draft>,
    /// What is for every socket.
    pub(crate) defaults: Options,
    /// Where that comes from.
    pub(crate) defaults_from: Vec<(Place, String)>,
    /// The mesh's own keepalive, over which each rule's goes field by field.
    pub(crate) mesh: Keepalive,
    /// Whether the files are about proxies beside or in front of programs.
    pub(crate) is_mesh: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(sources: &'a [Source], request: &'a Request) -> Self {
        Self {
            sources,
            request,
            notes: Notes::default(),
            drafts: Vec::new(),
            defaults: Options::default(),
            defaults_from: Vec::new(),
            mesh: Keepalive::default(),
            is_mesh: false,
        }
    }

    pub(crate) fn text(&self, source: usize) -> &'a str {
        self.sources.get(source).map_or("", |source| source.text.as_str())
    }

    /// Adds a rule that sets something, or is noted to set nothing.
    pub(crate) fn add(&mut self, draft: Draft) {
        let has_place = !draft.targets.is_empty() || draft.parked.is_some();
        if has_place && !draft.options.is_empty() {
            self.drafts.push(draft);
        }
    }
}

/// One YAML document and where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'t> {
    pub(crate) source: usize,
    pub(crate) root: Value<'t>,
}

impl<'t> Document<'t> {
    pub(crate) fn place(&self, value: Value<'_>) -> Place {
        self.span(value.span())
    }

    pub(crate) fn span(&self, span: Range<usize>) -> Place {
        Place { source: self.source, span }
    }

    pub(crate) fn kind(&self) -> &'t str {
        self.root.text_of("kind").unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &'t str {
        let name = self.root.at("metadata.name").or_else(|| self.root.get("name")).and_then(Value::text);
        name.unwrap_or("unnamed")
    }

    /// The namespace of the document, or the one that was asked for.
    pub(crate) fn namespace<'r>(&self, request: &'r Request) -> Option<&'r str>
    where
        't: 'r,
    {
        self.root.at("metadata.namespace").and_then(Value::text).or(request.namespace.as_deref())
    }

    /// `DestinationRule prod/redis`.
    pub(crate) fn title(&self) -> String {
        match self.root.at("metadata.namespace").and_then(Value::text) {
            Some(namespace) => format!("{} {namespace}/{}", self.kind(), self.name()),
            None => format!("{} {}", self.kind(), self.name()),
        }
    }

    /// The place of what stands there, or of the document's name, or of its beginning.
    pub(crate) fn origin(&self) -> Place {
        let name = self.root.at("metadata.name").or_else(|| self.root.get("name")).or_else(|| self.root.get("kind"));
        self.place(name.unwrap_or(self.root))
    }

    /// A whole number, or a note that it is none.
    pub(crate) fn integer(&self, value: Value<'_>, notes: &mut Notes) -> Option<i64> {
        let number = value.integer();
        let place = self.place(value);
        if number.is_none() {
            notes.add(Kind::Unreadable, &place, "this is no whole number", "");
        } else if value.is_old_octal() {
            let message = format!("a leading zero makes it octal: {} to what reads this file", number.unwrap_or(0));
            notes.add(Kind::Changed, &place, message, "");
        }
        number
    }
}
