//! A slow store that two VMs share, without a device of its own: a storage daemon that exports both images over NBD.
//!
//! ```text
//!  guest a, QEMU --NBD--> raw, first half ---+
//!                                            +--> one queue of so many operations a second --> file
//!  guest b, QEMU --NBD--> raw, second half --+
//! ```
//!
//! Both halves stand on one throttled node, hence in one queue, first come first served, as in a disk: who keeps many
//! operations in it makes the other wait. (Two members of a throttle group would be served in turns.)

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::vm::{MIB, Scratch, Tied, until_exists};

/// Two images behind one queue; dropping it ends the daemon.
#[derive(Debug)]
pub struct Store {
    _daemon: Tied,
    dir: Scratch,
}

impl Store {
    /// Starts it: two images of `image_mib`, called `a` and `b`, that do `iops` operations a second together.
    ///
    /// # Errors
    /// When the daemon (of the package that QEMU needs as well) does not come up.
    pub async fn start(image_mib: u64, iops: u32) -> Result<Self> {
        let dir = Scratch::new()?;
        let (file, socket) = (dir.path().join("store.raw"), socket(dir.path()));
        // Not sparse: the daemon answers for a hole without a read, hence without the queue.
        let (mut content, mebibyte) = (File::create(&file)?, vec![0x5a; 1 << 20]);
        (0..2 * image_mib).try_for_each(|_| content.write_all(&mebibyte))?;
        let mut command = Tied::command("qemu-storage-daemon");
        let mut push = |option: &str, value: String| {
            command.args([option, &value]);
        };
        push("--blockdev", format!("driver=file,node-name=file,filename={}", file.display()));
        push("--object", format!("throttle-group,id=speed,x-iops-total={iops}"));
        push("--blockdev", "driver=throttle,node-name=queue,file=file,throttle-group=speed".into());
        push("--nbd-server", format!("addr.type=unix,addr.path={}", socket.display()));
        for (image, begins_mib) in [("a", 0), ("b", image_mib)] {
            let (offset, size) = (begins_mib * MIB, image_mib * MIB);
            push("--blockdev", format!("driver=raw,node-name={image},file=queue,offset={offset},size={size}"));
            push("--export", format!("type=nbd,id={image},node-name={image},name={image},writable=on"));
        }
        command.stderr(File::create(dir.path().join("store.log"))?);
        let mut daemon = Tied::spawn("qemu-storage-daemon", &mut command)?;
        until_exists(&socket, &mut daemon).await?;
        Ok(Self { _daemon: daemon, dir })
    }

    /// Where QEMU finds the images.
    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("store.nbd")
}
