//! How an extension reads a request's body: chunk by chunk, handed on, or whole before it is called.

use std::task::{Context, Poll, Waker};

use extension_api::abi;

use super::incoming::Incoming;
use super::state::{Client, Handle, Local, Refused};
use crate::boundary::completion::{Completion, Outcome, complete, complete_from_task};
use crate::runtime::worker::Worker;

impl Handle {
    /// Reads the next chunk of the body and completes with it.
    pub fn read_body(
        &self,
        worker: &'static Worker,
        mut completion: Completion,
    ) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local_state = local.borrow_mut();
        if local_state.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        if local_state.reading.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        completion.hold(local_state.flight.clone());
        let has_left = matches!(local_state.client, Client::Ended);
        let polled = match &mut local_state.payload {
            _ if has_left => Poll::Ready(Outcome::of_status(abi::EXT_CANCELLED)),
            None => Poll::Ready(Outcome::of_status(abi::EXT_END)),
            Some(payload) => payload
                .poll_chunk(&mut Context::from_waker(Waker::noop()))
                .map(Outcome::of_chunk),
        };
        match polled {
            Poll::Ready(outcome) => complete(worker, completion, outcome),
            Poll::Pending => {
                local_state.reading = Some((completion, None));
                if !local_state.wake_connection() {
                    self.read_in_task(&mut local_state);
                }
            }
        }
        Ok(())
    }

    /// Lets a task of its own wait for what is being read.
    pub(super) fn read_in_task(self, local: &mut Local) {
        let Some((_, task)) = &mut local.reading else {
            return;
        };
        let reading = actix_rt::spawn(async move {
            let (completion, outcome) = std::future::poll_fn(|cx| self.poll_read(cx)).await;
            complete_from_task(completion, outcome);
        });
        *task = Some(reading.abort_handle());
    }

    /// What is being read, once it is there.
    pub(super) fn poll_read(self, cx: &mut Context<'_>) -> Poll<(Completion, Outcome)> {
        let mut local = self.local_state().borrow_mut();
        if local.reading.is_none() {
            return Poll::Pending;
        }
        let outcome = match &mut local.payload {
            Some(payload) => std::task::ready!(payload.poll_chunk(cx).map(Outcome::of_chunk)),
            None => Outcome::of_status(abi::EXT_CANCELLED),
        };
        match local.reading.take() {
            Some((completion, _)) => Poll::Ready((completion, outcome)),
            None => Poll::Pending,
        }
    }

    /// Takes the body, for a fetch that passes it on. `None`: there is none, or it is being read.
    pub fn take_body(&self) -> Option<Incoming> {
        let mut local = self.local()?.borrow_mut();
        if local.reading.is_some() {
            None
        } else {
            local.payload.take()
        }
    }

    /// Reads the whole body into the head. The error is a status of the ABI.
    pub async fn collect_body(&self) -> Result<(), i32> {
        let mut whole = bytes::BytesMut::new();
        let mut first = None;
        loop {
            let chunk = std::future::poll_fn(|cx| {
                let Some(local) = self.local() else {
                    return Poll::Ready(Some(Err(abi::EXT_CANCELLED)));
                };
                let mut local = local.borrow_mut();
                let has_left = matches!(local.client, Client::Ended);
                match &mut local.payload {
                    Some(payload) => payload.poll_chunk(cx),
                    None if has_left => Poll::Ready(Some(Err(abi::EXT_CANCELLED))),
                    None => Poll::Ready(None),
                }
            });
            match chunk.await {
                Some(chunk) if first.is_none() && whole.is_empty() => first = Some(chunk?),
                Some(chunk) => {
                    if let Some(first) = first.take() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&chunk?);
                }
                None => break,
            }
        }
        if let Some(shared) = self.read() {
            // It is collected once.
            let _ = shared.body.set(first.unwrap_or_else(|| whole.freeze()));
        }
        Ok(())
    }
}
