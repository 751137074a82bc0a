//! One request and its answer on a connection, HTTP/1.1.
//!
//! awc opens the connections; what it would do on them costs it a task, a timer, a write to wake itself and half a dozen
//! allocations for each call (see bench/README.md), holds a streamed body back until 8 KiB have come together, and reads no
//! answer before the body is out. So the request is written here, the answer read by actix-http's decoder, and both at once.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_http::body::{BodySize, MessageBody as _};
use actix_http::h1::{ClientCodec, ClientPayloadCodec, MessageType};
use actix_http::{ConnectionType, ResponseHead, StatusCode, header};
use awc::BoxedSocket;
use bytes::{Buf as _, Bytes, BytesMut};
use extension_api::abi;
use tokio::io::AsyncWrite as _;
use tokio_util::codec::Decoder as _;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::body::OutgoingBody;
use super::call_error::CallError;
use super::pool::{BUFFER_BYTES, Lease};
use super::request_head::RequestHead;
use crate::http::facts::content_length;

/// The most that is read at once of a body that keeps coming.
const READ_BYTES_MAX: usize = 64 << 10;
/// The most that is read before the head of the answer is there: such as say "go on" or "be patient" included. The decoder takes
/// 128 KiB for one head.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// How much larger than its chunks the framing of a body may be: a chunk of one byte takes five.
const FRAMING_PER_BYTE_MAX: u64 = 8;
/// What the framing may take beside that: extensions of chunks, padded sizes, trailers.
const FRAMING_BYTES_FREE: u64 = 64 << 10;
/// Less room than this in the buffer is not worth a read.
const READ_BYTES_MIN: usize = 2 << 10;

/// A request in flight, its answer still to come or being read.
pub struct Exchange {
    lease: Lease,
    sending: Sending,
    buffer: BytesMut,
    /// How much is read at once.
    read_bytes: usize,
    is_head: bool,
    /// How much more may come before the answer.
    head_bytes_left: usize,
    framing: Framing,
    /// The length that the answer declares for its body.
    declared: Option<u64>,
    /// The other end keeps the connection.
    keeps: bool,
}

/// How the end of an answer's body is told.
enum Framing {
    /// There is none, or it has been read.
    Over,
    /// So much is still to come.
    Length(u64),
    /// By chunks, whose framing may take so many bytes more.
    Chunked(ClientPayloadCodec, u64),
    /// The connection ends with it.
    UntilClosed,
}

impl Exchange {
    /// Begins to send `head` and `body` on a connection.
    pub fn new(lease: Lease, head: RequestHead, body: OutgoingBody) -> Self {
        let buffer = lease.pool().buffer();
        Self {
            lease,
            is_head: head.is_head(),
            sending: Sending::new(head, body),
            buffer,
            read_bytes: BUFFER_BYTES,
            head_bytes_left: HEAD_BYTES_MAX,
            framing: Framing::Over,
            declared: None,
            keeps: false,
        }
    }

