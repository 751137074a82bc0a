//! `access_token` in a query: how it is recognised, in whatever way its name is encoded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The query parameter that holds a token.
pub const QUERY_PARAMETER: &str = "access_token";
/// A query parameter under the name of a token.
pub enum Parameter<'a> {
    /// `access_token=…`
    Value(&'a str),
    /// `access_token[…`
    Nested,
}

/// Whether a query may hold a token: whether the name of any parameter begins like one's. Most do not.
pub fn may_hold_token(query: &str) -> bool {
    let mut is_first = true;
    query.bytes().any(|byte| {
        let begins = is_first && matches!(byte, b'a' | b'%');
        is_first = byte == b'&';
        begins
    })
}

/// Tells whether one `name=value` of a query stands for a token, whatever of its name is percent-encoded.
pub fn token_parameter(parameter: &str) -> Option<Parameter<'_>> {
    if !parameter.starts_with(['a', '%']) {
        return None;
    }
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    match decode(name, true).strip_prefix(QUERY_PARAMETER.as_bytes())? {
        [] => Some(Parameter::Value(value)),
        [b'[', ..] => Some(Parameter::Nested),
        _ => None,
    }
}

/// Whether a URL names a token, encoded or not, in its query or anywhere in it.
pub fn holds_token(url: &[u8]) -> bool {
    // Written without an early end, so that it is done in steps of sixteen bytes: most URLs need no second look.
    let is_suspicious = url.iter().fold(false, |is_suspicious, byte| {
        is_suspicious | matches!(byte, b'=' | b'[' | b'%')
    });
    if !is_suspicious {
        return false;
    }
    let url = String::from_utf8_lossy(url);
    let url = decode(&url, false);
    let name = QUERY_PARAMETER.as_bytes();
    url.windows(name.len() + 1)
        .any(|window| window.starts_with(name) && matches!(window.last(), Some(b'=' | b'[')))
}

/// Undoes percent-encoding, once; what is no encoding stays as it is. In a query, a plus is a space.
pub fn decode(text: &str, plus_is_space: bool) -> Cow<'_, [u8]> {
    if plus_is_space && text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).collect());
    }
    percent_decode_str(text).into()
}
