//! Memory that is equal in every process that runs this, as that of VMs of one image is: for a lab guest that plays the host.

use std::{env, num::NonZeroUsize, process::ExitCode, slice, thread, time::Duration};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

const PAGE_BYTES: usize = 4096;

/// Holds so many MiB of pages, no two of them equal, and offers them for merging as QEMU does (`MADV_MERGEABLE`).
fn main() -> ExitCode {
    let size = env::args().nth(1).and_then(|text| text.parse::<usize>().ok()?.checked_mul(1 << 20));
    let Some(bytes) = size.and_then(NonZeroUsize::new) else {
        eprintln!("usage: vmtide-equal MIB");
        return ExitCode::from(2);
    };
    match hold(bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmtide-equal: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold(bytes: NonZeroUsize) -> nix::Result<()> {
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[allow(unsafe_code)] // no safe wrapper for memory that is offered for merging
    // SAFETY: a new private mapping of `bytes`, never unmapped; only this slice ever refers to it.
    let memory = unsafe {
        let start = mmap_anonymous(None, bytes, rights, MapFlags::MAP_PRIVATE)?;
        madvise(start, bytes.get(), MmapAdvise::MADV_MERGEABLE)?;
        slice::from_raw_parts_mut(start.cast::<u8>().as_ptr(), bytes.get())
    };
    for (number, page) in memory.chunks_exact_mut(PAGE_BYTES).enumerate() {
        page[..8].copy_from_slice(&number.to_le_bytes());
        page[8..].fill(0x5a);
    }
    println!("holds {bytes} bytes");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
