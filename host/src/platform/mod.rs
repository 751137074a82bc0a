//! TODO

pub mod env;
pub mod error_chain;
pub mod fnv;
pub mod log;
pub mod memory;
pub mod scratch;
