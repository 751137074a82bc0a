//! How often each extension has ended the server lately, and which are left out for it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Quarantine;
use crate::platform::handover::{Place, Quarantined};

/// The files of a build: others are tried anew.
type Build = (String, u64);

/// See the module's text.
pub struct Blame {
    rules: Quarantine,
    crashes: HashMap<Build, Vec<Instant>>,
    quarantined: Vec<Quarantined>,
}

impl Blame {
    /// Nobody has done anything yet.
    pub fn new(rules: Quarantine) -> Self {
        Self {
            rules,
            crashes: HashMap::new(),
            quarantined: Vec::new(),
        }
    }

    /// What is not to be loaded.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// Counts a crash in an extension's code at a time; `what` says what happened. Gives the quarantine, where that was one too
    /// many.
    pub fn count(&mut self, place: &Place, what: &str, now: Instant) -> Option<&Quarantined> {
        if self.rules.crashes == 0 {
            return None;
        }
        let build = (place.extension.clone(), place.fingerprint);
        let window = Duration::from_millis(self.rules.window_ms);
        let times = self.crashes.entry(build.clone()).or_default();
        times.push(now);
        times.retain(|time| now.saturating_duration_since(*time) <= window);
        let count = times.len();
        if count < self.rules.crashes as usize {
            return None;
        }
        self.crashes.remove(&build);
        let (extension, fingerprint) = build;
        self.quarantined
            .retain(|other| other.extension != extension);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.quarantined.push(Quarantined {
            extension,
            ids: place.ids.clone(),
            fingerprint,
            since: since.unwrap_or_default().as_secs(),
            why: format!(
                "it has ended the server {count} times within {} s, last by {what}",
                self.rules.window_ms / 1_000
            ),
        });
        self.quarantined.last()
    }

    /// Forgets what an extension has done: an administrator wants it tried again.
    pub fn release(&mut self, extension: &str) {
        self.quarantined
            .retain(|other| other.extension != extension);
        self.crashes.retain(|(other, _), _| other != extension);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn blame() -> Blame {
        Blame::new(Quarantine {
            crashes: 3,
            window_ms: 10_000,
        })
    }

    fn build(extension: &str, fingerprint: u64) -> Place {
        Place {
            extension: extension.into(),
            ids: vec![format!("id-of-{extension}")],
            fingerprint,
            generation: 1,
            route: None,
            request: None,
        }
    }

    fn a() -> Place {
        build("a", 1)
    }

    #[test]
    fn the_third_crash_within_the_window_is_one_too_many() {
        let (mut blame, start) = (blame(), Instant::now());
        assert_eq!(blame.count(&a(), "SIGSEGV", start), None);
        assert_eq!(blame.count(&a(), "SIGSEGV", start + SECOND), None);
        let quarantined = blame.count(&a(), "SIGSEGV", start + 2 * SECOND).unwrap();
        assert_eq!(
            (quarantined.extension.as_str(), quarantined.fingerprint),
            ("a", 1)
        );
        assert!(
            quarantined
                .why
                .contains("3 times within 10 s, last by SIGSEGV"),
            "{}",
            quarantined.why
        );
    }

    #[test]
    fn crashes_that_lie_apart_do_not_add_up() {
        let (mut blame, start) = (blame(), Instant::now());
        for number in 0..20 {
            assert_eq!(
                blame.count(&a(), "SIGSEGV", start + number * 6 * SECOND),
                None
            );
        }
    }

    #[test]
    fn two_that_crash_by_turns_do_not_blame_each_other_and_other_files_begin_anew() {
        let (mut blame, now) = (blame(), Instant::now());
        for _ in 0..2 {
            assert_eq!(blame.count(&a(), "exit", now), None);
            assert_eq!(blame.count(&build("b", 1), "exit", now), None);
            assert_eq!(blame.count(&build("a", 2), "exit", now), None);
        }
        assert!(blame.count(&a(), "exit", now).is_some());
        assert_eq!(blame.quarantined().len(), 1);
        blame.release("a");
        assert_eq!(blame.quarantined(), []);
        assert_eq!(blame.count(&a(), "exit", now), None);
        assert_eq!(blame.count(&build("a", 2), "exit", now), None);
        assert!(blame.count(&build("b", 1), "exit", now).is_some());
    }

    #[test]
    fn a_count_of_zero_switches_it_off() {
        let mut blame = Blame::new(Quarantine {
            crashes: 0,
            window_ms: 10_000,
        });
        for _ in 0..9 {
            assert_eq!(blame.count(&a(), "exit", Instant::now()), None);
        }
    }
}
