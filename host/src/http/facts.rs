//! What the host itself reads of a request's headers.
//!
//! A look-up in actix's map costs some 70 instructions, and a client sends the same headers again and again: so a connection
//! keeps what [stood](Said) in those of the request before, and compares bytes. One pass over all headers would cost more, at 60
//! instructions a step.

use std::rc::Rc;

use actix_http::header::{self, HeaderMap, HeaderValue};
use smallvec::SmallVec;

use crate::http::token_parameter::{holds_token, may_hold_token};

/// As much of a User-Agent header as is kept, as in Directus.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// What a request says of itself.
#[derive(Clone)]
pub struct Noted {
    /// What stands in its headers, whatever its path and body.
    pub said: Rc<Said>,
    /// A parameter of the query may be a token's.
    pub may_hold_token: bool,
    /// There is an `Upgrade`, and a body.
    pub has_upgrade: bool,
    /// The length that `Content-Length` declares.
    pub content_length: Option<u64>,
}

/// What stands in headers that may be sent again. Of several lines of one name, the first counts.
#[derive(Default)]
pub struct Said {
    /// There is an `Authorization`.
    pub has_authorization: bool,
    /// A `Cookie` may be one of Directus's.
    pub may_hold_our_cookie: bool,
    /// A `Referer` holds a token.
    pub has_telling_referer: bool,
    /// `User-Agent` and `Origin`, one behind the other, as UTF-8. Most fit.
    texts: SmallVec<[u8; 160]>,
    user_agent_len: Option<usize>,
    has_origin: bool,
}

impl Noted {
    /// Whether a token may stand somewhere. Without one, the caller is anonymous.
    pub fn may_show_credential(&self) -> bool {
        self.said.may_show_credential() || self.may_hold_token
    }

    /// Looks up what speaks of the body, where there is one; `said` has the rest.
    pub fn of(headers: &HeaderMap, query: Option<&str>, has_body: bool, said: Rc<Said>) -> Self {
        Self {
            said,
            may_hold_token: query.is_some_and(may_hold_token),
            has_upgrade: has_body && headers.contains_key(header::UPGRADE),
            content_length: if has_body {
                content_length(headers)
            } else {
                None
            },
        }
    }
}

impl Said {
    fn may_show_credential(&self) -> bool {
        self.has_authorization | self.may_hold_our_cookie
    }

    /// Whether there may be something that an extension must not see.
    pub fn may_need_redaction(&self) -> bool {
        self.may_show_credential() | self.has_telling_referer
    }

    /// Looks the headers up.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut said = Self {
            has_authorization: headers.contains_key(header::AUTHORIZATION),
            may_hold_our_cookie: headers
                .get_all(header::COOKIE)
                .any(|line| may_be_directus(line.as_bytes())),
            has_telling_referer: headers
                .get_all(header::REFERER)
                .any(|line| holds_token(line.as_bytes())),
            ..Self::default()
        };
        if let Some(value) = headers.get(header::USER_AGENT) {
            said.add(value, USER_AGENT_BYTES_MAX);
            said.user_agent_len = Some(said.texts.len());
        }
        if let Some(value) = headers.get(header::ORIGIN) {
            said.add(value, usize::MAX);
            said.has_origin = true;
        }
        said
    }

    /// Adds a value; what is not UTF-8 in it is replaced.
    fn add(&mut self, value: &HeaderValue, bytes_max: usize) {
        let bytes = &value.as_bytes()[..value.len().min(bytes_max)];
        // Without an early end, so that sixteen bytes are one step.
        if bytes.iter().fold(0, |all, byte| all | byte) < 0x80 {
            self.texts.extend_from_slice(bytes);
        } else {
            let text = String::from_utf8_lossy(bytes);
            self.texts.extend_from_slice(text.as_bytes());
        }
    }

    /// `User-Agent`, which is UTF-8.
    pub fn user_agent(&self) -> Option<&[u8]> {
        Some(&self.texts[..self.user_agent_len?])
    }

    /// `Origin`, which is UTF-8.
    pub fn origin(&self) -> Option<&[u8]> {
        self.has_origin
            .then(|| &self.texts[self.user_agent_len.unwrap_or(0)..])
    }
}

/// Whether a Cookie header may hold one of Directus's, whose names all begin with its own: most need not be taken apart.
pub fn may_be_directus(line: &[u8]) -> bool {
    // Eight bytes at a time are one comparison.
    line.windows(8)
        .any(|eight| <[u8; 8]>::try_from(eight).is_ok_and(|eight| eight == *b"directus"))
}

/// The length that a message declares.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    length(headers.get(header::CONTENT_LENGTH)?)
}

/// The length that a value of `Content-Length` declares.
pub fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    // "+5" is a number for `parse`, and no length.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_agent(bytes: &[u8]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.append(header::USER_AGENT, HeaderValue::from_bytes(bytes).unwrap());
        headers.append(header::USER_AGENT, HeaderValue::from_static("second"));
        headers.append(header::ORIGIN, HeaderValue::from_static("https://x"));
        let said = Said::of(&headers);
        assert_eq!(said.origin(), Some(&b"https://x"[..]));
        said.user_agent()
            .map(|text| String::from_utf8(text.to_vec()).unwrap())
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
        let none = noted(&HeaderMap::new(), None);
        assert!(!none.said.has_authorization && !none.said.may_hold_our_cookie);
        assert!(!none.said.has_telling_referer && none.content_length.is_none());
        assert_eq!((none.said.user_agent(), none.said.origin()), (None, None));
        let lines = [
            (header::AUTHORIZATION, "x"),
            (header::COOKIE, "a=b; directus_session_token=x"),
            (header::REFERER, "/?access_token=x"),
            (header::UPGRADE, "x"),
            (header::CONTENT_LENGTH, "17"),
            (header::ORIGIN, "https://x"),
        ];
        let lines = lines.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let noted = noted(&lines.into_iter().collect(), Some("a=b&%61ccess_token=x"));
        assert!(noted.said.has_authorization && noted.said.may_hold_our_cookie);
        assert!(noted.said.has_telling_referer);
        assert!(noted.has_upgrade && noted.may_hold_token);
        assert_eq!(noted.content_length, Some(17));
        assert_eq!(noted.said.origin(), Some(&b"https://x"[..]));
        assert_eq!(noted.said.user_agent(), None);
    }

    fn noted(headers: &HeaderMap, query: Option<&str>) -> Noted {
        Noted::of(headers, query, true, Rc::new(Said::of(headers)))
    }
}
