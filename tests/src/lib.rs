//! The lab boots real microVMs and lets vmtide work on them.
//!
//! A test reads as prose: configure, launch, run in the guest, wait for, assert.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use vmtide_lab::{Kernel, Lab, VmConfig};
//!
//! let lab = Lab::ready()?;
//! let vm = lab.launch(VmConfig::new("a", Kernel::V6_12)).await?;
//! vm.set_allocation(256 << 20).await?;
//! assert_eq!(vm.run("uname -s").await?.trim(), "Linux");
//! # Ok(()) }
//! ```
//!
//! - [`prepare`]: everything that must exist before the first boot: packages, kernels, static binaries, the
//!   initramfs and a proved accelerator. In: a Debian with a Rust toolchain. Out: a [`Lab`].
//! - [`vm`]: one QEMU with its vsock device. In: a [`VmConfig`]. Out: a [`Vm`] that runs commands and is sampled.
//! - [`guest`]: the program inside the guest that carries out those commands.
//! - [`load`]: the workload inside the guest (`vmtide-load`).
//! - [`fleet`]: several VMs on one budget, with the real bridge and agents.
//! - [`package`], [`install`]: what is installed, and whether it works on a Debian that boots.
//! - [`demo`], [`picture`], [`footprint`], [`tuning`], [`cpu`], [`compare`], [`io`], [`moves`], [`suite`]: the other commands of `cargo lab`.

pub mod compare;
pub mod cpu;
pub mod demo;
pub mod fleet;
pub mod footprint;
pub mod guest;
pub mod install;
pub mod io;
pub mod load;
pub mod moves;
pub mod package;
pub mod picture;
pub mod prepare;
pub mod suite;
pub mod tuning;
pub mod vm;

pub use prepare::{Kernel, Lab};
pub use vm::{Vm, VmConfig, wait_for};
