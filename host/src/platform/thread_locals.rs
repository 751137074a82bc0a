//! What libraries keep for each thread.

/// Touches what tokio and others keep for this thread: the first use waits for the system's loader, which the initialiser of a
/// library that is being loaded may hold for ever. Whoever must go on then calls this when the thread begins.
pub fn touch_thread_locals() {
    // What whoever wakes a worker's task looks at.
    drop(tokio::task::LocalSet::new().enter());
    // What whoever looks at a snapshot writes into.
    drop(arc_swap::ArcSwap::from_pointee(()).load());
}
