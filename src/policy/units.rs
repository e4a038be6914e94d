//! Durations and sizes as they are written: a whole number and a unit, exact or refused.

use std::fmt;

fn microseconds_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    })
}

fn bytes_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    })
}

/// A number of things: `1 socket`, `2 sockets`.
#[derive(Debug, Clone, Copy)]
pub struct Count<'a>(pub usize, pub &'a str);

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, what) = *self;
        write!(f, "{number} {what}{}", if number == 1 { "" } else { "s" })
    }
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Digits without a unit.
    NoUnit,
    /// A decimal fraction or a sign: whole numbers only.
    NotWhole,
    /// A unit that does not exist.
    UnknownUnit,
    /// More than fits any option.
    TooLarge,
    /// Something else.
    NotANumber,
}

/// The microseconds of a duration such as `250ms`, `5s`, `2m`, `1h` or `1m30s`.
///
/// # Errors
/// What is wrong with the text; nothing is rounded or guessed.
pub fn microseconds(text: &str) -> Result<u64, Malformed> {
    quantity(text, microseconds_of, true)
}

/// The bytes of a size such as `4MiB`, `64KiB`, `1500B` or `1MB`.
///
/// # Errors
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, Malformed> {
    quantity(text, bytes_of, false)
}

fn quantity(text: &str, worth: fn(&str) -> Option<u64>, repeated: bool) -> Result<u64, Malformed> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if !rest.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(if rest.starts_with(['-', '+', '.']) { Malformed::NotWhole } else { Malformed::NotANumber });
    }
    while !rest.is_empty() {
        let (digits, tail) = split(rest, |c| c.is_ascii_digit());
        let tail = tail.trim_start();
        if tail.starts_with(['.', ',']) {
            return Err(Malformed::NotWhole);
        }
        let (unit, tail) = split(tail, |c| c.is_alphabetic() || c == 'µ');
        if unit.is_empty() {
            return Err(if tail.is_empty() { Malformed::NoUnit } else { Malformed::NotANumber });
        }
        let factor = worth(unit).ok_or(Malformed::UnknownUnit)?;
        let number: u64 = digits.parse().map_err(|_| Malformed::TooLarge)?;
        total = number.checked_mul(factor).and_then(|part| total.checked_add(part)).ok_or(Malformed::TooLarge)?;
        rest = tail.trim_start();
        let another = repeated && rest.starts_with(|c: char| c.is_ascii_digit());
        if !rest.is_empty() && !another {
            return Err(Malformed::NotANumber);
        }
    }
    Ok(total)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// A duration as one would write it: `14s`, `250ms`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisplayNumber(pub u64);

impl fmt::Display for DisplayNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: u64| self.0 != 0 && self.0.is_multiple_of(unit);
        // Hours and minutes only where they read better than the seconds that the kernel takes.
        match self.0 {
            0 => f.write_str("0s"),
            n if whole(86_400_000_000) => write!(f, "{}d", n / 86_400_000_000),
            n if whole(3_600_000_000) => write!(f, "{}h", n / 3_600_000_000),
            n if whole(1_000_000) => write!(f, "{}s", n / 1_000_000),
            n if whole(1_000) => write!(f, "{}ms", n / 1_000),
            n => write!(f, "{n}us"),
        }
    }
}

/// A time that was measured, milliseconds, in at most six characters: `524ms`, `13.2s`, `12m34s`, `3h12m`, `12d3h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisplayDuration(pub u64);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000;
        let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
        f.pad(&match self.0 {
            ms @ ..1_000 => format!("{ms}ms"),
            ms @ ..100_000 => format!("{seconds}.{}s", ms % 1_000 / 100),
            _ if minutes < 100 => format!("{minutes}m{:02}s", seconds % 60),
            _ if hours < 100 => format!("{hours}h{:02}m", minutes % 60),
            _ => format!("{days}d{}h", hours % 24),
        })
    }
}

/// A size as one would write it: `4MiB`, `1500B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisplayBytes(pub u64);

impl fmt::Display for DisplayBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: u64| self.0 != 0 && self.0.is_multiple_of(unit);
        match self.0 {
            n if whole(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if whole(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if whole(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("250ms", Ok(250_000)),
            ("5s", Ok(5_000_000)),
            ("2m", Ok(120_000_000)),
            ("1h", Ok(3_600_000_000)),
            ("1m30s", Ok(90_000_000)),
            (" 5 s ", Ok(5_000_000)),
            ("5", Err(Malformed::NoUnit)),
            ("1.5s", Err(Malformed::NotWhole)),
            ("-1s", Err(Malformed::NotWhole)),
            ("5sec", Err(Malformed::UnknownUnit)),
            ("", Err(Malformed::NotANumber)),
            ("soon", Err(Malformed::NotANumber)),
            ("5s!", Err(Malformed::NotANumber)),
            ("99999999999999999999s", Err(Malformed::TooLarge)),
            ("999999999999999999h", Err(Malformed::TooLarge)),
        ] {
            assert_eq!(microseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("4MiB"), Ok(4 << 20));
        assert_eq!(bytes("1MB"), Ok(1_000_000));
        assert_eq!(bytes("4M"), Err(Malformed::UnknownUnit));
        assert_eq!(bytes("1KiB2KiB"), Err(Malformed::NotANumber));
    }

    #[test]
    fn shown_times() {
        for (ms, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (13_299, "13.2s"),
            (99_999, "99.9s"),
            (100_000, "1m40s"),
            (5_999_000, "99m59s"),
            (6_000_000, "1h40m"),
            (359_999_000, "99h59m"),
            (360_000_000, "4d4h"),
        ] {
            assert_eq!(DisplayDuration(ms).to_string(), expected);
        }
    }

    #[test]
    fn shown_durations_read_back() {
        for micros in [1, 999, 1_000, 14_000_000, 60_000_000, 90_000_000, 3_600_000_000, 86_400_000_000] {
            assert_eq!(microseconds(&DisplayNumber(micros).to_string()), Ok(micros));
        }
    }
}
