//! What stands in objects of Kubernetes themselves: annotations of load balancers and of Linkerd, and the environment of containers.
//!
//! A load balancer that passes packets on forgets a connection that is idle for a time, and tells neither side: keepalive below that time
//! keeps the connection known, and user timeout below it ends one whose client has vanished. One that is a proxy closes what is idle by
//! itself, and keepalive is no traffic to it. The manuals:
//!
//! - AWS, Network Load Balancers: docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html (350 s unless
//!   `tcp.idle_timeout.seconds` of a listener says otherwise); kubernetes-sigs/aws-load-balancer-controller, docs/guide/service/annotations.md.
//! - AWS, Classic Load Balancers (proxies): docs.aws.amazon.com/elasticloadbalancing/latest/classic/config-idle-timeout.html, which says that
//!   keepalive does not count; kubernetes/cloud-provider-aws, docs/service_controller.md. Application Load Balancers:
//!   aws-load-balancer-controller, docs/guide/ingress/annotations.md (`idle_timeout.timeout_seconds`).
//! - Azure: learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset (flows are dropped silently); minutes, says
//!   kubernetes-sigs/cloud-provider-azure, pkg/consts/consts.go.
//! - OCI (a proxy): docs.oracle.com/iaas/Content/Balance/Reference/connectionreuse.htm; oracle/oci-cloud-controller-manager,
//!   docs/load-balancer-annotations.md.
//! - DigitalOcean (a proxy): digitalocean/digitalocean-cloud-controller-manager, docs/controllers/services/annotations.md.

use policy::Key;

use crate::context::{Context, Document};
use crate::draft::{Draft, Part};
use crate::note::{Kind, Place};
use crate::oracle::Side;
use crate::shims::{self, Variable, Variables};
use crate::time;
use crate::yaml::Value;

/// How an annotation says the idle limit.
#[derive(Clone, Copy)]
enum Limit {
    /// A number, of so many seconds each.
    Number(u64),
    /// An attribute among others.
    Attributes,
    /// By the kind of load balancer.
    Type,
}

/// What a load balancer does with what is idle.
#[derive(Clone, Copy, PartialEq)]
enum Idle {
    /// It forgets it.
    Forgotten,
    /// It closes it.
    Closed,
}

const IDLE: [(&str, Limit, Idle); 7] = [
    ("service.beta.kubernetes.io/aws-load-balancer-connection-idle-timeout", Limit::Number(1), Idle::Closed),
    ("service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout", Limit::Number(60), Idle::Forgotten),
    ("service.beta.kubernetes.io/oci-load-balancer-connection-idle-timeout", Limit::Number(1), Idle::Closed),
    ("service.beta.kubernetes.io/do-loadbalancer-http-idle-timeout-seconds", Limit::Number(1), Idle::Closed),
    ("service.beta.kubernetes.io/aws-load-balancer-attributes", Limit::Attributes, Idle::Closed),
    ("alb.ingress.kubernetes.io/load-balancer-attributes", Limit::Attributes, Idle::Closed),
    ("service.beta.kubernetes.io/aws-load-balancer-type", Limit::Type, Idle::Forgotten),
];

/// Of a listener of a Network Load Balancer; the protocol and the port follow.
const OF_LISTENER: &str = "service.beta.kubernetes.io/aws-load-balancer-listener-attributes.";

