//! Outgoing calls, on the worker's own thread: the only place that opens connections to elsewhere.

mod base;
mod connect;
// Public for the fuzz targets alone: they read answers from memory.
#[doc(hidden)]
pub mod exchange;
#[doc(hidden)]
pub mod head;
pub mod headers;
#[doc(hidden)]
pub mod pool;

use std::future::Future;
use std::hint::cold_path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::body::{BodySize, MessageBody};
use actix_http::encoding::Decoder;
use actix_http::error::PayloadError;
use actix_http::header::{self, HeaderMap, HeaderName};
use actix_http::{Method, StatusCode};
use actix_rt::time::{Sleep, sleep};
use awc::error::ConnectError;
use bytes::Bytes;
use extension_api::abi;
use futures_core::Stream as _;

pub use self::base::Base;
use self::exchange::Exchange;
use self::head::Head;
use self::pool::Pool;
use crate::config;
use crate::operation::UploadPart;
use crate::request::Incoming;

/// A worker's way to elsewhere.
pub struct Upstream {
    limits: config::Fetch,
    pool: Rc<Pool>,
}

/// One call, ready to be made.
pub struct Call {
    base: Arc<Base>,
    head: Head,
    limits: Limits,
    follow: Option<Box<Follow>>,
    decompress: bool,
}

/// What it takes to make a call once more, where it is sent elsewhere.
struct Follow {
    allows: Allows,
    method: Method,
    target: String,
    headers: Vec<(HeaderName, Bytes)>,
    left: u32,
}

/// How many redirects are followed.
const REDIRECTS_MAX: u32 = 10;

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

impl Call {
    /// Prepares a call. `None` where the target cannot stand behind the base; see [`Base::write_target`].
    pub fn new(base: Arc<Base>, method: &Method, target: &str) -> Option<Self> {
        Some(Self {
            head: Head::new(method, &base, target)?,
            base,
            limits: Limits::default(),
            follow: None,
            decompress: false,
        })
    }

    /// Sets limits; `None`: the host's default.
    pub fn limit(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Follows redirects to places that `allows` lets it go to. Before any header is added.
    pub fn follow(mut self, method: Method, target: &str, allows: Allows) -> Self {
        self.follow = Some(Box::new(Follow {
            allows,
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            left: REDIRECTS_MAX,
        }));
        self
    }

    /// Asks for gzip, and decodes it.
    pub fn decompress(mut self) -> Self {
        self.add(&header::ACCEPT_ENCODING, b"gzip");
        self.decompress = true;
        self
    }

    /// Adds a header: none of the connection's own, and neither `Host` nor `Content-Length`. The caller vouches that the value has
    /// no control characters.
    pub fn add(&mut self, name: &HeaderName, value: &[u8]) {
        self.head.add(name, value);
        if let Some(follow) = &mut self.follow {
            cold_path();
            let value = Bytes::copy_from_slice(value);
            follow.headers.push((name.clone(), value));
        }
    }
}

impl Upstream {
    /// No connection yet.
    pub fn new(limits: &config::Fetch) -> Self {
        Self {
            limits: limits.clone(),
            pool: Rc::new(Pool::new(limits)),
        }
    }

    /// How long to wait for the head of an answer; `None`: for ever.
    pub fn patience(&self, call: &Call) -> Option<Duration> {
        let first_byte = call.limits.first_byte.or(self.limits.first_byte_timeout());
        let total = call.limits.total.or(self.limits.total_timeout());
        [first_byte, total].into_iter().flatten().min()
    }

