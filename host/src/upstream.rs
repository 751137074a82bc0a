//! Outgoing calls, with awc, on the worker's own thread: the only place that opens connections to elsewhere.

mod base;
mod connect;
pub mod headers;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::body::{BodySize, MessageBody};
use actix_http::encoding::Decoder;
use actix_http::header::{self, HeaderMap, HeaderValue};
use actix_http::{HttpMessage as _, Method, Payload, StatusCode, Uri};
use actix_rt::time::{Sleep, sleep};
use awc::error::{ConnectError, SendRequestError};
use bytes::Bytes;
use extension_api::abi;
use futures_core::Stream as _;

pub use self::base::Base;
use crate::config;
use crate::noted::content_length;
use crate::operation::UploadPart;
use crate::request::Incoming;

/// A worker's clients: one for each kind of connection, made when first used, each with its own pool.
pub struct Upstream {
    limits: config::Fetch,
    clients: RefCell<Vec<((bool, Duration), awc::Client)>>,
}

/// One call, ready to be made.
pub struct Call {
    /// Where it goes.
    pub base: Arc<Base>,
    /// The URL, made by [`Base::url`].
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// Headers, without those of the connection and without `Host`.
    pub headers: HeaderMap,
    /// Limits; `None`: the host's default.
    pub limits: Limits,
    /// Follow redirects to places that this allows.
    pub follow: Option<Allows>,
    /// Ask for gzip, and decode it.
    pub decompress: bool,
}

/// Says whether a call may go to a place.
pub type Allows = Box<dyn Fn(&Base) -> bool + Send>;

/// How long a call may take.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// To resolve, connect and shake hands.
    pub connect: Option<Duration>,
    /// To the answer's head, and then from chunk to chunk.
    pub first_byte: Option<Duration>,
    /// To the end of the answer.
    pub total: Option<Duration>,
}

/// The body of a call.
pub enum Outgoing {
    /// None.
    Empty,
    /// Known whole.
    Bytes(Bytes),
    /// The body of a request, passed on as it arrives, and its length where it is declared.
    Incoming(Incoming, Option<u64>),
    /// Chunks that an extension writes.
    Upload(tokio::sync::mpsc::UnboundedReceiver<UploadPart>),
}

/// An answer whose head has arrived.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The body, still to come.
    pub body: AnswerBody,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed {
    /// A status of the ABI.
    pub status: i32,
    /// For the log: no header, no target, no body.
    pub message: String,
}

impl Upstream {
    /// No connection yet.
    pub fn new(limits: &config::Fetch) -> Self {
        Self {
            limits: limits.clone(),
            clients: RefCell::default(),
        }
    }

    /// How long to wait for the head of an answer; `None`: for ever.
    pub fn patience(&self, limits: &Limits) -> Option<Duration> {
        let first_byte = limits.first_byte.or(self.limits.first_byte_timeout());
        let total = limits.total.or(self.limits.total_timeout());
        [first_byte, total].into_iter().flatten().min()
    }

    /// Makes the call, once, and follows redirects where asked to. Whoever calls gives up after [`patience`](Self::patience):
    /// that needs a timer, which the callers have.
    pub async fn call(&self, mut call: Call, mut body: Outgoing) -> Result<Answer, Failed> {
        let limits = Limits {
            connect: Some(call.limits.connect.unwrap_or(self.limits.connect_timeout())),
            first_byte: call.limits.first_byte.or(self.limits.first_byte_timeout()),
            total: call.limits.total.or(self.limits.total_timeout()),
        };
        let total = limits.total.map(|total| Box::pin(sleep(total)));
        let mut redirects_left = 10;
        loop {
            let kept = if call.follow.is_some() {
                Some((call.headers.clone(), body.clone_bytes()))
            } else {
                None
            };
            let mut answer = self.send(&mut call, body, limits).await?;
            if let Some((headers, sent)) = kept
                && redirects_left > 0
            {
                call.headers = headers;
                if let Some(next) = redirect(&mut call, &answer, sent) {
                    redirects_left -= 1;
                    body = next;
                    continue;
                }
            }
            answer.body.total = total;
            return Ok(answer);
        }
    }

