//! Takes the credentials of a request out of sight of the extension, so that they cannot be forwarded by accident.
//! Everything else stays byte for byte. Where there is nothing to take out, nothing is copied.

use std::borrow::Cow;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::credential::{REFRESH_COOKIE, SESSION_COOKIE, cookie};
use crate::http::facts::HeaderFacts;
use crate::http::token_parameter::{holds_token, token_parameter};

/// Removes every `access_token` from the query of a URL (path and query, as sent), in whatever way its name is encoded,
/// lists and objects included. A question mark with nothing left after it goes, too.
pub fn redact_url(url: &str) -> Cow<'_, str> {
    let Some((path, query)) = url.split_once('?') else {
        return Cow::Borrowed(url);
    };
    if !query
        .split('&')
        .any(|parameter| token_parameter(parameter).is_some())
    {
        return Cow::Borrowed(url);
    }
    let mut kept = String::with_capacity(url.len());
    kept.push_str(path);
    let mut separator = '?';
    for parameter in query
        .split('&')
        .filter(|parameter| token_parameter(parameter).is_none())
    {
        kept.push(separator);
        kept.push_str(parameter);
        separator = '&';
    }
    if kept.len() == path.len() + 1 {
        kept.truncate(path.len());
    }
    Cow::Owned(kept)
}

/// Removes `Authorization` (but for the scheme Basic, where `keep_basic` says so: it is never a credential of this host),
/// Directus's cookies, and a `Referer` that holds a token.
pub fn redact_headers(headers: &mut HeaderMap, facts: &HeaderFacts, keep_basic: bool) {
    if facts.has_authorization {
        filter(headers, header::AUTHORIZATION, |value| {
            (keep_basic && is_basic(value)).then_some(Cow::Borrowed(value))
        });
    }
    if facts.may_hold_our_cookie && headers.get_all(header::COOKIE).any(holds_ours) {
        filter(headers, header::COOKIE, redact_cookies);
    }
    if facts.referer_has_token {
        filter(headers, header::REFERER, |value| {
            (!holds_token(value)).then_some(Cow::Borrowed(value))
        });
    }
}

/// Keeps of each value of a header what the function keeps.
fn filter(
    headers: &mut HeaderMap,
    name: HeaderName,
    keep: impl Fn(&[u8]) -> Option<Cow<'_, [u8]>>,
) {
    let values: Vec<HeaderValue> = headers.remove(&name).collect();
    for value in values {
        match keep(value.as_bytes()) {
            None => {}
            Some(Cow::Borrowed(_)) => headers.append(name.clone(), value),
            Some(Cow::Owned(kept)) => {
                // A part of a value is always a value.
                if let Ok(value) = HeaderValue::from_bytes(&kept) {
                    headers.append(name.clone(), value);
                }
            }
        }
    }
}

fn is_basic(value: &[u8]) -> bool {
    value
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
}

fn is_semicolon(byte: &u8) -> bool {
    *byte == b';'
}

fn holds_ours(value: &HeaderValue) -> bool {
    value.as_bytes().split(is_semicolon).any(is_ours)
}

fn is_ours(part: &[u8]) -> bool {
    cookie(part).is_some_and(|(name, _)| {
        name == SESSION_COOKIE.as_bytes() || name == REFRESH_COOKIE.as_bytes()
    })
}

