//! A configuration that has been read once: its rules, the advice and the explanations are all made of this.

use crate::compile::{Compiled, Compiler, Configuration};
use crate::document::{Document, Layer};
use crate::error::{Listed, Problems};
use crate::process::Process;
use crate::rules::Rules;
use crate::syntax;
use crate::variables::{self, Shortcuts};

/// The file as it is written, the environment's options, and what is wrong with their form.
#[derive(Debug, Clone)]
pub struct Parsed<'c> {
    pub(crate) configuration: &'c Configuration,
    pub(crate) document: Document,
    pub(crate) shortcuts: Shortcuts,
    problems: Problems,
}

impl Configuration {
    /// Reads everything.
    #[must_use]
    pub fn parse(&self) -> Parsed<'_> {
        let mut problems = Problems::default();
        let read = |source: &crate::Source| syntax::read(&source.text, 0, &mut problems);
        let document = self.document.as_ref().map(read).unwrap_or_default();
        let shortcuts = variables::read(&self.variables, usize::from(self.document.is_some()), &mut problems);
        Parsed { configuration: self, document, shortcuts, problems }
    }
}

impl Parsed<'_> {
    /// The rules for a process, and what is wrong.
    #[must_use]
    pub fn compile(&self, process: &Process) -> Compiled {
        let (rules, warnings) = self.clone().into_rules(Some(process));
        Compiled { rules, warnings, sources: self.configuration.sources() }
    }

    /// The rules for a process; without one, every rule with its conditions by process, to be read and not to decide by. And what
    /// is probably not meant. Nothing is kept twice, since it is done in somebody else's program.
    ///
    /// # Errors
    /// What is wrong.
    pub fn into_rules(self, process: Option<&Process>) -> (Result<Rules, Listed>, Listed) {
        let Self { configuration, mut document, mut shortcuts, mut problems } = self;
        if let Some(process) = process {
            if shortcuts.conditions.mismatch_by_process(process).is_some() {
                shortcuts.layer = Layer::default();
            }
            shortcuts.conditions.processes = None;
        }
        if document.is_torn {
            let (errors, warnings) = problems.into_sorted(configuration.texts());
            return (Err(errors), warnings);
        }
        let forms = std::mem::take(&mut document.rules);
        let mut compiler = Compiler { document: &document, shortcuts: &shortcuts, problems: &mut problems, next_id: 0 };
        let rules = compiler.rules(forms, process, configuration.document.as_ref());
        let (errors, warnings) = problems.into_sorted(configuration.texts());
        (if errors.is_empty() { Ok(rules) } else { Err(errors) }, warnings)
    }

    /// Whether `[defaults]` has an option.
    #[must_use]
    pub fn has_defaults(&self) -> bool {
        !self.document.defaults.0.is_empty()
    }

    /// Whether the environment has an option, for whichever process.
    #[must_use]
    pub fn has_shortcuts(&self) -> bool {
        !self.shortcuts.layer.0.is_empty()
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> &str {
        self.configuration.document.as_ref().map_or("", |source| source.text.as_str())
    }
}

/// Compiles a configuration for a process.
#[must_use]
pub fn compile(configuration: &Configuration, process: &Process) -> Compiled {
    let (rules, warnings) = compile_alone(configuration, process);
    Compiled { rules, warnings, sources: configuration.sources() }
}

/// [`compile`] without the sources, which are as large as the configuration and seldom asked for.
///
/// # Errors
/// What is wrong.
pub fn compile_alone(configuration: &Configuration, process: &Process) -> (Result<Rules, Listed>, Listed) {
    configuration.parse().into_rules(Some(process))
}
