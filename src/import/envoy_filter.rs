//! Istio's EnvoyFilter: patches of listeners and clusters (istio.io/latest/docs/reference/config/networking/envoy-filter).

use crate::context::{Context, Document};
use crate::draft::Draft;
use crate::envoy;
use crate::note::{Kind, Place};
use crate::oracle::Side;
use crate::yaml::Value;

/// The ports of the two sockets that a sidecar listens on.
const SIDECAR: [i64; 2] = [15_001, 15_006];

/// An EnvoyFilter.
pub(crate) fn read(document: &Document<'_>, context: &mut Context<'_>) {
    context.is_mesh = true;
    for patch in document.root.at("spec.configPatches").into_iter().flat_map(Value::items) {
        let Some(value) = patch.at("patch.value") else { continue };
        let is_new = matches!(
            patch.at("patch.operation").and_then(Value::text),
            Some("ADD" | "INSERT_FIRST" | "INSERT_BEFORE" | "INSERT_AFTER")
        );
        match patch.text_of("applyTo") {
            Some("LISTENER") if is_new => envoy::listener(value, document, context),
            Some("CLUSTER") if is_new => envoy::cluster(value, None, document, context),
            Some("LISTENER") => listener(patch, value, document, context),
            Some("CLUSTER") => cluster(patch, value, document, context),
            Some("BOOTSTRAP") => envoy::read(&Document { root: value, ..*document }, context),
            _ => {}
        }
    }
}

/// A rule in the making of a patch.
fn draft(patch: Value<'_>, document: &Document<'_>, side: Side) -> Draft {
    let place = document.place(patch.get("applyTo").unwrap_or(patch));
    Draft { is_patch: true, ..Draft::new(place, document.title(), document.name(), side) }
}

fn listener(patch: Value<'_>, value: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    let mut draft = draft(patch, document, Side::Listen);
    envoy::listener_options(&mut draft.options, value, Side::Listen, document, &mut context.notes);
    if draft.options.is_empty() {
        return;
    }
    let matched = patch.get("match");
    let port = matched.and_then(|matched| matched.at("listener.portNumber"));
    let name = matched.and_then(|matched| matched.at("listener.name"));
    let (number, place) = match (port, name) {
        (Some(port), _) => (document.integer(port, &mut context.notes), document.place(port)),
        // A listener of Istio's is called by its address and port: 0.0.0.0_8080.
        (None, Some(name)) => {
            let of = name.text().and_then(|text| text.rsplit_once('_')).and_then(|(_, port)| port.parse().ok());
            let fixed = match name.text() {
                Some("virtualOutbound") => Some(15_001),
                Some("virtualInbound") => Some(15_006),
                _ => None,
            };
            (fixed.or(of), document.place(name))
        }
        (None, None) => (None, draft.place.clone()),
    };
    let context_value = matched.and_then(|matched| matched.get("context"));
    let context_place = context_value.map_or_else(|| place.clone(), |value| document.place(value));
    let of = context_value.and_then(Value::text).unwrap_or("ANY");
    match (of, number) {
        ("GATEWAY", Some(port)) => draft.target(&format!(":{port}"), &place, &mut context.notes),
        ("GATEWAY", None) if port.is_none() && name.is_none() => draft.targets.push("*".into()),
        (_, Some(port)) if SIDECAR.contains(&port) => draft.target(&format!(":{port}"), &place, &mut context.notes),
        ("ANY", Some(port)) => {
            let message = format!("this is for gateways and sidecars; a sidecar has no socket with port {port}");
            context.notes.add(Kind::NotASocket, &context_place, message, "the rule is right for gateways");
            draft.target(&format!(":{port}"), &place, &mut context.notes);
        }
        (of, _) => {
            let message = format!("left out: {of}: of a sidecar's listeners only ports 15001 and 15006 are sockets");
            let help = "write a rule with listen for the program's own port";
            context.notes.add(Kind::NotASocket, &context_place, message, help);
        }
    }
    context.add(draft);
}

fn cluster(patch: Value<'_>, value: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    let mut draft = draft(patch, document, Side::To);
    envoy::cluster_options(&mut draft.options, value, None, document, &mut context.notes);
    if draft.options.is_empty() {
        return;
    }
    let matched = patch.get("match");
    let by = matched.and_then(|matched| matched.get("cluster"));
    let place = by.map_or_else(|| draft.place.clone(), |by| document.place(by));
    let inbound = matched.and_then(|matched| matched.text_of("context")) == Some("SIDECAR_INBOUND");
    let found = match by {
        // The name alone decides.
        Some(by) if by.get("name").is_some() => by_name(by.text_of("name").unwrap_or_default()),
        Some(by) => by_parts(by),
        None => Err("no host: it is for every cluster"),
    };
    let place = by.and_then(|by| by.get("name")).map_or(place, |name| document.place(name));
    match found {
        _ if inbound => refuse(context, &place, "inbound: the connection to the program in the same pod"),
        Err(why) => refuse(context, &place, why),
        Ok(target) => draft.target(&target, &place, &mut context.notes),
    }
    context.add(draft);
}

fn refuse(context: &mut Context<'_>, place: &Place, why: &str) {
    context.notes.add(
        Kind::NoMatch,
        place,
        format!("left out: {why}"),
        "write a rule with to for the hosts that are meant",
    );
}

/// `outbound|PORT|SUBSET|HOST`.
fn by_name(name: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = name.split('|').collect();
    match parts.as_slice() {
        [direction, ..] if direction.starts_with("inbound") => {
            Err("inbound: the connection to the program in the same pod")
        }
        ["outbound", _, subset, _] if !subset.is_empty() => {
            Err("a subset is chosen by the labels of pods, which no rule can see")
        }
        ["outbound", _, _, ""] => Err("no host in the cluster's name"),
        ["outbound", port, _, host] if !port.is_empty() => Ok(format!("{host}:{port}")),
        ["outbound", _, _, host] => Ok((*host).to_owned()),
        _ => Err("no host in the cluster's name"),
    }
}

/// Service, subset and port, all of which must match.
fn by_parts(by: Value<'_>) -> Result<String, &'static str> {
    if by.text_of("subset").is_some_and(|subset| !subset.is_empty()) {
        return Err("a subset is chosen by the labels of pods, which no rule can see");
    }
    let Some(host) = by.text_of("service") else {
        return match by.get("portNumber").and_then(Value::integer) {
            Some(port) if port > 0 => Ok(format!(":{port}")),
            _ => Err("no host: it is for every cluster"),
        };
    };
    match by.get("portNumber").and_then(Value::integer) {
        Some(port) if port > 0 => Ok(format!("{host}:{port}")),
        _ => Ok(host.to_owned()),
    }
}
