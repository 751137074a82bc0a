//! A thread for hooks of extensions that may hang.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{io, thread};

use super::library;

/// A thread for hooks that may hang, started with the first of them and ended by the drop. One for all: with each library
/// that has thread-locals, a thread costs more to start.
#[derive(Default)]
pub struct HookThread {
    hooks: Option<Sender<Box<dyn FnOnce() + Send>>>,
}

/// Why there is no result of a hook.
#[derive(Debug)]
pub enum NoResult {
    /// It does not return.
    Timeout,
    /// The system gives no thread, so that it was not called.
    NoThread(io::Error),
}

impl HookThread {
    /// Runs a hook and waits for it, but not for ever: one that hangs must not keep the others from being served. Its thread
    /// is then left to itself, and the next hook gets another.
    ///
    /// # Errors
    /// Where it does not return in time, or there is no thread for it.
    pub fn run<R: Send + 'static>(
        &mut self,
        timeout: Duration,
        hook: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NoResult> {
        let (done, wait) = mpsc::sync_channel(1);
        let hooks = match self.hooks.take() {
            Some(hooks) => hooks,
            None => Self::start().map_err(NoResult::NoThread)?,
        };
        let run = Box::new(move || {
            // Err: nobody waits any more.
            let _ = done.send(hook());
        });
        // Err: the hook before this one has ended the thread; whoever waits learns of it below.
        let _ = hooks.send(run);
        loop {
            match wait.recv_timeout(timeout) {
                Ok(result) => {
                    self.hooks = Some(hooks);
                    return Ok(result);
                }
                // It may be the loader that it waits for, and then it is not to blame.
                Err(RecvTimeoutError::Timeout) if library::is_opening(timeout) => {}
                Err(_) => return Err(NoResult::Timeout),
            }
        }
    }

    fn start() -> io::Result<Sender<Box<dyn FnOnce() + Send>>> {
        let (hooks, next) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let run = move || next.into_iter().for_each(|hook| hook());
        let thread = thread::Builder::new().name("create".to_owned());
        thread.spawn(run).map(|_| hooks)
    }
}
