//! The cache of what is known about tokens. A look-up of a cached token costs a hash, a read lock and a copy.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::answers::Denial;
use super::digest::Digest;
use super::known::Known;
use super::who::Accountability;

/// How many tokens are remembered. Each takes some 500 bytes; one more makes room by forgetting those beside it.
const TOKENS_MAX: usize = 8_192;
const SHARDS: usize = 16;

/// How long an answer counts without a sign that the store has not changed: with the time between two signs, below the 5 s
/// after which a revoked token must be useless everywhere.
const UNVERIFIED_MAX: Duration = Duration::from_millis(4_000);

/// The outcome of a look-up.
pub type Outcome = Result<Known, Denial>;

struct CachedOutcome {
    outcome: Outcome,
    since_ms: u64,
    until_ms: u64,
}

/// The digests are hashes already: their first bytes are as good as any.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = HashMap<Digest, CachedOutcome, BuildHasherDefault<FirstBytes>>;

/// Answers, by the digests of tokens. Shared by all workers.
pub struct Cache {
    shards: [RwLock<Shard>; SHARDS],
    began: Instant,
    /// Counts how often the cache was emptied: a look-up that was in flight then is not kept.
    generation: AtomicU64,
    /// When the store was last known to be as it was when these answers were given.
    verified_ms: AtomicU64,
    /// The store's mark that the answers belong to.
    mark: AtomicU64,
    /// When that mark was last looked at.
    marked_ms: AtomicU64,
    count: AtomicUsize,
}

/// A time in a cache's life, before which an answer was begun.
#[derive(Debug, Clone, Copy)]
pub struct Before(u64);

impl Default for Cache {
    /// An empty one.
    fn default() -> Cache {
        Cache {
            shards: std::array::from_fn(|_| RwLock::default()),
            began: Instant::now(),
            generation: AtomicU64::new(0),
            verified_ms: AtomicU64::new(0),
            mark: AtomicU64::new(0),
            marked_ms: AtomicU64::new(u64::MAX),
            count: AtomicUsize::new(0),
        }
    }
}

impl Cache {
    /// What is known of a token; `None`: nothing that still counts. `follows_store`: answers count only for as long as the
    /// store is known not to have changed.
    pub fn find(
        &self,
        digest: &Digest,
        ip: Option<IpAddr>,
        now: SystemTime,
        follows_store: bool,
    ) -> Option<Result<Arc<Accountability>, Denial>> {
        let shard = self.shard(digest).read();
        let shard = shard.unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(digest)?;
        let now_ms = self.now_ms();
        if now_ms >= entry.until_ms {
            return None;
        }
        let verified_ms = entry.since_ms.max(self.verified_ms.load(Ordering::Acquire));
        if follows_store && now_ms > verified_ms + UNVERIFIED_MAX.as_millis() as u64 {
            return None;
        }
        match &entry.outcome {
            Err(denial) => Some(Err(*denial)),
            Ok(known) => {
                let is_over = known.expires.is_some_and(|expires| expires <= seconds(now));
                let is_elsewhere = known.only.is_some() && known.only != ip;
                (!is_over && !is_elsewhere).then(|| known.at(ip))
            }
        }
    }

    /// To be called before an answer is looked for.
    pub fn before(&self) -> Before {
        Before(self.generation.load(Ordering::Acquire))
    }

    /// Keeps an answer, unless everything was forgotten since it was begun.
    pub fn keep(&self, digest: Digest, outcome: Outcome, keep: Duration, before: Before) {
        let shard = self.shard(&digest).write();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::Acquire) != before.0 {
            return;
        }
        let now_ms = self.now_ms();
        if shard.len() >= TOKENS_MAX / SHARDS && !shard.contains_key(&digest) {
            let full = shard.len();
            shard.retain(|_, entry| entry.until_ms > now_ms);
            if shard.len() >= TOKENS_MAX / SHARDS {
                shard.clear();
            }
            self.count.fetch_sub(full - shard.len(), Ordering::Relaxed);
        }
        let entry = CachedOutcome {
            outcome,
            since_ms: now_ms,
            until_ms: now_ms + keep.as_millis() as u64,
        };
        if shard.insert(digest, entry).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Empties the cache, and does not keep the look-ups in flight.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            self.count.fetch_sub(shard.len(), Ordering::Relaxed);
            shard.clear();
        }
    }

    /// Compares the store's mark with the one that the answers belong to, and forgets them where it is another. Looked at
    /// once in a millisecond: it costs a system call, and a client cannot tell a change from one a millisecond later.
    pub fn follow(&self, mark: impl FnOnce() -> u64) {
        let now_ms = self.now_ms();
        if self.marked_ms.swap(now_ms, Ordering::AcqRel) == now_ms {
            return;
        }
        let mark = mark();
        if self.mark.load(Ordering::Acquire) != mark {
            self.forget();
            self.mark.store(mark, Ordering::Release);
        }
    }

    /// Notes that the store was still the same at `at`, a time that [`Cache::now_ms`] gave before it was asked.
    pub fn verified(&self, at: u64) {
        self.verified_ms.fetch_max(at, Ordering::AcqRel);
    }

    /// Milliseconds since the cache was made.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn shard(&self, digest: &Digest) -> &RwLock<Shard> {
        // Another byte than those that the map itself goes by.
        &self.shards[usize::from(digest[31]) % SHARDS]
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn user(name: &str) -> Outcome {
        Ok(Known {
            who: Arc::new(Accountability {
                user: Some(name.into()),
                ..Accountability::default()
            }),
            ..Known::default()
        })
    }

    fn find(cache: &Cache, digest: u8) -> Option<Result<Arc<Accountability>, Denial>> {
        cache.find(&[digest; 32], None, SystemTime::now(), false)
    }

    #[test]
    fn an_answer_that_was_begun_before_everything_was_forgotten_is_not_kept() {
        let cache = Cache::default();
        let before = cache.before();
        cache.forget();
        cache.keep([1; 32], user("a"), KEEP, before);
        assert!(find(&cache, 1).is_none() && cache.is_empty());
        cache.keep([1; 32], user("a"), KEEP, cache.before());
        assert!(find(&cache, 1).is_some() && !cache.is_empty());
        cache.follow(|| 7);
        assert!(find(&cache, 1).is_none() && cache.is_empty());
    }

    #[test]
    fn an_answer_ends_with_its_token_its_time_and_its_address() {
        let cache = Cache::default();
        let now = SystemTime::now();
        let mut known = user("a").unwrap();
        known.expires = Some(seconds(now) + 10.0);
        known.only = Some("10.0.0.1".parse().unwrap());
        cache.keep([1; 32], Ok(known), KEEP, cache.before());
        let find = |ip: &str, later: u64| {
            let ip = Some(ip.parse().unwrap());
            cache.find(&[1; 32], ip, now + Duration::from_secs(later), false)
        };
        assert!(find("10.0.0.1", 0).is_some());
        assert!(find("10.0.0.2", 0).is_none());
        assert!(find("10.0.0.1", 11).is_none());
        cache.keep([2; 32], user("b"), Duration::ZERO, cache.before());
        assert!(cache.find(&[2; 32], None, now, false).is_none());
    }

    #[test]
    fn it_does_not_grow_beyond_its_limit() {
        let cache = Cache::default();
        for number in 0..3 * TOKENS_MAX as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            digest[31] = number as u8;
            cache.keep(digest, user("a"), KEEP, cache.before());
        }
        let count = cache.count.load(Ordering::Relaxed);
        assert!(count <= TOKENS_MAX && count > 0, "{count}");
    }
}
