//! A request body that an extension writes chunk by chunk, on its way to the connection.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use extension_api::abi;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::completion::{Completion, Outcome, complete};
use crate::runtime::worker::current;
use crate::upstream::body::RequestBody;

/// Where the extension's chunks go.
pub type Upload = UnboundedSender<Part>;

/// A part of the body.
pub enum Part {
    /// A chunk, and what to call when there is room for the next.
    Chunk(Bytes, Completion),
    /// The end: whole, or to be broken off.
    End(bool),
}

/// The body, as it is sent.
pub struct Uploaded(UnboundedReceiver<Part>);

/// Both ends of a new one.
pub fn upload() -> (Upload, Uploaded) {
    let (upload, parts) = unbounded_channel();
    (upload, Uploaded(parts))
}

impl RequestBody for Uploaded {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        Poll::Ready(match ready!(self.0.poll_recv(cx)) {
            Some(Part::Chunk(chunk, written)) => {
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
