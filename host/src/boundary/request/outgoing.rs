//! The chunks of a streamed answer that wait for the connection.

use std::task::Waker;

use bytes::Bytes;

use crate::boundary::completion::Completion;

/// A streamed answer on its way from the extension to the connection: while one chunk waits for the connection, the extension
/// may get the next one ready; with two waiting, it waits.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) chunk: Option<Bytes>,
    pub(super) next: Option<Bytes>,
    /// Called when there is room for another chunk.
    pub(super) written: Option<Completion>,
    /// `Some` once the extension has ended the stream: whole, or to be broken off.
    pub(super) ended: Option<bool>,
    /// There while the connection waits for what comes next.
    pub(super) waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn wake_connection(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
