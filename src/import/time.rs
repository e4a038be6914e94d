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

/// Go's time.ParseDuration, by which Kubernetes reads durations; protobuf's JSON mapping ("1.5s") is a part of it.
pub(crate) const GO: Units =
    &[("ns", NS), ("us", US), ("µs", US), ("μs", US), ("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR)];
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

/// A duration as sockopt.toml has it.
pub(crate) fn duration(nanoseconds: u64) -> String {
    match nanoseconds {
        ns if ns.is_multiple_of(SECOND) => format!("{}s", ns / SECOND),
        ns if ns.is_multiple_of(MS) => format!("{}ms", ns / MS),
        ns => format!("{}us", ns / US),
    }
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
        ] {
            assert_eq!(nanoseconds(text, units, default), expected, "{text}");
        }
    }
}