/// Reads a document's annotations and containers.
pub(crate) fn read(document: &Document<'_>, context: &mut Context<'_>) {
    if matches!(document.kind(), "Service" | "Ingress") {
        annotations(document, context);
    }
    let pods =
        ["spec.template", "spec.jobTemplate.spec.template"].into_iter().filter_map(|path| document.root.at(path));
    let itself = Some(document.root).filter(|_| matches!(document.kind(), "Pod" | "Namespace"));
    for pod in pods.chain(itself) {
        linkerd(pod, document, context);
        let Some(spec) = pod.get("spec") else { continue };
        for container in ["containers", "initContainers"].iter().filter_map(|key| spec.get(key)).flat_map(Value::items)
        {
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

/// How long Linkerd's proxy tries to connect (linkerd.io, "Proxy Configuration").
fn linkerd(pod: Value<'_>, document: &Document<'_>, context: &mut Context<'_>) {
    let Some(annotations) = pod.at("metadata.annotations") else { return };
    for (name, key, value) in annotations.entries() {
        let place = document.place(value);
        match name {
            "config.linkerd.io/proxy-outbound-connect-timeout" => match value.text().and_then(time::linkerd) {
                Some(0) => {}
                Some(all) => {
                    let mut draft = Draft::new(place.clone(), document.title(), document.name(), Side::To);
                    draft.targets.push("*".into());
                    draft.options.set(Key::ConnectTimeout, format!("\"{}\"", time::duration(all)), &place);
                    context.is_mesh = true;
                    context.add(draft);
                }
                None => context.notes.add(Kind::Unreadable, &place, "this is no time", "for example 2s"),
            },
            "config.linkerd.io/proxy-inbound-connect-timeout" => {
                let message = "left out: inbound: the connection to the program in the same pod";
                context.notes.add(Kind::NoMatch, &document.place(key), message, "");
            }
            _ => {}
        }
    }
}

fn annotations(document: &Document<'_>, context: &mut Context<'_>) {
    let mut limit: Option<(u64, Idle, Place)> = None;
    // The class that is a type of Network Load Balancer has no annotation of its own.
    if let Some(class) =
        document.root.at("spec.loadBalancerClass").filter(|of| of.text() == Some("service.k8s.aws/nlb"))
    {
        limit = Some((350, Idle::Forgotten, document.place(class)));
    }
    for (name, _, value) in document.root.at("metadata.annotations").into_iter().flat_map(Value::entries) {
        let listener = name.starts_with(OF_LISTENER).then_some((Limit::Attributes, Idle::Forgotten));
        let known = IDLE.iter().find(|(known, ..)| *known == name).map(|&(_, how, idle)| (how, idle)).or(listener);
        let (Some((how, idle)), Some(text)) = (known, value.text()) else { continue };
        let seconds = match how {
            Limit::Type => matches!(text, "nlb" | "nlb-ip" | "external").then_some(350),
            Limit::Attributes => attribute(text),
            Limit::Number(unit) => text.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit)),
        };
        let place = document.place(value);
        match seconds {
            // The type's own limit, unless another annotation sets it.
            Some(_) if matches!(how, Limit::Type) && limit.is_some() => {}
            Some(seconds @ 8..) => limit = Some((seconds, idle, place)),
            Some(seconds) => {
                let message = format!("left out: {seconds} s are too short for keepalive");
                context.notes.add(Kind::OutOfRange, &place, message, "");
            }
            None if matches!(how, Limit::Number(_)) => {
                context.notes.add(Kind::Unreadable, &place, "this is no whole number", "");
            }
            None => {}
        }
    }
    let Some((limit, idle, place)) = limit else { return };
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
        if port.text_of("protocol").is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
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
    if idle == Idle::Closed {
        let message = format!(
            "this load balancer is a proxy, and closes what is idle for {limit} s: keepalive is no traffic to it"
        );
        context.notes.add(Kind::Hint, &place, message, "the rule only finds out that the load balancer itself is gone");
    }
    context.add(draft);
}

/// `idle_timeout.timeout_seconds=600` or `tcp.idle_timeout.seconds=600` in a list.
fn attribute(text: &str) -> Option<u64> {
    let mut pairs = text.split(',').filter_map(|pair| pair.trim().split_once('='));
    let found =
        pairs.find(|(name, _)| matches!(name.trim(), "idle_timeout.timeout_seconds" | "tcp.idle_timeout.seconds"));
    found?.1.trim().parse().ok()
}
