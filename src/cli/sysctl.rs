//! What is to be known of this machine before times and advice can be given: net.ipv4.*, the kernel's version and tick.

use std::fs;

use policy::advice::{Congestion, Machine};
use policy::timers::Sysctls;

/// The machine, and what of it could not be read and is taken for the kernel's default.
pub(crate) fn read() -> (Machine, Vec<&'static str>) {
    let mut missing = Vec::new();
    let defaults = Sysctls::default();
    let mut number = |name, default| {
        sysctl(name).and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            missing.push(name);
            default
        })
    };
    let keepalive_time = number("tcp_keepalive_time", defaults.keepalive_time);
    let sysctls = Sysctls {
        keepalive_time,
        keepalive_interval: number("tcp_keepalive_intvl", defaults.keepalive_interval),
        keepalive_probes: number("tcp_keepalive_probes", defaults.keepalive_probes),
        retries2: number("tcp_retries2", defaults.retries2),
        orphan_retries: number("tcp_orphan_retries", defaults.orphan_retries),
        syn_retries: number("tcp_syn_retries", defaults.syn_retries),
        // These came later: a kernel without them does as if they were so.
        syn_linear_timeouts: newer("tcp_syn_linear_timeouts", 0),
        rto_min_us: newer("tcp_rto_min_us", defaults.rto_min_us),
        rto_max_ms: newer("tcp_rto_max_ms", defaults.rto_max_ms),
        fastopen: number("tcp_fastopen", defaults.fastopen),
        ticks_per_second: socket::ffi::ticks_per_second(),
    };
    let names = |name| Some(sysctl(name)?.split_whitespace().map(str::to_owned).collect());
    let available = names("tcp_available_congestion_control");
    let congestion = available
        .zip(names("tcp_allowed_congestion_control"))
        .map(|(available, allowed)| Congestion { available, allowed });
    (Machine { sysctls, kernel: kernel(), congestion }, missing)
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok().map(|text| text.trim().to_owned())
}

fn newer(name: &str, before: u64) -> u64 {
    sysctl(name).and_then(|text| text.parse().ok()).unwrap_or(before)
}

/// `6.18` of `6.18.44-1-amd64`.
fn kernel() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
