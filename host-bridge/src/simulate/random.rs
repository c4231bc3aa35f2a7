//! Random numbers that are the same on every machine and in every version: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream `number` of this seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self(seed ^ number.wrapping_mul(0xD1B5_4A32_D192_ED03));
        // The seeds of neighbours are near each other, their second numbers are not.
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Each of `low..=high` as likely.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// One of `values`, as likely as its weight.
    pub fn choose<T: Copy>(&mut self, values: &[(u64, T)], otherwise: T) -> T {
        let sum: u64 = values.iter().map(|(weight, _)| weight).sum();
        let mut at = self.next() % sum.max(1);
        for (weight, value) in values {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        otherwise
    }

    /// Exponential with this mean, whole.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        whole(-self.unit().ln() * real(mean))
    }

    /// Log-normal with this median and a sigma of 1 (the mean is 1.65 medians), whole.
    pub fn log_normal(&mut self, median: u64) -> u64 {
        // Box and Muller.
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        whole(normal.exp() * real(median))
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        real((self.next() >> 11) + 1) / real(1 << 53)
    }
}

/// Numbers up to 2^53 come through as they are.
#[allow(clippy::cast_precision_loss)]
pub(super) fn real(whole: u64) -> f64 {
    whole as f64
}

/// Rounded; what is below 0 is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn whole(real: f64) -> u64 {
    real.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one_and_each_guest_has_its_own() {
        let mut random = Random(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_ne!(Random::new(1, 0).next(), Random::new(1, 1).next());
    }

    #[test]
    fn distributions_have_their_means() {
        let mut random = Random::new(7, 0);
        let mut mean =
            |draw: &mut dyn FnMut(&mut Random) -> u64| (0..200_000).map(|_| draw(&mut random)).sum::<u64>() / 200_000;
        assert!((9_900..10_100).contains(&mean(&mut |random| random.exponential(10_000))));
        assert!((16_100..16_900).contains(&mean(&mut |random| random.log_normal(10_000))));
        assert!((499..=501).contains(&mean(&mut |random| random.within(0, 1_000))));
        assert!((24..=26).contains(&mean(&mut |random| random.choose(&[(3, 0), (1, 100)], 0))));
    }
}
