//! The memory a phase works on.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::Phase;

const PAGE: usize = 4096;

/// glibc returns a block of this size to the kernel as soon as it is dropped; smaller ones may stay in the heap.
const CHUNK: usize = 64 << 20;

/// Anonymous pages that grow, and a range of a block device.
pub(super) struct WorkingSet<'device> {
    chunks: Vec<Vec<u8>>,
    anon_pages: usize,
    anon_pages_wanted: usize,
    file: Option<(&'device File, u64)>,
}

impl<'device> WorkingSet<'device> {
    /// The file part stays in the page cache for as long as the device is open, as other programs' files do.
    pub(super) fn new(phase: &Phase, device: Option<&'device File>) -> Self {
        let file_pages = phase.file_bytes / PAGE as u64;
        Self {
            chunks: Vec::new(),
            anon_pages: 0,
            anon_pages_wanted: usize::try_from(phase.anon_bytes).unwrap_or(usize::MAX) / PAGE,
            file: device.filter(|_| file_pages > 0).map(|device| (device, file_pages)),
        }
    }

    pub(super) fn anon_bytes(&self) -> u64 {
        (self.anon_pages * PAGE) as u64
    }

    /// Fills anonymous memory up to `bytes`, at most what the phase wants.
    pub(super) fn grow_to(&mut self, bytes: u64, random: &mut fastrand::Rng) {
        let pages = usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX).min(self.anon_pages_wanted);
        while self.anon_pages < pages {
            if self.anon_pages * PAGE == self.chunks.len() * CHUNK {
                let left = (self.anon_pages_wanted - self.anon_pages) * PAGE;
                self.chunks.push(vec![0; left.min(CHUNK)]);
            }
            let page = self.anon_pages;
            self.anon_pages += 1;
            // Content that neither compresses to nothing nor merges with other pages.
            for word in self.page(page).chunks_exact_mut(64) {
                word[..8].copy_from_slice(&random.u64(..).to_ne_bytes());
            }
        }
    }

    /// Touches one random page of each kind there is.
    pub(super) fn touch(&mut self, random: &mut fastrand::Rng) -> io::Result<()> {
        if self.anon_pages > 0 {
            let page = random.usize(..self.anon_pages);
            let byte = random.usize(..PAGE);
            let byte = &mut self.page(page)[byte];
            *byte = byte.wrapping_add(1);
        }
        if let Some((file, pages)) = &self.file {
            let mut byte = [0];
            file.read_at(&mut byte, random.u64(..*pages) * PAGE as u64)?;
        }
        Ok(())
    }

    fn page(&mut self, page: usize) -> &mut [u8] {
        let at = page * PAGE;
        &mut self.chunks[at / CHUNK][at % CHUNK..][..PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse_phases;

    #[test]
    fn anonymous_memory_grows_as_asked_and_no_further() {
        let phase = &parse_phases("anon=70M:1s").unwrap()[0];
        let mut set = WorkingSet::new(phase, None);
        let mut random = fastrand::Rng::with_seed(7);
        set.touch(&mut random).unwrap();
        set.grow_to(1 << 20, &mut random);
        assert_eq!(set.anon_bytes(), 1 << 20);
        set.grow_to(u64::MAX, &mut random);
        assert_eq!(set.anon_bytes(), 70 << 20);
        for _ in 0..10_000 {
            set.touch(&mut random).unwrap();
        }
    }
}
