//! The requests that are sent to an extension: good ones and bad ones, as bytes.

use super::protocol::{ServedRoute, Serving};

/// Who sends a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Without a credential.
    Nobody,
    /// With the administrator's token.
    Admin,
}

/// What is odd about a request, if anything is; mostly its body.
#[derive(Clone, Copy)]
pub enum RequestKind {
    /// Without a body.
    Empty,
    /// Valid JSON.
    Json,
    /// A form with odd encodings.
    Form,
    /// Random bytes declared as JSON.
    Garbage,
    /// As large as is allowed.
    Huge,
    /// Declared larger than is allowed.
    TooLarge,
    /// In chunks, without a length.
    Streamed,
    /// Shorter than declared.
    BrokenOff,
    /// Without a body, but with an odd query and odd headers.
    OddHead,
}

impl RequestKind {
    /// All of them, with a name for people.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Empty, "an empty body"),
        (Self::Json, "a JSON body"),
        (Self::Form, "a form"),
        (
            Self::Garbage,
            "a body of random bytes that calls itself JSON",
        ),
        (Self::Huge, "a body as large as may be"),
        (Self::TooLarge, "a body over the limit"),
        (Self::Streamed, "a streamed body"),
        (Self::BrokenOff, "a body that breaks off"),
        (Self::OddHead, "an odd query and odd headers"),
    ];
}

/// A request in the parts in which it is sent.
pub fn request(
    serving: &Serving,
    route: &ServedRoute,
    caller: Caller,
    kind: RequestKind,
) -> Vec<Vec<u8>> {
    let path: String = route
        .pattern
        .split('/')
        .skip(1)
        .map(|segment| match segment {
            "*" => "/a%2Fb/..%2f/c".to_owned(),
            segment if segment.starts_with(':') => "/1".to_owned(),
            segment => format!("/{segment}"),
        })
        .collect();
    let method = match (route.method.as_deref(), kind) {
        (Some(method), _) => method,
        (None, RequestKind::Empty | RequestKind::OddHead) => "GET",
        (None, _) => "POST",
    };
    let query = match kind {
        RequestKind::OddHead => format!(
            "?a=%00%ff&a=%zz&=&{}=1&b[]=[]&q={}",
            "k".repeat(200),
            "%F0%9F".repeat(500)
        ),
        _ => "?limit=1".to_owned(),
    };
    let mut head = format!(
        "{method} /{}{path}{query} HTTP/1.1\r\nHost: localhost\r\n",
        route.id
    )
    .into_bytes();
    let mut line = |bytes: &[u8]| {
        head.extend_from_slice(bytes);
        head.extend_from_slice(b"\r\n");
    };
    if caller == Caller::Admin {
        line(format!("Authorization: Bearer {}", serving.token).as_bytes());
    }
    let json = br#"{"To":"+15005550009","name":"x","list":[1,2,{"a":null}],"deep":{"a":{"b":["\u0000",1e308]}}}"#;
    let (content_type, body): (&str, Vec<u8>) = match kind {
        RequestKind::Empty => ("", Vec::new()),
        RequestKind::Json => ("application/json", json.to_vec()),
        RequestKind::Form => (
            "application/x-www-form-urlencoded",
            b"To=%2B1500&a=%zz&a=&=x&&%ff=%00".to_vec(),
        ),
        RequestKind::Garbage => (
            "application/json",
            (0..4096_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        RequestKind::Huge => (
            "application/json",
            vec![b'['; serving.body_bytes_max.min(8 << 20) as usize],
        ),
        RequestKind::TooLarge => {
            line(
                format!(
                    "Content-Length: {}",
                    serving.body_bytes_max.saturating_add(1)
                )
                .as_bytes(),
            );
            ("text/plain", Vec::new())
        }
        RequestKind::Streamed => {
            line(b"Transfer-Encoding: chunked");
            line(b"Content-Type: application/json");
            line(b"");
            let mut parts = vec![head];
            for chunk in json.chunks(7) {
                let mut part = format!("{:x}\r\n", chunk.len()).into_bytes();
                part.extend_from_slice(chunk);
                part.extend_from_slice(b"\r\n");
                parts.push(part);
            }
            parts.push(b"0\r\n\r\n".to_vec());
            return parts;
        }
        RequestKind::BrokenOff => {
            line(b"Content-Length: 1000");
            ("application/json", b"{\"a\":".to_vec())
        }
        RequestKind::OddHead => {
            line(b"X-Not-Text: \xff\xfe\x80");
            line(b"Accept: ,,;;q=x");
            line(b"Cookie: =;;a=\"");
            line(b"If-None-Match: *");
            line(b"Range: bytes=-0-,x");
            line(format!("X-Long: {}", "x".repeat(8000)).as_bytes());
            ("", Vec::new())
        }
    };
    if !content_type.is_empty() {
        line(format!("Content-Type: {content_type}").as_bytes());
    }
    if !matches!(kind, RequestKind::TooLarge | RequestKind::BrokenOff)
        && (!body.is_empty() || method == "POST")
    {
        line(format!("Content-Length: {}", body.len()).as_bytes());
    }
    line(b"");
    vec![head, body]
}
