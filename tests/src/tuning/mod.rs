//! `cargo lab scenario tuning`: what the agent's tuning gains, and whether it leaves the guest as it found it.
//!
//! ```text
//!  boot:   off             on                off             on
//!          |               |                 |               |
//!          swap, write     swap, write       swap, write     swap, write
//!                          | SIGTERM                         | SIGKILL, then `vmtide-agent revert --all`
//!                          state as before?                  state as before?
//! ```
//!
//! In: a kernel. Out: [`Tuning`]. Each boot is a fresh guest with zram as its swap, a slow disk and a running agent, which
//! tunes or does not; work is counted by the workload, waiting by the guest's kernel, and the guest's settings are read by
//! the lab.
//!
//! - [`guest`]: that guest.
//! - [`workload`]: what it does, and the window in which it is measured.
//! - [`state`]: its settings.
//! - [`tuned`]: `cargo lab scenario tuned`, the same workload under TuneD's values and under vmtide's, in turns.
//! - [`overhead`]: `cargo lab scenario overhead`, what a guest needs beyond its working set.

pub mod guest;
pub mod overhead;
pub mod state;
pub mod tuned;
pub mod workload;

use anyhow::Result;
use serde::Serialize;

use crate::{Kernel, Lab};
use guest::{Knobs, Mode, Swap, TunedGuest};
use state::State;
use workload::{SWAPPING, WRITING, Work};

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Tuning {
    /// What the guests booted.
    pub kernel: String,
    /// The accelerator that ran them.
    pub accelerator: &'static str,
    /// As the agent of the last tuned boot said before it was ended.
    pub knobs: Knobs,
    /// Whether every setting was as before after SIGTERM.
    pub restored_exactly: bool,
    /// Whether every setting was as before after SIGKILL and `vmtide-agent revert --all`.
    pub after_sigkill_restored_exactly: bool,
    /// Operations with tuning, by those without: the geometric mean over workloads and boots.
    pub work_ratio_on_off: f64,
    /// Time in which tasks waited for memory with tuning, by that without, all workloads and boots together; `None`
    /// when nobody waited without.
    pub stall_ratio_on_off: Option<f64>,
    /// Each workload by itself.
    pub workloads: Vec<Compared>,
    /// The settings that were not as before, if any.
    pub differences: Vec<String>,
}

/// One workload.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Its name.
    pub workload: &'static str,
    /// Operations with tuning, by those without: the geometric mean over the boots.
    pub work_ratio_on_off: f64,
    /// Without tuning, in the order of the boots.
    pub off: Vec<Work>,
    /// With tuning, in the order of the boots.
    pub on: Vec<Work>,
}

/// Measures the tuning of this workspace's agent.
///
/// # Errors
/// When a VM, its workload or the agent does not come up.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Tuning> {
    let mut workloads = [SWAPPING, WRITING].map(|workload| Compared {
        workload: workload.name,
        work_ratio_on_off: 0.0,
        off: Vec::new(),
        on: Vec::new(),
    });
    let mut knobs = Knobs::default();
    let mut differences = [Vec::new(), Vec::new()];
    for found in &mut differences {
        for mode in [Mode::Off, Mode::Adaptive] {
            let is_second = !workloads[0].on.is_empty();
            let guest = TunedGuest::boot(lab, kernel, Swap::Zram).await?;
            let before = State::read(guest.vm()).await?;
            let agent = guest.start_agent(mode).await?;
            for (workload, compared) in [SWAPPING, WRITING].iter().zip(&mut workloads) {
                let work = workload.run(guest.vm()).await?;
                eprintln!("lab: {} with tuning {mode:?}: {work:?}", workload.name);
                if mode == Mode::Off { compared.off.push(work) } else { compared.on.push(work) }
            }
            if mode == Mode::Adaptive {
                knobs = guest.knobs().await?;
                if is_second {
                    guest.kill_and_revert(agent).await?;
                } else {
                    guest.stop(agent).await?;
                }
                *found = before.differences(&State::read(guest.vm()).await?);
            }
        }
    }
    for compared in &mut workloads {
        compared.work_ratio_on_off = geometric_mean(compared.ratios());
    }
    let stalled = |work: fn(&Compared) -> &[Work]| -> u64 {
        workloads.iter().flat_map(work).map(|work| work.memory_stall_ms).sum()
    };
    let (on, off) = (stalled(|compared| &compared.on), stalled(|compared| &compared.off));
    Ok(Tuning {
        kernel: kernel.to_string(),
        accelerator: lab.accelerator(),
        knobs,
        restored_exactly: differences[0].is_empty(),
        after_sigkill_restored_exactly: differences[1].is_empty(),
        work_ratio_on_off: geometric_mean(workloads.iter().flat_map(Compared::ratios)),
        stall_ratio_on_off: (off > 0).then(|| ratio(on, off)),
        workloads: workloads.into(),
        differences: differences.concat(),
    })
}

impl Tuning {
    /// Whether the guest was left as it was found.
    pub fn left_nothing_behind(&self) -> bool {
        self.restored_exactly && self.after_sigkill_restored_exactly
    }
}

impl Compared {
    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.on.iter().zip(&self.off).map(|(on, off)| ratio(on.ops, off.ops))
    }
}

#[expect(clippy::cast_precision_loss, reason = "nothing here is counted up to 2^52")]
fn ratio(over: u64, under: u64) -> f64 {
    over as f64 / under.max(1) as f64
}

/// Of ratios the only fair mean: a half and a double make one.
fn geometric_mean(ratios: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = ratios.fold((0.0, 0), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (sum / f64::from(count.max(1))).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_and_a_double_make_one() {
        assert!((geometric_mean([0.5, 2.0].into_iter()) - 1.0).abs() < 1e-9);
        assert!((geometric_mean([1.1].into_iter()) - 1.1).abs() < 1e-9);
    }
}
