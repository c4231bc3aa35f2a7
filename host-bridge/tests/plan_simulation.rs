//! What holds over time, tried on random hosts whose balloons need time.

mod plan_support;

use plan_support::arbitrary::{any_host, quiet_host};
use plan_support::bounds;
use plan_support::sim::{Guest, Sim, guest};
use proptest::prelude::*;
use vmtide_bridge::plan::{HostView, MIB, Reach, VmView};

fn sim(host: HostView, vms: Vec<VmView>) -> Sim {
    Sim::new(host, vms.into_iter().map(guest).collect())
}

/// Needs that wander by five percent to either side.
fn noise(seed: u64) -> impl FnMut(usize) -> u64 {
    let mut state = seed | 1;
    move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        950 + state % 101
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn committed_never_rises_above_the_limit(
        (host, vms) in any_host(),
        speeds in prop::collection::vec(0..600_u64, 40),
        seed in any::<u64>(),
    ) {
        let mut sim = sim(host, vms);
        for (guest, speed) in sim.guests.iter_mut().zip(speeds) {
            guest.inflate_bytes_per_s = speed * MIB;
        }
        let mut noise = noise(seed);
        let mut before = sim.committed();
        for tick in 0..180 {
            // Needs jump now and then.
            if tick % 20 == 0 {
                for (index, guest) in sim.guests.iter_mut().enumerate() {
                    guest.need_bytes = noise(index) % 97 * 40 * MIB;
                }
            }
            sim.tick(&mut noise);
            let now = sim.committed();
            prop_assert!(now <= before.max(sim.limit()), "{} after {} of {}", now, before, sim.limit());
            before = now;
        }
    }

    #[test]
    fn an_overcommitted_host_comes_to_fit((host, vms) in any_host()) {
        let host = HostView { available_bytes: None, stall_full_permille: 0, ..host };
        let mut sim = sim(host, vms);
        sim.run(30);
        let at_minimum = |guest: &Guest| {
            guest.view.reach != Reach::Ready || guest.view.committed_bytes() <= bounds(&guest.view).0
        };
        prop_assert!(sim.committed() <= sim.limit() || sim.guests.iter().all(at_minimum));
    }

    #[test]
    fn constant_demand_comes_to_rest((host, vms) in any_host()) {
        let host = HostView { available_bytes: None, stall_full_permille: 0, ..host };
        let mut sim = sim(host, vms);
        sim.run(400);
        sim.forget_moves();
        sim.run(200);
        prop_assert_eq!(sim.steps, 0);
    }

    #[test]
    fn noise_turns_nobody_round((host, vms) in quiet_host(40), seed in any::<u64>()) {
        let mut sim = sim(host, vms);
        let mut noise = noise(seed);
        // Until it is known that nobody bursts, which sizes the pool.
        for _ in 0..360 {
            sim.tick(&mut noise);
        }
        sim.forget_moves();
        for _ in 0..600 {
            sim.tick(&mut noise);
        }
        prop_assert!(sim.turns.iter().all(|turns| *turns == 0), "{:?}", sim.turns);
    }

    #[test]
    fn everybody_comes_to_what_it_is_entitled_to((host, vms) in quiet_host(20)) {
        let mut sim = sim(host, vms);
        let Some(plan) = sim.run(600) else { return Ok(()) };
        let lack: u64 = sim.guests.iter().zip(&plan.verdicts).filter(|(guest, _)| guest.view.demand_is_urgent())
            .map(|(guest, verdict)| verdict.entitled_bytes.min(verdict.wanted_bytes).saturating_sub(guest.view.allocation_bytes))
            .sum();
        let tolerated: u64 = sim.guests.len() as u64 * 4 * MIB;
        prop_assert!(lack <= tolerated, "{} MiB of stalled VMs' due are missing", lack / MIB);
    }
}

trait IsUrgent {
    fn demand_is_urgent(&self) -> bool;
}

impl IsUrgent for VmView {
    fn demand_is_urgent(&self) -> bool {
        matches!(self.demand, vmtide_bridge::plan::Demand::Fresh(demand)
            if demand.urgency >= vmtide_bridge::plan::Urgency::Pressed)
    }
}
