//! [`Cache`]: values by name, each good for the same time. Shared by all requests, on all workers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Callers choose the names; their number is limited, so that nobody fills the memory.
const ENTRIES_MAX: usize = 1_000;

pub(super) struct Cache<V> {
    keep: Duration,
    entries: Mutex<HashMap<String, Entry<V>>>,
}

struct Entry<V> {
    value: V,
    made: Instant,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            keep,
            entries: Mutex::default(),
        }
    }

    pub(super) fn get(&self, name: &str, now: Instant) -> Option<V> {
        let entries = self.lock();
        let entry = entries.get(name).filter(|entry| self.is_good(entry, now))?;
        Some(entry.value.clone())
    }

    /// Keeps a value; where the cache is full of good ones, it is not kept.
    pub(super) fn put(&self, name: String, value: V, now: Instant) {
        let mut entries = self.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| self.is_good(entry, now));
        }
        if entries.len() < ENTRIES_MAX {
            entries.insert(name, Entry { value, made: now });
        }
    }

    fn is_good(&self, entry: &Entry<V>, now: Instant) -> bool {
        now.duration_since(entry.made) < self.keep
    }

    /// Held for a look-up or an insertion, never over an `.await`: a worker that waits for a lock serves nobody.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_value_is_good_for_its_time_and_no_longer() {
        let (cache, start) = (Cache::new(MINUTE), Instant::now());
        cache.put("Rome".to_owned(), 1, start);
        let last = start + MINUTE - Duration::from_millis(1);
        assert_eq!(cache.get("Rome", last), Some(1));
        assert_eq!(cache.get("Rome", start + MINUTE), None);
        assert_eq!(cache.get("Oslo", start), None);
    }

    #[test]
    fn a_full_cache_takes_no_more_until_values_are_too_old() {
        let (cache, start) = (Cache::new(MINUTE), Instant::now());
        for number in 0..=ENTRIES_MAX {
            cache.put(number.to_string(), number, start);
        }
        assert_eq!(cache.get("0", start), Some(0));
        assert_eq!(cache.get(&ENTRIES_MAX.to_string(), start), None);
        cache.put("new".to_owned(), 7, start + MINUTE);
        assert_eq!(cache.get("new", start + MINUTE), Some(7));
    }
}
