//! What comes out of the bridge's state: the shell does it, in order.

use crate::plan::storage::Throttle;
use vmtide_protocol::bridge::{Allocation, Host, SetOnlineCpus, TrimStorage, YieldMemory};

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the hypervisor of this VM for this allocation.
    SetTarget {
        /// The VM.
        vm: usize,
        /// The allocation.
        bytes: u64,
    },
    /// Hold the disks of this VM to a rate, or let them go.
    SetThrottle {
        /// The VM.
        vm: usize,
        /// The rate.
        throttle: Option<Throttle>,
    },
    /// Hold the group of this VM to a rate at its block devices, and give it this weight for them, or let it go.
    SetGroupIo {
        /// The VM.
        vm: usize,
        /// The rate, in each direction.
        throttle: Option<Throttle>,
        /// The weight.
        shares: Option<u32>,
    },
    /// Tell the guest of this VM what it has.
    TellAllocation {
        /// The VM.
        vm: usize,
        /// What it has.
        allocation: Allocation,
    },
    /// The VM is gone: whoever comes in its place is not to be told what it had.
    ForgetAllocation {
        /// The VM.
        vm: usize,
    },
    /// Tell all guests what the host is short of.
    TellHost(Host),
    /// Ask the guest of this VM for memory.
    Yield {
        /// The VM.
        vm: usize,
        /// The request.
        request: YieldMemory,
    },
    /// Give the group of this VM this weight and this quota.
    SetCpuTime {
        /// The VM.
        vm: usize,
        /// Its weight.
        shares: u32,
        /// The most that it may use, thousandths of a CPU.
        quota_millicpus: Option<u64>,
    },
    /// Ask the guest of this VM to run on other vCPUs.
    SetOnlineCpus {
        /// The VM.
        vm: usize,
        /// What is asked.
        request: SetOnlineCpus,
    },
    /// Ask the guest of this VM to give unused blocks back.
    Trim {
        /// The VM.
        vm: usize,
        /// The request.
        request: TrimStorage,
    },
    /// Ask the hypervisor of this VM for one vCPU more or less.
    SetVcpus {
        /// The VM.
        vm: usize,
        /// How many there are to be.
        vcpus: u32,
    },
}

impl Effect {
    /// The VM that it is for; `None` for all of them.
    pub(super) fn vm(&self) -> Option<usize> {
        match *self {
            Self::SetTarget { vm, .. }
            | Self::SetThrottle { vm, .. }
            | Self::SetGroupIo { vm, .. }
            | Self::TellAllocation { vm, .. }
            | Self::ForgetAllocation { vm }
            | Self::Yield { vm, .. }
            | Self::SetCpuTime { vm, .. }
            | Self::SetOnlineCpus { vm, .. }
            | Self::Trim { vm, .. }
            | Self::SetVcpus { vm, .. } => Some(vm),
            Self::TellHost(_) => None,
        }
    }
}
