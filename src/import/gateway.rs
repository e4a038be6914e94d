//! Policies of gateways. A policy names its target, which stands in another document: a Gateway has ports, a route has services. Where
//! that document is given too, the rule has its target. The names are those of the APIs' own sources:
//!
//! - Envoy Gateway's BackendTrafficPolicy and ClientTrafficPolicy: envoyproxy/gateway, api/v1alpha1, keepalive_types.go (`probes`,
//!   `idleTime`, `interval`), timeout_types.go (`tcp.connectTimeout`), policy_helpers.go (`targetRef`, `targetRefs`). It cuts off fractions of
//!   a second, and its own Envoy listens on another port than the Gateway's below 1024 (internal/gatewayapi, translator.go, listener.go).
//! - kgateway's BackendConfigPolicy: kgateway-dev/kgateway, api/v1alpha1/backend_config_policy_types.go (`connectTimeout`, `tcpKeepalive` with
//!   `keepAliveTime`, ...); its targets are a Service, or a Backend, backend_types.go (`static.hosts`).
//! - Gloo's Upstream: solo-io/gloo, projects/gloo/api/v1, connection.proto (`connectionConfig`, `tcpKeepalive` with `keepaliveTime`, ...),
//!   options/static/static.proto (`hosts`), options/kubernetes/kubernetes.proto (`serviceName`, ...).
//! - Emissary's Mapping: emissary-ingress/emissary, charts/emissary-crds/templates/mappings.yaml (`keepalive` with `idle_time`, `interval`,
//!   `probes`, integers; `connect_timeout_ms`); python/ambassador, v3cluster.py reads `time` in place of `idle_time`.

use policy::Key;

use crate::context::{Context, Document};
use crate::draft::{Draft, Part};
use crate::envoy;
use crate::istio;
use crate::note::Kind;
use crate::oracle::Side;
use crate::time;
use crate::yaml::Value;

/// Kinds that are read here.
pub(crate) const KINDS: [&str; 5] =
    ["BackendTrafficPolicy", "ClientTrafficPolicy", "BackendConfigPolicy", "Upstream", "Mapping"];

/// A document of one of these kinds.
pub(crate) fn read(document: &Document<'_>, all: &[Document<'_>], context: &mut Context<'_>) {
    let Some(spec) = document.root.get("spec") else { return };
    let side = if document.kind() == "ClientTrafficPolicy" { Side::Listen } else { Side::To };
    let mut draft = Draft::new(document.origin(), document.title(), document.name(), side);
    let connection = spec.get("connectionConfig").unwrap_or(spec);
    for found in ["tcpKeepalive", "keepalive"].iter().filter_map(|key| connection.get(key)) {
        keepalive(&mut draft, found, document, context);
    }
    let timeouts = [connection.get("connectTimeout"), spec.at("timeout.tcp.connectTimeout")];
    for timeout in timeouts.into_iter().flatten().filter(|_| side == Side::To) {
        envoy::connect_timeout(&mut draft.options, timeout, document, &mut context.notes);
    }
    if let Some(timeout) = spec.get("connect_timeout_ms").filter(|_| document.kind() == "Mapping")
        && let Some(number) = document.integer(timeout, &mut context.notes)
        && let Ok(number @ 1..) = u64::try_from(number)
    {
        let value = format!("\"{}\"", time::duration(number.saturating_mul(1_000_000)));
        draft.options.set(Key::ConnectTimeout, value, &document.place(timeout));
    }
    if draft.options.is_empty() {
        return;
    }
    context.is_mesh = true;
    let before = draft.targets.len();
    match document.kind() {
        "Upstream" => upstream(&mut draft, spec, document, context),
        "Mapping" => {
            if let Some(service) = spec.get("service").filter(|service| service.text().is_some()) {
                let text = service.text().unwrap_or_default();
                let host = text.split_once("://").map_or(text, |(_, host)| host);
                service_target(&mut draft, host, None, service, document, context);
            }
        }
        _ => {
            let one = spec.get("targetRef").into_iter();
            for target in one.chain(spec.get("targetRefs").into_iter().flat_map(Value::items)) {
                resolve(&mut draft, target, document, all, context);
            }
        }
    }
    if draft.targets.len() == before {
        let target = spec.get("targetRefs").or_else(|| spec.get("targetRef")).or_else(|| spec.get("targetSelectors"));
        let place = target.map_or_else(|| document.origin(), |target| document.place(target));
        let message = "the target stands in another document, so the rule is printed as a comment";
        context.notes.add(
            Kind::Elsewhere,
            &place,
            message,
            "import it together with that document, or write the target into the rule",
        );
        draft.parked = Some("The target stands in another document.".into());
    }
    context.add(draft);
}

