//! [`Answer`]: what an author's future comes to, as the host is told it.

use std::future::Future;
use std::pin::Pin;

use super::bytes::Bytes;
use super::fetched::FetchedHandle;
use super::sink::BodySink;
use crate::error::Result;
use crate::header_lines::HeaderLines;

/// A status, headers and a body.
pub(crate) struct Answer {
    /// 0 for that of a relayed answer.
    pub(crate) status: u16,
    pub(crate) headers: HeaderLines,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Bytes(Bytes),
    Relay(FetchedHandle),
    Stream(Producer<'static>),
}

/// Writes a body chunk by chunk, and ends with it.
pub(crate) type BodyFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Starts to write a body to a sink.
pub(crate) type Producer<'a> = Box<dyn FnOnce(BodySink) -> BodyFuture<'a> + 'a>;
