//! Who is entitled to what: all wants where they fit, else by shares between minimum and want.

/// One VM's claim, thousandths of a CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub shares: u32,
    /// What it keeps in any case, as far as all of these fit; at most `want`.
    pub least: u64,
    pub want: u64,
}

/// What each is entitled to of `capacity`: `level × shares`, held to `least..=want`, with the highest level that fits.
///
/// The sum is never over `capacity`. Minimums that do not fit by themselves are cut in proportion.
pub(super) fn entitled(claims: &[Claim], capacity: u64) -> Vec<u64> {
    let sum = |of: &dyn Fn(&Claim) -> u64| claims.iter().map(|claim| u128::from(of(claim))).sum::<u128>();
    let capacity = u128::from(capacity);
    if sum(&|claim| claim.want) <= capacity {
        return claims.iter().map(|claim| claim.want).collect();
    }
    let least = sum(&|claim| claim.least);
    if least >= capacity {
        return claims.iter().map(|claim| narrow(u128::from(claim.least) * capacity / least.max(1))).collect();
    }
    let at = |level: u128, claim: &Claim| {
        let by_shares = narrow((level * u128::from(claim.shares)) >> FRACTION);
        by_shares.clamp(claim.least, claim.want.max(claim.least))
    };
    // At the upper end one share has all there is.
    let (mut low, mut high) = (0, (capacity + 1) << FRACTION);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if sum(&|claim| at(middle, claim)) <= capacity { low = middle } else { high = middle }
    }
    claims.iter().map(|claim| at(low, claim)).collect()
}

/// Bits of a level behind the point: shares go up to a million.
const FRACTION: u32 = 24;

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(shares: u32, least: u64, want: u64) -> Claim {
        Claim { shares, least, want }
    }

    #[test]
    fn shares_divide_what_does_not_fit_and_what_one_leaves_goes_to_the_others() {
        for (claims, capacity, expected) in [
            (vec![claim(3000, 0, 4000), claim(1000, 0, 4000)], 2000, vec![1500, 500]),
            (vec![claim(3000, 0, 300), claim(1000, 0, 4000)], 2000, vec![300, 1700]),
            (vec![claim(3000, 0, 4000), claim(1000, 800, 4000)], 2000, vec![1200, 800]),
            (vec![claim(1, 0, 500), claim(1_000_000, 0, 500)], 2000, vec![500, 500]),
            (vec![claim(1000, 3000, 4000), claim(1000, 1000, 4000)], 2000, vec![1500, 500]),
        ] {
            assert_eq!(entitled(&claims, capacity), expected, "{claims:?}");
        }
    }

    proptest! {
        #[test]
        fn it_fits_minimums_hold_and_shares_decide(
            claims in proptest::collection::vec((1..=1_000_000_u32, 0..8000_u64, 0..64_000_u64), 1..20),
            capacity in 1..128_000_u64,
        ) {
            let claims: Vec<Claim> = claims.into_iter().map(|(s, least, want)| claim(s, least.min(want), want)).collect();
            let got = entitled(&claims, capacity);
            let (wants, leasts) = (claims.iter().map(|c| c.want).sum::<u64>(), claims.iter().map(|c| c.least).sum::<u64>());
            prop_assert!(got.iter().sum::<u64>() <= capacity);
            if wants > capacity {
                // All is given out, but for what rounding costs each.
                let rest = capacity - got.iter().sum::<u64>();
                prop_assert!(rest <= 2 * claims.len() as u64, "{rest} left");
            }
            for (i, (a, got_a)) in claims.iter().zip(&got).enumerate() {
                prop_assert!(*got_a <= a.want);
                if leasts <= capacity {
                    prop_assert!(*got_a >= a.least);
                    for (b, got_b) in claims.iter().zip(&got).skip(i + 1) {
                        // Both between their bounds: in proportion, but for a thousandth of a CPU.
                        let free = |c: &Claim, got: u64| got > c.least && got < c.want;
                        if free(a, *got_a) && free(b, *got_b) {
                            let left = (u128::from(*got_a) * u128::from(b.shares)).abs_diff(u128::from(*got_b) * u128::from(a.shares));
                            prop_assert!(left <= u128::from(a.shares) + u128::from(b.shares), "{a:?} {got_a} {b:?} {got_b}");
                        }
                    }
                }
            }
        }
    }
}
