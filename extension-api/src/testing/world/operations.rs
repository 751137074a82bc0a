//! [`Operation`] and [`Fetched`]: sleeps and fetches that are pending, and the answers to fetches.

use std::collections::VecDeque;

use super::completion::{Completion, Outcome};
use super::head::HeaderFields;
use super::requests::Refused;
use super::state::State;
use crate::abi::*;
use crate::bridge::Bytes;
use crate::testing::lines::{Lines, first};
use crate::testing::upstream::{BodyEnd, Call};

/// A sleep or a fetch that has not completed.
pub(super) struct Operation {
    completion: Completion,
    /// 0: it belongs to the extension itself.
    request: u64,
    /// `None`: a sleep.
    pub(super) call: Option<Call>,
    pub(super) upload: Upload,
}

/// Where the body of a call comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Upload {
    /// It came with the call.
    None,
    /// It is being written.
    Open,
    /// A chunk of it waits to be taken.
    Writing,
    /// It was written.
    Ended,
}

/// The answer to a fetch, until it is relayed or dropped.
pub(super) struct Fetched {
    pub(super) status: u16,
    pub(super) body_length: Option<i64>,
    pub(super) headers: HeaderFields,
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) end: BodyEnd,
    reading: Option<Completion>,
}

impl State {
    /// Starts an operation; one whose request is over, or whose extension is being stopped, is cancelled right away.
    pub(super) fn start(
        &mut self,
        request: u64,
        completion: Completion,
        call: Option<Call>,
        upload: Upload,
    ) -> u64 {
        let op = self.next();
        let operation = Operation {
            completion,
            request,
            call,
            upload,
        };
        self.ops.insert(op, operation);
        let is_bound = match request {
            0 => !self.is_stopping,
            _ => self
                .requests
                .get(&request)
                .is_some_and(|open| open.is_open()),
        };
        if !is_bound {
            self.cancel(op);
        }
        op
    }

    /// Ends an operation, unless it has ended before.
    pub(super) fn end_op(&mut self, op: u64, outcome: Outcome) {
        if let Some(Operation { completion, .. }) = self.ops.remove(&op) {
            self.timers.retain(|(_, timed), ()| *timed != op);
            self.complete(completion, outcome);
        }
    }

    pub(super) fn cancel(&mut self, op: u64) {
        self.end_op(op, Outcome::status(EXT_CANCELLED));
    }

    /// Cancels what belongs to a request.
    pub(super) fn cancel_of(&mut self, request: u64) {
        let of_request = self.ops.iter().filter(|(_, op)| op.request == request);
        let mut ops: Vec<u64> = of_request.map(|(&op, _)| op).collect();
        ops.sort_unstable();
        ops.into_iter().for_each(|op| self.cancel(op));
    }

    // ---- Answers to fetches ----

    /// Keeps the answer to a fetch for the extension.
    pub(super) fn keep_fetched(
        &mut self,
        status: u16,
        headers: Lines,
        chunks: Vec<Bytes>,
        end: BodyEnd,
    ) -> u64 {
        let length = first(&headers, "content-length");
        let fetched = Fetched {
            status,
            body_length: length.and_then(|length| length.parse().ok()),
            headers: HeaderFields::new(headers),
            chunks: chunks.into(),
            end,
            reading: None,
        };
        let number = self.next();
        self.fetched.insert(number, fetched);
        number
    }

    /// Ends an answer; a read of it is cancelled. `None` where it has ended before.
    pub(super) fn close_fetched(&mut self, fetched: u64) -> Option<Fetched> {
        let mut closed = self.fetched.remove(&fetched)?;
        if let Some(reading) = closed.reading.take() {
            self.complete(reading, Outcome::status(EXT_CANCELLED));
        }
        Some(closed)
    }

    pub(super) fn read_fetched(
        &mut self,
        fetched: u64,
        completion: Completion,
    ) -> Result<(), Refused> {
        let Some(fetched) = self.fetched.get_mut(&fetched) else {
            return Err((completion, EXT_GONE));
        };
        if fetched.reading.is_some() {
            return Err((completion, EXT_BUSY));
        }
        let outcome = match (fetched.chunks.pop_front(), fetched.end) {
            (Some(chunk), _) => Outcome::chunk(chunk),
            (None, BodyEnd::Whole) => Outcome::status(EXT_END),
            (None, BodyEnd::BrokenOff) => Outcome::status(EXT_BROKEN),
            (None, BodyEnd::Open) => {
                fetched.reading = Some(completion);
                return Ok(());
            }
        };
        self.complete(completion, outcome);
        Ok(())
    }
}
