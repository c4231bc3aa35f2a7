//! The file systems that VMs' images are on, as their hypervisors name them: how much room is left.

use crate::plan::trim::PoolSpace;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was found about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its VM.
    pub vm: usize,
    /// Its file.
    pub path: PathBuf,
    /// The file system that it is on, or why that is not known.
    pub pool: Result<PoolSpace, String>,
}

/// Looks where images are. A file system that does not answer, as one of a network may, blocks: not for the loop.
pub fn look(images: Vec<(usize, PathBuf)>) -> Vec<Image> {
    let look = |(vm, path): (usize, PathBuf)| {
        let pool = space(&path);
        Image { vm, path, pool }
    };
    images.into_iter().map(look).collect()
}

fn space(path: &Path) -> Result<PoolSpace, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("no file: how much room its pool has is not known".to_owned());
    }
    let space = statvfs(path).map_err(|error| error.desc().to_owned())?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size());
    of(metadata.dev(), bytes(space.blocks()), bytes(space.blocks_available()))
}

/// A file system without a size, as some in user space are, would be low for ever.
fn of(device: u64, total_bytes: u64, available_bytes: u64) -> Result<PoolSpace, String> {
    if total_bytes == 0 {
        return Err("its file system tells no size".to_owned());
    }
    Ok(PoolSpace { device, total_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_one_file_system_have_one_pool_and_what_is_no_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&a, &b] {
            fs::write(path, "x").unwrap();
        }
        let missing = dir.path().join("missing");
        let found = look(vec![(0, a), (1, b), (1, "/dev/null".into()), (2, missing)]);
        let pools: Vec<_> = found.iter().map(|image| image.pool.clone()).collect();
        let (a, b) = (pools[0].clone().unwrap(), pools[1].clone().unwrap());
        assert!(a.device == b.device && a.total_bytes > 0 && a.available_bytes <= a.total_bytes);
        assert!(pools[2].clone().unwrap_err().starts_with("no file"));
        assert_eq!(of(1, 0, 0), Err("its file system tells no size".to_owned()));
        assert!(pools[3].clone().unwrap_err().contains("No such file"), "{:?}", pools[3]);
    }
}
