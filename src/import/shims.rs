//! The variables of older shims, in the units in which these read them, as their sources have it:
//! libkeepalive (sengaya/libkeepalive, src/libkeepalive.c: KEEPALIVE, KEEPIDLE, KEEPINTVL, KEEPCNT, seconds), libdontdie
//! (flonatel/libdontdie, src/libdontdie.c: DD_..., seconds), msantos' libkeepalive (msantos/libkeepalive, README.md and libkeepalive.c: TCP_...,
//! TCP_USER_TIMEOUT in milliseconds), tcp-user-timeout-wrapper (tsaarni/tcp-user-timeout-wrapper, socket_wrapper.c: TCP_USER_TIMEOUT_MS),
//! libsetsockopt (freshworks/libsetsockopt, libsetsockopt.c: SETSOCKOPT_..., seconds) and Linkerd's proxy (linkerd/linkerd2-proxy,
//! linkerd/app/src/env.rs: LINKERD2_PROXY_..., with a unit).

use std::collections::BTreeMap;

use policy::Key;
use policy::constants::{SOL_TCP, option_number};

use crate::context::Context;
use crate::draft::{Draft, Options, Part};
use crate::note::{Kind, Notes, Place};
use crate::oracle::Side;
use crate::text::{self, Word};
use crate::{socket_options, time};

/// A variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) value: String,
    pub(crate) place: Place,
}

pub(crate) type Variables = BTreeMap<String, Variable>;

/// Names that say that a file is about one of the shims.
const NAMES: [&str; 19] = [
    "KEEPIDLE",
    "KEEPINTVL",
    "KEEPCNT",
    "DD_TCP_KEEPALIVE_TIME",
    "DD_TCP_KEEPALIVE_INTVL",
    "DD_TCP_KEEPALIVE_PROBES",
    "DD_USE_KEEPALIVE",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_KEEPCNT",
    "TCP_USER_TIMEOUT",
    "TCP_SYNCNT",
    "TCP_DEFER_ACCEPT",
    "TCP_MAXSEG",
    "TCP_WINDOW_CLAMP",
    "TCP_USER_TIMEOUT_MS",
    "SETSOCKOPT_TCP_KEEPALIVE",
    "KEEPALIVE",
    "LD_PRELOAD",
];
const LINKERD: &str = "LINKERD2_PROXY_";

fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || name.starts_with("SETSOCKOPT_TCP_KEEPALIVE") || name.starts_with(LINKERD)
}

/// Reads a file of variables: a shell's, Docker's, a unit's.
pub(crate) fn read(source: usize, context: &mut Context<'_>) {
    let mut variables = Variables::new();
    for (start, line) in text::lines(context.text(source)) {
        for word in text::words(line, start) {
            if let Some((name, variable)) = assignment(&word, source) {
                variables.insert(name, variable);
            }
        }
    }
    take(&variables, context);
}

/// `NAME=VALUE`, also behind `Environment=`.
fn assignment(word: &Word, source: usize) -> Option<(String, Variable)> {
    let text = word.text.strip_prefix("Environment=").unwrap_or(&word.text);
    let (name, value) = text.split_once('=').or_else(|| text.split_once(':'))?;
    let variable = Variable { value: value.trim().to_owned(), place: Place { source, span: word.span.clone() } };
    is_known(name).then(|| (name.to_owned(), variable))
}

/// Whether a text has any of them.
pub(crate) fn is_variables(text: &str) -> bool {
    text.lines().any(|line| text::words(line, 0).iter().any(|word| assignment(word, 0).is_some()))
}

/// Makes rules of variables that stand together.
pub(crate) fn take(variables: &Variables, context: &mut Context<'_>) {
    let has = |name: &str| variables.contains_key(name);
    if has("KEEPIDLE") || has("KEEPINTVL") || has("KEEPCNT") {
        keepalive("libkeepalive", variables, ["KEEPIDLE", "KEEPINTVL", "KEEPCNT"], "KEEPALIVE", context);
    }
    let dontdie = ["DD_TCP_KEEPALIVE_TIME", "DD_TCP_KEEPALIVE_INTVL", "DD_TCP_KEEPALIVE_PROBES"];
    if dontdie.iter().any(|name| has(name)) || has("DD_USE_KEEPALIVE") {
        keepalive("libdontdie", variables, dontdie, "DD_USE_KEEPALIVE", context);
    }
    let freshworks =
        ["SETSOCKOPT_TCP_KEEPALIVE_IDLE", "SETSOCKOPT_TCP_KEEPALIVE_INTVL", "SETSOCKOPT_TCP_KEEPALIVE_CNT"];
    if has("SETSOCKOPT_TCP_KEEPALIVE") || freshworks.iter().any(|name| has(name)) {
        keepalive("libsetsockopt", variables, freshworks, "SETSOCKOPT_TCP_KEEPALIVE", context);
    }
    if let Some(variable) = variables.get("TCP_USER_TIMEOUT_MS") {
        let mut options = Options::default();
        if let Some(number) = atoi(variable, "ms", &mut context.notes) {
            milliseconds(&mut options, number, &variable.place);
        }
        every("tcp-user-timeout-wrapper", &variable.place, options, context);
    }
    msantos(variables, context);
    linkerd(variables, context);
}

