//! What the host needs of the system it runs on, and knows nothing of extensions or HTTP.

pub mod child;
pub mod env;
pub mod error_chain;
pub mod fnv;
pub mod handover;
pub mod listen;
pub mod log;
pub mod log_limit;
pub mod log_writer;
pub mod memory;
pub mod process;
pub mod scratch;
pub mod slice;
pub mod sockets;
pub mod thread_locals;
pub mod thread_pool;
pub mod threads;
