//! The upstreams of a test: what one sees, [`Call`], and what it answers, [`Canned`].

use std::fmt::Display;

use serde::Serialize;

use super::lines::{Lines, first};
use crate::bridge::Bytes;
use crate::fetch_error::FetchError;

/// What every upstream of a test answers.
pub(super) type Upstream = Box<dyn Fn(&Call) -> Canned + Send + Sync>;

/// What an upstream sees.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The method.
    pub method: String,
    /// The base URL, and the target after it.
    pub url: String,
    /// The headers, in their order, names in lower case.
    pub headers: Lines,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Call {
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
        std::str::from_utf8(&self.body).expect("the call's body is text")
    }
}

/// What an upstream answers.
#[derive(Debug)]
pub struct Canned(pub(super) Reply);

#[derive(Debug)]
pub(super) enum Reply {
    Answer {
        status: u16,
        headers: Lines,
        chunks: Vec<Bytes>,
        end: BodyEnd,
    },
    Error(FetchError),
    Never,
}

impl Canned {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self(Reply::Answer {
            status,
            headers: vec![],
            chunks: vec![],
            end: BodyEnd::Whole,
        })
    }

    /// An answer with text.
    pub fn text(status: u16, text: impl Display) -> Self {
        Self::new(status)
            .header("content-type", "text/plain")
            .chunk(text.to_string())
    }

    /// An answer with JSON.
    pub fn json(status: u16, value: &(impl Serialize + ?Sized)) -> Self {
        let json = serde_json::to_string(value).expect("a test's answer can be said in JSON");
        Self::new(status)
            .header("content-type", "application/json")
            .chunk(json)
    }

    /// No answer, but this.
    pub fn error(error: FetchError) -> Self {
        Self(Reply::Error(error))
    }

    /// No answer, ever: the call waits until it is cancelled.
    pub fn never() -> Self {
        Self(Reply::Never)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Reply::Answer { headers, .. } = &mut self.0 {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        self
    }

    /// Adds a chunk to the body.
    pub fn chunk(mut self, chunk: impl Into<Bytes>) -> Self {
        if let Reply::Answer { chunks, .. } = &mut self.0 {
            chunks.push(chunk.into());
        }
        self
    }

    /// Has the body break off after the chunks that it has.
    pub fn broken_off(mut self) -> Self {
        if let Reply::Answer { end, .. } = &mut self.0 {
            *end = BodyEnd::BrokenOff;
        }
        self
    }

    /// Has the body stay open after the chunks that it has, without another one.
    #[doc(hidden)]
    pub fn unfinished(mut self) -> Self {
        if let Reply::Answer { end, .. } = &mut self.0 {
            *end = BodyEnd::Open;
        }
        self
    }
}

/// What follows the last chunk of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// Its end.
    #[default]
    Whole,
    /// The connection breaks off.
    BrokenOff,
    /// Nothing, ever.
    Open,
}