    /// The length that the answer's head declares for its body, whether or not that is sent.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The head of the answer, once it is there.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, CallError>> {
        loop {
            if self.head_bytes_left == 0 {
                return Poll::Ready(Err(CallError {
                    status: abi::EXT_BROKEN,
                    message: "what comes before the answer has no end".to_owned(),
                }));
            }
            self.poll_send(cx)?;
            if let Some(head) = self.decode_head()? {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(self.broken("it was closed before an answer"))),
                Ok(read) => self.head_bytes_left = self.head_bytes_left.saturating_sub(read),
                Err(cause) => return Poll::Ready(Err(self.broken(&cause.to_string()))),
            }
        }
    }

    /// Why there is no answer: what kept the request from being sent comes before what was read then.
    fn broken(&self, cause: &str) -> CallError {
        let cause = match &self.sending.failed {
            Some(failed) => failed.to_string(),
            None => cause.to_owned(),
        };
        CallError {
            status: abi::EXT_BROKEN,
            message: format!("the connection broke off: {cause}"),
        }
    }

    /// The next head in the buffer that is an answer's; such as say "go on" or "be patient" are passed over.
    fn decode_head(&mut self) -> Result<Option<ResponseHead>, CallError> {
        while !self.buffer.is_empty() {
            let mut codec = ClientCodec::new(self.lease.pool().decoding());
            let decoded = codec.decode(&mut self.buffer).map_err(|cause| CallError {
                status: abi::EXT_BROKEN,
                message: format!("the answer is not HTTP: {cause}"),
            })?;
            let Some(head) = decoded else { break };
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(CallError {
                    status: abi::EXT_BROKEN,
                    message: "the answer is a change of protocol that was not asked for".to_owned(),
                });
            }
            if !head.status.is_informational() {
                self.begin_body(&head, codec);
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Finds out where the body ends: RFC 9112, section 6.3.
    fn begin_body(&mut self, head: &ResponseHead, codec: ClientCodec) {
        let status = head.status;
        let has_none =
            self.is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        // The decoder has refused several lengths, and such as are none.
        let length = content_length(&head.headers).filter(|_| !is_chunked);
        self.declared = length;
        self.keeps = head.connection_type() == ConnectionType::KeepAlive;
        self.framing = match (codec.message_type(), length) {
            _ if has_none => Framing::Over,
            (_, Some(length)) => Framing::Length(length),
            (MessageType::Payload | MessageType::Stream, None) if is_chunked => {
                Framing::Chunked(codec.into_payload_codec(), FRAMING_BYTES_FREE)
            }
            // Nothing says where it ends, or a coding that is not the last one.
            (_, None) => Framing::UntilClosed,
        };
        match self.framing {
            Framing::Over | Framing::Length(0) => self.end(),
            Framing::Length(_) | Framing::Chunked(..) => {}
            Framing::UntilClosed => self.keeps = false,
        }
    }

    /// The next chunk of the body. The error is a status of the ABI.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        loop {
            if matches!(self.framing, Framing::Over) {
                return Poll::Ready(None);
            }
            if let Err(failed) = self.poll_send(cx) {
                return self.break_off(failed.status);
            }
            match &mut self.framing {
                Framing::Over => {}
                Framing::Length(0) => {
                    self.end();
                    continue;
                }
                Framing::Length(left) if !self.buffer.is_empty() => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let chunk = self.buffer.split_to(most.min(self.buffer.len()));
                    *left -= chunk.len() as u64;
                    return Poll::Ready(Some(Ok(chunk.freeze())));
                }
                Framing::Length(_) => {}
                Framing::Chunked(codec, framing_left) => {
                    let before = self.buffer.len();
                    let decoded = codec.decode(&mut self.buffer);
                    let chunk_bytes = match &decoded {
                        Ok(Some(Some(chunk))) => chunk.len(),
                        _ => 0,
                    };
                    let framing = (before - self.buffer.len() - chunk_bytes) as u64;
                    let Some(left) = framing_left.checked_sub(framing) else {
                        return self.break_off(abi::EXT_BROKEN);
                    };
                    *framing_left = left + chunk_bytes as u64 * FRAMING_PER_BYTE_MAX;
                    match decoded {
                        Ok(Some(Some(chunk))) => return Poll::Ready(Some(Ok(chunk))),
                        Ok(Some(None)) => {
                            self.end();
                            continue;
                        }
                        Ok(None) => {}
                        Err(_) => return self.break_off(abi::EXT_BROKEN),
                    }
                }
                Framing::UntilClosed if !self.buffer.is_empty() => {
                    return Poll::Ready(Some(Ok(self.buffer.split().freeze())));
                }
                Framing::UntilClosed => {}
            }
            match (ready!(self.poll_read(cx)), &self.framing) {
                (Ok(0), Framing::UntilClosed) => self.end(),
                (Ok(0) | Err(_), _) => return self.break_off(abi::EXT_BROKEN),
                (Ok(_), _) => {}
            }
        }
    }

    fn break_off(&mut self, status: i32) -> Poll<Option<Result<Bytes, i32>>> {
        self.keeps = false;
        self.end();
        Poll::Ready(Some(Err(status)))
    }

    /// The answer is over: the connection may serve the next call, if nothing is left of this one.
    fn end(&mut self) {
        self.framing = Framing::Over;
        if self.keeps && self.sending.is_over() && self.buffer.is_empty() {
            self.lease.give_back();
        } else {
            self.lease.close();
        }
    }

    /// Sends what can be sent. The error is the body's own; that of the connection is found again by who reads, after an answer
    /// that may have come first.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        match self.lease.io() {
            Some(io) => self.sending.poll(io, cx),
            None => Ok(()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = self.lease.io() else {
            return Poll::Ready(Ok(0));
        };
        let room = self.buffer.capacity() - self.buffer.len();
        if room < READ_BYTES_MIN {
            self.buffer.reserve(self.read_bytes);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(poll_read_buf(io, cx, &mut self.buffer))?;
        if read == room {
            self.read_bytes = (2 * self.read_bytes).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(read))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.lease.pool().keep_buffer(buffer);
    }
}

/// A request on its way out: a part of the head or of the body's framing, a chunk, and what follows the chunk.
struct Sending {
    lead: Cursor<Vec<u8>>,
    chunk: Bytes,
    tail: &'static [u8],
    /// The chunk after this one.
    next: Option<Bytes>,
    /// `None` when it has been taken whole.
    body: Option<OutgoingBody>,
    framing: SentFraming,
    is_flushed: bool,
    /// The connection takes no more.
    failed: Option<io::Error>,
}

