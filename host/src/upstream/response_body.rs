//! The body of an answer on its way in: decoded where asked for, and given up where nothing comes for too long.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::header::HeaderMap;
use actix_rt::time::{Sleep, sleep};
use bytes::Bytes;
use extension_api::abi;

use super::decoding::DecodedBody;
use super::exchange::Exchange;

/// The body of an answer on its way in.
pub struct ResponseBody {
    source: Source,
    declared: Option<u64>,
    stall: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

enum Source {
    Raw(Box<Exchange>),
    Decoded(DecodedBody),
}

impl ResponseBody {
    /// That of the answer with these headers, which `exchange` reads. It is given up where nothing comes for `stall`, or where
    /// `total` is over.
    pub fn new(
        exchange: Box<Exchange>,
        headers: &HeaderMap,
        decompress: bool,
        stall: Option<Duration>,
        total: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        let declared = exchange.declared();
        let decoded = if decompress {
            DecodedBody::new(exchange, headers)
        } else {
            Err(exchange)
        };
        let (source, declared) = match decoded {
            Ok(decoded) => (Source::Decoded(decoded), None),
            Err(exchange) => (Source::Raw(exchange), declared),
        };
        Self {
            declared,
            source,
            stall,
            stalled: None,
            total,
            is_over: false,
        }
    }

    /// The declared length.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The next chunk; the failure is a status of the ABI, and the last thing that comes.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = match &mut self.source {
            Source::Raw(exchange) => exchange.poll_chunk(cx),
            Source::Decoded(decoded) => decoded.poll_chunk(cx),
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) => self.stalled = None,
            Poll::Ready(_) => self.is_over = true,
        }
        if polled.is_pending() && self.is_late(cx) {
            self.is_over = true;
            return Poll::Ready(Some(Err(abi::EXT_TIMEOUT)));
        }
        polled
    }

    /// Whether nothing came for too long. Timers are set only when there is something to wait for.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(stall) = self.stall {
            let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
            if stalled.as_mut().poll(cx).is_ready() {
                return true;
            }
        }
        self.total
            .as_mut()
            .is_some_and(|total| total.as_mut().poll(cx).is_ready())
    }
}
