//! The promise as the library is told it.

use std::str::FromStr;
use std::time::Duration;

use policy::units;

/// `dead_peer_timeout`, as the library takes it, and what it means.
#[derive(Clone)]
pub(crate) struct Promise {
    pub(crate) text: String,
    pub(crate) time: Duration,
}

impl FromStr for Promise {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Promise, &'static str> {
        let time = units::microseconds(text).map_err(|_| "a whole number with its unit is wanted, as in 15s")?;
        match time {
            5_000_000..=240_000_000 => Ok(Promise { text: text.to_owned(), time: Duration::from_micros(time) }),
            _ => Err("anything from 5s to 240s can be shown here"),
        }
    }
}