/// How the end of the request's body is told.
#[derive(Clone, Copy)]
enum SentFraming {
    /// So much is still to come.
    Length(u64),
    Chunked,
}

impl Sending {
    fn new(head: RequestHead, body: OutgoingBody) -> Self {
        let size = body.size();
        let framing = match size {
            BodySize::None => SentFraming::Length(0),
            BodySize::Sized(length) => SentFraming::Length(length),
            BodySize::Stream => SentFraming::Chunked,
        };
        let is_empty = matches!(framing, SentFraming::Length(0));
        Self {
            lead: Cursor::new(head.finish(size)),
            chunk: Bytes::new(),
            tail: b"",
            next: None,
            body: Some(body).filter(|_| !is_empty),
            framing,
            is_flushed: false,
            failed: None,
        }
    }

    /// Whether nothing is left to be done.
    fn is_over(&self) -> bool {
        self.is_flushed && self.body.is_none() && self.next.is_none()
    }

    fn has_chunk(&self) -> bool {
        !self.chunk.is_empty() || !self.tail.is_empty()
    }

    /// Takes chunks and writes them, until one of both has to wait.
    fn poll(
        &mut self,
        mut io: Pin<&mut BoxedSocket>,
        cx: &mut Context<'_>,
    ) -> Result<(), CallError> {
        if self.failed.is_some() {
            return Ok(());
        }
        loop {
            // Before anything is written, so that the first chunk goes out with the head.
            if !self.has_chunk() {
                self.load(cx)?;
            }
            let is_written = !self.has_chunk() && !self.lead.has_remaining();
            if is_written && self.is_flushed {
                return Ok(());
            }
            let done = if is_written {
                io.as_mut()
                    .poll_flush(cx)
                    .map_ok(|()| self.is_flushed = true)
            } else {
                self.is_flushed = false;
                self.write(io.as_mut(), cx)
            };
            match done {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failed)) => {
                    self.failed = Some(failed);
                    return Ok(());
                }
            }
        }
    }

    fn write(&mut self, io: Pin<&mut BoxedSocket>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = if self.has_chunk() {
            let behind = (&mut self.chunk).chain(&mut self.tail);
            ready!(poll_write_buf(io, cx, &mut (&mut self.lead).chain(behind)))?
        } else {
            let lead = &self.lead.get_ref()[self.lead.position() as usize..];
            let written = ready!(io.poll_write(cx, lead))?;
            self.lead.advance(written);
            written
        };
        Poll::Ready(match written {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        })
    }

    /// Takes the next chunk of the body, if there is one.
    fn load(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        let chunk = match self.next.take() {
            Some(chunk) => chunk,
            None if self.body.is_none() => return Ok(()),
            None => match self.poll_body(cx)? {
                Poll::Ready(Some(chunk)) => chunk,
                Poll::Ready(None) => {
                    self.lead_with(format_args!("0\r\n\r\n"));
                    return Ok(());
                }
                Poll::Pending => return Ok(()),
            },
        };
        if let SentFraming::Chunked = self.framing {
            self.lead_with(format_args!("{:x}\r\n", chunk.len()));
            // The end goes out with the last chunk.
            if let Poll::Ready(next) = self.poll_body(cx)? {
                self.next = next;
            }
            self.tail = match (&self.body, &self.next) {
                (None, None) => b"\r\n0\r\n\r\n",
                _ => b"\r\n",
            };
        }
        self.chunk = chunk;
        Ok(())
    }

    /// The next chunk of the body that is not empty; `None` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Bytes>>, CallError> {
        loop {
            let Some(body) = &mut self.body else {
                return Ok(Poll::Ready(None));
            };
            let Poll::Ready(chunk) = Pin::new(body).poll_next(cx) else {
                return Ok(Poll::Pending);
            };
            let chunk = chunk.transpose().map_err(CallError::of_body)?;
            if chunk.as_ref().is_some_and(Bytes::is_empty) {
                continue;
            }
            if let SentFraming::Length(left) = &mut self.framing {
                let length = chunk.as_ref().map_or(u64::MAX, |chunk| chunk.len() as u64);
                *left = left.checked_sub(length).ok_or_else(CallError::of_length)?;
                if *left == 0 {
                    self.body = None;
                }
            } else if chunk.is_none() {
                self.body = None;
            }
            return Ok(Poll::Ready(chunk));
        }
    }

    fn lead_with(&mut self, framing: std::fmt::Arguments<'_>) {
        if !self.lead.has_remaining() {
            self.lead.get_mut().clear();
            self.lead.set_position(0);
        }
        // A vector takes everything.
        let _ = io::Write::write_fmt(self.lead.get_mut(), framing);
    }
}
