//! How a server has ended, and by whom, in words.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use crate::platform::child::signal_name;
use crate::platform::handover::Place;
use crate::platform::log::{self, Level};
use crate::runtime::crash_page::Mapping;

/// How a server has ended.
pub struct Ending {
    /// "SIGSEGV", "exit with code 0".
    what: String,
    /// In whose code it was.
    culprits: Vec<Place>,
    /// It was that one for certain.
    is_certain: bool,
}

impl Ending {
    /// Puts together what the system says and what the server has left in its page.
    pub fn of(status: ExitStatus, page: Option<&Mapping>) -> Self {
        let page = page.filter(|page| page.is_readable());
        let noted = page.and_then(|page| page.fault());
        let inside = || page.map(|page| page.inside()).unwrap_or_default();
        let mut what = match (status.signal(), status.code()) {
            (Some(signal), _) => signal_name(signal).to_owned(),
            (_, Some(code)) => format!("exit with code {code}"),
            _ => status.to_string(),
        };
        if noted.as_ref().is_some_and(|noted| noted.overflows) {
            what.push_str(" (stack overflow)");
        }
        match noted {
            Some(noted) => Self {
                what,
                is_certain: noted.place.is_some(),
                culprits: noted.place.into_iter().collect(),
            },
            // Nothing was noted: a kill from outside, or what nothing in the process sees. Whoever was inside may have done it, or have
            // had bad luck.
            None => {
                if page.is_some() && status.signal() == Some(libc::SIGSEGV) {
                    // The handler has a stack of its own on the host's threads alone.
                    what.push_str(
                        " (stack overflow of a thread that an extension has started, it seems)",
                    );
                }
                Self {
                    what,
                    culprits: inside(),
                    is_certain: false,
                }
            }
        }
    }

    /// A worker did not come back.
    pub fn stuck(place: Place, stuck_ms: u64) -> Self {
        Self {
            what: format!("a worker that did not come back for {} s", stuck_ms / 1_000),
            culprits: vec![place],
            is_certain: true,
        }
    }

    /// The one who did it, where that is certain.
    pub fn culprit(&self) -> Option<&Place> {
        self.culprits.first().filter(|_| self.is_certain)
    }

    /// What happened, as part of a sentence.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Writes it to the log.
    pub fn log(&self, sentence: &str, pid: u32) {
        let names = |of: fn(&Place) -> Option<String>| {
            let names: Vec<String> = self.culprits.iter().filter_map(of).collect();
            names.join(",")
        };
        let extensions = names(|place| Some(place.extension.clone()));
        let builds = names(|place| Some(place.generation.to_string()));
        let routes = names(|place| place.route.clone());
        let requests = names(|place| place.request.clone());
        let who = if self.is_certain {
            "extension"
        } else {
            "inside"
        };
        let mut fields: Vec<log::Field<'_>> = vec![("cause", &self.what), ("pid", &pid)];
        if self.culprits.is_empty() {
            fields.push(("extension", &"unknown: none was being called"));
        } else {
            fields.extend([
                (who, &extensions as &dyn std::fmt::Display),
                ("build", &builds),
            ]);
        }
        if !routes.is_empty() {
            fields.push(("route", &routes));
        }
        if !requests.is_empty() {
            fields.push(("request", &requests));
        }
        log::event(Level::Error, sentence, &fields);
    }
}
