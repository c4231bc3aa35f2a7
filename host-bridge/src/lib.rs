//! The host side of vmtide: a library, the daemon `vmtide-bridge` and the command `vmtide`.
//!
//! Four floors, each of which knows only those below it: [`plan`], [`performance`], [`config`] and `socket` (how to listen
//! on a unix socket); [`guests`], [`host`], [`cgroup`], [`hypervisor`], [`init`], [`record`], [`api`] and [`tune`];
//! [`bridge`], and [`doctor`], which asks it from outside; the binaries.

pub mod api;
pub mod bridge;
pub mod cgroup;
pub mod config;
pub mod doctor;
pub mod guests;
pub mod host;
pub mod hypervisor;
pub mod init;
pub mod model;
pub mod performance;
pub mod plan;
pub mod record;
pub mod replay;
pub mod simulate;
pub mod sizing;
mod socket;
pub mod tune;

use vmtide_tuning::full_text;
