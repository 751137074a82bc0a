//! What the servers and the extensions of the benchmark share.

use std::time::Duration;

/// A chunk of a streamed answer.
pub const CHUNK: &[u8] = &[b'x'; 1024];

/// How long the handler that awaits once waits. A timer, and not a future that is ready when it is polled again: actix polls
/// each handler twice in a row, so that such a one would never have waited.
pub const WAIT: Duration = Duration::from_millis(1);

/// How long an idle connection is kept, as by the host.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The number that stands at this place of the command line.
pub fn argument(place: usize) -> Option<u16> {
    std::env::args().nth(place)?.parse().ok()
}
