//! The credential of a request: which token counts, of the places where one may stand.
//!
//! As in Directus: `Authorization: Bearer`, `access_token` in the query, the session cookie. The first two together are an
//! error; either wins over the cookie, so that a program on a signed-in user's machine can use a token of its own.

use std::borrow::Cow;

use actix_http::header::{self, HeaderMap};

use super::answers::{AuthError, Denial};
use crate::http::facts::{RequestFacts, may_be_directus};
use crate::http::token_parameter::{Parameter, decode, token_parameter};

/// The cookie that holds a session's token.
pub const SESSION_COOKIE: &str = "directus_session_token";
/// The cookie that holds a refresh token: not a credential for routes, and hidden from extensions.
pub const REFRESH_COOKIE: &str = "directus_refresh_token";

/// How long a token may be. Directus's own are below 1 KiB; a longer one is refused before it costs anything.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A token that a request holds, not yet known to be good.
pub struct Credential<'a> {
    /// Where it stood.
    pub source: CredentialSource,
    token: Cow<'a, [u8]>,
}

/// Where a token stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// In the `Authorization` header.
    Header,
    /// In the query.
    Query,
    /// In the session cookie.
    Cookie,
}

impl CredentialSource {
    /// The error for a token that stood there.
    pub fn error(self, denial: Denial) -> AuthError {
        AuthError {
            denial,
            clear_cookie: self == CredentialSource::Cookie && denial.is_final(),
        }
    }
}

impl Credential<'_> {
    /// The token itself.
    pub fn token(&self) -> &[u8] {
        &self.token
    }
}

/// Takes the token that counts from a request; `None`: there is none, the caller is anonymous.
///
/// # Errors
/// Where there are several, or one that cannot be one.
pub fn presented<'a>(
    headers: &'a HeaderMap,
    facts: &RequestFacts,
    query: Option<&'a str>,
) -> Result<Option<Credential<'a>>, AuthError> {
    let query = query.filter(|_| facts.may_hold_token);
    let query = query.map_or(Queried::Nothing, in_query);
    let in_header = if facts.headers.has_authorization {
        in_header(headers)
    } else {
        None
    };
    if let Some(token) = in_header {
        return match query {
            Queried::Nothing => checked(CredentialSource::Header, Cow::Borrowed(token)),
            Queried::Token(_) | Queried::Compound => Err(Denial::SeveralTokens.into()),
        };
    }
    match query {
        Queried::Token(token) => checked(CredentialSource::Query, token),
        Queried::Compound => Err(Denial::InvalidCredentials.into()),
        Queried::Nothing if !facts.headers.may_hold_our_cookie => Ok(None),
        Queried::Nothing => {
            in_cookie(headers).map_or(Ok(None), |token| checked(CredentialSource::Cookie, token))
        }
    }
}

fn checked<'a>(
    source: CredentialSource,
    token: Cow<'a, [u8]>,
) -> Result<Option<Credential<'a>>, AuthError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(source.error(Denial::InvalidCredentials));
    }
    Ok(Some(Credential { source, token }))
}

/// Exactly two words with one space between them, the first being "Bearer" in any case; of several headers, the first.
fn in_header(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    let is_one_word = !token.is_empty() && !token.contains(&b' ');
    (scheme.eq_ignore_ascii_case(b"bearer ") && is_one_word).then_some(token)
}

/// What the query holds under the name of a token.
enum Queried<'a> {
    Nothing,
    Token(Cow<'a, [u8]>),
    /// A list or an object, which no token is.
    Compound,
}

fn in_query(query: &str) -> Queried<'_> {
    let mut parameters = query.split('&').filter_map(token_parameter);
    match (parameters.next(), parameters.next()) {
        (None, _) => Queried::Nothing,
        (Some(Parameter::Value("")), None) => Queried::Nothing,
        (Some(Parameter::Value(value)), None) => Queried::Token(decode(value, true)),
        (Some(_), _) => Queried::Compound,
    }
}

fn in_cookie(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    value_of_cookie(headers, SESSION_COOKIE)
}

/// The text of one of Directus's cookies; of several with its name, the first. `None` where there is none, or it is no text.
pub fn cookie_named(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = value_of_cookie(headers, name)?;
    String::from_utf8(value.into_owned()).ok()
}

fn value_of_cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<Cow<'a, [u8]>> {
    let cookies = headers
        .get_all(header::COOKIE)
        .map(|line| line.as_bytes())
        .filter(|line| may_be_directus(line))
        .flat_map(|line| line.split(|byte| *byte == b';'));
    let (_, value) = cookies
        .filter_map(cookie)
        .find(|(name, _)| *name == wanted.as_bytes())?;
    let value = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value);
    if value.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(value).ok();
    Some(text.map_or(Cow::Borrowed(value), |text| decode(text, false)))
}

/// Takes one `name=value` of a Cookie header apart.
pub(super) fn cookie(cookie: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = cookie.iter().position(|byte| *byte == b'=')?;
    Some((
        cookie[..equals].trim_ascii(),
        cookie[equals + 1..].trim_ascii(),
    ))
}
