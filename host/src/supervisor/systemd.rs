//! What systemd is told, where it has started the supervisor (`Type=notify`); nothing otherwise.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

type Message = Vec<NotifyState<'static>>;

/// So many messages wait for a systemd that does not read; more are lost.
const WAITING_MAX: usize = 16;

/// The server takes requests.
pub fn ready() {
    tell(vec![NotifyState::Ready]);
}

/// Extensions are looked at again; [`ready`] ends it.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(states);
}

/// The end has begun.
pub fn stopping() {
    tell(vec![NotifyState::Stopping]);
}

/// All is well.
pub fn alive() {
    tell(vec![NotifyState::Watchdog]);
}

/// How often systemd wants to hear that all is well, and twice as often, so that one message may be late.
pub fn watchdog() -> Option<Duration> {
    let mut limit_us = 0;
    let is_wanted = sd_notify::watchdog_enabled(false, &mut limit_us);
    is_wanted.then(|| Duration::from_micros(limit_us / 2))
}

/// By a thread of its own: the socket may be full, and whoever sends then waits.
fn tell(states: Message) {
    static TELLER: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let teller = TELLER.get_or_init(|| {
        let (sender, messages) = sync_channel::<Message>(WAITING_MAX);
        let send = move || {
            for states in messages {
                // Err: systemd has gone; nothing depends on it.
                let _ = sd_notify::notify(false, &states);
            }
        };
        let thread = thread::Builder::new().name("systemd".to_owned());
        thread.spawn(send).ok().map(|_| sender)
    });
    if let Some(teller) = teller {
        // Err: see WAITING_MAX.
        let _ = teller.try_send(states);
    }
}
