//! The rules as a file: patches over what they change, in the order in which the first match is the right one.

use std::collections::BTreeMap;

use policy::plain::Plain;
use policy::{Enforce, Source};
use wildmatch::WildMatch;

use crate::context::Context;
use crate::draft::{Draft, Options, quoted};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;

/// What stands at the top where the files are about proxies.
const SIDECARS: &str = "\
# For programs without a sidecar. Inside Envoy the peer is a pod's address and target port, so the names and service
# ports of these rules match nothing there.
";

/// Writes it all, and says what is left out.
pub(crate) fn write(context: Context<'_>) -> (String, Notes) {
    let Context { sources, request, mut notes, drafts, mut defaults, defaults_from, mesh, is_mesh, .. } = context;
    let mut drafts = patched(drafts, &mut notes);
    if !mesh.is_empty() {
        // Last of all: what no other rule is for.
        let place = mesh.time.as_ref().map(|part| &part.place).or(mesh.on.as_ref().map(|(_, place)| place));
        if let Some(place) = place.cloned() {
            let mut draft = Draft::new(place, "the mesh's tcpKeepalive".into(), "mesh", Side::To);
            draft.targets.push("*".into());
            draft.options.keepalive = mesh;
            drafts.push(draft);
        }
    }
    order(&mut drafts);
    tell_doubles(&drafts, sources, &mut notes);
    let mut out = heading(sources);
    if is_mesh {
        out.push_str(SIDECARS);
    }
    if request.enforce.is_none() {
        out.push_str(
            "# By default a rule overrides the program. With enforce = \"fill\" in [defaults] it sets only what the program leaves at the\n\
             # system's default: --enforce fill.\n",
        );
    }
    let lines = defaults_lines(&mut defaults, request.enforce, &mut notes);
    if !lines.is_empty() {
        out.push('\n');
        for (place, title) in &defaults_from {
            out.push_str(&comment(place, title, sources));
        }
        out.push_str(&format!("[defaults]\n{}\n", lines.join("\n")));
    }
    let mut is_empty = lines.is_empty();
    for draft in &drafts {
        let text = rule(draft, sources, &mut notes);
        is_empty &= text.is_empty();
        out.push_str(&text);
    }
    if is_empty {
        out.push_str("\n# Nothing of it can be said here: no rule.\n");
    }
    (out, notes)
}

fn defaults_lines(defaults: &mut Options, enforce: Option<Enforce>, notes: &mut Notes) -> Vec<String> {
    let mut lines = defaults.lines(Side::Every, notes);
    if let Some(enforce) = enforce {
        let value = match enforce {
            Enforce::Always => "true",
            Enforce::Never => "false",
            Enforce::Fill => "\"fill\"",
        };
        lines.push(format!("enforce = {value}"));
    }
    lines
}

fn heading(sources: &[Source]) -> String {
    match sources {
        [one] => format!("# Made by sockopt import of {}\n", Plain(&one.name)),
        several => format!("# Made by sockopt import of {} files\n", several.len()),
    }
}

/// `# redis.yaml:12: DestinationRule prod/redis`
fn comment(place: &Place, title: &str, sources: &[Source]) -> String {
    let Some(source) = sources.get(place.source) else { return String::new() };
    let (line, _) = source.position(place.span.start);
    format!("# {}:{line}: {}\n", Plain(&source.name), Plain(title))
}

fn rule(draft: &Draft, sources: &[Source], notes: &mut Notes) -> String {
    let lines = draft.options.lines(draft.side, notes);
    if lines.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{}", comment(&draft.place, &draft.title, sources));
    let mut body = "[[rule]]\n".to_owned();
    if !draft.name.trim().is_empty() {
        body.push_str(&format!("name = {}\n", quoted(&draft.name)));
    }
    let side = if draft.side.is_server() { "listen" } else { "to" };
    let targets: Vec<String> = draft.targets.iter().map(|target| quoted(target)).collect();
    match (&draft.parked, targets.as_slice()) {
        (Some(_), []) => body.push_str(&format!("{side} = [] # to be filled in\n")),
        (_, few) if few.len() <= 4 => body.push_str(&format!("{side} = [{}]\n", few.join(", "))),
        (_, many) => body.push_str(&format!("{side} = [\n  {},\n]\n", many.join(",\n  "))),
    }
    match draft.side {
        Side::Udp => body.push_str("protocol = \"udp\"\n"),
        Side::Listen if draft.options.has_datagram() => body.push_str("protocol = \"tcp\"\n"),
        _ => {}
    }
    body.push_str(&lines.join("\n"));
    body.push('\n');
    match &draft.parked {
        None => text.push_str(&body),
        Some(why) => {
            text.push_str(&format!("# {}\n", Plain(why)));
            body.lines().for_each(|line| text.push_str(&format!("#{line}\n")));
        }
    }
    text
}

