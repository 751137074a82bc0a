//! The way of log lines to stderr. While the host serves, a thread of its own writes them, behind a queue with a limit: where
//! nobody reads stderr, lines are lost and counted, and nobody waits.

use std::io::{self, ErrorKind, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many bytes may wait to be written: some thousand lines.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// What a pipe takes whole, so that what others write to it never stands within a line (PIPE_BUF of Linux).
const PIECE_BYTES_MAX: usize = 4_096;

/// What waits to be written.
struct Queue {
    lines: Vec<u8>,
    /// How many lines did not fit after those.
    dropped_count: u64,
    has_writer: bool,
    /// The writer has taken lines and is not done with them.
    is_writing: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    lines: Vec::new(),
    dropped_count: 0,
    has_writer: false,
    is_writing: false,
});
static HAS_LINES: Condvar = Condvar::new();
static IS_FLUSHED: Condvar = Condvar::new();

impl Queue {
    fn is_flushed(&self) -> bool {
        self.lines.is_empty() && self.dropped_count == 0 && !self.is_writing
    }
}

/// Starts the thread. `dropped` makes the line that says how many were.
///
/// # Errors
/// Where there can be no thread; lines are then written as before.
pub fn start(dropped: fn(u64) -> String) -> io::Result<()> {
    let mut queue = lock();
    if !queue.has_writer {
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_on(dropped))?;
        queue.has_writer = true;
    }
    Ok(())
}

/// Writes a line, or leaves it for the thread that does.
pub fn write(line: &[u8]) {
    let mut queue = lock();
    if !queue.has_writer {
        drop(queue);
        // Err: stderr is closed, and there is nowhere else to report that.
        let _ = io::stderr().write_all(line);
    } else if queue.dropped_count > 0
        || !queue.lines.is_empty() && queue.lines.len() + line.len() > WAITING_BYTES_MAX
    {
        // What comes later is dropped, too, even if it would fit: the order of lines stays, and the count has its place.
        queue.dropped_count += 1;
    } else {
        let is_first = queue.lines.is_empty();
        queue.lines.extend_from_slice(line);
        drop(queue);
        if is_first {
            HAS_LINES.notify_one();
        }
    }
}

/// Waits until everything is written, but not for long. Tells whether it is.
pub fn flush(within: Duration) -> bool {
    let waited = IS_FLUSHED.wait_timeout_while(lock(), within, |queue| !queue.is_flushed());
    waited
        .unwrap_or_else(PoisonError::into_inner)
        .0
        .is_flushed()
}

/// Whether everything is written. Never waits, not even for a lock: for those who may not.
pub fn is_flushed() -> bool {
    QUEUE.try_lock().is_ok_and(|queue| queue.is_flushed())
}

fn write_on(dropped: fn(u64) -> String) {
    let mut lines = Vec::new();
    let mut out = Out::default();
    loop {
        let queue = HAS_LINES.wait_while(lock(), |queue| queue.lines.is_empty());
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.lines, &mut lines);
        let dropped_count = std::mem::take(&mut queue.dropped_count);
        queue.is_writing = true;
        drop(queue);
        // In this order: those that could not be written before came first.
        if out.lost_count > 0 {
            let lost_count = std::mem::take(&mut out.lost_count);
            out.write_whole_lines(dropped(lost_count).as_bytes(), lost_count);
        }
        out.write_whole_lines(&lines, 0);
        if dropped_count > 0 {
            out.write_whole_lines(dropped(dropped_count).as_bytes(), dropped_count);
        }
        lines.clear();
        // After a flood.
        lines.shrink_to(PIECE_BYTES_MAX);
        lock().is_writing = false;
        IS_FLUSHED.notify_all();
    }
}

/// Where lines go to: a disk may be full.
#[derive(Default)]
struct Out {
    /// How many lines could not be written, and have not been told.
    lost_count: u64,
    /// The last piece was written in part.
    is_within_line: bool,
}

impl Out {
    /// Writes lines, or counts them: `told` for one that tells of others.
    fn write_whole_lines(&mut self, mut lines: &[u8], told: u64) {
        while !lines.is_empty() {
            let (piece, rest) = lines.split_at(piece_len(lines));
            lines = rest;
            if self.is_within_line && write_piece(b"\n").is_ok() {
                self.is_within_line = false;
            }
            let written = match self.is_within_line {
                true => Err(0),
                false => write_piece(piece),
            };
            if let Err(count) = written {
                let (whole, cut) = piece.split_at(count);
                self.is_within_line |= whole.last().is_some_and(|last| *last != b'\n');
                let lines = cut.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.lost_count += if told > 0 { told } else { lines };
            }
        }
    }
}

/// As many whole lines as a pipe takes at once, or a line that is longer.
fn piece_len(lines: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    if lines.len() <= PIECE_BYTES_MAX {
        return lines.len();
    }
    let (first, rest) = lines.split_at(PIECE_BYTES_MAX);
    match first.iter().rposition(is_end) {
        Some(end) => end + 1,
        None => rest
            .iter()
            .position(is_end)
            .map_or(lines.len(), |end| PIECE_BYTES_MAX + end + 1),
    }
}

/// The error is how much was written before it.
fn write_piece(piece: &[u8]) -> Result<(), usize> {
    /// Until a pipe is looked at again that another process has set to fail where it would wait.
    const PAUSE: Duration = Duration::from_millis(10);
    let mut written = 0;
    while written < piece.len() {
        match io::stderr().write(&piece[written..]) {
            Ok(count) if count > 0 => written += count,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Ok(_) | Err(_) => return Err(written),
        }
    }
    Ok(())
}

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_whole_lines_that_a_pipe_takes_at_once() {
        let line = |len: usize| "x".repeat(len - 1) + "\n";
        assert_eq!(piece_len(line(10).as_bytes()), 10);
        let two = line(3_000) + &line(3_000);
        assert_eq!(piece_len(two.as_bytes()), 3_000);
        let long = line(9_000) + &line(10);
        assert_eq!(piece_len(long.as_bytes()), 9_000);
        let endless = "x".repeat(9_000);
        assert_eq!(piece_len(endless.as_bytes()), 9_000);
    }
}
