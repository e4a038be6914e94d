//! Envoy's own configuration: listeners and clusters (api-v3/config/listener/v3/listener.proto, cluster/v3/cluster.proto,
//! core/v3/address.proto at envoyproxy.io), in a bootstrap, a file of resources, a dump, or alone.

use policy::Key;

use crate::context::{Context, Document};
use crate::draft::{Draft, Options, Part};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::socket_options;
use crate::time::{self, SECOND};
use crate::yaml::Value;

/// Whether a document is Envoy's, by what stands in it.
pub(crate) fn is_envoy(root: Value<'_>) -> bool {
    root.get("apiVersion").is_none()
        && (root.get("static_resources").is_some() || is_listener(root) || is_cluster(root) || is_resources(root))
}

fn is_listener(value: Value<'_>) -> bool {
    typed(value, "Listener") || value.at("address.socket_address").is_some() && !is_bootstrap(value)
}

fn is_cluster(value: Value<'_>) -> bool {
    typed(value, "Cluster")
        || ["load_assignment", "upstream_bind_config", "upstream_connection_options", "eds_cluster_config"]
            .iter()
            .any(|key| value.get(key).is_some())
}

fn is_bootstrap(value: Value<'_>) -> bool {
    value.get("static_resources").is_some() || value.get("admin").is_some()
}

fn is_resources(value: Value<'_>) -> bool {
    ["resources", "configs"]
        .iter()
        .filter_map(|key| value.get(key))
        .any(|list| list.items().take(3).any(|item| item.text_of("@type").is_some_and(|of| of.contains("envoy."))))
}

/// `kind: Listener` or the type of a packed message.
fn typed(value: Value<'_>, name: &str) -> bool {
    let of = value.text_of("@type").and_then(|of| of.rsplit('.').next());
    of == Some(name) || value.get("apiVersion").is_none() && value.text_of("kind") == Some(name)
}

/// Reads a document.
pub(crate) fn read(document: &Document<'_>, context: &mut Context<'_>) {
    context.is_mesh = true;
    let root = document.root;
    if is_listener(root) && !is_bootstrap(root) {
        return listener(root, document, context);
    }
    if is_cluster(root) {
        return cluster(root, None, document, context);
    }
    let base = root.at("cluster_manager.upstream_bind_config");
    if let Some(resources) = root.get("static_resources") {
        for value in resources.get("listeners").into_iter().flat_map(Value::items) {
            listener(value, document, context);
        }
        for value in resources.get("clusters").into_iter().flat_map(Value::items) {
            cluster(value, base, document, context);
        }
    }
    if let Some(admin) = root.get("admin").filter(|admin| admin.get("socket_options").is_some()) {
        listener(admin, document, context);
    }
    for value in ["resources", "configs"].iter().filter_map(|key| root.get(key)).flat_map(Value::items) {
        packed(value, document, context);
    }
}

/// A message with its type, as in files of resources and in dumps.
fn packed(value: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    if is_listener(value) {
        return listener(value, document, context);
    }
    if is_cluster(value) {
        return cluster(value, None, document, context);
    }
    for list in ["static_listeners", "dynamic_listeners", "static_clusters", "dynamic_active_clusters"] {
        for item in value.get(list).into_iter().flat_map(Value::items) {
            if let Some(found) = item.get("listener").or_else(|| item.at("active_state.listener")) {
                listener(found, document, context);
            }
            if let Some(found) = item.get("cluster") {
                cluster(found, None, document, context);
            }
        }
    }
    if let Some(bootstrap) = value.get("bootstrap") {
        read(&Document { root: bootstrap, ..*document }, context);
    }
}

fn name_of<'t>(value: Value<'t>, otherwise: &'t str) -> &'t str {
    value.text_of("name").unwrap_or(otherwise)
}

/// The place of a message's name, or of the whole.
fn place_of(value: Value<'_>, document: &Document<'_>) -> Place {
    document.place(value.get("name").unwrap_or(value))
}

