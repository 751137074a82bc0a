//! Extensions that the supervisor has the server leave out, because they have ended it too often; and what the supervisor hears
//! about the others.

use std::sync::{Arc, Mutex, PoisonError};

use crate::platform::handover::{Link, Notice, Quarantined};

/// See the module's text. Empty where there is no supervisor.
#[derive(Default)]
pub struct Quarantine {
    left_out: Mutex<Vec<Quarantined>>,
    /// To the supervisor, which keeps count.
    link: Option<Arc<Link>>,
}

impl Quarantine {
    /// What the supervisor has handed over.
    pub fn new(left_out: Vec<Quarantined>, link: Option<Arc<Link>>) -> Self {
        Self {
            left_out: Mutex::new(left_out),
            link,
        }
    }

    /// Whether an extension is left out, made of these files.
    pub fn find(&self, folder: &str, fingerprint: u64) -> Option<Quarantined> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |other: &&Quarantined| other.extension == folder && other.fingerprint == fingerprint;
        left_out.iter().find(is_it).cloned()
    }

    /// The folder of an extension that is left out, by an id under which it was served.
    pub fn folder_of(&self, id: &str) -> Option<String> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |other: &&Quarantined| other.ids.iter().any(|other| other == id);
        left_out
            .iter()
            .find(has)
            .map(|other| other.extension.clone())
    }

    /// Tells the supervisor what is served from now on, by the names of folders.
    pub fn tell_served(&self, extensions: impl Iterator<Item = String>) {
        if let Some(link) = &self.link {
            let extensions = extensions.collect();
            link.tell(&Notice::Serves { extensions });
        }
    }

    /// Tries an extension again.
    pub fn release(&self, folder: &str) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.retain(|other| other.extension != folder);
        // Told in any case: its crashes so far are forgotten, too.
        if let Some(link) = &self.link {
            let extension = folder.to_owned();
            link.tell(&Notice::Released { extension });
        }
    }
}
