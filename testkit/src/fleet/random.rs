//! A small seeded generator (SplitMix64), so that a fleet is the same on every machine and in every version.

/// A stream of random numbers. Streams of different names under one seed are independent of each other, so
/// that drawing more from one (an arrival) never moves another (the truth).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64, number: u64) -> Self {
        let mut random = Random(seed);
        random.0 = random.draw() ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
        random.0 = random.draw() ^ number.wrapping_mul(0xa076_1d64_78bd_642f);
        random
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, but without, `bound`; 0 where there is nothing to choose from.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// From `from` up to, but without, `to`; `from` where there is nothing to choose from.
    pub(crate) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from).max(0) as u64) as i64
    }

    /// From 0 up to, but without, 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// How often something happens that is expected `expected` times: its whole part, and once more by chance.
    pub(crate) fn times(&mut self, expected: f64) -> u64 {
        expected as u64 + u64::from(self.chance(expected.fract()))
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_draws_of_many_streams_are_even() {
        for draw in 0..8 {
            let hits = (0..20_000)
                .filter(|&number| {
                    let mut random = Random::new(1, 3, number);
                    for _ in 0..draw {
                        random.draw();
                    }
                    random.chance(0.05)
                })
                .count();
            assert!((900..1100).contains(&hits), "{hits} of 1000 at draw {draw}");
        }
    }
}
