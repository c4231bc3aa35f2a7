//! The memory a phase works on.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::Phase;

const PAGE: usize = 4096;

/// Who is far behind because its guest is short of memory still gets to report.
const PAGES_AT_A_TIME: usize = 1024;

/// glibc returns a block of this size to the kernel as soon as it is dropped; smaller ones may stay in the heap.
const CHUNK: usize = 64 << 20;

/// Anonymous pages that grow, and two ranges of a block device: one that is read, and behind it one that is written.
pub(super) struct WorkingSet<'device> {
    chunks: Vec<Vec<u8>>,
    anon_pages: usize,
    anon_pages_wanted: usize,
    hot_pages: usize,
    device: Option<&'device File>,
    read_pages: u64,
    written_pages: u64,
}

impl<'device> WorkingSet<'device> {
    /// The file part stays in the page cache for as long as the device is open, as other programs' files do.
    pub(super) fn new(phase: &Phase, device: Option<&'device File>) -> Self {
        let pages = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE;
        Self {
            chunks: Vec::new(),
            anon_pages: 0,
            anon_pages_wanted: pages(phase.anon_bytes),
            hot_pages: pages(phase.hot_bytes),
            device,
            read_pages: phase.file_bytes / PAGE as u64,
            written_pages: phase.write_bytes / PAGE as u64,
        }
    }

    pub(super) fn anon_bytes(&self) -> u64 {
        (self.anon_pages * PAGE) as u64
    }

    /// Whether the phase has all the anonymous memory that it wants.
    pub(super) fn is_complete(&self) -> bool {
        self.anon_pages == self.anon_pages_wanted
    }

    /// Fills anonymous memory up to `bytes`, at most what the phase wants, and a little at a time.
    pub(super) fn grow_to(&mut self, bytes: u64, random: &mut fastrand::Rng) {
        let pages = usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX);
        let pages = pages.min(self.anon_pages_wanted).min(self.anon_pages + PAGES_AT_A_TIME);
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
        let hot_pages = self.hot_pages.min(self.anon_pages);
        if hot_pages > 0 {
            let page = random.usize(..hot_pages);
            let byte = random.usize(..PAGE);
            let byte = &mut self.page(page)[byte];
            *byte = byte.wrapping_add(1);
        }
        if let Some(device) = self.device.filter(|_| self.read_pages > 0) {
            let mut byte = [0];
            device.read_at(&mut byte, random.u64(..self.read_pages) * PAGE as u64)?;
        }
        Ok(())
    }

    /// Writes a whole page at a random place, into the page cache.
    pub(super) fn write(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        if let Some(device) = self.device.filter(|_| self.written_pages > 0) {
            let page = [random.u8(..); PAGE];
            device.write_all_at(&page, (self.read_pages + random.u64(..self.written_pages)) * PAGE as u64)?;
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
        assert!(!set.is_complete());
        for _ in 0..70 {
            set.grow_to(u64::MAX, &mut random);
        }
        assert!(set.is_complete() && set.anon_bytes() == 70 << 20);
        for _ in 0..10_000 {
            set.touch(&mut random).unwrap();
        }
    }

    #[test]
    fn the_cold_part_is_left_alone_and_writes_stay_behind_what_is_read() {
        let phase = &parse_phases("anon=2M/1M+file=1M+write=1M:1s").unwrap()[0];
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 << 20).unwrap();
        let mut set = WorkingSet::new(phase, Some(&file));
        let mut random = fastrand::Rng::with_seed(7);
        while !set.is_complete() {
            set.grow_to(u64::MAX, &mut random);
        }
        let before = set.chunks[0].clone();
        for _ in 0..10_000 {
            set.touch(&mut random).unwrap();
            set.write(&mut random).unwrap();
        }
        assert!(set.chunks[0][..1 << 20] != before[..1 << 20] && set.chunks[0][1 << 20..] == before[1 << 20..]);
        let mut bytes = vec![0; 2 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..1 << 20].iter().all(|byte| *byte == 0) && bytes[1 << 20..].iter().any(|byte| *byte != 0));
    }
}
