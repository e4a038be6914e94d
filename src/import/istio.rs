//! Istio's DestinationRule and the mesh's own settings (istio.io/latest/docs/reference/config/networking/destination-rule,
//! .../istio.mesh.v1alpha1; how they overlay each other: pilot/pkg/networking/core, `applyTCPKeepalive`).

use policy::Key;

use crate::context::{Context, Document};
use crate::draft::{Draft, Keepalive, Part};
use crate::envoy;
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::time::SECOND;
use crate::yaml::{self, Value};

/// What the mesh says for every connection; before the rules, which go over it.
pub(crate) fn mesh(document: &Document<'_>, context: &mut Context<'_>) {
    let root = document.root;
    let within = |root: Value<'_>, context: &mut Context<'_>, place: Option<&Place>| {
        let settings = [root.at("spec.meshConfig"), root.get("meshConfig"), root.at("spec.values.meshConfig")];
        let is_alone = place.is_some() || document.kind() == "MeshConfig";
        for mesh in settings.into_iter().flatten().chain(is_alone.then_some(root)) {
            let Some(given) = mesh.get("tcpKeepalive") else { continue };
            context.is_mesh = true;
            let mut keepalive = keepalive(given, document, &mut context.notes);
            if let Some(place) = place {
                keepalive.move_to(place);
            }
            context.mesh = keepalive;
        }
    };
    within(root, context, None);
    // The ConfigMap `istio` has it as a text, whose places are those of the whole.
    if document.kind() == "ConfigMap"
        && let Some(text) = root.at("data.mesh").filter(|text| text.text().is_some())
    {
        let place = document.place(text);
        let stream = yaml::read(text.text().unwrap_or_default());
        for inner in stream.documents() {
            within(inner, context, Some(&place));
        }
    }
}

impl Keepalive {
    /// Gives all of it one place.
    fn move_to(&mut self, place: &Place) {
        for part in [&mut self.time, &mut self.interval, &mut self.probes].into_iter().flatten() {
            part.place = place.clone();
        }
        if let Some((_, own)) = &mut self.on {
            *own = place.clone();
        }
    }
}

/// A DestinationRule.
pub(crate) fn destination_rule(document: &Document<'_>, context: &mut Context<'_>) {
    context.is_mesh = true;
    let Some(spec) = document.root.get("spec") else { return };
    if let Some(selector) = spec.get("workloadSelector") {
        let message = "this rule is for the clients with these labels alone";
        context.notes.add(Kind::Hint, &document.place(selector), message, "use the outcome only there");
    }
    let policy = spec.get("trafficPolicy");
    let mut whole = Draft::new(document.origin(), document.title(), document.name(), Side::To);
    let mut ports = Vec::new();
    if let Some(policy) = policy {
        take(&mut whole, policy, document, &mut context.notes);
        for settings in policy.get("portLevelSettings").into_iter().flat_map(Value::items) {
            let Some(number) = settings.at("port.number") else { continue };
            let Some(port) = document.integer(number, &mut context.notes) else { continue };
            let place = document.place(number);
            let name = format!("{} port {port}", document.name());
            let mut draft = Draft::new(place.clone(), document.title(), &name, Side::To);
            take(&mut draft, settings, document, &mut context.notes);
            ports.push((draft, port, place));
        }
    }
    for subset in spec.get("subsets").into_iter().flat_map(Value::items) {
        let Some(tcp) = subset.at("trafficPolicy.connectionPool.tcp") else { continue };
        let name = subset.text_of("name").unwrap_or_default();
        let message = format!("left out: subset \"{name}\" is chosen by the labels of pods, which no rule can see");
        context.notes.add(Kind::NoMatch, &document.place(tcp), message, "");
    }
    let host = host(spec, document, context, !whole.options.is_empty() || !ports.is_empty());
    let Some((host, place)) = host else { return };
    // It replaces the whole policy: what it is silent about is the system's, not the host's.
    for (draft, port, port_place) in &mut ports {
        let silent: Vec<Key> = whole.options.keys().filter(|key| !draft.options.has(*key)).collect();
        for key in silent {
            // The mesh's keepalive is under every policy.
            if key == Key::Keepalive && !context.mesh.is_empty() {
                continue;
            }
            draft.options.set(key, "\"system\"", port_place);
        }
        if !context.mesh.is_empty() && draft.options.keepalive.is_empty() {
            draft.options.keepalive.on = Some((true, port_place.clone()));
        }
        aim(draft, &host, Some(*port), &place, context);
    }
    if !context.mesh.is_empty() && !whole.options.is_empty() && whole.options.keepalive.is_empty() {
        whole.options.keepalive = context.mesh.clone();
    }
    aim(&mut whole, &host, None, &place, context);
    for draft in ports.into_iter().map(|(draft, ..)| draft).chain([whole]) {
        context.add(draft);
    }
}

