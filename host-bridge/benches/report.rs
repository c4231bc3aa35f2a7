//! One report: from a line's bytes to a demand that the planner may use.

use divan::{Bencher, black_box};
use vmtide_bridge::guests::check_demand;
use vmtide_protocol::{AgentMessage, decode};

const REPORT: &[u8] = br#"{"kind":"report","sequence":41,"demand":{"memory":{"known":{"need_bytes":537919488,"floor_bytes":268435456,"urgency":"normal","reason":"steady","waiting_ms":0,"signals":{"total_bytes":805306368,"available_bytes":201326592,"free_bytes":50331648,"anon_bytes":318767104,"active_file_bytes":67108864,"inactive_file_bytes":134217728,"balloon_bytes":0,"swap_used_bytes":0,"refault_bytes_per_s":40960,"swap_in_bytes_per_s":0,"fall_bytes_per_s":1048576,"stall_some_permille":3,"stall_full_permille":1,"oom_kills":0}}},"cpu":{"known":{"need_millicpus":730,"floor_millicpus":100,"urgency":"idle","reason":"idle","signals":{"online_cpus":1,"used_millicpus":700,"steal_millicpus":12,"running_tasks":2,"stall_some_permille":40}}},"io":{"known":{"need_bytes_per_s":10485760,"need_ops_per_s":900,"floor_bytes_per_s":0,"urgency":"idle","reason":"steady","signals":{"read_bytes_per_s":8388608,"write_bytes_per_s":2097152,"ops_per_s":850,"in_flight":3,"stall_some_permille":9,"stall_full_permille":2}}}}}"#;

fn main() {
    divan::main();
}

#[divan::bench]
fn decode_and_check(bencher: Bencher) {
    bencher.counter(divan::counter::BytesCount::of_slice(REPORT)).bench(|| {
        match decode::<AgentMessage>(black_box(REPORT)).map(|decoded| decoded.message) {
            Ok(Some(AgentMessage::Report(report))) => Some(check_demand(&report.demand, 1 << 30)),
            _ => None,
        }
    });
}
