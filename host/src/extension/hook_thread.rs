//! A thread for hooks of extensions that may hang.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::library;

/// A thread for hooks that may hang, started with the first of them and ended by the drop. One for all: with each library
/// that has thread-locals, a thread costs more to start.
#[derive(Default)]
pub struct HookThread {
    hooks: Option<Sender<Box<dyn FnOnce() + Send>>>,
}

impl HookThread {
    /// Runs a hook and waits for it, but not for ever: one that hangs must not keep the others from being served. Its thread
    /// is then left to itself, and the next hook gets another.
    pub fn run<R: Send + 'static>(
        &mut self,
        timeout: Duration,
        hook: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        let (done, wait) = mpsc::sync_channel(1);
        let hooks = match self.hooks.take() {
            Some(hooks) => hooks,
            None => Self::start()?,
        };
        let run = Box::new(move || {
            // Err: nobody waits any more.
            let _ = done.send(hook());
        });
        hooks.send(run).ok()?;
        loop {
            match wait.recv_timeout(timeout) {
                Ok(result) => {
                    self.hooks = Some(hooks);
                    return Some(result);
                }
                // It may be the loader that it waits for, and then it is not to blame.
                Err(RecvTimeoutError::Timeout) if library::is_opening(timeout) => {}
                Err(_) => return None,
            }
        }
    }

    fn start() -> Option<Sender<Box<dyn FnOnce() + Send>>> {
        let (hooks, next) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let run = move || next.into_iter().for_each(|hook| hook());
        let thread = thread::Builder::new().name("create".to_owned());
        thread.spawn(run).ok().map(|_| hooks)
    }
}
