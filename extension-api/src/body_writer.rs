//! [`BodyWriter`]: a body that is written chunk by chunk.

use std::fmt;
use std::future::poll_fn;

use crate::abi::{EXT_CANCELLED, EXT_GONE, EXT_OK, ext_status};
use crate::bridge::{BodySink, Bytes, Op, Producer};
use crate::error::{Error, Result};

/// Has `write` called with a writer when the body's sink is there.
pub(crate) fn producer<'a>(write: impl AsyncFnOnce(BodyWriter) -> Result<()> + 'a) -> Producer<'a> {
    Box::new(|sink| {
        let op = sink.op();
        Box::pin(async move { write(BodyWriter { sink, op }).await })
    })
}

/// Where a streamed body is written to: an answer, or an outgoing call.
pub struct BodyWriter {
    sink: BodySink,
    op: Op,
}

impl BodyWriter {
    /// Writes a chunk, and waits until there is room for the next one.
    ///
    /// # Errors
    ///
    /// When the other side has left; best passed on by `?`.
    pub async fn write(&mut self, chunk: impl Into<Bytes>) -> Result<()> {
        let chunk = chunk.into();
        // A write whose future was dropped is pending all the same.
        self.settle().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        written(self.sink.start_write(chunk, &mut self.op))?;
        self.settle().await
    }

    async fn settle(&mut self) -> Result<()> {
        if !self.op.is_started() {
            return Ok(());
        }
        written(poll_fn(|cx| self.op.poll(cx)).await.status)
    }
}

fn written(status: ext_status) -> Result<()> {
    match status {
        EXT_OK => Ok(()),
        EXT_CANCELLED | EXT_GONE => Err(Error::client_left()),
        other => Err(Error::internal(format_args!(
            "cannot write the body: the host says {other}"
        ))),
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}