fn redact_cookies(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.split(is_semicolon).any(is_ours) {
        return Some(Cow::Borrowed(value));
    }
    let mut kept = Vec::with_capacity(value.len());
    for part in value.split(is_semicolon).filter(|part| !is_ours(part)) {
        match kept.is_empty() {
            // The space that stood after the semicolon before it.
            true => kept.extend_from_slice(part.trim_ascii_start()),
            false => {
                kept.push(b';');
                kept.extend_from_slice(part);
            }
        }
    }
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    fn redacted(lines: &[(&'static str, &'static str)], keep_basic: bool) -> Vec<(String, String)> {
        let mut headers = headers(lines);
        let facts = HeaderFacts::of(&headers);
        redact_headers(&mut headers, &facts, keep_basic);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        left.sort();
        left
    }

    #[test]
    fn a_token_disappears_from_the_query_and_nothing_else_does() {
        for (url, left) in [
            ("/a?access_token=x", "/a"),
            ("/a?access_token", "/a"),
            ("/a?access_token=", "/a"),
            ("/a?access_token=x&b=1", "/a?b=1"),
            ("/a?b=1&access_token=x", "/a?b=1"),
            ("/a?b=%2F+&access_token=x&b=%2f&c", "/a?b=%2F+&b=%2f&c"),
            ("/a?access_token=x&access_token=y&b=?", "/a?b=?"),
            (
                "/a?access_token[]=x&access_token[0]=y&access_token[a][b]=z&b=1",
                "/a?b=1",
            ),
            ("/a?access%5Ftoken=x&b=1", "/a?b=1"),
            ("/a?%61%63cess_token%5B%5D=x&b=1", "/a?b=1"),
            ("/a?access_token=x&&", "/a?&"),
            ("/a%3Faccess_token=x?access_token=x", "/a%3Faccess_token=x"),
            ("//x?access_token=a=b", "//x"),
        ] {
            assert_eq!(redact_url(url), left, "{url}");
        }
    }

    #[test]
    fn a_url_without_a_token_is_not_copied() {
        for url in [
            "/a",
            "/a?",
            "/a?&",
            "/a?b=access_token=x",
            "/a?access_tokens=x",
            "/a?xaccess_token=x",
            "/a?ACCESS_TOKEN=x",
            "/access_token=x",
            "/a?%",
            "/a?a%2",
        ] {
            assert!(
                matches!(redact_url(url), Cow::Borrowed(same) if same == url),
                "{url}"
            );
        }
    }

    #[test]
    fn authorization_disappears() {
        assert_eq!(
            redacted(&[("authorization", "Bearer x"), ("accept", "*/*")], false),
            [("accept".into(), "*/*".into())]
        );
        assert_eq!(redacted(&[("authorization", "Basic x")], false), []);
        assert_eq!(redacted(&[("authorization", "Token x")], true), []);
        assert_eq!(redacted(&[("authorization", "Basic")], true), []);
        let both = [
            ("authorization", "Bearer x"),
            ("authorization", "bAsic eA=="),
        ];
        assert_eq!(
            redacted(&both, true),
            [("authorization".into(), "bAsic eA==".into())]
        );
    }

    #[test]
    fn only_our_cookies_disappear() {
        for (cookies, left) in [
            ("directus_session_token=x", None),
            ("directus_session_token=x; directus_refresh_token=y", None),
            (
                "a=1; directus_session_token=x; b=\"2; c",
                Some("a=1; b=\"2; c"),
            ),
            ("directus_session_token=x;a=1;  b=2", Some("a=1;  b=2")),
            (
                "a=1; directus_session_token=x; directus_session_token=y",
                Some("a=1"),
            ),
            ("a=1; directus_session_token =x", Some("a=1")),
            (
                "a=directus_session_token=x; directus_session_tokens=y",
                Some("a=directus_session_token=x; directus_session_tokens=y"),
            ),
        ] {
            let left: Vec<_> = left
                .map(|left| ("cookie".to_owned(), left.to_owned()))
                .into_iter()
                .collect();
            assert_eq!(redacted(&[("cookie", cookies)], false), left, "{cookies}");
        }
        let lines = [
            ("cookie", "a=1"),
            ("cookie", "directus_refresh_token=x"),
            ("cookie", "b=2"),
        ];
        assert_eq!(
            redacted(&lines, false),
            [
                ("cookie".into(), "a=1".into()),
                ("cookie".into(), "b=2".into())
            ]
        );
    }

    #[test]
    fn a_referer_with_a_token_disappears() {
        for url in [
            "https://x/?access_token=1",
            "https://x/?a=1&access%5ftoken=1",
            "https://x/?access_token%5B%5D=1",
            "/?next=%2F%3Faccess_token%3D1",
        ] {
            assert_eq!(redacted(&[("referer", url)], false), [], "{url}");
        }
        let harmless = [("referer", "https://x/access_token/?a=access_token")];
        assert_eq!(redacted(&harmless, false).len(), 1);
    }
}
