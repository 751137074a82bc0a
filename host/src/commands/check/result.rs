//! What driving an extension found: the rules that were broken, and how that showed.

use super::protocol::ServedRoute;
use crate::runtime::contract_checks::Rule;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How it showed: the first few ways.
    pub seen: Vec<String>,
    /// How often it was seen.
    pub count: usize,
    /// What was done when it was first seen.
    pub during: String,
}

/// What driving an extension found.
#[derive(Debug, Default)]
pub struct CheckResult {
    /// Code and sentence, where the extension cannot be loaded.
    pub refused: Option<(String, String)>,
    /// What it serves.
    pub routes: Vec<ServedRoute>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was done when the extension ended the process, or kept it from going on: nothing that comes after that was tried.
    pub ended_while: Option<String>,
    /// Requests that were made.
    pub requests: usize,
    /// Outgoing calls that the extension made.
    pub calls: usize,
}

impl CheckResult {
    /// Adds what was seen of a broken rule.
    pub fn find(&mut self, rule: Rule, seen: String, during: &str) {
        const SEEN_MAX: usize = 10;
        let known = self
            .findings
            .iter_mut()
            .find(|finding| finding.rule == rule);
        match known {
            Some(finding) => {
                finding.count += 1;
                if finding.seen.len() < SEEN_MAX && !finding.seen.contains(&seen) {
                    finding.seen.push(seen);
                }
            }
            None => self.findings.push(Finding {
                rule,
                seen: vec![seen],
                count: 1,
                during: during.to_owned(),
            }),
        }
    }
}
