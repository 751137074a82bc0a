//! Which headers are a connection's own and stay, and which go on to the other end.

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// A header's value; `None`: it may not stand in a header.
// One copy for all: written into its callers, it takes more lines of cache than it takes steps.
#[inline(never)]
pub fn value_of(bytes: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(bytes).ok()
}

/// Whether a header speaks of one connection only (RFC 9110, section 7.6.1). `Connection` may name more: see
/// [`named_in_connection`].
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    // Patterns and not an array: a constant array of names is copied for each look into it.
    matches!(
        *name,
        header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::TE
            | header::TRAILER
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// The headers that a message declares to be of this connection only.
fn named_in_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Takes the connection's own headers out.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut present: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    if present.contains(&header::CONNECTION) {
        present.extend(named_in_connection(headers).filter_map(|name| name.parse().ok()));
    }
    for name in present {
        headers.remove(name);
    }
}

/// The end-to-end headers of a request, for a call that takes them over: without the connection's own, those that the call
/// writes itself, and `Expect`, which this host has answered already.
pub fn end_to_end(request: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named: SmallVec<[&str; 4]> = named_in_connection(request).collect();
    request.iter().filter(move |(name, _)| {
        let is_ours = matches!(
            **name,
            header::HOST | header::CONTENT_LENGTH | header::EXPECT
        );
        !is_ours
            && !is_hop_by_hop(name)
            && !named
                .iter()
                .any(|named| named.eq_ignore_ascii_case(name.as_str()))
    })
}
