//! What the host itself reads of a request before an extension sees it: whether anything in it may be a credential, and what it
//! says of its body. Each look-up in actix's map costs some 70 instructions, so each is made once.

use actix_http::header::{self, HeaderMap, HeaderValue};

use super::token_parameter::{holds_token, may_hold_token};

/// What a request says of itself.
#[derive(Clone, Copy, Default)]
pub struct RequestFacts {
    /// What stands in its headers, whatever its path and body.
    pub headers: HeaderFacts,
    /// A parameter of the query may be a token's.
    pub may_hold_token: bool,
    /// There is an `Upgrade`, and a body.
    pub has_upgrade: bool,
    /// The length that `Content-Length` declares.
    pub content_length: Option<u64>,
}

/// What of a credential may stand in a request's headers.
#[derive(Clone, Copy, Default)]
pub struct HeaderFacts {
    /// There is an `Authorization`.
    pub has_authorization: bool,
    /// A `Cookie` may be one of Directus's.
    pub may_hold_our_cookie: bool,
    /// A `Referer` holds a token.
    pub referer_has_token: bool,
}

impl RequestFacts {
    /// Whether a token may stand somewhere. Without one, the caller is anonymous.
    pub fn may_show_credential(&self) -> bool {
        self.headers.may_show_credential() || self.may_hold_token
    }

    /// Looks everything up.
    pub fn of(headers: &HeaderMap, query: Option<&str>, has_body: bool) -> Self {
        Self {
            headers: HeaderFacts::of(headers),
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

impl HeaderFacts {
    fn may_show_credential(&self) -> bool {
        self.has_authorization | self.may_hold_our_cookie
    }

    /// Whether there may be something that an extension must not see.
    pub fn may_need_redaction(&self) -> bool {
        self.may_show_credential() | self.referer_has_token
    }

    /// Looks the headers up.
    pub fn of(headers: &HeaderMap) -> Self {
        Self {
            has_authorization: headers.contains_key(header::AUTHORIZATION),
            may_hold_our_cookie: headers
                .get_all(header::COOKIE)
                .any(|line| may_be_directus(line.as_bytes())),
            referer_has_token: headers
                .get_all(header::REFERER)
                .any(|line| holds_token(line.as_bytes())),
        }
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

    #[test]
    fn what_is_there_is_seen_and_nothing_else() {
        let none = RequestFacts::of(&HeaderMap::new(), None, true);
        assert!(!none.headers.has_authorization && !none.headers.may_hold_our_cookie);
        assert!(!none.headers.referer_has_token && none.content_length.is_none());
        let lines = [
            (header::AUTHORIZATION, "x"),
            (header::COOKIE, "a=b; directus_session_token=x"),
            (header::REFERER, "/?access_token=x"),
            (header::UPGRADE, "x"),
            (header::CONTENT_LENGTH, "17"),
        ];
        let lines = lines.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let query = Some("a=b&%61ccess_token=x");
        let facts = RequestFacts::of(&lines.into_iter().collect(), query, true);
        assert!(facts.headers.has_authorization && facts.headers.may_hold_our_cookie);
        assert!(facts.headers.referer_has_token);
        assert!(facts.has_upgrade && facts.may_hold_token);
        assert_eq!(facts.content_length, Some(17));
    }
}
