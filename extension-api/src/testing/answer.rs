//! [`Answer`]: what a caller gets.

use serde::de::DeserializeOwned;

use super::lines::{Lines, first};

/// What a caller gets.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, in their order, names in lower case.
    pub headers: Lines,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the connection was broken off before the body was whole.
    pub broken_off: bool,
}

impl Answer {
    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// Where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    /// The body from JSON.
    ///
    /// # Panics
    ///
    /// Where it is not such JSON.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("the answer is such JSON")
    }
}