    async fn send(
        &self,
        call: &mut Call,
        body: Outgoing,
        limits: Limits,
    ) -> Result<Answer, Failed> {
        let client = self.client(call.base.is_tls(), limits.connect.unwrap_or_default());
        // Without this, awc adds an Accept-Encoding of its own.
        let mut request = client
            .request(call.method.clone(), call.url.clone())
            .no_decompress();
        let mut headers = std::mem::take(&mut call.headers);
        headers.insert(header::HOST, call.base.host().clone());
        if call.decompress {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        *request.headers_mut() = headers;
        let mut response = request.send_body(body).await.map_err(Failed::from)?;
        let mut headers = HeaderMap::new();
        let payload = response.take_payload();
        let status = response.status();
        // `map_body` is the one door to the head itself: taking the map spares a copy of each header.
        let _ = response.map_body(|head, _| {
            headers = std::mem::take(&mut head.headers);
            Payload::<actix_http::BoxedPayloadStream>::None
        });
        let has_body = call.method != Method::HEAD
            && status != StatusCode::NO_CONTENT
            && status != StatusCode::NOT_MODIFIED;
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let declared = if chunked {
            None
        } else {
            content_length(&headers)
        };
        let body = if call.decompress {
            Source::Decoded(Decoder::from_headers(payload, &headers))
        } else {
            Source::Raw(payload)
        };
        let body = AnswerBody {
            source: body,
            declared: if call.decompress && headers.contains_key(header::CONTENT_ENCODING) {
                None
            } else {
                declared
            },
            left: if has_body { declared } else { Some(0) },
            must_end: chunked && has_body,
            stall: limits.first_byte,
            stalled: None,
            total: None,
            is_over: false,
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn client(&self, is_tls: bool, connect: Duration) -> awc::Client {
        let kind = (is_tls, connect);
        let mut clients = self.clients.borrow_mut();
        if let Some((_, client)) = clients.iter().find(|(of, _)| *of == kind) {
            return client.clone();
        }
        let connector = awc::Connector::new()
            .connector(connect::Connector {
                is_tls,
                stand_in: self.limits.stand_in,
            })
            .timeout(connect)
            .limit(self.limits.connections_max)
            .conn_keep_alive(Duration::from_millis(self.limits.idle_ms))
            .conn_lifetime(Duration::from_secs(600));
        let client = awc::Client::builder()
            .connector(connector)
            .no_default_headers()
            .disable_redirects()
            .disable_timeout()
            .finish();
        clients.push((kind, client.clone()));
        client
    }
}

/// Turns the call into the one that a redirect asks for, and gives its body, if it is one that is followed.
fn redirect(call: &mut Call, answer: &Answer, sent: Option<Bytes>) -> Option<Outgoing> {
    let to_get = match answer.status.as_u16() {
        301 | 302 => call.method == Method::POST,
        303 => call.method != Method::HEAD && call.method != Method::GET,
        307 | 308 => false,
        _ => return None,
    };
    let location = answer.headers.get(header::LOCATION)?.to_str().ok()?;
    let (base, target) = resolve(call, location)?;
    // A body that was streamed is gone, and is not asked for twice.
    let body = if to_get {
        Outgoing::Empty
    } else {
        Outgoing::of(sent?)
    };
    let is_same = base.origin() == call.base.origin();
    if !is_same && !call.follow.as_ref().is_some_and(|allows| allows(&base)) {
        return None;
    }
    call.url = base.url(&target)?;
    call.base = base;
    if !is_same {
        for credential in [
            header::AUTHORIZATION,
            header::COOKIE,
            header::PROXY_AUTHORIZATION,
        ] {
            call.headers.remove(credential);
        }
    }
    if to_get {
        call.method = Method::GET;
        call.headers.remove(header::CONTENT_TYPE);
    }
    Some(body)
}

/// What a `Location` means: an absolute URL, or a path on the same host.
fn resolve(call: &Call, location: &str) -> Option<(Arc<Base>, String)> {
    let location = location.split('#').next()?;
    let scheme = if call.base.is_tls() {
        "https:"
    } else {
        "http:"
    };
    let absolute = match location {
        network if network.starts_with("//") => format!("{scheme}{network}"),
        path if path.starts_with('/') => {
            format!("{scheme}//{}{path}", call.base.host().to_str().ok()?)
        }
        url if url.contains("://") => url.to_owned(),
        relative => {
            let folder = call
                .url
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!(
                "{scheme}//{}{folder}/{relative}",
                call.base.host().to_str().ok()?
            )
        }
    };
    let after_scheme = absolute.find("://")? + 3;
    let end = absolute[after_scheme..]
        .find(['/', '?'])
        .map_or(absolute.len(), |at| after_scheme + at);
    Some((
        Arc::new(Base::parse(&absolute[..end]).ok()?),
        absolute[end..].to_owned(),
    ))
}

impl From<SendRequestError> for Failed {
    fn from(error: SendRequestError) -> Self {
        let status = match &error {
            SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => {
                abi::EXT_RESOLVE
            }
            SendRequestError::Connect(ConnectError::Timeout) | SendRequestError::Timeout => {
                abi::EXT_TIMEOUT
            }
            SendRequestError::Connect(ConnectError::Io(cause)) if is_tls_failure(cause) => {
                abi::EXT_TLS
            }
            // awc says so of a connection that ended before the answer's head.
            SendRequestError::Connect(ConnectError::Disconnected) => abi::EXT_BROKEN,
            SendRequestError::Connect(_) => abi::EXT_CONNECT,
            SendRequestError::Body(cause) => match cause.downcast_ref::<BodyFailed>() {
                Some(BodyFailed(status)) => *status,
                None => abi::EXT_BROKEN,
            },
            SendRequestError::Url(_) | SendRequestError::Http(_) => abi::EXT_INVALID,
            _ => abi::EXT_BROKEN,
        };
        let message = match &error {
            SendRequestError::Connect(cause) => cause.to_string(),
            SendRequestError::Send(cause) => format!("the connection broke off: {cause}"),
            SendRequestError::Response(cause) => format!("the answer is not HTTP: {cause}"),
            SendRequestError::Body(cause) => cause.to_string(),
            other => other.to_string(),
        };
        Self { status, message }
    }
}

fn is_tls_failure(cause: &std::io::Error) -> bool {
    cause.get_ref().is_some_and(|cause| {
        cause.is::<connect::TlsFailed>()
            || cause
                .source()
                .is_some_and(|cause| cause.is::<connect::TlsFailed>())
    })
}

/// Why a body could not be sent to its end: a status of the ABI.
#[derive(Debug)]
struct BodyFailed(i32);

impl std::fmt::Display for BodyFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            abi::EXT_TOO_LARGE => "the request's body is over the limit",
            _ => "the request's body broke off",
        })
    }
}

