//! Tells when an extension blocks a worker.

use std::sync::Arc;
use std::time::Duration;

use crate::platform::log::{self, Level};
use crate::runtime::crash_page::ThreadMark;
use crate::runtime::workers::Workers;

/// Tells when an extension keeps a worker from its other requests: nothing can be done about it from outside, but the author
/// should know.
pub struct BlockedWatch {
    stop: std::sync::mpsc::Sender<()>,
}

impl BlockedWatch {
    /// Watches until it is dropped.
    pub fn start(workers: Arc<Workers>) -> Self {
        const EVERY: Duration = Duration::from_secs(1);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let mut before: Vec<(u64, u64)> = Vec::new();
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY)
            {
                let now = workers
                    .marks()
                    .into_iter()
                    .map(ThreadMark::read)
                    .collect::<Vec<_>>();
                let mut blocked = 0;
                for (number, (inside, entry_count)) in now.iter().enumerate() {
                    if *inside != 0 && before.get(number) == Some(&(*inside, *entry_count)) {
                        blocked += 1;
                        let name = workers.name_of(*inside);
                        let name = name.as_deref().unwrap_or("unknown");
                        let fields: [log::Field<'_>; 2] =
                            [("extension", &name), ("worker", &number)];
                        log::event(
                            Level::Warn,
                            "an extension blocks a worker; its route should be declared blocking",
                            &fields,
                        );
                    }
                }
                workers.set_blocked(blocked);
                before = now;
            }
        });
        Self { stop }
    }
}

impl Drop for BlockedWatch {
    fn drop(&mut self) {
        // Err: the thread has ended.
        let _ = self.stop.send(());
    }
}
