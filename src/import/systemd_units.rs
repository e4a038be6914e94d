//! Units of systemd and their drop-ins, which are read as one: systemd.unit(5), "Description".

use std::cmp::Reverse;

use crate::context::Context;

/// The files that make one unit, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Unit {
    /// `foo.socket`.
    pub(crate) name: String,
    /// The unit's file first, if it is here, then its drop-ins.
    pub(crate) sources: Vec<usize>,
    /// Whether the first is the unit's file.
    pub(crate) is_whole: bool,
}

/// What the path of a drop-in says: `.../foo.socket.d/10-x.conf`.
struct DropIn<'a> {
    source: usize,
    /// `foo.socket`, `foo-.socket` or `socket`.
    unit: &'a str,
    file: &'a str,
    rank: u8,
}

/// Puts files together. A drop-in is read after its unit, those of several folders in the order of their names; of two with one
/// name the one counts whose folder is for fewer units, then the one in /etc before /run before /usr/lib.
pub(crate) fn units(sources: &[usize], context: &Context<'_>) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut drop_ins = Vec::new();
    for &source in sources {
        let path = context.sources.get(source).map_or("", |source| source.name.as_str());
        match drop_in(source, path) {
            Some(drop_in) => drop_ins.push(drop_in),
            None => units.push(Unit { name: last(path).to_owned(), sources: vec![source], is_whole: true }),
        }
    }
    let mut is_used = vec![false; drop_ins.len()];
    for unit in &mut units {
        let mut own: Vec<(usize, &DropIn<'_>)> =
            drop_ins.iter().enumerate().filter(|(_, drop_in)| weight(&unit.name, drop_in.unit).is_some()).collect();
        own.iter().for_each(|(at, _)| is_used[*at] = true);
        // The first of each name counts.
        own.sort_by_key(|(at, drop_in)| (drop_in.file, Reverse(weight(&unit.name, drop_in.unit)), drop_in.rank, *at));
        own.dedup_by_key(|(_, drop_in)| drop_in.file);
        unit.sources.extend(own.iter().map(|(_, drop_in)| drop_in.source));
    }
    // Drop-ins of a unit that is not here, together.
    let mut left: Vec<(&DropIn<'_>, bool)> = drop_ins.iter().zip(is_used).collect();
    left.retain(|(_, is_used)| !is_used);
    left.sort_by_key(|(drop_in, _)| (drop_in.unit, drop_in.file, drop_in.rank, drop_in.source));
    left.dedup_by_key(|(drop_in, _)| (drop_in.unit, drop_in.file));
    for group in left.chunk_by(|(one, _), (other, _)| one.unit == other.unit) {
        let name = group.first().map_or("", |(drop_in, _)| drop_in.unit).to_owned();
        let sources = group.iter().map(|(drop_in, _)| drop_in.source).collect();
        units.push(Unit { name, sources, is_whole: false });
    }
    units
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn drop_in(source: usize, path: &str) -> Option<DropIn<'_>> {
    let (folder, file) = path.rsplit_once('/')?;
    let unit = last(folder).strip_suffix(".d").filter(|unit| *unit == "socket" || unit.ends_with(".socket"))?;
    let rank =
        [("/etc/", 0), ("/run/", 1)].iter().find(|(start, _)| path.starts_with(start)).map_or(2, |(_, rank)| *rank);
    file.ends_with(".conf").then_some(DropIn { source, unit, file, rank })
}

/// How closely a folder's name means a unit: `foo-bar.socket.d` more than `foo-.socket.d`, and that more than `socket.d`; the
/// folder of an instance more than that of its template. None if it does not.
fn weight(unit: &str, folder: &str) -> Option<usize> {
    if folder == "socket" {
        return Some(0);
    }
    if unit == folder {
        return Some(usize::MAX);
    }
    let (unit, folder) = (unit.strip_suffix(".socket")?, folder.strip_suffix(".socket")?);
    let template = unit.split_once('@').map(|(template, _)| template);
    let is_template = folder.strip_suffix('@').is_some_and(|folder| template == Some(folder));
    let is_prefix = folder.ends_with('-') && unit.starts_with(folder);
    (is_template || is_prefix).then_some(folder.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Request;
    use policy::Source;

    #[test]
    fn in_the_order_of_systemd() {
        let source = |name: &&str| Source { name: (*name).to_owned(), text: String::new() };
        let cases: &[(&[&str], &[&[usize]])] = &[
            (&["foo.socket.d/10.conf", "foo.socket"], &[&[1, 0]]),
            (&["a.socket", "a.socket.d/b.conf", "a.socket.d/a.conf", "socket.d/aa.conf"], &[&[0, 2, 3, 1]]),
            // One name: the closest, then /etc.
            (&["foo-bar.socket", "foo-.socket.d/x.conf", "foo-bar.socket.d/x.conf", "socket.d/x.conf"], &[&[0, 2]]),
            (
                &["a.socket", "/usr/lib/systemd/system/a.socket.d/x.conf", "/etc/systemd/system/a.socket.d/x.conf"],
                &[&[0, 2]],
            ),
            (&["a@1.socket", "a@.socket.d/x.conf", "a@1.socket.d/y.conf", "b.socket.d/z.conf"], &[&[0, 1, 2], &[3]]),
            // No unit of theirs, and no folder that says one.
            (&["b.socket.d/2.conf", "b.socket.d/1.conf", "a.socket.d/1.conf"], &[&[2], &[1, 0]]),
            (&["override.conf", "a.socket"], &[&[0], &[1]]),
        ];
        for (names, expected) in cases {
            let sources: Vec<Source> = names.iter().map(source).collect();
            let request = Request::default();
            let context = Context::new(&sources, &request);
            let numbers: Vec<usize> = (0..sources.len()).collect();
            let found: Vec<Vec<usize>> = units(&numbers, &context).into_iter().map(|unit| unit.sources).collect();
            assert_eq!(found, expected.iter().map(|unit| unit.to_vec()).collect::<Vec<_>>(), "{names:?}");
        }
    }
}
