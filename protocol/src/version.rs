//! Which protocol versions a side speaks, and the one that both do.

use serde::{Deserialize, Serialize};

/// The versions that this build speaks.
pub const SUPPORTED: VersionRange = VersionRange { min: 1, max: 1 };

/// A closed range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VersionRange {
    /// The oldest version spoken.
    pub min: u32,
    /// The newest version spoken.
    pub max: u32,
}

impl VersionRange {
    /// The newest version in both ranges; `None` when there is none, as with an inverted range.
    pub fn newest_common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_newest_that_both_speak() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).newest_common(range(2, 9)), Some(3));
        assert_eq!(range(2, 9).newest_common(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).newest_common(range(2, 2)), None);
        assert_eq!(range(3, 1).newest_common(range(1, 3)), None);
    }
}
