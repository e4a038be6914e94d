//! The sockets that something was done with, the last of them.

use std::collections::{BTreeSet, VecDeque};

/// As many as are remembered: an older one is taken for new.
const MOST: usize = 16_384;

/// Sockets by what the kernel gives each and no other (SO_COOKIE).
#[derive(Default)]
pub(crate) struct Recent {
    all: BTreeSet<u64>,
    by_age: VecDeque<u64>,
}

impl Recent {
    /// Remembers one; whether it is new.
    pub(crate) fn add(&mut self, cookie: u64) -> bool {
        if !self.all.insert(cookie) {
            return false;
        }
        if self.by_age.len() == MOST
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.all.remove(&oldest);
        }
        self.by_age.push_back(cookie);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Recent};

    /// Seen to fail with none forgotten, and with all.
    #[test]
    fn the_oldest_is_forgotten() {
        let mut recent = Recent::default();
        let count = MOST as u64;
        assert!((0..count).all(|cookie| recent.add(cookie)) && !(0..count).any(|cookie| recent.add(cookie)));
        assert!(recent.add(count) && recent.add(0) && !recent.add(2));
        assert_eq!((recent.all.len(), recent.by_age.len()), (MOST, MOST));
    }
}
