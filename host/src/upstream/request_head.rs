//! The head of an outgoing request, written at once as the bytes that are sent: no map and no URL is made of it first.

use actix_http::Method;
use actix_http::body::BodySize;
use actix_http::header::HeaderName;
use bytes::BufMut as _;

use super::base::Base;

/// Enough for most heads.
const BYTES: usize = 768;

/// Request line and headers, but for those that frame the body.
pub struct RequestHead {
    bytes: Vec<u8>,
    is_head: bool,
    /// Servers expect to be told that there is no body.
    tells_empty: bool,
}

impl RequestHead {
    /// Begins one with the request line and `Host`. `None` where the target cannot stand behind the base; see
    /// [`Base::write_target`].
    pub fn new(method: &Method, base: &Base, target: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.put_slice(method.as_str().as_bytes());
        bytes.push(b' ');
        base.write_target(&mut bytes, target)?;
        bytes.put_slice(b" HTTP/1.1\r\nhost: ");
        bytes.put_slice(base.host().as_bytes());
        bytes.put_slice(b"\r\n");
        Some(Self {
            bytes,
            is_head: *method == Method::HEAD,
            tells_empty: matches!(*method, Method::POST | Method::PUT | Method::PATCH),
        })
    }

    /// Adds a header. The caller vouches that the value has no control characters.
    pub fn add(&mut self, name: &HeaderName, value: &[u8]) {
        let name = name.as_str().as_bytes();
        self.bytes.reserve(name.len() + value.len() + 4);
        self.bytes.put_slice(name);
        self.bytes.put_slice(b": ");
        self.bytes.put_slice(value);
        self.bytes.put_slice(b"\r\n");
    }

    /// Whether the answer has no body, whatever it says.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// Ends it with what tells the end of a body of that size.
    pub fn finish(mut self, size: BodySize) -> Vec<u8> {
        match size {
            BodySize::None if self.tells_empty => self.length(0),
            BodySize::None => {}
            BodySize::Sized(length) => self.length(length),
            BodySize::Stream => self.bytes.put_slice(b"transfer-encoding: chunked\r\n"),
        }
        self.bytes.put_slice(b"\r\n");
        self.bytes
    }

    fn length(&mut self, length: u64) {
        // A vector takes everything.
        let _ = std::io::Write::write_fmt(
            &mut self.bytes,
            format_args!("content-length: {length}\r\n"),
        );
    }
}
