//! What the tests stand on, from the outside in: the [`host`], the [`wire`] to it, the [`upstream`] behind it, and the
//! [`extension`]s in it, which are [`built`] once. A [`disk`] and a [`line`](cut) can fail when a test wants them to.

pub mod built;
pub mod cut;
pub mod disk;
pub mod extension;
pub mod host;
pub mod upstream;
pub mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use extension::Extension;
pub use host::{ADMIN_TOKEN, Host, SECRET};
pub use upstream::Upstream;
pub use wire::{Answer, Connection};

/// How long a test waits for an event that must come. Long: a machine may be busy, and nobody waits for it in vain.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `is_so`, for what tells nobody when it happens: a process's memory, a file.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets what runs beside a test end, also where that has failed meanwhile: a scope of threads waits for each.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
