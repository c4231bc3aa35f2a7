//! vmtide-bridge: the host side.

pub mod plan;
