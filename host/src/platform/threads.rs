//! Threads for work of the host's own that takes long. No code of an extension ever runs on them, so that no extension keeps them
//! busy.

use std::io;
use std::sync::LazyLock;

use super::thread_pool::ThreadPool;

/// For what costs processor time: passwords, hashes of files. Few, for the workers need the cores.
pub static COMPUTING: LazyLock<ThreadPool> = LazyLock::new(|| ThreadPool::new("host", 4));

/// For the system's look-up of names, which waits for other machines: many, for one that does not answer takes seconds.
pub static RESOLVING: LazyLock<ThreadPool> = LazyLock::new(|| ThreadPool::new("resolver", 64));

/// Starts threads that stay, for a server: they are there when the system would give none.
///
/// # Errors
/// Where the system gives none now.
pub fn start() -> io::Result<()> {
    COMPUTING.keep(2)?;
    RESOLVING.keep(2)
}