/// `probes`, `idleTime`, `interval` of Envoy Gateway; `keepAlive...` of kgateway, `keepalive...` of Gloo; `time` or `idle_time` of Emissary.
fn keepalive(draft: &mut Draft, value: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    let keepalive = &mut draft.options.keepalive;
    let notes = &mut context.notes;
    keepalive.on = Some((true, document.place(value)));
    let of = |names: &[&str]| names.iter().find_map(|name| value.get(name));
    // A number alone is seconds.
    let seconds = |given: Value<'_>, notes: &mut _| match given.integer() {
        Some(number) => u64::try_from(number).ok().map(|value| Part { value, place: document.place(given) }),
        None => istio::whole_seconds(given, document, notes, "the gateway"),
    };
    if let Some(given) = of(&["idleTime", "keepAliveTime", "keepaliveTime", "time", "idle_time"]) {
        keepalive.time = seconds(given, notes);
    }
    if let Some(given) = of(&["interval", "keepAliveInterval", "keepaliveInterval"]) {
        keepalive.interval = seconds(given, notes);
    }
    if let Some(given) = of(&["probes", "keepAliveProbes", "keepaliveProbes"]) {
        let number = document.integer(given, notes).and_then(|number| u64::try_from(number).ok());
        keepalive.probes = number.map(|value| Part { value, place: document.place(given) });
    }
}

/// Gloo's: hosts, or a service of Kubernetes.
fn upstream(draft: &mut Draft, spec: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    for host in spec.at("static.hosts").into_iter().flat_map(Value::items) {
        let Some(address) = host.get("addr").filter(|address| address.text().is_some()) else { continue };
        let port = host.get("port").and_then(Value::integer);
        service_or_host(draft, address.text().unwrap_or_default(), port, document, address, context);
    }
    if let Some(kube) = spec.get("kube")
        && let Some(name) = kube.get("serviceName")
    {
        let namespace = kube.text_of("serviceNamespace");
        let port = kube.get("servicePort").and_then(Value::integer);
        let full = name.text().zip(namespace).map(|(name, namespace)| format!("{name}.{namespace}"));
        service_target(draft, full.as_deref().or(name.text()).unwrap_or_default(), port, name, document, context);
    }
}

/// A host as it stands.
fn service_or_host(
    draft: &mut Draft,
    host: &str,
    port: Option<i64>,
    document: &Document<'_>,
    value: Value<'_>,
    context: &mut Context<'_>,
) {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let target = port.map_or(host.clone(), |port| format!("{host}:{port}"));
    draft.target(&target, &document.place(value), &mut context.notes);
}

/// A service: `name`, `name.namespace`, either with a port, or a name that is full.
fn service_target(
    draft: &mut Draft,
    host: &str,
    port: Option<i64>,
    value: Value<'_>,
    document: &Document<'_>,
    context: &mut Context<'_>,
) {
    let (host, own) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, port.parse().ok()));
    let full = match host.matches('.').count() {
        0 => document.namespace(context.request).map(|namespace| format!("{host}.{namespace}.svc.cluster.local")),
        1 if !host.ends_with(".local") && document.kind() != "Mapping" => Some(format!("{host}.svc.cluster.local")),
        _ => Some(host.to_owned()),
    };
    match full {
        Some(full) => service_or_host(draft, &full, port.or(own), document, value, context),
        None => {
            let message = format!("\"{host}\" is the short name of a service, and no namespace is known");
            context.notes.add(Kind::NoMatch, &document.place(value), message, "give one: --namespace NAME");
        }
    }
}

