//! [`Headers`]: those of a message that came, as the host lends them.

use std::fmt;

use crate::abi::ext_field;
use crate::bridge::{Lent, LentList};

/// All headers of a request or of a fetched answer, in the order in which they came; one line, one entry.
#[derive(Clone, Copy)]
pub struct Headers<'a>(LentList<'a, ext_field>);

/// One header line.
#[derive(Clone, Copy)]
pub struct Header<'a>(Lent<'a, ext_field>);

impl<'a> Headers<'a> {
    pub(crate) fn new(fields: LentList<'a, ext_field>) -> Self {
        Self(fields)
    }

    /// The lines, one by one.
    pub fn iter(self) -> impl Iterator<Item = Header<'a>> {
        self.0.iter().map(Header)
    }

    /// The first value of that name, in any case, if it is text.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.get_all(name).next()?.text()
    }

    /// All lines of that name, in any case.
    pub fn get_all(self, name: &str) -> impl Iterator<Item = Header<'a>> {
        self.iter()
            .filter(move |header| header.name().eq_ignore_ascii_case(name))
    }

    /// How many lines there are.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Headers<'_> {
    /// The names alone: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(Header::name))
            .finish()
    }
}

impl<'a> Header<'a> {
    /// The name, in lower case.
    pub fn name(self) -> &'a str {
        self.0.text(|field| &field.name).unwrap_or_default()
    }

    /// The value as it came.
    pub fn value(self) -> &'a [u8] {
        self.0.bytes(|field| &field.value).unwrap_or_default()
    }

    /// The value, if it is UTF-8.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.value()).ok()
    }
}

impl fmt::Debug for Header<'_> {
    /// The name alone: the value may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
