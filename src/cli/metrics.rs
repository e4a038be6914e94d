//! What an agent has counted, as OpenMetrics text.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cgroup::{Attachment, Count, Counts};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::counts::open;
use crate::serve::Answer;

/// As Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What an agent knows of what it is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// What is attached.
    pub(crate) attachment: Option<Attachment>,
    /// Whether the configuration that was read last is in force.
    pub(crate) is_current: bool,
}

/// The same, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn get(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer to a request for a path.
    pub(crate) fn answer(&self, path: &str) -> Answer {
        let path = path.split('?').next().unwrap_or_default();
        match path {
            "/metrics" => match metrics(self.get()) {
                Ok(body) => Answer { status: "200 OK", kind: OPEN_METRICS, body },
                Err(fmt::Error) => Answer::text("500 Internal Server Error", "the metrics cannot be written"),
            },
            "/ready" => {
                let is_ready = self.get().attachment.is_some();
                if is_ready {
                    Answer::text("200 OK", "attached")
                } else {
                    Answer::text("503 Service Unavailable", "not attached")
                }
            }
            "/" => Answer::text("200 OK", "sockopt agent: /metrics, and /ready"),
            _ => Answer::text("404 Not Found", "there are /metrics and /ready"),
        }
    }
}

fn metrics(state: State) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sockopt");
    let counts = state.attachment.as_ref().and_then(Attachment::counts).unwrap_or_default();
    registry.register_collector(Box::new(Shown { state, counts }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Shown {
    state: State,
    counts: Vec<Counts>,
}

const NO_EXAMPLE: Option<&Exemplar<NoLabelSet, u64>> = None;

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&(value as i64))
        };
        gauge("attached", "Whether the programs are in force", self.state.attachment.is_some().into())?;
        gauge(
            "configuration_current",
            "Whether the agent's configuration is in force as it was read last: 0 if it had errors, or if somebody else has replaced it",
            self.state.is_current.into(),
        )?;
        let generation = self.state.attachment.as_ref().map_or(0, |attachment| attachment.about.generation);
        gauge("configuration_generation", "How often the configuration was attached and replaced", generation)?;
        if let Some(known) = self.state.attachment.as_ref().and_then(Attachment::known_addresses) {
            gauge("known_addresses", "Addresses that are known by host names, from DNS answers", known as u64)?;
        }
        let adopted = self.state.attachment.as_ref().map_or(0, |attachment| attachment.about.adopted as u64);
        let help = "Sockets that were there before and have got the options, of which nothing else is counted";
        let mut family = encoder.encode_descriptor("adopted_sockets", help, None, MetricType::Counter)?;
        family.encode_counter(&adopted, NO_EXAMPLE)?;
        fn labels(counts: &Counts) -> [(&'static str, &str); 3] {
            let counted = &counts.counted;
            [("rule", &counted.rule), ("direction", counted.side.name()), ("to", &counted.to)]
        }
        let help = "TCP sockets that a rule was carried out on";
        let mut family = encoder.encode_descriptor("sockets", help, None, MetricType::Counter)?;
        for counts in &self.counts {
            let labels = labels(counts);
            family.encode_family(&labels)?.encode_counter(&counts.of(Count::Sockets), NO_EXAMPLE)?;
        }
        let help = "Those of them that have not ended";
        let mut family = encoder.encode_descriptor("open_connections", help, None, MetricType::Gauge)?;
        for counts in &self.counts {
            family.encode_family(&labels(counts))?.encode_gauge(&(open(counts) as i64))?;
        }
        let help = "Their connections that have ended, and why";
        let mut family = encoder.encode_descriptor("ended_connections", help, None, MetricType::Counter)?;
        for counts in &self.counts {
            for end in Count::ENDS {
                let [rule, direction, to] = labels(counts);
                let labels = [rule, direction, to, ("reason", end.name())];
                family.encode_family(&labels)?.encode_counter(&counts.of(end), NO_EXAMPLE)?;
            }
        }
        Ok(())
    }
}