/// A listener with its address.
pub(crate) fn listener(value: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    let name = name_of(value, "listener");
    let more =
        value.get("additional_addresses").into_iter().flat_map(Value::items).filter_map(|more| more.get("address"));
    let addresses: Vec<Value<'_>> = value.get("address").into_iter().chain(more).collect();
    let is_udp =
        addresses.iter().any(|address| address.at("socket_address.protocol").and_then(Value::text) == Some("UDP"));
    let side = if is_udp { Side::Udp } else { Side::Listen };
    let title = format!("Listener {name}{}", if is_udp { ", UDP" } else { "" });
    let mut draft = Draft::new(place_of(value, document), title, name, side);
    listener_options(&mut draft.options, value, side, document, &mut context.notes);
    if draft.options.is_empty() {
        return;
    }
    for address in &addresses {
        if let Some(pattern) = pattern(*address, side, document, &mut context.notes) {
            draft.target(&pattern, &document.place(*address), &mut context.notes);
        }
    }
    if addresses.is_empty() {
        context.notes.add(Kind::NoMatch, &draft.place, "left out: a listener without an address", "");
    }
    context.add(draft);
}

/// What a listener asks of its socket.
pub(crate) fn listener_options(
    options: &mut Options,
    value: Value<'_>,
    side: Side,
    document: &Document<'_>,
    notes: &mut Notes,
) {
    if let Some(queue) = value.get("tcp_fast_open_queue_length")
        && let Some(number) = document.integer(queue, notes)
    {
        options.set(Key::Fastopen, number.to_string(), &document.place(queue));
    }
    binding(options, value, document);
    if let Some(reuse) = value.get("enable_reuse_port").filter(|reuse| reuse.boolean() == Some(true)) {
        options.set(Key::ReusePort, "true", &document.place(reuse));
    }
    if let Some(list) = value.get("socket_options") {
        socket_options::read(options, list, side, document, notes);
    }
    if let Some(keepalive) = value.get("tcp_keepalive") {
        keepalive_of(options, keepalive, document, notes);
    }
    for item in value.get("additional_addresses").into_iter().flat_map(Value::items) {
        if let Some(own) = item.get("socket_options") {
            let message = "left out: socket options of one of several addresses";
            notes.add(Kind::NoMatch, &document.place(own), message, "write a rule with listen for this address");
        }
    }
    if let Some(backlog) = value.get("tcp_backlog_size") {
        let message = "left out: the backlog is an argument of listen(2), no socket option";
        notes.add(Kind::NotAnOption, &document.place(backlog), message, "");
    }
}

/// What bind needs: `freebind` and `transparent` of a listener, `freebind` of a bind_config.
fn binding(options: &mut Options, value: Value<'_>, document: &Document<'_>) {
    for (field, key) in [("freebind", Key::Freebind), ("transparent", Key::Transparent)] {
        let Some(given) = value.get(field) else { continue };
        if let Some(on) = given.boolean() {
            options.set(key, on.to_string(), &document.place(given));
        }
    }
}

/// config.core.v3.TcpKeepalive: seconds; a message without a field switches keepalive on with the system's times.
fn keepalive_of(options: &mut Options, value: Value<'_>, document: &Document<'_>, notes: &mut Notes) {
    options.keepalive.on = Some((true, document.place(value)));
    for (field, slot) in [
        ("keepalive_time", &mut options.keepalive.time),
        ("keepalive_interval", &mut options.keepalive.interval),
        ("keepalive_probes", &mut options.keepalive.probes),
    ] {
        let Some(given) = value.get(field) else { continue };
        let number = document.integer(given, notes).and_then(|number| u64::try_from(number).ok());
        *slot = number.map(|value| Part { value, place: document.place(given) });
    }
}

