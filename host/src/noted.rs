//! What the host itself reads of a request's headers, looked up once. One pass over all of them would cost more: actix's map
//! takes 60 instructions a step, as much as a look-up.

use actix_http::header::{self, HeaderMap, HeaderValue};
use extension_api::abi::ext_slice;

use crate::accountability::credential::{may_be_directus, may_hold_token};
use crate::callbacks::lend;

/// As much of a User-Agent header as is kept, as in Directus.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// What stands in a request's headers.
#[derive(Clone, Copy)]
pub struct Noted {
    /// There is an `Authorization`.
    pub has_authorization: bool,
    /// A parameter of the query may be a token's.
    pub may_hold_token: bool,
    /// A `Cookie` may be one of Directus's.
    pub may_hold_our_cookie: bool,
    /// There is an `Upgrade`, and a body.
    pub has_upgrade: bool,
    /// The length that `Content-Length` declares.
    pub content_length: Option<u64>,
    /// `User-Agent`.
    pub user_agent: Text,
    /// `Origin`.
    pub origin: Text,
}

/// A header's value as text.
#[derive(Clone, Copy)]
pub enum Text {
    /// The header's own bytes, which are ASCII: good for as long as the header stays where it is.
    Ascii(ext_slice),
    /// It has to be read as UTF-8 first.
    Other,
    /// There is no such header.
    Absent,
}

impl Noted {
    /// Looks the headers up. Of several lines of one name, the first counts. What speaks of a body is not asked for where there
    /// is none.
    pub fn of(headers: &HeaderMap, query: Option<&str>, has_body: bool) -> Self {
        Self {
            may_hold_token: query.is_some_and(may_hold_token),
            has_authorization: headers.contains_key(header::AUTHORIZATION),
            may_hold_our_cookie: headers
                .get_all(header::COOKIE)
                .any(|line| may_be_directus(line.as_bytes())),
            has_upgrade: has_body && headers.contains_key(header::UPGRADE),
            content_length: if has_body {
                content_length(headers)
            } else {
                None
            },
            user_agent: Text::of(headers.get(header::USER_AGENT), USER_AGENT_BYTES_MAX),
            origin: Text::of(headers.get(header::ORIGIN), usize::MAX),
        }
    }

    /// `User-Agent` and `Origin` where they are not ASCII, and so have to be copied: what is not UTF-8 in them is replaced.
    pub fn others(&self, headers: &HeaderMap) -> [Option<String>; 2] {
        let copy = |text: &Text, name, bytes_max: usize| match text {
            Text::Other => headers.get(name).map(|value| {
                let length = value.len().min(bytes_max);
                String::from_utf8_lossy(&value.as_bytes()[..length]).into_owned()
            }),
            Text::Ascii(_) | Text::Absent => None,
        };
        [
            copy(&self.user_agent, header::USER_AGENT, USER_AGENT_BYTES_MAX),
            copy(&self.origin, header::ORIGIN, usize::MAX),
        ]
    }
}

impl Text {
    fn of(value: Option<&HeaderValue>, bytes_max: usize) -> Self {
        let Some(value) = value else {
            return Self::Absent;
        };
        let bytes = &value.as_bytes()[..value.len().min(bytes_max)];
        // Without an early end, so that sixteen bytes are one step.
        let is_ascii = bytes.iter().fold(0, |all, byte| all | byte) < 0x80;
        if is_ascii {
            Self::Ascii(lend::bytes(bytes))
        } else {
            Self::Other
        }
    }

    /// The text, or its copy where there is one.
    pub fn lend(&self, copy: Option<&str>) -> ext_slice {
        match self {
            Self::Ascii(slice) => *slice,
            Self::Other | Self::Absent => lend::option(copy),
        }
    }
}

/// The length that a message declares.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    length(headers.get(header::CONTENT_LENGTH)?)
}

fn length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_agent(bytes: &[u8]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.append(header::USER_AGENT, HeaderValue::from_bytes(bytes).unwrap());
        headers.append(header::USER_AGENT, HeaderValue::from_static("second"));
        let noted = Noted::of(&headers, None, true);
        match noted.user_agent {
            Text::Ascii(slice) => {
                assert_eq!(
                    slice.ptr,
                    headers.get("user-agent").unwrap().as_bytes().as_ptr()
                );
                Some(String::from_utf8(bytes[..slice.len].to_vec()).unwrap())
            }
            _ => noted.others(&headers)[0].clone(),
        }
    }

    #[test]
    fn a_header_reads_as_text_whatever_it_holds() {
        assert_eq!(user_agent(b"curl/8").unwrap(), "curl/8");
        assert_eq!(user_agent("é".as_bytes()).unwrap(), "é");
        assert_eq!(user_agent(b"\xff").unwrap(), "\u{fffd}");
        assert_eq!(user_agent(&[b'x'; 2_000]).unwrap().len(), 1_024);
        let long = [&[b'x'; 1_023][..], "é".as_bytes()].concat();
        assert!(user_agent(&long).unwrap().ends_with("x\u{fffd}"));
    }

    #[test]
    fn what_is_there_is_noted_and_nothing_else() {
        let none = Noted::of(&HeaderMap::new(), None, true);
        assert!(
            !none.has_authorization && !none.may_hold_our_cookie && none.content_length.is_none()
        );
        let lines = [
            (header::AUTHORIZATION, "x"),
            (header::COOKIE, "a=b; directus_session_token=x"),
            (header::UPGRADE, "x"),
            (header::CONTENT_LENGTH, "17"),
            (header::ORIGIN, "https://x"),
        ];
        let lines = lines.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let noted = Noted::of(
            &lines.into_iter().collect(),
            Some("a=b&%61ccess_token=x"),
            true,
        );
        assert!(noted.has_authorization && noted.may_hold_our_cookie);
        assert!(noted.has_upgrade && noted.may_hold_token);
        assert_eq!(noted.content_length, Some(17));
        assert!(matches!(noted.origin, Text::Ascii(_)));
        assert!(matches!(noted.user_agent, Text::Absent));
    }
}