/// Gives a rule its target, and lays the mesh's keepalive under its own.
fn aim(draft: &mut Draft, host: &Host, port: Option<i64>, place: &Place, context: &mut Context<'_>) {
    if !draft.options.keepalive.is_empty() {
        let mut keepalive = std::mem::take(&mut draft.options.keepalive);
        keepalive.over(&context.mesh);
        draft.options.keepalive = keepalive;
    }
    match host {
        Host::Full(host) => {
            let target = port.map_or(host.clone(), |port| format!("{host}:{port}"));
            draft.target(&target, place, &mut context.notes);
        }
        Host::Short(host) => {
            draft.parked = Some(format!("No namespace is known for the host \"{host}\": --namespace completes it."));
        }
    }
}

impl Keepalive {
    /// Takes from the mesh what is not said here.
    fn over(&mut self, mesh: &Self) {
        for (own, base) in
            [(&mut self.time, &mesh.time), (&mut self.interval, &mesh.interval), (&mut self.probes, &mesh.probes)]
        {
            if own.is_none() {
                own.clone_from(base);
            }
        }
    }
}

enum Host {
    Full(String),
    Short(String),
}

/// The rule's host: a short name belongs to the rule's namespace.
fn host(spec: Value<'_>, document: &Document<'_>, context: &mut Context<'_>, is_needed: bool) -> Option<(Host, Place)> {
    let value = spec.get("host");
    let Some(host) = value.and_then(Value::text) else {
        if is_needed {
            context.notes.add(Kind::NoMatch, &document.origin(), "left out: a rule without a host", "");
        }
        return None;
    };
    let place = value.map_or_else(|| document.origin(), |value| document.place(value));
    let is_short = !host.contains('.') && host != "*";
    if !is_short {
        return Some((Host::Full(host.to_owned()), place));
    }
    match document.namespace(context.request) {
        Some(namespace) => Some((Host::Full(format!("{host}.{namespace}.svc.cluster.local")), place)),
        None => {
            if is_needed {
                let message = format!("\"{host}\" is the short name of a service, and no namespace is known");
                context.notes.add(Kind::NoMatch, &place, message, "give one: --namespace NAME");
            }
            Some((Host::Short(host.to_owned()), place))
        }
    }
}

/// What of a policy is about sockets.
fn take(draft: &mut Draft, policy: Value<'_>, document: &Document<'_>, notes: &mut Notes) {
    let Some(pool) = policy.get("connectionPool") else { return };
    if let Some(http) = pool.get("http") {
        let place = document.place(http.entries().next().map_or(http, |(_, name, _)| name));
        notes.add(Kind::OwnTimer, &place, "left out: connectionPool.http: timers and limits of Envoy's own", "");
    }
    let Some(tcp) = pool.get("tcp") else { return };
    for (name, key, value) in tcp.entries() {
        match name {
            "tcpKeepalive" | "tcp_keepalive" => draft.options.keepalive = keepalive(value, document, notes),
            "connectTimeout" | "connect_timeout" => envoy::connect_timeout(&mut draft.options, value, document, notes),
            "idleTimeout" | "idle_timeout" | "maxConnectionDuration" | "maxConnections" | "max_connections" => {
                let message = format!("left out: {name}: a timer or limit of Envoy's own, no socket option");
                notes.add(Kind::OwnTimer, &document.place(key), message, "");
            }
            _ => {}
        }
    }
}

/// TcpKeepalive: probes 0 means unset; whole seconds, the rest is cut off.
pub(crate) fn keepalive(value: Value<'_>, document: &Document<'_>, notes: &mut Notes) -> Keepalive {
    let mut keepalive = Keepalive { on: Some((true, document.place(value))), ..Keepalive::default() };
    if let Some(probes) = value.get("probes")
        && let Some(number) = document.integer(probes, notes)
    {
        let number = u64::try_from(number).ok().filter(|number| *number > 0);
        keepalive.probes = number.map(|value| Part { value, place: document.place(probes) });
    }
    for (field, slot) in [("time", &mut keepalive.time), ("interval", &mut keepalive.interval)] {
        let Some(given) = value.get(field) else { continue };
        *slot = whole_seconds(given, document, notes, "Istio");
    }
    keepalive
}

/// A duration whose fraction of a second somebody cuts off.
pub(crate) fn whole_seconds(value: Value<'_>, document: &Document<'_>, notes: &mut Notes, who: &str) -> Option<Part> {
    let place = document.place(value);
    let Some(nanoseconds) = envoy::duration(value) else {
        notes.add(Kind::Unreadable, &place, "this is no duration", "for example 60s");
        return None;
    };
    let seconds = nanoseconds / SECOND;
    if !nanoseconds.is_multiple_of(SECOND) {
        let message = format!("a fraction of a second: {who} cuts it off, which leaves {seconds} s");
        notes.add(Kind::Fraction, &place, message, "");
    }
    Some(Part { value: seconds, place })
}