/// A cluster with its endpoints.
pub(crate) fn cluster(value: Value<'_>, base: Option<Value<'_>>, document: &Document<'_>, context: &mut Context<'_>) {
    let name = name_of(value, "cluster");
    let mut draft = Draft::new(place_of(value, document), format!("Cluster {name}"), name, Side::To);
    cluster_options(&mut draft.options, value, base, document, &mut context.notes);
    if draft.options.is_empty() {
        return;
    }
    let endpoints = value.at("load_assignment.endpoints").into_iter().flat_map(Value::items);
    let endpoints = endpoints.flat_map(|locality| locality.get("lb_endpoints").into_iter().flat_map(Value::items));
    let addresses = endpoints.filter_map(|endpoint| endpoint.at("endpoint.address"));
    // The API's second version.
    let hosts = value.get("hosts").into_iter().flat_map(Value::items);
    let mut is_without = true;
    for address in addresses.chain(hosts) {
        is_without = false;
        if let Some(pattern) = pattern(address, Side::To, document, &mut context.notes) {
            draft.target(&pattern, &document.place(address), &mut context.notes);
        }
    }
    if is_without {
        let message = format!("left out: no host: the endpoints of cluster \"{name}\" are not in this file");
        context.notes.add(Kind::NoMatch, &draft.place, message, "write a rule with to for them");
    }
    context.add(draft);
}

/// What a cluster asks of its connections.
pub(crate) fn cluster_options(
    options: &mut Options,
    value: Value<'_>,
    base: Option<Value<'_>>,
    document: &Document<'_>,
    notes: &mut Notes,
) {
    if let Some(keepalive) = value.at("upstream_connection_options.tcp_keepalive") {
        keepalive_of(options, keepalive, document, notes);
    }
    if let Some(bind) = value.get("upstream_bind_config").or(base) {
        binding(options, bind, document);
        if let Some(list) = bind.get("socket_options") {
            socket_options::read(options, list, Side::To, document, notes);
        }
    }
    if let Some(timeout) = value.get("connect_timeout") {
        connect_timeout(options, timeout, document, notes);
    }
}

/// A connect timeout, of the proxy's own: here the kernel gives up.
pub(crate) fn connect_timeout(options: &mut Options, value: Value<'_>, document: &Document<'_>, notes: &mut Notes) {
    let place = document.place(value);
    match duration(value) {
        Some(0) => {}
        Some(nanoseconds) => options.set(Key::ConnectTimeout, format!("\"{}\"", time::duration(nanoseconds)), &place),
        None => notes.add(Kind::Unreadable, &place, "this is no duration", "for example 5s"),
    }
}

/// A duration, as a text or as a message of seconds and nanos.
pub(crate) fn duration(value: Value<'_>) -> Option<u64> {
    if let Some(text) = value.text() {
        return time::nanoseconds(text, time::GO, None);
    }
    let part = |key: &str| value.get(key).map_or(Some(0), |part| part.integer().and_then(|n| u64::try_from(n).ok()));
    if !value.is_map() {
        return None;
    }
    part("seconds")?.checked_mul(SECOND)?.checked_add(part("nanos")?)
}

/// The pattern of an address.
fn pattern(address: Value<'_>, side: Side, document: &Document<'_>, notes: &mut Notes) -> Option<String> {
    let place = document.place(address);
    let Some(socket) = address.get("socket_address") else {
        let what = if address.get("pipe").is_some() { "a pipe (UNIX socket)" } else { "no IP address" };
        notes.add(Kind::NoMatch, &place, format!("left out: {what}, which has no TCP options"), "");
        return None;
    };
    let host = socket.text_of("address").unwrap_or_default();
    let port = match socket.get("port_value") {
        Some(port) => document.integer(port, notes)?,
        None => 0,
    };
    if port == 0 {
        let message = "left out: no port, or one that the kernel chooses";
        notes.add(Kind::NoMatch, &place, message, "");
        return None;
    }
    let is_any = side.is_server() && matches!(host, "0.0.0.0" | "::" | "");
    Some(match host {
        _ if is_any => format!(":{port}"),
        host if host.contains(':') => format!("[{host}]:{port}"),
        host => format!("{host}:{port}"),
    })
}
