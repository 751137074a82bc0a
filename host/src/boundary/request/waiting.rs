//! How a connection waits for the answer to a request, and polls meanwhile what the extension has in flight for it.

use std::hint::cold_path;
use std::task::{Context, Poll, Waker};

use actix_http::Response;

use super::client_side::ClientSide;
use super::state::Client;
use super::stream::stream;
use crate::http::body::Body;
use crate::platform::slice::{Slice, give_way};

impl ClientSide {
    /// The answer, if it is there.
    pub fn take(self) -> Result<Response<Body>, Self> {
        let handle = self.handle();
        let mut local = handle.local_state().borrow_mut();
        // Looked at before it is moved: most polls of an answer come before it.
        if !matches!(local.client, Client::Answered(_)) {
            drop(local);
            return Err(self);
        }
        let client = std::mem::replace(&mut local.client, Client::Writing);
        let has_more = local.reading.is_some() || !local.work.is_empty();
        drop(local);
        let Client::Answered(response) = client else {
            unreachable!("it has just been looked at");
        };
        if handle.is_streaming() {
            return Ok(stream(self, response));
        }
        if has_more {
            cold_path();
            handle.leave_to_tasks();
        }
        Ok(response)
    }

    /// As [`take`](Self::take), which takes the client's side out.
    fn take_out(side: &mut Option<Self>) -> Poll<Response<Body>> {
        match side.take().map(Self::take) {
            Some(Ok(response)) => Poll::Ready(response),
            Some(Err(client)) => {
                *side = Some(client);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// The answer, or has the task that polls with `cx` woken when it is there. Polls what the extension has in flight for it.
    pub fn poll(side: &mut Option<Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        let Some(handle) = side.as_ref().map(Self::handle) else {
            return Poll::Pending;
        };
        let local_state = handle.local_state();
        let mut slice = Slice::default();
        while !slice.is_over() {
            {
                let mut local = local_state.borrow_mut();
                let Client::Waiting(waker) = &mut local.client else {
                    drop(local);
                    return Self::take_out(side);
                };
                let is_same = |waker: &Waker| waker.will_wake(cx.waker());
                if !waker.as_ref().is_some_and(is_same) {
                    *waker = Some(cx.waker().clone());
                }
                // Whatever answers while this polls need not wake it.
                local.is_being_polled = true;
            }
            let has_progress = handle.poll_pending(local_state, cx);
            local_state.borrow_mut().is_being_polled = false;
            if !has_progress {
                return Poll::Pending;
            }
        }
        if !handle.waits() {
            return Self::take_out(side);
        }
        cold_path();
        give_way(cx);
        Poll::Pending
    }
}
