//! The JSON Schema of the configuration, from the catalogue: editors complete and check sockopt.toml with it.
//!
//! Draft 7, which the TOML extensions of the common editors read. A schema sees form: keys, types, units, ranges of plain
//! numbers. What depends on other keys or on arithmetic is for `sockopt check`.

use clap::Command;
use policy::catalog::{Accepts, DSCP_NAMES};
use policy::{CATALOG, Entry, Key, Protocol, constants};
use serde_json::{Map, Value, json};

use crate::{args, exit, output};

pub(crate) fn command() -> Command {
    Command::new("schema")
        .about("Print the JSON Schema of the configuration")
        .long_about(
            "Prints the JSON Schema of sockopt.toml, with which editors complete and check the file. For that, write \
             \"#:schema ./sockopt.schema.json\" as its first line, or associate the schema in the editor.",
        )
        .after_long_help(exit::section(&exit::PRINTING))
}

pub(crate) fn print() -> u8 {
    output::print_bytes(output::json(&schema(), true).as_bytes());
    exit::OK
}

fn schema() -> Value {
    let supported = || CATALOG.iter();
    let reference = |name: &str| json!({ "$ref": format!("#/definitions/{name}") });
    let options = || supported().map(|entry| (entry.key.name().to_owned(), reference(entry.key.name())));
    let conditions = [
        ("name", "For logs and messages.", json!({ "type": "string", "pattern": "\\S" })),
        ("to", "Destinations of sockets that connect: addresses, networks, host names.", reference("destinations")),
        (
            "listen",
            "Addresses of listening sockets; the sockets that they accept inherit the options.",
            reference("addresses"),
        ),
        ("from", "Addresses of clients; the options are set on each accepted socket.", reference("addresses")),
        (
            "protocol",
            "Whose ports listen means, TCP's or UDP's; both if it is left out.",
            json!({ "enum": Protocol::ALL.map(Protocol::name) }),
        ),
        (
            "process",
            "The executable's base name, the name that it was started by, or the base name of the script that it runs; * and ? are wildcards.",
            list(&json!({ "type": "string", "pattern": "^[^/]+$" })),
        ),
        (
            "command",
            "The whole command line; * and ? are wildcards.",
            list(&json!({ "type": "string", "minLength": 1 })),
        ),
    ];
    let conditions = conditions.into_iter().map(|(name, description, form)| {
        // Beside $ref nothing counts in this draft.
        (name.to_owned(), json!({ "description": description, "allOf": [form] }))
    });
    let both = |one: &str, other: &str| json!({ "required": [one, other] });
    let doubled = [both("dead_peer_timeout", "keepalive"), both("dead_peer_timeout", "user_timeout")];
    let udp_clients = json!({ "required": ["from", "protocol"], "properties": { "protocol": { "const": "udp" } } });
    let protocol_alone = json!({ "required": ["protocol"], "not": { "required": ["listen"] } });
    let opposed = [both("to", "listen"), both("to", "from"), udp_clients, protocol_alone];
    let table = |description: &str, properties: Map<String, Value>, never: Vec<Value>| {
        json!({
            "description": description,
            "type": "object",
            "additionalProperties": false,
            "not": { "anyOf": never },
            "properties": properties,
        })
    };
    let mut definitions = Map::from_iter([
        (
            "duration".to_owned(),
            json!({ "type": "string", "pattern": "^\\s*([0-9]+\\s*(us|ms|s|m|h|d)\\s*)+$", "examples": ["250ms", "5s", "1m30s"] }),
        ),
        (
            "size".to_owned(),
            json!({ "type": "string", "pattern": "^\\s*[0-9]+\\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)\\s*$", "examples": ["4MiB"] }),
        ),
        (
            "destinations".to_owned(),
            list(
                &json!({ "type": "string", "pattern": destination(), "examples": ["10.0.0.0/8:443", "*.example.com:443", ":9092"] }),
            ),
        ),
        (
            "addresses".to_owned(),
            list(
                &json!({ "type": "string", "pattern": address(), "examples": ["10.0.0.0/8:443", "[2001:db8::/32]:8000-8099", ":9092", "*"] }),
            ),
        ),
    ]);
    definitions.extend(supported().map(|entry| (entry.key.name().to_owned(), key(entry))));
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "sockopt.toml",
        "description": "Configuration of libsockopt.so: TCP socket options by destination, listener and process.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "defaults": table("Every TCP socket; a rule overrides it key by key.", options().collect(), doubled.to_vec()),
            "rule": {
                "description": "The first rule that matches is used, and no other.",
                "type": "array",
                "items": table(
                    "A rule: conditions, and the options of the sockets that meet all of them.",
                    conditions.chain(options()).collect(),
                    doubled.into_iter().chain(opposed).collect(),
                ),
            },
        },
        "definitions": definitions,
    })
}

/// One, or several in a list.
fn list(item: &Value) -> Value {
    json!({ "anyOf": [item, { "type": "array", "minItems": 1, "items": item }] })
}

/// The form of an address pattern; not every address of that form exists.
fn destination() -> String {
    // A name has a letter somewhere; no part of it is empty, but for the root's.
    let name = "(?=[^:]*[A-Za-z])[A-Za-z0-9*?_-]+(\\.[A-Za-z0-9*?_-]+)*\\.?";
    format!("({})|(^\\s*{name}(:[0-9]+(-[0-9]+)?)?\\s*$)", address())
}

fn address() -> String {
    let v4 = "[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?";
    let v6 = "[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?";
    let port = ":[0-9]+(-[0-9]+)?";
    format!("^\\s*(!\\s*)?(({v4}|\\[[0-9A-Fa-f:./]+\\]|\\*)({port})?|{port}|{v6})\\s*$")
}

