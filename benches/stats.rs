//! Medians, and how far they can be trusted.

/// What became of one row's rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// The middle half: a quarter of the rounds lies below, a quarter above.
    pub(crate) half: (f64, f64),
    /// Where the true median lies, in 95 of 100 cases (order statistics, so no distribution is supposed).
    pub(crate) trust: (f64, f64),
}

impl Summary {
    pub(crate) fn of(mut values: Vec<f64>) -> Summary {
        assert!(!values.is_empty(), "a row without rounds");
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let at = |index: f64| values[(index.max(0.0) as usize).min(last)];
        let n = values.len() as f64;
        let middle = (values[last / 2] + values[values.len() / 2]) / 2.0;
        let reach = 0.98 * n.sqrt();
        Summary {
            median: middle,
            half: (at((n / 4.0).floor()), at((n * 3.0 / 4.0).ceil() - 1.0)),
            trust: (at((n / 2.0 - reach).floor()), at((n / 2.0 + reach).ceil() - 1.0)),
        }
    }

    /// A count: nothing to doubt.
    pub(crate) fn exact(value: f64) -> Summary {
        Summary { median: value, half: (value, value), trust: (value, value) }
    }
}

/// xorshift64*: the order of runs, and rules that look like people's.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % end
    }

    pub(crate) fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}
