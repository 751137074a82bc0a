//! A request body that an extension writes chunk by chunk, on its way to the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use extension_api::abi;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::completion::{Completion, Outcome, complete};
use crate::runtime::worker::current;
use crate::upstream::body::RequestBody;

/// Where the extension's chunks go.
#[derive(Clone)]
pub struct Upload {
    parts: UnboundedSender<Part>,
    is_writing: Arc<AtomicBool>,
}

/// A part of the body.
enum Part {
    /// A chunk, and what to call when there is room for the next.
    Chunk(Bytes, Completion),
    /// The end: whole, or to be broken off.
    End(bool),
}

/// The body, as it is sent.
pub struct Uploaded {
    parts: UnboundedReceiver<Part>,
    /// A chunk waits to be taken.
    is_writing: Arc<AtomicBool>,
}

/// Both ends of a new one.
pub fn upload() -> (Upload, Uploaded) {
    let (parts, taken) = unbounded_channel();
    let is_writing = Arc::new(AtomicBool::new(false));
    let upload = Upload {
        parts,
        is_writing: is_writing.clone(),
    };
    let uploaded = Uploaded {
        parts: taken,
        is_writing,
    };
    (upload, uploaded)
}

impl Upload {
    /// Hands the next chunk on, and completes when there is room for another. Gives the completion back where the one before
    /// has not been taken.
    pub fn write(&self, chunk: Bytes, completion: Completion) -> Result<(), Completion> {
        if self.is_writing.swap(true, Ordering::Relaxed) {
            return Err(completion);
        }
        if self.parts.send(Part::Chunk(chunk, completion)).is_err() {
            // The call is over: what was sent has been dropped, and its completion is called as cancelled.
            self.is_writing.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends the body: whole, or to be broken off.
    pub fn end(&self, is_whole: bool) {
        // Err: the call is over.
        let _ = self.parts.send(Part::End(is_whole));
    }
}

impl RequestBody for Uploaded {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        Poll::Ready(match ready!(self.parts.poll_recv(cx)) {
            Some(Part::Chunk(chunk, written)) => {
                self.is_writing.store(false, Ordering::Relaxed);
                if let Some(worker) = current() {
                    complete(worker, written, Outcome::OK);
                }
                Some(Ok(chunk))
            }
            Some(Part::End(true)) => None,
            Some(Part::End(false)) | None => Some(Err(abi::EXT_BROKEN)),
        })
    }
}
