//! What is attached.

use std::fs;
use std::path::{Path, PathBuf};

use socket::Errno;

use crate::counters::{self, Counts};
use crate::group::id_at;
use crate::learned::Addresses;
use crate::maps;
use crate::pins::Folder;
use crate::place::Place;
use crate::refusal::Refusal;
use crate::sys::{self, borrowed};

/// What is said of an attachment.
pub(crate) const ABOUT: &str = "about";

/// What there is to know of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The folder of the control group when it was attached.
    pub group: String,
    /// Where the configuration came from.
    pub configuration: String,
    /// How many rules it has.
    pub rules: usize,
    /// How often it was attached and replaced.
    pub generation: u64,
    /// How many sockets have its options that were there before.
    pub adopted: usize,
}

impl About {
    pub(crate) fn to_text(&self) -> String {
        let line = |text: &str| text.replace('\n', "\u{fffd}");
        let Self { rules, generation, adopted, .. } = self;
        format!("{}\n{}\n{rules}\n{generation}\n{adopted}\n", line(&self.group), line(&self.configuration))
    }

    fn from_text(text: &str) -> Self {
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        Self {
            group: next().to_owned(),
            configuration: next().to_owned(),
            rules: next().parse().unwrap_or_default(),
            generation: next().parse().unwrap_or_default(),
            adopted: next().parse().unwrap_or_default(),
        }
    }
}

/// Something that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The number of the control group.
    pub group_id: u64,
    /// Where its links are pinned.
    pub pins: PathBuf,
    /// What was said of it.
    pub about: About,
    /// Whether the control group exists no more.
    pub is_gone: bool,
    /// What is attached: `connect4`, and the number of the program.
    pub programs: Vec<(&'static str, u32)>,
}

impl Attachment {
    /// Whether its programs run.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        !self.programs.is_empty()
    }

    /// What was counted so far for each rule, if it is.
    #[must_use]
    pub fn counts(&self) -> Option<Vec<Counts>> {
        let is_counted = self.programs.iter().any(|(name, _)| *name == Place::Ended.name());
        if is_counted { counters::read(&self.pins) } else { None }
    }

    /// How many addresses are known by a name, if rules name hosts.
    #[must_use]
    pub fn known_addresses(&self) -> Option<usize> {
        let learns = self.programs.iter().any(|(name, _)| *name == Place::Answers.name());
        if learns { Addresses::at(&self.pins).map(|known| known.count()) } else { None }
    }
}

pub(crate) fn about_at(pins: &Path) -> Option<About> {
    maps::text_at(&pins.join(ABOUT)).ok().map(|text| About::from_text(&text))
}

/// Everything that is attached.
///
/// # Errors
/// Why that is not known.
pub fn status() -> Result<Vec<Attachment>, Refusal> {
    let Some(folder) = Folder::existing()? else { return Ok(Vec::new()) };
    let found = attachments(&folder);
    // Who may not open what is pinned knows nothing of it.
    let denied = |one: &Attachment| match sys::open_pin(&one.pins.join(ABOUT)) {
        Err(errno @ Errno(libc::EACCES | libc::EPERM)) => Some(errno),
        _ => None,
    };
    match found.iter().find_map(denied) {
        Some(errno) => Err(Refusal::kernel("what is attached cannot be looked at")(errno)),
        None => Ok(found),
    }
}

pub(crate) fn attachments(folder: &Folder) -> Vec<Attachment> {
    let entries = fs::read_dir(&folder.path).into_iter().flatten().flatten();
    let mut found: Vec<Attachment> = entries
        .filter_map(|entry| {
            let group_id = entry.file_name().to_str()?.parse().ok()?;
            let pins = entry.path();
            let about = about_at(&pins).unwrap_or_default();
            let link = |place: &Place| {
                let link = sys::open_pin(&pins.join(place.name())).ok()?;
                let info = sys::link_info(borrowed(&link)).ok()?;
                (info.group == group_id && info.place == place.kind().place).then_some((place.name(), info.program))
            };
            let programs: Vec<(&'static str, u32)> = Place::ALL.iter().filter_map(link).collect();
            let is_gone = programs.is_empty() && id_at(Path::new(&about.group)) != Some(group_id);
            Some(Attachment { group_id, pins, about, is_gone, programs })
        })
        .collect();
    found.sort_by(|one, other| one.about.group.cmp(&other.about.group));
    found
}
