//! A hash for tables of rules.

use std::hash::Hasher;

/// A hash of few steps and no secret: whoever writes the rules has nothing to gain from collisions, and std's own
/// hasher would ask the kernel for a seed in somebody else's process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FoldHasher(u64);

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u8(&mut self, value: u8) {
        // Too few values to be worth a product: the next one mixes it in.
        self.0 = (self.0 ^ u64::from(value)).rotate_left(8);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        // 2^64 divided by the golden ratio; both halves of the product, so that every bit counts.
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
    fn write_u128(&mut self, value: u128) {
        self.write_u64((value >> 64) as u64);
        self.write_u64(value as u64);
    }
}
