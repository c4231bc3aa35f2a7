//! `proxmox-rules`: the published rules of Proxmox VE's automatic ballooning (`pvestatd`, `PVE::AutoBalloon`).
//!
//! Each 10 s the VMs together are to come to 80 % of the host's RAM. Off by 10 MiB or less, nothing moves. Every VM is to
//! have its minimum and of the rest its shares' part, and moves there by at most 100 MiB. Growth goes to VMs under
//! pressure first, shrinking begins with the others; under pressure is who has no more free than a quarter of its
//! minimum. What a guest uses does not matter otherwise.

use super::{Clock, Plan, part, plan_of, used_bytes};
use crate::plan::{HostView, MIB, Millis, Reach, VmView};

const INTERVAL_MS: Millis = 10_000;
const DEAD_BAND: i128 = 10 * MIB as i128;
const LARGEST_MOVE: i128 = 100 * MIB as i128;

/// What it remembers: when it looked last.
#[derive(Clone, Debug, Default)]
pub(in crate::plan) struct Proxmox {
    clock: Clock,
}

impl Proxmox {
    pub(in crate::plan) fn plan(&mut self, now_ms: Millis, host: &HostView, vms: &[VmView]) -> Plan {
        let mut seats: Vec<Seat> = vms.iter().map(Seat::new).collect();
        if self.clock.is_due(now_ms, INTERVAL_MS) {
            let goal = i128::from(part(host.capacity_bytes, 80, 100)) - i128::from(used_bytes(vms));
            if goal > DEAD_BAND {
                change_all(&mut seats, goal, |seat| seat.is_pressed);
            } else if goal < -DEAD_BAND {
                change_all(&mut seats, goal, |seat| !seat.is_pressed);
            }
        }
        let target = |seat: &Seat| (seat.to != seat.has).then(|| u64::try_from(seat.to).unwrap_or(0));
        plan_of(host, vms, &seats.iter().map(target).collect::<Vec<_>>())
    }
}

/// One VM, bytes; signed, for what is to be given may be less than nothing.
#[derive(Clone, Debug)]
struct Seat {
    minimum: i128,
    maximum: i128,
    shares: i128,
    has: i128,
    to: i128,
    takes_part: bool,
    is_pressed: bool,
}

impl Seat {
    fn new(vm: &VmView) -> Self {
        let minimum = vm.limits.minimum_bytes;
        let has_free = vm.shown.free_bytes.is_some_and(|free| free > minimum / 4);
        Self {
            minimum: minimum.into(),
            maximum: vm.limits.maximum_bytes.into(),
            shares: i128::from(vm.limits.shares.max(1)),
            has: vm.allocation_bytes.into(),
            to: vm.allocation_bytes.into(),
            takes_part: vm.reach == Reach::Ready,
            is_pressed: !(has_free && vm.allocation_bytes >= minimum),
        }
    }
}

/// Changes the VMs that go first; when that does nothing, all.
fn change_all(seats: &mut [Seat], goal: i128, goes_first: impl Fn(&Seat) -> bool) {
    let rest = change(seats, goal, |seat| seat.takes_part && goes_first(seat));
    if rest.abs() >= goal.abs() {
        change(seats, rest, |seat| seat.takes_part);
    }
}

/// Brings the chosen VMs closer to their part of what they have and `bytes`; returns what is left of `bytes`.
fn change(seats: &mut [Seat], bytes: i128, is_chosen: impl Fn(&Seat) -> bool) -> i128 {
    let mut rest = bytes;
    let mut chosen: Vec<usize> = (0..seats.len()).filter(|at| is_chosen(&seats[*at])).collect();
    loop {
        let shares: i128 = chosen.iter().map(|at| seats[*at].shares).sum();
        let above_minimum: i128 = chosen.iter().map(|at| seats[*at].to - seats[*at].minimum).sum();
        let mut moved = 0;
        chosen.retain(|at| {
            let seat = &mut seats[*at];
            let desired = seat.minimum + (above_minimum + rest) * seat.shares / shares.max(1);
            let desired = desired.max(seat.minimum).min(seat.maximum);
            let to = match desired - seat.has {
                more if more > 0 && bytes > 0 => desired.min(seat.has + LARGEST_MOVE),
                less if less < 0 => desired.max(seat.has - LARGEST_MOVE),
                _ => return false,
            };
            moved += to - seat.to;
            seat.to = to;
            true
        });
        rest -= moved;
        if rest == 0 || moved == 0 {
            return rest;
        }
    }
}
