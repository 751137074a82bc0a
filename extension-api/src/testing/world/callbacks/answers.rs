//! The callbacks that answer a request.
#![expect(unsafe_code, reason = "the header says what the pointers point at")]

use super::calls::fetched_drop;
use super::ffi_in::{Edits, headers, lossy, register, sized, with_request};
use crate::abi::*;
use crate::bridge::Bytes;
use crate::testing::answer::Answer;
use crate::testing::lines::Lines;
use crate::testing::upstream::BodyEnd;
use crate::testing::world::state::State;

/// A response as it was given: its status, its headers, or the rule that they break, and its body.
struct Given {
    status: u32,
    headers: Result<Edits, &'static str>,
    body: Bytes,
}

impl Given {
    /// # Safety
    ///
    /// NULL, or as the header has it: lent for the call, but for the body, which is given.
    unsafe fn read(response: *const ext_response) -> Option<Self> {
        // SAFETY: as the caller says.
        let raw = unsafe { sized(response) }?;
        Some(Self {
            status: raw.status,
            // SAFETY: lent for the call, says the caller.
            headers: unsafe { headers(raw.headers, raw.header_count) },
            // SAFETY: given, says the caller.
            body: unsafe { Bytes::from_raw(raw.body) },
        })
    }

    /// The answer, or the rule that it breaks.
    fn into_answer(self) -> Result<Answer, &'static str> {
        let status = status_of(self.status)?;
        let line = |(name, value): (String, Option<String>)| (name, value.unwrap_or_default());
        Ok(Answer {
            status,
            headers: self.headers?.into_iter().map(line).collect(),
            body: self.body.to_vec(),
            broken_off: false,
        })
    }
}

fn status_of(status: u32) -> Result<u16, &'static str> {
    let status = u16::try_from(status).ok();
    status
        .filter(|status| (200..600).contains(status))
        .ok_or("the status of an answer must be from 200 to 599")
}

pub(super) unsafe extern "C" fn respond(
    request: ext_request,
    response: *const ext_response,
) -> ext_status {
    // SAFETY: as the header has it.
    let Some(given) = (unsafe { Given::read(response) }) else {
        return EXT_INVALID;
    };
    let answer = given.into_answer();
    with_request(request, |_, state, request| match answer {
        Ok(answer) => match state.claim(request, false) {
            Ok(()) => {
                state.answer(request, answer);
                state.finish(request);
                EXT_OK
            }
            Err(status) => status,
        },
        Err(rule) => state.reject(request, rule),
    })
}

pub(super) unsafe extern "C" fn stream(
    request: ext_request,
    head: *const ext_response,
) -> ext_status {
    // SAFETY: as the header has it.
    let Some(given) = (unsafe { Given::read(head) }) else {
        return EXT_INVALID;
    };
    let head = match given.body.is_empty() {
        true => given.into_answer(),
        false => Err("the head of a stream must have no body"),
    };
    with_request(request, |_, state, request| match head {
        Ok(head) => match state.claim(request, true) {
            Ok(()) => {
                state.answer(request, head);
                EXT_OK
            }
            Err(status) => status,
        },
        Err(rule) => state.reject(request, rule),
    })
}

pub(super) unsafe extern "C" fn write(
    request: ext_request,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given in every case.
    let chunk = unsafe { Bytes::from_raw(chunk) };
    with_request(request, |world, state, request| {
        register(world, state, completion, |state, completion| {
            state.write(request, chunk, completion)
        })
    })
}

pub(super) unsafe extern "C" fn end(request: ext_request, status: ext_status) -> ext_status {
    with_request(request, |world, state, request| {
        let ended = state.end(request, status == EXT_OK);
        // As in the real host, elsewhere it is left to the worker.
        if world.is_worker() { ended } else { EXT_OK }
    })
}

pub(super) unsafe extern "C" fn fail(request: ext_request, error: *const ext_error) -> ext_status {
    // SAFETY: NULL, or lent for the call, with all slices.
    let Some(error) = (unsafe { sized(error) }) else {
        return EXT_INVALID;
    };
    // SAFETY: as above.
    let (code, message, cause) =
        unsafe { (lossy(error.code), lossy(error.message), lossy(error.cause)) };
    let status = u16::try_from(error.status).ok();
    let status = status
        .filter(|status| (400..600).contains(status))
        .unwrap_or(500);
    with_request(request, |_, state, request| {
        if let Err(status) = state.claim(request, false) {
            return status;
        }
        let mut line = format!("error {message} status={status} code={code}");
        if !cause.is_empty() {
            line += &format!(" cause={cause}");
        }
        state.log.push(line);
        state.answer_error(request, status, &code, &message);
        state.finish(request);
        EXT_OK
    })
}

pub(super) unsafe extern "C" fn relay(
    request: ext_request,
    fetched: ext_fetched,
    edits: *const ext_response,
) -> ext_status {
    // SAFETY: NULL, or as the header has it.
    let edits = unsafe { Given::read(edits) };
    let edits = match edits {
        None => Ok((None, Vec::new())),
        Some(Given {
            status: 0, headers, ..
        }) => headers.map(|headers| (None, headers)),
        Some(given) => {
            status_of(given.status).and_then(|status| Ok((Some(status), given.headers?)))
        }
    };
    let mut is_relayed = false;
    let status = with_request(request, |_, state, request| {
        is_relayed = true;
        let answer = relayed(state, fetched.generation);
        let Some(mut answer) = answer else {
            return state.reject(request, "the answer that was to be relayed is over");
        };
        let (status, edits) = match edits {
            Ok(edits) => edits,
            Err(rule) => return state.reject(request, rule),
        };
        if let Err(status) = state.claim(request, false) {
            return status;
        }
        answer.status = status.unwrap_or(answer.status);
        apply(edits, &mut answer.headers);
        state.answer(request, answer);
        state.finish(request);
        EXT_OK
    });
    if !is_relayed {
        // It is given in every case, so that it ends in every case.
        // SAFETY: takes every handle.
        unsafe { fetched_drop(fetched) };
    }
    status
}

/// Ends an answer to a fetch, and makes of it what the caller gets.
fn relayed(state: &mut State, fetched: u64) -> Option<Answer> {
    let fetched = state.close_fetched(fetched)?;
    Some(Answer {
        status: fetched.status,
        headers: fetched.headers.lines,
        body: fetched.chunks.into_iter().flat_map(Vec::from).collect(),
        broken_off: fetched.end != BodyEnd::Whole,
    })
}

/// Sets each name's lines in place of those that were there.
fn apply(edits: Edits, headers: &mut Lines) {
    headers.retain(|(name, _)| !edits.iter().any(|(edited, _)| edited == name));
    let set = edits
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    headers.extend(set);
}

pub(super) unsafe extern "C" fn give_up(request: ext_request) -> ext_status {
    with_request(request, |_, state, request| {
        state.finish(request);
        EXT_OK
    })
}