/// What atoi(3) reads: the number in front. What stands behind it is read by nobody, and said.
fn atoi(variable: &Variable, unit: &str, notes: &mut Notes) -> Option<i64> {
    let text = variable.value.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (number, behind) = digits.split_at(end);
    let Ok(number) = number.parse::<i64>() else {
        notes.add(Kind::Unreadable, &variable.place, format!("\"{text}\" is no number"), "");
        return None;
    };
    if !behind.is_empty() {
        let message = format!("the shim reads the number alone: {} {unit}", sign * number);
        notes.add(Kind::Changed, &variable.place, message, "");
    }
    Some(sign * number)
}

fn part(variable: &Variable, unit: &str, notes: &mut Notes) -> Option<Part> {
    let number = atoi(variable, unit, notes)?;
    let value = u64::try_from(number).ok().filter(|number| *number > 0)?;
    Some(Part { value, place: variable.place.clone() })
}

fn milliseconds(options: &mut Options, number: i64, place: &Place) {
    if let Ok(number @ 1..) = u64::try_from(number) {
        options.set(Key::UserTimeout, format!("\"{}\"", time::duration(number.saturating_mul(1_000_000))), place);
    }
}

/// A shim that sets keepalive on every socket, with a switch.
fn keepalive(shim: &str, variables: &Variables, names: [&str; 3], switch: &str, context: &mut Context<'_>) {
    let mut options = Options::default();
    let given = variables.get(switch);
    let is_off = match (shim, given.map(|variable| variable.value.as_str())) {
        // "skip" sets the times and leaves SO_KEEPALIVE alone.
        ("libkeepalive", value) => {
            value.is_some_and(|value| ["off", "skip"].iter().any(|off| value.eq_ignore_ascii_case(off)))
        }
        ("libdontdie", value) => value.is_some_and(|value| value.starts_with('0')),
        // It does nothing unless its switch is set.
        (_, value) => value.is_none_or(|value| value.starts_with('-')),
    };
    let Some(place) =
        given.or_else(|| names.iter().find_map(|name| variables.get(*name))).map(|variable| variable.place.clone())
    else {
        return;
    };
    if is_off {
        let message = format!("{shim} does nothing with these variables: {switch} switches it off, or is missing");
        context.notes.add(Kind::WithoutEffect, &place, message, "");
        return;
    }
    options.keepalive.on = Some((given.is_none_or(|variable| variable.value != "0"), place.clone()));
    let [time, interval, probes] =
        names.map(|name| variables.get(name).and_then(|variable| part(variable, "s", &mut context.notes)));
    (options.keepalive.time, options.keepalive.interval, options.keepalive.probes) = (time, interval, probes);
    every(shim, &place, options, context);
}

/// For every socket: `[defaults]`.
fn every(shim: &str, place: &Place, options: Options, context: &mut Context<'_>) {
    if options.is_empty() {
        return;
    }
    let mut options = options;
    options.under(&context.defaults);
    context.defaults = options;
    context.defaults_from.push((place.clone(), shim.to_owned()));
}