/// Patches of the same sockets become one rule, which has what it is silent about from the rule that would have been for
/// them.
fn patched(drafts: Vec<Draft>, notes: &mut Notes) -> Vec<Draft> {
    let (patches, mut done): (Vec<Draft>, Vec<Draft>) = drafts.into_iter().partition(|draft| draft.is_patch);
    let mut merged: Vec<Draft> = Vec::new();
    let mut known: BTreeMap<(Side, Vec<String>), usize> = BTreeMap::new();
    for mut patch in patches {
        let at = (patch.side, patch.targets.clone());
        match known.get(&at).and_then(|index| merged.get_mut(*index)) {
            // The later goes over the earlier.
            Some(earlier) => {
                if earlier.title != patch.title {
                    let message = format!("this goes over what {} says of the same sockets", Plain(&earlier.title));
                    notes.add(
                        Kind::Hint,
                        &patch.place,
                        message,
                        "import them apart if they are for different gateways or programs",
                    );
                }
                patch.options.under(&earlier.options);
                earlier.options = patch.options;
            }
            None => {
                known.insert(at, merged.len());
                merged.push(patch);
            }
        }
    }
    for patch in &mut merged {
        let same = done
            .iter()
            .position(|base| base.side == patch.side && base.targets == patch.targets && base.parked.is_none());
        if let Some(index) = same {
            let base = done.remove(index);
            patch.options.under(&base.options);
            patch.name = base.name;
        } else if let ([target], Side::To) = (patch.targets.as_slice(), patch.side) {
            let best = done
                .iter()
                .filter(|base| base.side == Side::To && base.targets.iter().any(|other| covers(other, target)));
            if let Some(base) = best.min_by_key(|base| rank(base)) {
                patch.options.under(&base.options);
            }
        }
    }
    done.append(&mut merged);
    done
}

/// A target's host and port.
fn parts(target: &str) -> (&str, Option<&str>) {
    match target.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
            if host.starts_with('[') == host.ends_with(']') {
                (host, Some(port))
            } else {
                (target, None)
            }
        }
        Some(("", port)) => ("*", Some(port)),
        _ => (target, None),
    }
}

/// Whether a pattern means all that another one does, as far as names go.
fn covers(pattern: &str, target: &str) -> bool {
    let ((pattern, port), (host, own)) = (parts(pattern), parts(target));
    (port.is_none() || port == own) && WildMatch::new(pattern).matches(host)
}

/// Port, exact host, wildcard with the longest first: the first match is to be the closest.
fn rank(draft: &Draft) -> (bool, bool, std::cmp::Reverse<usize>) {
    let of = |target: &String| {
        let (host, port) = parts(target);
        (port.is_none(), host.contains(['*', '?']) || host.contains('/'), std::cmp::Reverse(host.len()))
    };
    let worst = draft.targets.iter().map(of).max().unwrap_or((true, true, std::cmp::Reverse(0)));
    // Among exact ones the order of the files is kept.
    if worst.1 { worst } else { (worst.0, false, std::cmp::Reverse(0)) }
}

fn order(drafts: &mut [Draft]) {
    drafts.sort_by_key(|draft| {
        let (has_no_port, is_wild, length) = rank(draft);
        (draft.side, draft.parked.is_some(), has_no_port, is_wild, length)
    });
}

/// The second rule for the same sockets is never used.
fn tell_doubles(drafts: &[Draft], sources: &[Source], notes: &mut Notes) {
    let mut known: BTreeMap<(Side, &[String]), &Draft> = BTreeMap::new();
    for draft in drafts.iter().filter(|draft| draft.parked.is_none()) {
        if let Some(first) = known.get(&(draft.side, draft.targets.as_slice())) {
            let at = sources.get(first.place.source).map_or(0, |source| source.position(first.place.span.start).0);
            let name = sources.get(first.place.source).map_or("", |source| source.name.as_str());
            let message =
                format!("{} is for the same sockets; the first rule that matches is used", Plain(&first.title));
            notes.add(Kind::Hint, &draft.place, message, format!("it stands at {}:{at}", Plain(name)));
        } else {
            known.insert((draft.side, draft.targets.as_slice()), draft);
        }
    }
}
