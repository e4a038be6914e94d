//! The values that keep a promise about how long a vanished peer goes unnoticed.

use crate::catalog::{LEAST_DEAD_PEER_TIMEOUT, LONGEST_DEAD_PEER_TIMEOUT};
use crate::timers::{State, Sysctls, TICK_RATES, Timers};

/// Keepalive and user timeout that notice a vanished peer within a promised time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// Idle time before the first probe, TCP_KEEPIDLE, seconds.
    pub time: u32,
    /// Time between probes, TCP_KEEPINTVL, seconds.
    pub interval: u32,
    /// Probes, TCP_KEEPCNT.
    pub probes: u32,
}

impl Detection {
    /// `time + interval x probes`: the TCP_USER_TIMEOUT that leaves the idle detection as it is, milliseconds.
    #[must_use]
    pub fn user_timeout_ms(self) -> u64 {
        (u64::from(self.time) + u64::from(self.interval) * u64::from(self.probes)) * 1_000
    }
}

/// The keepalive (three probes) and, by [`Detection::user_timeout_ms`], the user timeout with which a vanished
/// peer is noticed within `promise` microseconds in every TCP state, whatever the kernel's tick rate: the
/// longest that do. None outside [`LEAST_DEAD_PEER_TIMEOUT`] to [`LONGEST_DEAD_PEER_TIMEOUT`].
#[must_use]
pub fn within(promise: u64) -> Option<Detection> {
    if !(LEAST_DEAD_PEER_TIMEOUT..=LONGEST_DEAD_PEER_TIMEOUT).contains(&promise) {
        return None;
    }
    let promise_ms = promise / 1_000;
    let mut rates = TICK_RATES;
    (4..=promise_ms / 1_000).rev().find_map(|total| {
        // 5 : 3 : 3 : 3, so that a single lost probe is never fatal and the first comes early.
        let interval = (total * 3 / 14).max(1);
        let detection = Detection {
            time: u32::try_from(total - 3 * interval).ok()?,
            interval: u32::try_from(interval).ok()?,
            probes: 3,
        };
        // The rate that breaks the promise is likely to break the next, too.
        if let Some(breaks) = rates.iter().position(|rate| !is_kept(detection, promise_ms, *rate)) {
            rates.swap(0, breaks);
            return None;
        }
        Some(detection)
    })
}

/// Whether a peer that vanished is noticed within so many milliseconds in every state in which a program waits for it, by
/// a kernel with so many ticks a second.
fn is_kept(detection: Detection, promise_ms: u64, rate: u64) -> bool {
    let timers = Timers {
        keepalive: true,
        time: Some(detection.time.into()),
        interval: Some(detection.interval.into()),
        probes: Some(detection.probes.into()),
        user_timeout: detection.user_timeout_ms(),
        ..Timers::default()
    };
    let sysctls = Sysctls { ticks_per_second: Some(rate), ..Sysctls::default() };
    // Idle comes first: it is the quickest to compute, and mostly the latest.
    [State::Idle, State::InFlight, State::Connecting].into_iter().all(|state| {
        let latest = timers.end(state, &sysctls).latest();
        latest.is_some_and(|latest| latest <= promise_ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_that_are_documented() {
        let figures = |seconds: u64| within(seconds * 1_000_000).map(|d| (d.time, d.interval, d.user_timeout_ms()));
        assert_eq!(figures(4), None);
        assert_eq!(figures(5), Some((1, 1, 4_000)));
        assert_eq!(figures(15), Some((5, 3, 14_000)));
        assert_eq!(figures(86_401), None);
    }

    #[test]
    fn every_promise_is_kept_and_none_is_lazy() {
        for seconds in (5..600).chain((600..=86_400).step_by(997)) {
            let promise = seconds * 1_000;
            let detection = within(promise * 1_000).expect("in range");
            assert!(TICK_RATES.iter().all(|rate| is_kept(detection, promise, *rate)), "{seconds} s: {detection:?}");
            assert!(detection.time >= detection.interval && detection.interval >= 1);
            assert!(detection.time <= 32_767);
            assert!(detection.user_timeout_ms() * 10 >= promise * 7, "{seconds} s: {detection:?}");
        }
    }
}
