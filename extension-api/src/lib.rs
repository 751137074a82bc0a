//! What an extension is, and the boundary between it and the host.

pub mod abi;
