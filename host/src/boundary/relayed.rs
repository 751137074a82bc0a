//! An upstream's answer, passed on to the client.

use std::io;
use std::task::{Context, Poll, ready};

use actix_http::header::HeaderMap;
use actix_http::{Response, StatusCode};
use bytes::Bytes;

use crate::http::body::{Body, BodySource};
use crate::http::headers;
use crate::platform::log::{self, Level};
use crate::platform::log_limit;
use crate::runtime::crash_page::page;
use crate::runtime::in_flight::Flight;
use crate::upstream::ResponseBody;

/// Passes an upstream's answer on: its status, its end-to-end headers, its body as it arrives.
pub(super) fn relayed(
    status: StatusCode,
    mut headers: HeaderMap,
    body: ResponseBody,
    flight: Option<Flight>,
) -> Response<Body> {
    headers::remove_hop_by_hop(&mut headers);
    let body = Relayed {
        body,
        flight,
        is_broken: false,
    };
    let mut response = Response::with_body(status, Body::of_source(body));
    // `Content-Length` stays among them: the encoder passes over it, except where it alone tells a length (HEAD, 304).
    *response.headers_mut() = headers;
    response
}

/// A body on its way from an upstream to the client.
struct Relayed {
    body: ResponseBody,
    /// The request is in flight until the relay is done.
    flight: Option<Flight>,
    is_broken: bool,
}

impl BodySource for Relayed {
    fn declared(&self) -> Option<u64> {
        self.body.declared()
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.is_broken {
            let error = io::Error::other("the upstream's answer broke off");
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.body.poll_chunk(cx)) {
            Some(Err(status)) => {
                self.log_broken(status);
                // actix drops what it has not yet written when a body fails: what came before goes out first.
                self.is_broken = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(chunk)) => Poll::Ready(Some(Ok(chunk))),
            None => Poll::Ready(None),
        }
    }
}

impl Relayed {
    /// Tells the operator, once: the client has the status already, and sees only that the body is not whole.
    #[cold]
    fn log_broken(&self, status: i32) {
        let call = self.flight.as_ref().map(Flight::call).unwrap_or_default();
        let extension = self.flight.as_ref().map_or("unknown", |it| it.name());
        let (request, route) = (call.request_id(), page().route_of(call));
        let (request, route) = (request.unwrap_or(""), route.unwrap_or_default());
        let cause = self.body.why_ended(status);
        let fields: [log::Field<'_>; 4] = [
            ("extension", &extension),
            ("request", &request),
            ("route", &route),
            ("cause", &cause),
        ];
        let sentence =
            "an upstream broke off while its answer was relayed; the client's is cut off, too";
        log_limit::event((extension, sentence), Level::Warn, sentence, &fields);
    }
}
