//! The body of an answer on its way in: decoded where asked for, and given up where nothing comes for too long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_http::header::HeaderMap;
use actix_rt::time::{Sleep, sleep};
use bytes::Bytes;
use extension_api::abi;

use super::base::Base;
use super::decoding::DecodedBody;
use super::exchange::Exchange;
use super::limit::Limit;

/// The body of an answer on its way in.
pub struct ResponseBody {
    base: Arc<Base>,
    source: Source,
    declared: Option<u64>,
    stall: Option<Limit>,
    stalled: Option<Pin<Box<Sleep>>>,
    total: Option<(Pin<Box<Sleep>>, Limit)>,
    is_over: bool,
}

enum Source {
    Raw(Box<Exchange>),
    Decoded(DecodedBody),
}

impl ResponseBody {
    /// That of the answer of `base` with these headers, which `exchange` reads. It is given up where nothing comes for `stall`, or
    /// where `total` is over.
    pub(super) fn new(
        base: Arc<Base>,
        exchange: Box<Exchange>,
        headers: &HeaderMap,
        decompress: bool,
        stall: Option<Limit>,
        total: Option<(Pin<Box<Sleep>>, Limit)>,
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
            base,
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
            let stalled = self
                .stalled
                .get_or_insert_with(|| Box::pin(sleep(stall.time)));
            if stalled.as_mut().poll(cx).is_ready() {
                return true;
            }
        }
        self.total
            .as_mut()
            .is_some_and(|(total, _)| total.as_mut().poll(cx).is_ready())
    }

    /// Why it has ended before its end, with that status, for the log: the origin and the limit, and nothing of the answer.
    pub fn why_ended(&self, status: i32) -> String {
        let origin = self.base.origin();
        let total = self.total.as_ref();
        match (total.filter(|(total, _)| total.is_elapsed()), self.stall) {
            (Some((_, total)), _) if status == abi::EXT_TIMEOUT => {
                format!("{origin} did not end its answer {total}")
            }
            (None, Some(stall)) if status == abi::EXT_TIMEOUT => {
                format!("{origin} sent nothing more {stall}")
            }
            _ => format!("{origin} broke off its answer, or sent one that is not well-formed"),
        }
    }
}