/// The other document, if it is here.
fn resolve(
    draft: &mut Draft,
    target: Value<'_>,
    document: &Document<'_>,
    all: &[Document<'_>],
    context: &mut Context<'_>,
) {
    let (Some(kind), Some(name)) = (target.text_of("kind"), target.text_of("name")) else { return };
    let namespace =
        target.text_of("namespace").or_else(|| document.root.at("metadata.namespace").and_then(Value::text));
    let section = target.text_of("sectionName");
    if kind == "Service" {
        let text = namespace.map_or(name.to_owned(), |namespace| format!("{name}.{namespace}"));
        return service_target(draft, &text, None, target, document, context);
    }
    let is_it = |other: &&Document<'_>| {
        let own = other.root.at("metadata.namespace").and_then(Value::text);
        other.kind() == kind && other.name() == name && (own == namespace || own.is_none() || namespace.is_none())
    };
    for found in all.iter().filter(is_it).take(1) {
        match (kind, draft.side) {
            ("Gateway" | "ListenerSet" | "XListenerSet", Side::Listen) => {
                for listener in found.root.at("spec.listeners").into_iter().flat_map(Value::items) {
                    let is_meant = section.is_none_or(|section| listener.text_of("name") == Some(section));
                    if let Some(port) = listener.get("port").filter(|_| is_meant) {
                        let number = found.integer(port, &mut context.notes).unwrap_or_default();
                        let place = found.place(port);
                        draft.target(&format!(":{number}"), &place, &mut context.notes);
                        if (1..1024).contains(&number) {
                            let shifted = number + 10_000;
                            let message =
                                format!("Envoy Gateway's own Envoy listens on port {shifted} for port {number}");
                            let help = "not with useListenerPortAsContainerPort; the rule has both ports";
                            context.notes.add(Kind::Changed, &place, message, help);
                            draft.target(&format!(":{shifted}"), &place, &mut context.notes);
                        }
                    }
                }
            }
            ("Gateway", _) => {
                for route in all.iter().filter(|route| route.kind().ends_with("Route")) {
                    let parents = route.root.at("spec.parentRefs").into_iter().flat_map(Value::items);
                    if parents.take(64).any(|parent| parent.text_of("name") == Some(name)) {
                        backends(draft, route, context);
                    }
                }
            }
            ("Backend", _) => {
                for endpoint in found.root.at("spec.endpoints").into_iter().flat_map(Value::items) {
                    let host = endpoint.at("fqdn.hostname").or_else(|| endpoint.at("ip.address"));
                    let port = endpoint.at("fqdn.port").or_else(|| endpoint.at("ip.port"));
                    if let Some(host) = host {
                        let text = host.text().unwrap_or_default();
                        service_or_host(draft, text, port.and_then(Value::integer), found, host, context);
                    }
                }
                for host in found.root.at("spec.static.hosts").into_iter().flat_map(Value::items) {
                    let Some(name) = host.get("host").filter(|name| name.text().is_some()) else { continue };
                    let port = host.get("port").and_then(Value::integer);
                    service_or_host(draft, name.text().unwrap_or_default(), port, found, name, context);
                }
            }
            _ => backends(draft, found, context),
        }
    }
}

/// The services of a route.
fn backends(draft: &mut Draft, route: &Document<'_>, context: &mut Context<'_>) {
    for rule in route.root.at("spec.rules").into_iter().flat_map(Value::items) {
        for backend in rule.get("backendRefs").into_iter().flat_map(Value::items) {
            let Some(name) = backend.get("name").filter(|name| name.text().is_some()) else { continue };
            let own = route.root.at("metadata.namespace").and_then(Value::text);
            let namespace = backend.text_of("namespace").or(own);
            let text = name.text().unwrap_or_default();
            let host = namespace.map_or(text.to_owned(), |namespace| format!("{text}.{namespace}"));
            service_target(draft, &host, backend.get("port").and_then(Value::integer), name, route, context);
        }
    }
}
