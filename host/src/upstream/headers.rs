//! Which headers are a connection's own and stay, and which go on to the other end.

use actix_http::header::{self, HeaderMap, HeaderName};

/// Headers that speak of one connection only (RFC 9110, section 7.6.1), and those that the host writes itself.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// Whether a header speaks of one connection only. `Connection` may name more: see [`named_in_connection`].
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || name.as_str() == "proxy-connection"
}

/// The headers that a message declares to be of this connection only.
pub fn named_in_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
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
    let named: Vec<HeaderName> = named_in_connection(headers)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !is_hop_by_hop(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    let present: smallvec::SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name))
        .cloned()
        .collect();
    for name in present {
        headers.remove(name);
    }
}

/// The end-to-end headers of a request, for a call that takes them over: without the connection's own, those that the call
/// writes itself, and `Expect`, which this host has answered already.
pub fn end_to_end(request: &HeaderMap) -> HeaderMap {
    let mut taken = HeaderMap::with_capacity(request.len_keys() + 2);
    let named: smallvec::SmallVec<[&str; 4]> = named_in_connection(request).collect();
    for (name, value) in request {
        let own = is_hop_by_hop(name)
            || matches!(
                *name,
                header::HOST | header::CONTENT_LENGTH | header::EXPECT
            )
            || named
                .iter()
                .any(|named| named.eq_ignore_ascii_case(name.as_str()));
        if !own {
            taken.append(name.clone(), value.clone());
        }
    }
    taken
}