    /// Makes the call, once, and follows redirects where asked to. Whoever calls gives up after [`patience`](Self::patience):
    /// that needs a timer, which the callers have.
    pub async fn call(&self, mut call: Call, mut body: Outgoing) -> Result<Answer, Failed> {
        let connect = call.limits.connect.unwrap_or(self.limits.connect_timeout());
        let stall = call.limits.first_byte.or(self.limits.first_byte_timeout());
        let total = call.limits.total.or(self.limits.total_timeout());
        let total = total.map(|total| Box::pin(sleep(total)));
        loop {
            let Call {
                base, head, follow, ..
            } = call;
            let sent = follow.as_ref().and_then(|_| body.clone_bytes());
            let lease = self.pool.lease(&base, connect).await?;
            let mut exchange = Box::new(Exchange::new(lease, head, body));
            let head = std::future::poll_fn(|cx| exchange.poll_head(cx)).await?;
            let (status, headers) = (head.status, head.headers);
            if let Some(mut follow) = follow
                && let Some((next, sent)) = redirect(&base, &mut follow, status, &headers, sent)
            {
                call = Call {
                    follow: Some(follow),
                    ..next
                };
                body = sent;
                continue;
            }
            return Ok(Answer {
                body: AnswerBody::new(exchange, &headers, call.decompress, stall, total),
                status,
                headers,
            });
        }
    }
}

/// The call that a redirect asks for, and its body, if it is one that is followed.
fn redirect(
    from: &Base,
    follow: &mut Follow,
    status: StatusCode,
    headers: &HeaderMap,
    sent: Option<Bytes>,
) -> Option<(Call, Outgoing)> {
    let to_get = match status.as_u16() {
        301 | 302 => follow.method == Method::POST,
        303 => follow.method != Method::HEAD && follow.method != Method::GET,
        307 | 308 => false,
        _ => return None,
    };
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    let (base, target) = resolve(from, &follow.target, location)?;
    // A body that was streamed is gone, and is not asked for twice.
    let body = if to_get {
        Outgoing::Empty
    } else {
        Outgoing::of(sent?)
    };
    let is_same = base.origin() == from.origin();
    follow.left = follow.left.checked_sub(1)?;
    if !is_same && !(follow.allows)(&base) {
        return None;
    }
    let base = Arc::new(if is_same { base.beside(from) } else { base });
    if to_get {
        follow.method = Method::GET;
    }
    follow.headers.retain(|(name, _)| {
        let is_credential = matches!(
            *name,
            header::AUTHORIZATION | header::COOKIE | header::PROXY_AUTHORIZATION
        );
        !(is_credential && !is_same || *name == header::CONTENT_TYPE && to_get)
    });
    let mut call = Call::new(base, &follow.method, &target)?;
    for (name, value) in &follow.headers {
        call.add(name, value);
    }
    follow.target = target;
    Some((call, body))
}

/// What a `Location` means: an absolute URL, or a path on the same host.
fn resolve(from: &Base, target: &str, location: &str) -> Option<(Base, String)> {
    let location = location.split('#').next()?;
    let scheme = if from.is_tls() { "https:" } else { "http:" };
    let host = from.host().to_str().ok()?;
    let absolute = match location {
        network if network.starts_with("//") => format!("{scheme}{network}"),
        path if path.starts_with('/') => format!("{scheme}//{host}{path}"),
        url if url.contains("://") => url.to_owned(),
        relative => {
            let mut path = Vec::new();
            from.write_target(&mut path, target.split('?').next()?)?;
            let path = String::from_utf8(path).ok()?;
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}//{host}{folder}/{relative}")
        }
    };
    let after_scheme = absolute.find("://")? + 3;
    let end = absolute[after_scheme..]
        .find(['/', '?'])
        .map_or(absolute.len(), |at| after_scheme + at);
    let base = Base::parse(&absolute[..end]).ok()?;
    Some((base, absolute[end..].to_owned()))
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        let status = match &error {
            ConnectError::Resolver(_) | ConnectError::NoRecords => abi::EXT_RESOLVE,
            ConnectError::Timeout => abi::EXT_TIMEOUT,
            ConnectError::Io(cause) if is_tls_failure(cause) => abi::EXT_TLS,
            _ => abi::EXT_CONNECT,
        };
        Self {
            status,
            message: error.to_string(),
        }
    }
}

impl Failed {
    /// The request's body could not be sent to its end.
    fn of_body(cause: Box<dyn std::error::Error>) -> Self {
        let status = match cause.downcast_ref::<BodyFailed>() {
            Some(BodyFailed(status)) => *status,
            None => abi::EXT_BROKEN,
        };
        Self {
            status,
            message: cause.to_string(),
        }
    }

    /// The request's body is not as long as was said.
    fn of_length() -> Self {
        Self::of_body(BodyFailed(abi::EXT_BROKEN).into())
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

/// The body of an answer on its way in.
pub struct AnswerBody {
    source: Source,
    declared: Option<u64>,
    stall: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

enum Source {
    Raw(Box<Exchange>),
    Decoded(Decoder<Box<Exchange>>),
}

impl AnswerBody {
    fn new(
        exchange: Box<Exchange>,
        headers: &HeaderMap,
        decompress: bool,
        stall: Option<Duration>,
        total: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        let is_decoded = decompress && headers.contains_key(header::CONTENT_ENCODING);
        Self {
            declared: exchange.declared().filter(|_| !is_decoded),
            source: if is_decoded {
                Source::Decoded(Decoder::from_headers(exchange, headers))
            } else {
                Source::Raw(exchange)
            },
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
            Source::Decoded(decoder) => Pin::new(decoder)
                .poll_next(cx)
                .map_err(|_: PayloadError| abi::EXT_BROKEN),
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
