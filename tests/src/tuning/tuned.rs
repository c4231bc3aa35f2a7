//! `cargo lab scenario tuned`: the values of TuneD's virtual-guest profile against vmtide's, in turns in one guest.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    geometric_mean,
    guest::{Mode, Swap, TunedGuest},
    ratio,
    state::State,
    workload::{SWAPPING, Work},
};
use crate::{Kernel, Lab};

/// What TuneD's virtual-guest profile sets beside CPU governors; all else of this guest's memory it leaves alone.
const TUNED: [(&str, &str); 2] = [("/proc/sys/vm/dirty_ratio", "30"), ("/proc/sys/vm/swappiness", "30")];
const TURNS: usize = 2;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct AgainstTuned {
    /// What the guest booted.
    pub kernel: String,
    /// The accelerator that ran it.
    pub accelerator: &'static str,
    /// Operations under vmtide by those under TuneD's values: the geometric mean over the turns.
    pub work_ratio: f64,
    /// Under TuneD's values, in turns.
    pub tuned: Vec<Work>,
    /// Under vmtide, in turns.
    pub vmtide: Vec<Work>,
}

/// Measures both on one guest.
///
/// # Errors
/// When the VM, its workload or the agent does not come up, or vmtide does not put back what it changed.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<AgainstTuned> {
    let guest = TunedGuest::boot(lab, kernel, Swap::Zram).await?;
    let stock = State::read(guest.vm()).await?;
    let (mut tuned, mut vmtide) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (path, value) in TUNED {
            guest.vm().run(&format!("cat {path} >>/tmp/stock; echo {value} >{path}")).await?;
        }
        let agent = guest.start_agent(Mode::Off).await?;
        tuned.push(SWAPPING.run(guest.vm()).await?);
        eprintln!("lab: under TuneD's values: {:?}", tuned.last());
        guest.stop(agent).await?;
        for (number, (path, _)) in TUNED.iter().enumerate() {
            guest.vm().run(&format!("sed -n {}p /tmp/stock >{path}", number + 1)).await?;
        }
        guest.vm().run("rm /tmp/stock").await?;

        let agent = guest.start_agent(Mode::Adaptive).await?;
        vmtide.push(SWAPPING.run(guest.vm()).await?);
        eprintln!("lab: under vmtide: {:?}", vmtide.last());
        guest.stop(agent).await?;
        let left = stock.differences(&State::read(guest.vm()).await?);
        ensure!(left.is_empty(), "settings were left behind: {left:?}");
    }
    let ratios = vmtide.iter().zip(&tuned).map(|(vmtide, tuned)| ratio(vmtide.ops, tuned.ops));
    Ok(AgainstTuned {
        kernel: kernel.to_string(),
        accelerator: lab.accelerator(),
        work_ratio: geometric_mean(ratios),
        tuned,
        vmtide,
    })
}
