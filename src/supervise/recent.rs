//! What is known of the sockets that came last, by what the kernel gives each: as much memory for it as there may be.

use std::collections::HashMap;

/// So many are known at a time, and as many that were known before.
const MOST: usize = 8_192;

/// What is known of each, by its number. An older one than the last 8,192 may be forgotten.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    now: HashMap<u64, V>,
    before: HashMap<u64, V>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { now: HashMap::new(), before: HashMap::new() }
    }
}

impl<V: Copy> Recent<V> {
    /// Remembers it.
    pub(crate) fn insert(&mut self, number: u64, value: V) {
        if self.now.len() >= MOST {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(number, value);
    }

    /// What is known, if it is.
    pub(crate) fn get(&self, number: u64) -> Option<V> {
        self.now.get(&number).or_else(|| self.before.get(&number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Recent};

    /// Seen to fail with none forgotten, and with all but the last.
    #[test]
    fn the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        let count = MOST as u64;
        (0..3 * count).for_each(|number| recent.insert(number, number * 2));
        assert_eq!(recent.get(count - 1), None);
        assert!((2 * count - count / 2..3 * count).all(|number| recent.get(number) == Some(number * 2)));
        assert!(recent.now.len() <= MOST && recent.before.len() <= MOST);
    }
}
