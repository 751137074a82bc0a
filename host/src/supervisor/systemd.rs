//! What systemd is told, where it has started the supervisor (`Type=notify`); nothing otherwise.

use std::time::Duration;

use sd_notify::NotifyState;

/// The server takes requests.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Extensions are looked at again; [`ready`] ends it.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// All is well.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that all is well, and twice as often, so that one message may be late.
pub fn watchdog() -> Option<Duration> {
    let mut limit_us = 0;
    let is_wanted = sd_notify::watchdog_enabled(false, &mut limit_us);
    is_wanted.then(|| Duration::from_micros(limit_us / 2))
}

fn tell(states: &[NotifyState<'_>]) {
    // Err: nobody wants to know, or systemd has gone; nothing depends on it.
    let _ = sd_notify::notify(false, states);
}