impl std::error::Error for BodyFailed {}

impl Outgoing {
    /// A body that is known whole.
    pub fn of(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Bytes(bytes)
        }
    }

    fn clone_bytes(&self) -> Option<Bytes> {
        match self {
            Self::Empty => Some(Bytes::new()),
            Self::Bytes(bytes) => Some(bytes.clone()),
            Self::Incoming(..) | Self::Upload(_) => None,
        }
    }
}

impl MessageBody for Outgoing {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        match self {
            Self::Empty => BodySize::None,
            Self::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Self::Incoming(_, Some(length)) => BodySize::Sized(*length),
            Self::Incoming(_, None) | Self::Upload(_) => BodySize::Stream,
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Incoming(body, _) => body
                .poll_chunk(cx)
                .map_err(|status| BodyFailed(status).into()),
            Self::Upload(parts) => match std::task::ready!(parts.poll_recv(cx)) {
                Some(UploadPart::Chunk(chunk, written)) => {
                    crate::worker::with_current(|worker| {
                        worker.complete(written, crate::callbacks::completion::Outcome::OK)
                    });
                    Poll::Ready(Some(Ok(chunk)))
                }
                Some(UploadPart::End(true)) => Poll::Ready(None),
                Some(UploadPart::End(false)) | None => {
                    Poll::Ready(Some(Err(BodyFailed(abi::EXT_BROKEN).into())))
                }
            },
        }
    }
}

enum Source {
    Raw(Payload),
    Decoded(Decoder<Payload>),
}

/// The body of an answer on its way in.
pub struct AnswerBody {
    source: Source,
    declared: Option<u64>,
    /// How much is still to come before it is decoded, where that is known.
    left: Option<u64>,
    /// It is chunked: when the connection ends before its last chunk, it is not whole.
    must_end: bool,
    stall: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl AnswerBody {
    /// The declared length.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The next chunk; the failure is a status of the ABI, and the last thing that comes.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = self.poll_source(cx);
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

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        loop {
            let (polled, has_ended) = connect::took_end(|| match &mut self.source {
                Source::Raw(payload) => Pin::new(payload).poll_next(cx),
                Source::Decoded(payload) => Pin::new(payload).poll_next(cx),
            });
            return match std::task::ready!(polled) {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => {
                    if let (Source::Raw(_), Some(left)) = (&self.source, &mut self.left) {
                        *left = left.saturating_sub(chunk.len() as u64);
                    }
                    Poll::Ready(Some(Ok(chunk)))
                }
                Some(Err(_)) => Poll::Ready(Some(Err(abi::EXT_BROKEN))),
                None if self.must_end && has_ended => Poll::Ready(Some(Err(abi::EXT_BROKEN))),
                None if matches!(self.source, Source::Raw(_))
                    && self.left.is_some_and(|left| left > 0) =>
                {
                    Poll::Ready(Some(Err(abi::EXT_BROKEN)))
                }
                None => Poll::Ready(None),
            };
        }
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
