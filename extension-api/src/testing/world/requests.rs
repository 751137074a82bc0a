//! [`OpenRequest`]: a request between its two sides, the extension's and the client's, each of which may end first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::completion::{Completion, Event, Outcome};
use super::head::Head;
use super::state::State;
use crate::abi::*;
use crate::bridge::Bytes;
use crate::testing::answer::Answer;
use crate::testing::upstream::BodyEnd;

/// A request until both sides have ended.
pub(super) struct OpenRequest {
    pub(super) head: Arc<Head>,
    decision: Decision,
    /// The extension has not finished it.
    is_with_extension: bool,
    has_client_left: bool,
    /// `None`: it has none, or a fetch has taken it.
    body: Option<IncomingBody>,
    reading: Option<Completion>,
    answer: Option<Answer>,
    stream: OutgoingBody,
    watch: Option<Completion>,
    answers: Sender<Answer>,
}

/// How the request is answered, once that is decided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Undecided,
    Answered,
    Streaming,
    /// The client has left, or the host has answered in the extension's place.
    Over,
}

/// The request's body on its way in.
pub(super) struct IncomingBody {
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) end: BodyEnd,
}

/// A streamed answer on its way out: while one chunk waits for the client, the extension may get the next one ready.
#[derive(Default)]
struct OutgoingBody {
    chunk: Option<Bytes>,
    next: Option<Bytes>,
    /// Called when there is room for another chunk.
    written: Option<Completion>,
    /// Whether it is whole, once the extension has ended it.
    ended: Option<bool>,
}

/// What was not started, and the status that says why.
pub(super) type Refused = (Completion, ext_status);

impl OpenRequest {
    pub(super) fn new(
        head: Arc<Head>,
        body: Option<IncomingBody>,
        answers: Sender<Answer>,
    ) -> Self {
        Self {
            head,
            decision: Decision::Undecided,
            is_with_extension: true,
            has_client_left: false,
            body,
            reading: None,
            answer: None,
            stream: OutgoingBody::default(),
            watch: None,
            answers,
        }
    }

    pub(super) fn is_with_extension(&self) -> bool {
        self.is_with_extension
    }

    /// Whether operations may be tied to it: neither side has ended.
    pub(super) fn is_open(&self) -> bool {
        self.is_with_extension && !self.has_client_left
    }

    /// Takes the body, for a fetch that passes it on. `None`: there is none, or it is being read.
    pub(super) fn take_body(&mut self) -> Option<IncomingBody> {
        if self.reading.is_some() {
            None
        } else {
            self.body.take()
        }
    }
}

impl State {
    /// A request whose handle is valid.
    fn open(&mut self, request: u64) -> &mut OpenRequest {
        let open = self.requests.get_mut(&request);
        open.expect("callbacks look a handle up before they use it")
    }

    /// Decides that the extension answers, at once whole or as a stream. The error is a status of the ABI.
    pub(super) fn claim(&mut self, request: u64, as_stream: bool) -> Result<(), ext_status> {
        let open = self.open(request);
        match open.decision {
            Decision::Undecided if as_stream => open.decision = Decision::Streaming,
            Decision::Undecided => open.decision = Decision::Answered,
            Decision::Over => {
                // Nobody is there to be answered: the request is finished all the same.
                self.finish(request);
                return Err(EXT_GONE);
            }
            Decision::Answered | Decision::Streaming => return Err(EXT_ANSWERED),
        }
        Ok(())
    }

    /// Gives the client the answer that was [claimed](Self::claim), or its head.
    pub(super) fn answer(&mut self, request: u64, answer: Answer) {
        self.open(request).answer = Some(answer);
        self.events.push_back(Event::ClientTakes { request });
    }

    /// Answers with a 500 in place of what breaks a rule.
    pub(super) fn reject(&mut self, request: u64, rule: &str) -> ext_status {
        if let Err(status) = self.claim(request, false) {
            return status;
        }
        self.answer_invalid(request, rule);
        EXT_INVALID
    }

    /// The 500 for a request that was claimed for an answer which breaks a rule.
    pub(super) fn answer_invalid(&mut self, request: u64, rule: &str) {
        let line = format!("error the extension's answer was not sent: {rule}");
        self.log.push(line);
        self.answer_error(request, 500, "INTERNAL_SERVER_ERROR", rule);
        self.finish(request);
    }

    /// Gives the client an error, as the host renders it.
    pub(super) fn answer_error(&mut self, request: u64, status: u16, code: &str, message: &str) {
        let is_shown = status != 500 || self.open(request).head.spec.admin;
        let message = if is_shown {
            message
        } else {
            "An unexpected error occurred."
        };
        let body =
            serde_json::json!({"errors": [{"message": message, "extensions": {"code": code}}]});
        let json = ("content-type", "application/json; charset=utf-8");
        let answer = Answer {
            status,
            headers: vec![(json.0.to_owned(), json.1.to_owned())],
            body: body.to_string().into_bytes(),
            broken_off: false,
        };
        self.answer(request, answer);
    }

