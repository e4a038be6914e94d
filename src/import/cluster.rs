//! What stands in objects of Kubernetes themselves: annotations of load balancers, and the environment of containers.
//!
//! A load balancer forgets an idle connection after a time, and says nothing to either side: keepalive and user timeout below it keep or end the
//! connection before (docs.aws.amazon.com "Connection idle timeout" of Network Load Balancers, 350 s; the annotations' own documents).

use policy::Key;

use crate::context::{Context, Document};
use crate::draft::{Draft, Part};
use crate::note::{Kind, Place};
use crate::oracle::Side;
use crate::shims::{self, Variable, Variables};
use crate::yaml::Value;

/// An annotation, and the seconds of its unit.
const IDLE: [(&str, u64); 7] = [
    ("service.beta.kubernetes.io/aws-load-balancer-connection-idle-timeout", 1),
    ("service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout", 60),
    ("service.beta.kubernetes.io/oci-load-balancer-connection-idle-timeout", 1),
    ("service.beta.kubernetes.io/do-loadbalancer-http-idle-timeout-seconds", 1),
    ("service.beta.kubernetes.io/aws-load-balancer-attributes", 0),
    ("alb.ingress.kubernetes.io/load-balancer-attributes", 0),
    ("service.beta.kubernetes.io/aws-load-balancer-type", 0),
];

/// Reads a document's annotations and containers.
pub(crate) fn read(document: &Document<'_>, context: &mut Context<'_>) {
    if matches!(document.kind(), "Service" | "Ingress") {
        annotations(document, context);
    }
    let pods = [document.root.at("spec.template.spec"), document.root.at("spec.jobTemplate.spec.template.spec")];
    let pod = document.root.get("spec").filter(|_| document.kind() == "Pod");
    for pod in pods.into_iter().flatten().chain(pod) {
        for container in ["containers", "initContainers"].iter().filter_map(|key| pod.get(key)).flat_map(Value::items) {
            let mut variables = Variables::new();
            for variable in container.get("env").into_iter().flat_map(Value::items) {
                let (Some(name), Some(value)) = (variable.text_of("name"), variable.get("value")) else { continue };
                let value =
                    Variable { value: value.text().unwrap_or_default().to_owned(), place: document.place(value) };
                variables.insert(name.to_owned(), value);
            }
            shims::take(&variables, context);
        }
    }
}

fn annotations(document: &Document<'_>, context: &mut Context<'_>) {
    let Some(annotations) = document.root.at("metadata.annotations") else { return };
    let mut limit: Option<(u64, Place)> = None;
    for (name, _, value) in annotations.entries() {
        let listener = name.strip_prefix("service.beta.kubernetes.io/aws-load-balancer-listener-attributes.");
        let known = IDLE.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit).or(listener.map(|_| 0));
        let (Some(unit), Some(text)) = (known, value.text()) else { continue };
        let seconds = match unit {
            0 if name.ends_with("-type") => matches!(text, "nlb" | "nlb-ip" | "external").then_some(350),
            0 => attribute(text),
            unit => text.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit)),
        };
        let place = document.place(value);
        match seconds {
            Some(seconds @ 8..) => {
                // The type's own limit, unless another annotation sets it.
                let is_type = name.ends_with("-type");
                if !is_type || limit.is_none() {
                    limit = Some((seconds, place));
                }
            }
            Some(seconds) => {
                let message = format!("left out: {seconds} s are too short for keepalive");
                context.notes.add(Kind::OutOfRange, &place, message, "");
            }
            None if unit > 0 => context.notes.add(Kind::Unreadable, &place, "this is no whole number", ""),
            None => {}
        }
    }
    let Some((limit, place)) = limit else { return };
    let title = format!("{}, idle limit of its load balancer: {limit} s", document.title());
    let mut draft = Draft::new(place.clone(), title, document.name(), Side::Listen);
    // Half of it, and the probes within the rest.
    let (time, interval) = (limit / 2, (limit / 8).max(1));
    let part = |value: u64| Some(Part { value, place: place.clone() });
    draft.options.keepalive.on = Some((true, place.clone()));
    draft.options.keepalive.time = part(time.min(32_767));
    draft.options.keepalive.interval = part(interval.min(32_767));
    draft.options.keepalive.probes = part(3);
    let all = time.min(32_767) + 3 * interval.min(32_767);
    draft.options.set(Key::UserTimeout, format!("\"{all}s\""), &place);
    for port in document.root.at("spec.ports").into_iter().flat_map(Value::items) {
        let at = port.get("targetPort").or_else(|| port.get("port"));
        let Some(at) = at else { continue };
        match at.integer() {
            Some(number) => draft.target(&format!(":{number}"), &document.place(at), &mut context.notes),
            None => {
                let message = "left out: a port by name, whose number stands in the pods' own document";
                context.notes.add(Kind::Elsewhere, &document.place(at), message, "write its number into listen");
            }
        }
    }
    if draft.targets.is_empty() {
        draft.parked = Some("The servers' ports stand in another document.".into());
        let message = "the servers' ports stand in another document, so the rule is printed as a comment";
        context.notes.add(Kind::Elsewhere, &place, message, "write them into listen");
    }
    let message =
        format!("keepalive and user_timeout are chosen to end before {limit} s; this is for the servers behind it");
    context.notes.add(
        Kind::Hint,
        &place,
        message,
        "clients need the same, in a rule with to for the load balancer's name",
    );
    context.add(draft);
}

/// `idle_timeout.timeout_seconds=600` or `tcp.idle_timeout.seconds=600` in a list.
fn attribute(text: &str) -> Option<u64> {
    let mut pairs = text.split(',').filter_map(|pair| pair.trim().split_once('='));
    let found =
        pairs.find(|(name, _)| matches!(name.trim(), "idle_timeout.timeout_seconds" | "tcp.idle_timeout.seconds"));
    found?.1.trim().parse().ok()
}
