//! P, R, T and E of one window: of a resource, of a VM, of the host.

use super::{Each, PPM, Resource};
use serde::{Deserialize, Serialize};

/// The index of one window. Integers: parts in millionths, the multiple T in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// R: the allocation as a part of the maximum.
    pub r_ppm: u64,
    /// T: how long work took, as a multiple of what it takes without waiting; `None` where nothing got done.
    pub t_permille: Option<u64>,
    /// P: the allocation that turned into work, as a part of the maximum.
    pub p_ppm: u64,
    /// E: what turned into work, as a part of the allocation.
    pub e_ppm: u64,
}

impl Index {
    pub(super) fn new(r_ppm: u64, p_ppm: u64, e_ppm: u64) -> Self {
        let t_permille = (e_ppm > 0).then(|| PPM * 1000 / e_ppm);
        Self { r_ppm, t_permille, p_ppm, e_ppm }
    }

    /// P as a number of 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "at most a million")]
    pub fn p(&self) -> f64 {
        self.p_ppm as f64 / PPM as f64
    }

    /// The mean of `weighted` indices; `None` without any that has a weight. P and R are means; E and with it T are what
    /// is between them.
    fn mean(weighted: impl Iterator<Item = (Self, u64)>) -> Option<Self> {
        let (mut weights, mut r, mut p, mut e) = (0_u128, 0_u128, 0_u128, 0_u128);
        for (index, weight) in weighted {
            let weight = u128::from(weight);
            weights += weight;
            r += weight * u128::from(index.r_ppm);
            p += weight * u128::from(index.p_ppm);
            e += weight * u128::from(index.e_ppm);
        }
        // No mean of parts is more than the whole.
        let part = |of: u128, all: u128| u64::try_from(of / all).unwrap_or(PPM).min(PPM);
        if weights == 0 {
            return None;
        }
        // Of nothing, nothing can be wasted: then E is what the resources themselves say.
        let e_ppm = if r == 0 { part(e, weights) } else { part(p * u128::from(PPM), r) };
        Some(Self::new(part(r, weights), part(p, weights), e_ppm))
    }
}

/// The indices of a VM, or of the host, over one window; `None` where one is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indices {
    /// Each resource's.
    #[serde(flatten)]
    pub each: Each<Option<Index>>,
    /// The mean of those that are known, each resource alike.
    pub overall: Option<Index>,
}

impl Indices {
    /// The indices of these resources; those of others are left out.
    pub fn of(each: Each<Option<Index>>, resources: &[Resource]) -> Self {
        let keep = |resource| each.of(resource).filter(|_| resources.contains(&resource));
        let each = Each { memory: keep(Resource::Memory), cpu: keep(Resource::Cpu), io: keep(Resource::Io) };
        let known = [each.memory, each.cpu, each.io].into_iter().flatten();
        Self { each, overall: Index::mean(known.map(|index| (index, 1))) }
    }
}

/// The host's: the mean of its VMs', each weighted by its maximum (of memory; by its virtual CPUs; all alike in I/O).
pub fn whole_host(vms: &[(Indices, Each<u64>)]) -> Indices {
    let mean = |resource: Resource| {
        let known = vms.iter().filter_map(|(vm, weights)| Some(((*vm.each.of(resource))?, *weights.of(resource))));
        Index::mean(known)
    };
    let each = Each { memory: mean(Resource::Memory), cpu: mean(Resource::Cpu), io: mean(Resource::Io) };
    Indices::of(each, &Resource::ALL)
}
