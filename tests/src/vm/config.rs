//! How a VM is configured, and the QEMU command line that makes it so.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{Kernel, prepare::BootFiles};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// A VM to be launched.
#[derive(Debug, Clone)]
pub struct VmConfig {
    pub(super) name: String,
    pub(super) kernel: Kernel,
    pub(super) memory_bytes: u64,
    pub(super) vcpus: u32,
    vcpu_slots: u32,
    pub(super) deflate_on_oom: bool,
    pub(super) disk_bytes: Option<u64>,
    pub(super) swap_bytes: Option<u64>,
    disk_iops: Option<u32>,
    store: Option<(PathBuf, String)>,
    /// What virtio-mem can plug in.
    pub(super) pluggable_bytes: u64,
    free_page_reporting: bool,
}

impl VmConfig {
    /// A VM of 768 MiB and one vCPU with a balloon that gives way before an OOM kill.
    pub fn new(name: impl Into<String>, kernel: Kernel) -> Self {
        Self {
            name: name.into(),
            kernel,
            memory_bytes: 768 * MIB,
            vcpus: 1,
            vcpu_slots: 0,
            deflate_on_oom: true,
            disk_bytes: None,
            swap_bytes: None,
            disk_iops: None,
            store: None,
            pluggable_bytes: 0,
            free_page_reporting: false,
        }
    }

    /// Memory at boot, which is also its maximum without [`VmConfig::virtio_mem_mib`].
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_bytes = mib * MIB;
        self
    }

    /// Lets so much more be plugged in; none of it at boot.
    #[must_use]
    pub fn virtio_mem_mib(mut self, mib: u64) -> Self {
        self.pluggable_bytes = mib * MIB;
        self
    }

    /// Has the guest tell QEMU which pages are free.
    #[must_use]
    pub fn free_page_reporting(mut self) -> Self {
        self.free_page_reporting = true;
        self
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Places for so many vCPUs in all; those that are not there at boot can be plugged in.
    #[must_use]
    pub fn vcpu_slots(mut self, slots: u32) -> Self {
        self.vcpu_slots = slots;
        self
    }

    /// Keeps the balloon inflated even when the guest runs out of memory.
    #[must_use]
    pub fn firm_balloon(mut self) -> Self {
        self.deflate_on_oom = false;
        self
    }

    /// Adds an empty disk, `/dev/vda`, for file working sets.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.disk_bytes = Some(mib * MIB);
        self
    }

    /// Lets each disk do so many operations a second: the page cache behind it is faster than any disk.
    #[must_use]
    pub fn disk_iops(mut self, iops: u32) -> Self {
        self.disk_iops = Some(iops);
        self
    }

    /// Adds a disk, `/dev/vda`, that somebody exports by NBD at this socket.
    #[must_use]
    pub fn on_store(mut self, socket: PathBuf, export: &str) -> Self {
        self.store = Some((socket, export.to_owned()));
        self
    }

    /// Adds an empty disk to swap to: `/dev/vdb` beside a disk for files, else `/dev/vda`.
    #[must_use]
    pub fn swap_mib(mut self, mib: u64) -> Self {
        self.swap_bytes = Some(mib * MIB);
        self
    }

    /// The disks' files in a VM's directory, and how large they are.
    pub(super) fn disks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let disks = [("disk.raw", self.disk_bytes), ("swap.raw", self.swap_bytes)];
        disks.into_iter().filter_map(|(file, bytes)| Some((file, bytes?)))
    }

    /// QEMU's arguments; sockets and logs are in `dir`.
    pub(super) fn qemu_args(&self, dir: &Path, boot: &BootFiles) -> Vec<OsString> {
        let at = |file: &str| dir.join(file).display().to_string();
        let mib = self.memory_bytes / MIB;
        let mut args: Vec<String> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned).into();
        let mut push = |option: &str, value: String| args.extend([option.to_owned(), value]);
        // The vsock device is another process and must see the guest's memory.
        push("-machine", "q35,memory-backend=ram".into());
        push("-object", format!("memory-backend-memfd,id=ram,size={mib}M,share=on"));
        let pluggable = self.pluggable_bytes / MIB;
        if pluggable == 0 {
            push("-m", format!("{mib}M"));
        } else {
            push("-m", format!("{mib}M,maxmem={}M", mib + pluggable));
            push("-object", format!("memory-backend-memfd,id=more,size={pluggable}M,share=on"));
            push("-device", "virtio-mem-pci,id=vmem0,memdev=more,requested-size=0".into());
        }
        push("-smp", format!("{},maxcpus={}", self.vcpus, self.vcpu_slots.max(self.vcpus)));
        push("-serial", format!("file:{}", at("serial.log")));
        push("-chardev", format!("socket,id=vsock,path={}", at("vhost.sock")));
        push("-device", "vhost-user-vsock-pci,chardev=vsock".into());
        let deflate = if self.deflate_on_oom { "on" } else { "off" };
        let reporting = if self.free_page_reporting { ",free-page-reporting=on" } else { "" };
        push("-device", format!("virtio-balloon-pci,id=balloon0,deflate-on-oom={deflate}{reporting}"));
        for socket in ["bridge.qmp", "lab.qmp"] {
            push("-qmp", format!("unix:{},server=on,wait=off", at(socket)));
        }
        let throttle = self.disk_iops.map(|iops| format!(",throttling.iops-total={iops}")).unwrap_or_default();
        if let Some((socket, export)) = &self.store {
            let server = format!("file.driver=nbd,file.server.type=unix,file.server.path={}", socket.display());
            push("-drive", format!("{server},file.export={export},if=none,id=store,format=raw"));
            push("-device", "virtio-blk-pci,drive=store".into());
        }
        for (file, _) in self.disks() {
            push("-drive", format!("file={},if=none,id={file},format=raw,discard=unmap{throttle}", at(file)));
            push("-device", format!("virtio-blk-pci,drive={file}"));
        }
        args.into_iter().map(OsString::from).chain(kernel_args(boot)).collect()
    }
}

/// What every lab guest boots: the kernel, the initramfs and the kernel's command line.
pub(crate) fn kernel_args(boot: &BootFiles) -> Vec<OsString> {
    vec![
        "-kernel".into(),
        boot.vmlinuz.clone().into(),
        "-initrd".into(),
        boot.initramfs.clone().into(),
        "-append".into(),
        "console=ttyS0 quiet psi=1 panic=-1 mitigations=off".into(),
    ]
}
