//! The access log: one line for each request when its answer is decided.

use std::net::SocketAddr;
use std::time::Instant;

use actix_http::{Method, Request, Response};

use crate::http::body::Body;
use crate::http::request_id::RequestId;
use crate::platform::log::{self, Level};

/// What the access log says of a request: one line when the answer is decided.
pub struct AccessLine {
    began: Instant,
    method: Method,
    /// Without its query, which may hold what is nobody's business.
    path: String,
    peer: Option<SocketAddr>,
}

impl AccessLine {
    /// `None` where no line would be written.
    #[inline]
    pub fn begin(is_on: bool, request: &Request) -> Option<Box<Self>> {
        if !is_on {
            return None;
        }
        Self::begin_where_enabled(request)
    }

    #[inline(never)]
    fn begin_where_enabled(request: &Request) -> Option<Box<Self>> {
        log::enabled(Level::Info).then(|| {
            Box::new(Self {
                began: Instant::now(),
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                peer: request.peer_addr(),
            })
        })
    }

    #[inline(never)]
    /// Writes the line.
    pub fn write(&self, response: &Response<Body>, id: RequestId) {
        let took_ms = self.began.elapsed().as_micros() as f64 / 1_000.0;
        let peer = self
            .peer
            .map(|peer| peer.ip().to_string())
            .unwrap_or_default();
        let status = response.status().as_u16();
        let fields: [log::Field<'_>; 6] = [
            ("method", &self.method),
            ("path", &self.path),
            ("status", &status),
            ("took_ms", &took_ms),
            ("ip", &peer),
            ("request", &id),
        ];
        log::event(Level::Info, "answered", &fields);
    }
}
