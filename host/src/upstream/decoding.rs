//! A body that was compressed, decoded in small steps as it is read: whatever the ratio, no more than one step is there at a time.

use std::io::{self, BufRead, Read};
use std::task::{Context, Poll, ready};

use actix_http::header::{self, HeaderMap};
use bytes::{Buf as _, Bytes};
use extension_api::abi;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::exchange::Exchange;

/// How much is decoded at once.
const STEP_BYTES: usize = 32 << 10;

/// A compressed body, as it reads decoded.
pub struct DecodedBody {
    exchange: Box<Exchange>,
    decoder: Decoder,
    /// Something has come: what ends at once is empty, and not broken off.
    has_begun: bool,
}

enum Decoder {
    Gzip(Box<MultiGzDecoder<Arrived>>),
    Deflate(Box<ZlibDecoder<Arrived>>),
}

/// What has arrived and is not yet decoded.
#[derive(Default)]
struct Arrived {
    chunk: Bytes,
    /// Nothing more comes.
    is_over: bool,
}

impl DecodedBody {
    /// The body that `exchange` reads, decoded. Gives the exchange back where the headers name no coding that is known here.
    pub fn new(exchange: Box<Exchange>, headers: &HeaderMap) -> Result<Self, Box<Exchange>> {
        let coding = headers.get(header::CONTENT_ENCODING);
        let coding = coding.map_or(b"".as_slice(), |coding| coding.as_bytes().trim_ascii());
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        let decoder = if is("gzip") || is("x-gzip") {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(Arrived::default())))
        } else if is("deflate") {
            Decoder::Deflate(Box::new(ZlibDecoder::new(Arrived::default())))
        } else {
            return Err(exchange);
        };
        Ok(Self {
            exchange,
            decoder,
            has_begun: false,
        })
    }

    /// The next chunk; the failure is a status of the ABI.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        loop {
            if self.has_begun {
                match self.decoder.step() {
                    Ok(Some(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                    Ok(None) if self.decoder.arrived().is_over => return Poll::Ready(None),
                    // What follows the end, if anything, is not the body's: see below.
                    Ok(None) => {}
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Some(Err(abi::EXT_BROKEN))),
                }
            }
            let arrived = self.decoder.arrived();
            if !arrived.chunk.is_empty() {
                return Poll::Ready(Some(Err(abi::EXT_BROKEN)));
            }
            match ready!(self.exchange.poll_chunk(cx)) {
                Some(Ok(chunk)) => {
                    arrived.chunk = chunk;
                    self.has_begun = true;
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if !self.has_begun => return Poll::Ready(None),
                None => arrived.is_over = true,
            }
        }
    }
}

impl Decoder {
    fn arrived(&mut self) -> &mut Arrived {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
        }
    }

    /// Decodes a part of what has arrived; `None` at the end. It would block where more has to arrive.
    fn step(&mut self) -> io::Result<Option<Bytes>> {
        let mut decoded = vec![0; STEP_BYTES];
        let count = match self {
            Self::Gzip(decoder) => decoder.read(&mut decoded),
            Self::Deflate(decoder) => decoder.read(&mut decoded),
        }?;
        decoded.truncate(count);
        Ok(Some(Bytes::from(decoded)).filter(|decoded| !decoded.is_empty()))
    }
}

impl Read for Arrived {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Arrived {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() && !self.is_over {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        self.chunk.advance(count);
    }
}
