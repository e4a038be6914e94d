//! Times and sizes as each of the sources writes them.

/// Units and their nanoseconds.
pub(crate) type Units = &'static [(&'static str, u64)];

const NS: u64 = 1;
const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Go's time.ParseDuration, by which Kubernetes reads durations; protobuf's JSON mapping ("1.5s") is a part of it.
pub(crate) const GO: Units =
    &[("ns", NS), ("us", US), ("µs", US), ("μs", US), ("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR)];
/// Linkerd's proxy, parse_duration of linkerd/app/src/env/types.rs.
pub(crate) const LINKERD: Units = &[("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
/// HAProxy's configuration manual, section "Time format".
pub(crate) const HAPROXY: Units = &[("us", US), ("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
/// nginx, "Configuration file measurement units".
pub(crate) const NGINX: Units = &[
    ("ms", MS),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
    ("d", DAY),
    ("w", 7 * DAY),
    ("M", 30 * DAY),
    ("y", 365 * DAY),
];
/// systemd.time(7).
pub(crate) const SYSTEMD: Units = &[
    ("nsec", NS),
    ("ns", NS),
    ("usec", US),
    ("us", US),
    ("µs", US),
    ("μs", US),
    ("msec", MS),
    ("ms", MS),
    ("seconds", SECOND),
    ("second", SECOND),
    ("sec", SECOND),
    ("s", SECOND),
    ("minutes", MINUTE),
    ("minute", MINUTE),
    ("min", MINUTE),
    ("months", 2_629_800 * SECOND),
    ("month", 2_629_800 * SECOND),
    ("M", 2_629_800 * SECOND),
    ("m", MINUTE),
    ("hours", HOUR),
    ("hour", HOUR),
    ("hr", HOUR),
    ("h", HOUR),
    ("days", DAY),
    ("day", DAY),
    ("d", DAY),
    ("weeks", 7 * DAY),
    ("week", 7 * DAY),
    ("w", 7 * DAY),
    ("years", 31_557_600 * SECOND),
    ("year", 31_557_600 * SECOND),
    ("y", 31_557_600 * SECOND),
];

/// The nanoseconds of a text such as `1h30m`, `1.5s` or `5min 20s`; a number without a unit is in `default`. None for what
/// is no such time, or more than 584 years.
pub(crate) fn nanoseconds(text: &str, units: Units, default: Option<u64>) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, behind) =
            rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        let behind = behind.trim_start();
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len()));
        let factor = match unit {
            "" => default?,
            _ => units.iter().find(|(name, _)| *name == unit)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(factor)?)?;
        let mut part = factor;
        for digit in fraction.bytes() {
            // A nanosecond is the least; what is below is nothing to anybody.
            let digit = char::from(digit).to_digit(10)?;
            part /= 10;
            total = total.checked_add(part.checked_mul(u64::from(digit))?)?;
        }
        rest = behind.trim_start();
    }
    Some(total)
}

/// The nanoseconds of what Linkerd's proxy takes for a duration: one whole number with a unit; 0 needs none.
pub(crate) fn linkerd(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_zero = is_number && digits.len() == text.len() && digits.bytes().all(|byte| byte == b'0');
    if is_zero { Some(0) } else { nanoseconds(text, LINKERD, None).filter(|_| is_number) }
}

/// A duration as sockopt.toml has it.
pub(crate) fn duration(nanoseconds: u64) -> String {
    match nanoseconds {
        ns if ns.is_multiple_of(SECOND) => format!("{}s", ns / SECOND),
        ns if ns.is_multiple_of(MS) => format!("{}ms", ns / MS),
        ns => format!("{}us", ns / US),
    }
}

/// Bytes with a suffix to the base of 1024: systemd's K, M, G, T; nginx's k, m, g.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit.trim() {
        "" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, units, default, expected) in [
            ("7200s", GO, None, Some(7200 * SECOND)),
            ("30ms", GO, None, Some(30 * MS)),
            ("1h30m", GO, None, Some(90 * MINUTE)),
            ("1.5s", GO, None, Some(1500 * MS)),
            ("0.25s", GO, None, Some(250 * MS)),
            (".5s", GO, None, Some(500 * MS)),
            ("5", GO, None, None),
            ("5x", GO, None, None),
            ("", GO, None, None),
            ("-5s", GO, None, None),
            (".s", GO, None, None),
            ("1..5s", GO, None, None),
            ("99999999999999999999s", GO, None, None),
            ("5000", HAPROXY, Some(MS), Some(5 * SECOND)),
            ("10", HAPROXY, Some(SECOND), Some(10 * SECOND)),
            ("30m", NGINX, Some(SECOND), Some(30 * MINUTE)),
            ("5min 20s", SYSTEMD, Some(SECOND), Some(320 * SECOND)),
            ("2 h", SYSTEMD, Some(SECOND), Some(2 * HOUR)),
            ("60", SYSTEMD, Some(SECOND), Some(60 * SECOND)),
        ] {
            assert_eq!(nanoseconds(text, units, default), expected, "{text}");
        }
    }

    #[test]
    fn times_of_linkerd() {
        for (text, expected) in [
            ("10000ms", Some(10 * SECOND)),
            (" 2d ", Some(2 * DAY)),
            ("0", Some(0)),
            ("5", None),
            ("1h30m", None),
            ("1.5s", None),
            ("1us", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(linkerd(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("8M"), Some(8 << 20));
        assert_eq!(bytes("64k"), Some(64 << 10));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("4Mi"), None);
        assert_eq!(bytes("99999999999T"), None);
    }
}