/// msantos' three libraries; which of them is preloaded says for which sockets they are.
fn msantos(variables: &Variables, context: &mut Context<'_>) {
    let own = [
        "TCP_KEEPIDLE",
        "TCP_KEEPINTVL",
        "TCP_KEEPCNT",
        "TCP_USER_TIMEOUT",
        "TCP_SYNCNT",
        "TCP_DEFER_ACCEPT",
        "TCP_MAXSEG",
        "TCP_WINDOW_CLAMP",
    ];
    let Some(place) = own.iter().find_map(|name| variables.get(*name)).map(|variable| variable.place.clone()) else {
        return;
    };
    let preload = variables.get("LD_PRELOAD").map_or("", |variable| variable.value.as_str());
    let listens = preload.contains("libkeepalive_listen");
    let connects = preload.split([':', ' ']).any(|library| library.ends_with("libkeepalive.so"));
    let mut options = Options::default();
    options.keepalive.on = Some((true, place.clone()));
    let notes = &mut context.notes;
    // Its own defaults are 15 s, 15 s and 9.
    for (name, default, slot) in [
        ("TCP_KEEPIDLE", 15, &mut options.keepalive.time),
        ("TCP_KEEPINTVL", 15, &mut options.keepalive.interval),
        ("TCP_KEEPCNT", 9, &mut options.keepalive.probes),
    ] {
        *slot = match variables.get(name) {
            Some(variable) => part(variable, "s", notes),
            None => Some(Part { value: default, place: place.clone() }),
        };
    }
    let user_timeout = variables.get("TCP_USER_TIMEOUT");
    match user_timeout.and_then(|variable| atoi(variable, "ms", notes).map(|number| (number, variable))) {
        Some((number @ 0.., variable)) => milliseconds(&mut options, number, &variable.place),
        // Derived from the other three.
        _ => {
            // One that is 0, the system's, counts as 0 here.
            let times = [&options.keepalive.time, &options.keepalive.interval, &options.keepalive.probes];
            let [time, interval, probes] = times.map(|part| part.as_ref().map_or(0, |part| part.value));
            let all = interval.saturating_mul(probes).saturating_add(time);
            if all > 0 {
                options.set(Key::UserTimeout, format!("\"{all}s\""), &place);
            }
        }
    }
    for (name, key) in [("TCP_SYNCNT", Key::SynRetries), ("TCP_MAXSEG", Key::MaxSegment)] {
        if let Some((variable, number @ 1..)) =
            variables.get(name).and_then(|variable| Some((variable, atoi(variable, "", notes)?)))
        {
            options.set(key, number.to_string(), &variable.place);
        }
    }
    if let Some(variable) = variables.get("TCP_DEFER_ACCEPT")
        && let Some(number @ 1..) = atoi(variable, "s", notes)
    {
        socket_options::defer_accept(&mut options, number, &variable.place, notes);
    }
    if let Some(variable) = variables.get("TCP_WINDOW_CLAMP")
        && let (Some(number @ 1..), Some(name)) =
            (atoi(variable, "bytes", notes), option_number(SOL_TCP, "TCP_WINDOW_CLAMP"))
    {
        options.set_raw(i64::from(SOL_TCP), i64::from(name), &number.to_string(), &variable.place);
    }
    if listens == connects {
        return every("msantos' libkeepalive", &place, options, context);
    }
    let side = if listens { Side::Listen } else { Side::To };
    let mut draft = Draft::new(place, "msantos' libkeepalive".into(), "libkeepalive", side);
    draft.targets.push("*".into());
    draft.options = options;
    context.add(draft);
}

/// What the proxy does beside a program, for programs without it.
fn linkerd(variables: &Variables, context: &mut Context<'_>) {
    for (side, word, name) in
        [(Side::To, "_CONNECT_", "linkerd, connecting"), (Side::Listen, "_ACCEPT_", "linkerd, accepting")]
    {
        let mut options = Options::default();
        let mut first = None;
        for (variable, given) in
            variables.iter().filter(|(variable, _)| variable.starts_with(LINKERD) && variable.contains(word))
        {
            // To and from the program in the same pod.
            let is_local = variable.contains("INBOUND_CONNECT") || variable.contains("OUTBOUND_ACCEPT");
            let is_ours = variable.ends_with("KEEPALIVE") || variable.ends_with("USER_TIMEOUT");
            if !is_ours || is_local {
                continue;
            }
            let Some(all) = time::linkerd(&given.value) else {
                context.notes.add(
                    Kind::Unreadable,
                    &given.place,
                    format!("\"{}\" is no time", given.value),
                    "for example 10s",
                );
                continue;
            };
            if all == 0 {
                continue;
            }
            first.get_or_insert_with(|| given.place.clone());
            if variable.ends_with("USER_TIMEOUT") {
                options.set(Key::UserTimeout, format!("\"{}\"", time::duration(all)), &given.place);
            } else {
                options.keepalive.on = Some((true, given.place.clone()));
                options.keepalive.time =
                    text::seconds(&given.value, time::LINKERD, &given.place, "Linkerd", &mut context.notes);
            }
        }
        let Some(place) = first else { continue };
        context.is_mesh = true;
        let mut draft = Draft::new(place, "Linkerd's proxy".into(), name, side);
        draft.targets.push("*".into());
        draft.options = options;
        context.add(draft);
    }
}
