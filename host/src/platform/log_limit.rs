//! Lines that anybody can cause, so many a second: who sends bad requests must fill no disk, and hide no other line.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::log::{self, Field, Level};

/// How many lines of one kind are written in one second.
const LINES_MAX: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);
/// How many kinds are told apart. More are not to be expected: a kind is a sentence of an extension's folder.
const KINDS_MAX: usize = 1_024;

static LIMIT: LineLimit = LineLimit::new();

/// Writes an event that a request has caused. Of a warning or an error, `kind` says which of them share a limit: the first that is
/// written after some were left out says how many.
pub fn event(kind: (&str, &str), level: Level, sentence: &str, fields: &[Field<'_>]) {
    if level > Level::Warn || !log::enabled(level) {
        return log::event(level, sentence, fields);
    }
    match LIMIT.admit(kind, Instant::now()) {
        None => {}
        Some(0) => log::event(level, sentence, fields),
        Some(left_out) => {
            let mut fields = fields.to_vec();
            fields.push(("left_out_count", &left_out));
            log::event(level, sentence, &fields);
        }
    }
}

/// What was written lately.
struct LineLimit(Mutex<BTreeMap<u64, Kind>>);

/// Lines of a kind.
struct Kind {
    /// When the first of this second was written.
    began: Instant,
    written: u32,
    left_out: u64,
}

impl LineLimit {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Whether a line may be written; how many like it were left out before.
    fn admit(&self, kind: (&str, &str), now: Instant) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        kind.hash(&mut hasher);
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        let kind = kinds.entry(hasher.finish()).or_insert(Kind {
            began: now,
            written: 0,
            left_out: 0,
        });
        if now.saturating_duration_since(kind.began) >= SECOND {
            kind.began = now;
            kind.written = 0;
        }
        if kind.written == LINES_MAX {
            kind.left_out += 1;
            return None;
        }
        kind.written += 1;
        Some(std::mem::take(&mut kind.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_are_written_and_the_others_counted() {
        let limit = LineLimit::new();
        let now = Instant::now();
        let kind = ("an extension", "failed");
        let written = (0..100).filter(|_| limit.admit(kind, now) == Some(0));
        assert_eq!(written.count(), LINES_MAX as usize);
        assert_eq!(limit.admit(("another", "failed"), now), Some(0));
        assert_eq!(limit.admit(kind, now + SECOND), Some(80));
        assert_eq!(limit.admit(kind, now + SECOND), Some(0));
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let limit = LineLimit::new();
        for number in 0..3 * KINDS_MAX {
            limit.admit(("any", &number.to_string()), Instant::now());
        }
        assert!(limit.0.lock().expect("no panic").len() <= KINDS_MAX);
    }
}
