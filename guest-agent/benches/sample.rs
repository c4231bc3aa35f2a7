//! What the agent costs: one sample of this machine, and one computation of demand.
#![allow(missing_docs, clippy::unwrap_used)] // a benchmark

use divan::Bencher;
use std::path::Path;
use vmtide_agent::demand::{CpuEstimator, IoEstimator, MemoryEstimator};
use vmtide_agent::sense::{CpuReader, MemoryReader, StorageReader};

fn main() {
    divan::main();
}

#[divan::bench]
fn sample_memory(bencher: Bencher) {
    let mut reader = MemoryReader::open(Path::new("/")).unwrap();
    bencher.bench_local(|| reader.sample().unwrap());
}

#[divan::bench]
fn sample_cpu(bencher: Bencher) {
    let mut reader = CpuReader::open(Path::new("/")).unwrap();
    bencher.bench_local(|| reader.sample().unwrap());
}

#[divan::bench]
fn sample_storage(bencher: Bencher) {
    let mut reader = StorageReader::open(Path::new("/")).unwrap();
    bencher.bench_local(|| reader.sample().unwrap());
}

#[divan::bench]
fn demand(bencher: Bencher) {
    let root = Path::new("/");
    let memory = MemoryReader::open(root).unwrap().sample().unwrap();
    let cpu = CpuReader::open(root).unwrap().sample().unwrap();
    let storage = StorageReader::open(root).unwrap().sample().unwrap();
    let (mut of_memory, mut of_cpu, mut of_io) =
        (MemoryEstimator::new(2_000), CpuEstimator::default(), IoEstimator::default());
    let mut now_ms = 0;
    bencher.bench_local(move || {
        now_ms += 1_000;
        let known = of_memory.update(now_ms, &memory, Some(1 << 40));
        (known, of_cpu.update(now_ms, &cpu), of_io.update(now_ms, &storage))
    });
}
