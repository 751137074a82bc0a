//! [`RequestBuilder`]: a request as a test makes it.

use std::time::Duration;

use serde::Serialize;

use super::answer::Answer;
use super::upstream::BodyEnd;
use super::world::{RequestSpec, RunningExtension};

/// How long a test waits for an answer before it fails: by far longer than any handler takes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A request in the making.
#[must_use = "a request is made by `send`"]
pub struct RequestBuilder<'a> {
    extension: &'a RunningExtension,
    spec: RequestSpec,
}

impl<'a> RequestBuilder<'a> {
    pub(super) fn new(extension: &'a RunningExtension, method: &str, url: &str) -> Self {
        let spec = RequestSpec {
            method: method.to_owned(),
            url: url.to_owned(),
            ..RequestSpec::default()
        };
        Self { extension, spec }
    }

    /// Asks as this user.
    pub fn user(mut self, id: &str) -> Self {
        self.spec.user = Some(id.to_owned());
        self
    }

    /// Asks as a user with this role.
    pub fn role(mut self, id: &str) -> Self {
        self.spec.role = Some(id.to_owned());
        self
    }

    /// Asks as an administrator.
    pub fn admin(mut self) -> Self {
        self.spec.admin = true;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.spec
            .headers
            .push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Sets the body, of a known length, which comes in one chunk.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        self.spec.body_length = Some(body.len());
        self.spec.chunks = if body.is_empty() { vec![] } else { vec![body] };
        self
    }

    /// Sets the body to JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        let json = serde_json::to_vec(value).expect("a test's body can be said in JSON");
        self.header("content-type", "application/json").body(json)
    }

    /// Sets the body to one of unknown length, in these chunks.
    pub fn chunks<C: Into<Vec<u8>>>(mut self, chunks: impl IntoIterator<Item = C>) -> Self {
        self.spec.body_length = None;
        self.spec.chunks = chunks
            .into_iter()
            .map(Into::into)
            .filter(|chunk: &Vec<u8>| !chunk.is_empty())
            .collect();
        self
    }

    /// Has the body break off after the chunks that it has.
    pub fn broken_off(mut self) -> Self {
        self.spec.body_length = None;
        self.spec.body_end = BodyEnd::BrokenOff;
        self
    }

    /// Has the body stay open after the chunks that it has, without another one.
    #[doc(hidden)]
    pub fn unfinished(mut self) -> Self {
        self.spec.body_length = None;
        self.spec.body_end = BodyEnd::Open;
        self
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Panics
    ///
    /// Where there is none after 20 seconds.
    pub fn send(self) -> Answer {
        let answer = self.extension.send(self.spec).recv_timeout(ANSWER_DEADLINE);
        answer.expect("the handler answers in time")
    }

    /// Asks, and leaves as soon as the handler waits for something that does not come by itself: a sleep, an upstream that
    /// never answers. Waits until the endpoint has given the request up.
    ///
    /// # Panics
    ///
    /// Where it has not done so after 20 seconds.
    pub fn leave(mut self) {
        self.spec.leaves = true;
        let answer = self.extension.send(self.spec).recv_timeout(ANSWER_DEADLINE);
        answer.expect("the handler's request is given up in time");
    }
}