    /// Ends the extension's side. Without an answer the client gets a 500.
    pub(super) fn finish(&mut self, request: u64) {
        let open = self.open(request);
        open.body = None;
        match open.decision {
            Decision::Undecided => {
                open.decision = Decision::Over;
                let message = "the request was dropped unanswered";
                self.answer_error(request, 500, "INTERNAL_SERVER_ERROR", message);
            }
            Decision::Streaming if open.stream.ended.is_none() => {
                // Given up in the middle: the client must not take it for whole.
                open.stream.ended = Some(false);
                self.events.push_back(Event::ClientTakes { request });
            }
            _ => {}
        }
        let open = self.open(request);
        open.is_with_extension = false;
        let (reading, watch) = (open.reading.take(), open.watch.take());
        if let Some(reading) = reading {
            self.complete(reading, Outcome::status(EXT_CANCELLED));
        }
        self.cancel_of(request);
        if let Some(watch) = watch {
            self.complete(watch, Outcome::status(EXT_OK));
        }
        if self.open(request).has_client_left {
            self.close(request, Answer::default());
        }
    }

    /// The client takes what there is of the answer, and goes when it has all.
    pub(super) fn client_takes(&mut self, request: u64) {
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        let Some(answer) = open.answer.as_mut().filter(|_| !open.has_client_left) else {
            return;
        };
        if open.decision == Decision::Streaming {
            for chunk in [open.stream.chunk.take(), open.stream.next.take()] {
                answer.body.extend_from_slice(&chunk.unwrap_or_default());
            }
            let ended = open.stream.ended;
            answer.broken_off = ended == Some(false);
            if let Some(written) = open.stream.written.take() {
                self.complete(written, Outcome::status(EXT_OK));
            }
            if ended.is_none() {
                return;
            }
        }
        let open = self.open(request);
        let answer = open.answer.take().unwrap_or_default();
        if let Some(watch) = open.watch.take() {
            self.complete(watch, Outcome::status(EXT_CANCELLED));
        }
        self.close(request, answer);
    }

    /// The client leaves, unless it has its answer.
    pub(super) fn client_leaves(&mut self, request: u64) {
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        open.has_client_left = true;
        open.body = None;
        open.decision = Decision::Over;
        let written = std::mem::take(&mut open.stream).written;
        let (reading, watch) = (open.reading.take(), open.watch.take());
        if let Some(reading) = reading {
            // More of the body was announced: that it ends here is seen first.
            self.complete(reading, Outcome::status(EXT_BROKEN));
        }
        for completion in [written, watch].into_iter().flatten() {
            self.complete(completion, Outcome::status(EXT_CANCELLED));
        }
        self.cancel_of(request);
        if !self.open(request).is_with_extension {
            self.close(request, Answer::default());
        }
    }

    /// Both sides have ended: the test is told what the client got.
    fn close(&mut self, request: u64, answer: Answer) {
        if let Some(open) = self.requests.remove(&request) {
            // Err: the receiver is gone, as the test has stopped waiting.
            let _ = open.answers.send(answer);
        }
    }

    // ---- What takes time ----

    pub(super) fn read(&mut self, request: u64, completion: Completion) -> Result<(), Refused> {
        let open = self.open(request);
        if !open.is_with_extension {
            return Err((completion, EXT_GONE));
        }
        if open.reading.is_some() {
            return Err((completion, EXT_BUSY));
        }
        let outcome = match &mut open.body {
            _ if open.has_client_left => Outcome::status(EXT_CANCELLED),
            None => Outcome::status(EXT_END),
            Some(body) => match (body.chunks.pop_front(), body.end) {
                (Some(chunk), _) => Outcome::chunk(chunk),
                (None, BodyEnd::Whole) => Outcome::status(EXT_END),
                (None, BodyEnd::BrokenOff) => Outcome::status(EXT_BROKEN),
                (None, BodyEnd::Open) => {
                    open.reading = Some(completion);
                    return Ok(());
                }
            },
        };
        self.complete(completion, outcome);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        request: u64,
        chunk: Bytes,
        completion: Completion,
    ) -> Result<(), Refused> {
        let open = self.open(request);
        if !open.is_with_extension {
            return Err((completion, EXT_GONE));
        }
        let at_once = match open.decision {
            Decision::Over => EXT_CANCELLED,
            Decision::Streaming if chunk.is_empty() => EXT_OK,
            Decision::Streaming if open.stream.written.is_some() => {
                return Err((completion, EXT_BUSY));
            }
            Decision::Streaming if open.stream.chunk.is_some() => {
                open.stream.next = Some(chunk);
                open.stream.written = Some(completion);
                return Ok(());
            }
            Decision::Streaming => {
                open.stream.chunk = Some(chunk);
                self.events.push_back(Event::ClientTakes { request });
                EXT_OK
            }
            Decision::Undecided | Decision::Answered => return Err((completion, EXT_STAGE)),
        };
        self.complete(completion, Outcome::status(at_once));
        Ok(())
    }

    /// Ends a streamed answer, and with it the extension's side.
    pub(super) fn end(&mut self, request: u64, is_whole: bool) -> ext_status {
        let open = self.open(request);
        let decision = open.decision;
        if [Decision::Undecided, Decision::Answered].contains(&decision) {
            return EXT_STAGE;
        }
        open.stream.ended = Some(is_whole);
        self.events.push_back(Event::ClientTakes { request });
        self.finish(request);
        if decision == Decision::Over {
            EXT_GONE
        } else {
            EXT_OK
        }
    }

    pub(super) fn watch(&mut self, request: u64, completion: Completion) -> Result<(), Refused> {
        let open = self.open(request);
        if open.watch.is_some() {
            return Err((completion, EXT_BUSY));
        }
        if open.has_client_left {
            self.complete(completion, Outcome::status(EXT_CANCELLED));
        } else {
            open.watch = Some(completion);
        }
        Ok(())
    }
}
