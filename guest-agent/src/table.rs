//! A demand as a table for people.

use vmtide_protocol::Amount;
use vmtide_protocol::demand::{Answer, Demand};

const MIB: u64 = 1024 * 1024;

/// Three lines: what is needed of each resource, at least, how urgently and why.
pub fn table(demand: &Demand) -> String {
    let memory = row(&demand.memory, |memory| {
        let mib = |bytes| format!("{} MiB", number(bytes) / MIB);
        [mib(memory.need_bytes), mib(memory.floor_bytes), word(&memory.urgency), word(&memory.reason)]
    });
    let cpu = row(&demand.cpu, |cpu| {
        let vcpus = |millicpus| format!("{}.{:03} vCPU", number(millicpus) / 1000, number(millicpus) % 1000);
        [vcpus(cpu.need_millicpus), vcpus(cpu.floor_millicpus), word(&cpu.urgency), word(&cpu.reason)]
    });
    let io = row(&demand.io, |io| {
        let kib = |bytes| format!("{} KiB/s", number(bytes) / 1024);
        [kib(io.need_bytes_per_s), kib(io.floor_bytes_per_s), word(&io.urgency), word(&io.reason)]
    });
    format!(
        "         {}\nmemory   {memory}\ncpu      {cpu}\nio       {io}\n",
        columns(["NEED", "FLOOR", "URGENCY", "REASON"].map(Into::into))
    )
}

fn row<T>(answer: &Answer<T>, cells: impl FnOnce(&T) -> [String; 4]) -> String {
    answer.known().map_or_else(|| "not yet known".into(), |demand| columns(cells(demand)))
}

fn columns([need, floor, urgency, reason]: [String; 4]) -> String {
    format!("{need:>14} {floor:>14}  {urgency:<9} {reason}")
}

fn number(amount: Amount) -> u64 {
    amount.within(u64::MAX).0
}

/// An urgency or a reason as on the wire.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}
