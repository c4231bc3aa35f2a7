//! How evenly VMs are served: Jain's index over satisfaction, weighted by shares.
//!
//! ```text
//! x = min(1, allocation / working set)         a VM's satisfaction
//! J = (Σ w·x)² / (Σ w · Σ w·x²)                w: its shares
//! ```
//!
//! With equal shares it is the index of Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination"
//! (DEC TR-301, 1984): 1 when all are served alike, k/n when k of n have all and the others nothing. A VM of 2000
//! shares counts like two of 1000. In millionths, in whole numbers.

/// One million: served in full, or served alike.
pub(super) const PPM: u64 = 1_000_000;

/// What a VM with `has` of what it `uses` is served, millionths.
pub(super) fn satisfaction_ppm(has: u64, uses: u64) -> u64 {
    if has >= uses { PPM } else { u64::try_from(u128::from(has) * u128::from(PPM) / u128::from(uses)).unwrap_or(PPM) }
}

/// The sums behind the index.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jain {
    weights: u128,
    sum: u128,
    squares: u128,
}

impl Jain {
    pub fn add(&mut self, shares: u32, satisfaction_ppm: u64) {
        let (weight, x) = (u128::from(shares), u128::from(satisfaction_ppm));
        self.weights += weight;
        self.sum += weight * x;
        self.squares += weight * x * x;
    }

    /// Millionths; of nobody, or where nobody has anything, all are served alike.
    pub fn index_ppm(&self) -> u64 {
        // Of 100 000 VMs with 10 000 shares each: below 2^123.
        let index = (self.sum * self.sum * u128::from(PPM)).checked_div(self.weights * self.squares);
        let index = index.unwrap_or(u128::from(PPM));
        u64::try_from(index).unwrap_or(PPM).min(PPM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(vms: &[(u32, u64)]) -> u64 {
        let mut jain = Jain::default();
        for (shares, satisfaction) in vms {
            jain.add(*shares, *satisfaction);
        }
        jain.index_ppm()
    }

    #[test]
    fn the_index_is_that_of_the_paper() {
        assert_eq!(index(&[(1000, PPM), (1000, PPM)]), PPM);
        assert_eq!(index(&[(1000, PPM / 2), (1000, PPM / 2)]), PPM, "all are served half alike");
        assert_eq!(index(&[(1000, PPM), (1000, 0), (1000, 0), (1000, PPM), (1000, 0)]), PPM * 2 / 5, "k of n");
        assert_eq!(index(&[]), PPM);
    }

    #[test]
    fn shares_weigh_as_that_many_vms() {
        let split = index(&[(1000, PPM), (1000, PPM), (1000, PPM / 3)]);
        assert_eq!(index(&[(2000, PPM), (1000, PPM / 3)]), split);
        assert!(index(&[(4000, PPM), (1000, 0)]) > index(&[(1000, PPM), (4000, 0)]));
    }

    #[test]
    fn satisfaction_is_what_there_is_of_what_is_used() {
        assert_eq!([0, 250, 1_000, 2_000].map(|has| satisfaction_ppm(has, 1_000)), [0, PPM / 4, PPM, PPM]);
        assert_eq!(satisfaction_ppm(0, 0), PPM);
    }

    #[test]
    fn a_hundred_thousand_vms_do_not_overflow() {
        assert_eq!(index(&vec![(10_000, PPM); 100_000]), PPM);
    }
}