/// The definition of a key.
fn key(entry: &Entry) -> Value {
    let (forms, examples) = forms(entry);
    let mut forms = forms;
    if entry.accepts != Accepts::Enforce {
        forms.push(json!({ "const": "system", "description": "Not set." }));
    }
    let mut definition = Map::from_iter([("description".to_owned(), json!(args::description(entry)))]);
    if entry.key == Key::Enforce {
        definition.insert("default".to_owned(), json!(true));
    }
    match <[Value; 1]>::try_from(forms) {
        Ok([Value::Object(only)]) => definition.extend(only),
        Ok([only]) => drop(definition.insert("allOf".to_owned(), json!([only]))),
        Err(forms) => drop(definition.insert("anyOf".to_owned(), json!(forms))),
    }
    if !examples.is_empty() {
        definition.insert("examples".to_owned(), json!(examples));
    }
    Value::Object(definition)
}

/// The forms that a key's value may have, but for "system", and some values.
fn forms(entry: &Entry) -> (Vec<Value>, Vec<Value>) {
    let duration = || json!({ "$ref": "#/definitions/duration" });
    let size = || json!({ "$ref": "#/definitions/size" });
    let words = |words: &[&str]| json!({ "enum": words });
    let integer = |min: i64, max: i64| json!({ "type": "integer", "minimum": min, "maximum": max });
    let boolean = || json!({ "type": "boolean" });
    let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<Value>>();
    match entry.accepts {
        Accepts::Keepalive => {
            let parts = json!({
                "time": { "description": "TCP_KEEPIDLE: idle time before the first probe, 1s to 32767s.", "allOf": [duration()] },
                "interval": { "description": "TCP_KEEPINTVL: time between probes, 1s to 32767s.", "allOf": [duration()] },
                "probes": { "description": "TCP_KEEPCNT: probes without an answer before the connection is given up.", "type": "integer", "minimum": 1, "maximum": 127 },
            });
            let table = json!({ "type": "object", "additionalProperties": false, "properties": parts });
            (vec![table, words(&["on", "off"])], vec![json!({ "time": "60s", "interval": "20s", "probes": 4 })])
        }
        Accepts::UserTimeout => (vec![words(&["auto", "off"]), duration()], texts(&["auto", "30s"])),
        Accepts::DeadPeerTimeout => (vec![duration()], texts(&["15s", "60s"])),
        Accepts::Linger => (vec![words(&["reset", "off"]), duration()], texts(&["reset", "5s"])),
        Accepts::Fastopen => (vec![boolean(), integer(1, 65_535)], vec![json!(true), json!(256)]),
        Accepts::Raw => {
            let named = |names: Vec<&str>, kind: Value| json!({ "anyOf": [{ "enum": names }, kind] });
            let number = || integer(0, i64::from(i32::MAX));
            let mut names: Vec<&str> = constants::OPTIONS.iter().map(|(_, name, _)| name.as_str()).collect();
            names.sort_unstable();
            let parts = json!({
                "level": named(constants::level_names().collect(), number()),
                "name": named(names, number()),
                "at": { "enum": ["bind", "connect", "listen", "accept"] },
                "value": { "anyOf": [integer(i64::from(i32::MIN), i64::from(u32::MAX)), boolean(), { "type": "string", "maxLength": 255 }] },
            });
            let option = json!({
                "type": "object", "additionalProperties": false, "required": ["level", "name", "value"], "properties": parts,
            });
            (
                vec![json!({ "type": "array", "items": option })],
                vec![json!([{ "level": "SOL_TCP", "name": "TCP_WINDOW_CLAMP", "value": 65_535 }])],
            )
        }
        Accepts::Boolean | Accepts::TimeWait => (vec![boolean()], Vec::new()),
        Accepts::Enforce => (vec![boolean(), json!({ "const": "fill" })], Vec::new()),
        Accepts::Integer { min, max } => (vec![integer(min, max)], Vec::new()),
        Accepts::ConnectTimeout => (vec![duration()], texts(&["5s"])),
        Accepts::Seconds { .. } => (vec![duration()], texts(&["30s"])),
        Accepts::Retransmissions => (vec![duration()], texts(&["3s", "15s"])),
        Accepts::Timeval => (vec![json!({ "const": "off" }), duration()], texts(&["30s", "off"])),
        Accepts::Size { .. } => (vec![size()], texts(&["4MiB"])),
        Accepts::Rate => (vec![json!({ "const": "unlimited" }), size()], texts(&["10MiB", "unlimited"])),
        Accepts::Dscp => {
            let names: Vec<&str> = DSCP_NAMES.iter().map(|(name, _)| name.as_str()).collect();
            // Names count in capitals, too.
            let either = |name: &&str| {
                name.chars()
                    .map(|c| match c {
                        'a'..='z' => format!("[{c}{}]", c.to_ascii_uppercase()),
                        c => c.to_string(),
                    })
                    .collect::<String>()
            };
            let pattern = format!("^({})$", names.iter().map(either).collect::<Vec<_>>().join("|"));
            (
                vec![integer(0, 63), words(&names), json!({ "type": "string", "pattern": pattern })],
                texts(&["af41", "ef"]),
            )
        }
        Accepts::Name { longest } => {
            // Printable, without space and slash.
            let pattern = format!("^[!-.0-~]{{1,{longest}}}$");
            let example = if entry.key == Key::Congestion { "cubic" } else { "eth0" };
            (vec![json!({ "type": "string", "pattern": pattern })], texts(&[example]))
        }
    }
}
