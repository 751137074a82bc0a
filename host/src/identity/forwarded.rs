//! The address that a request comes from: the peer's, or the one that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use actix_http::header::{self, HeaderMap};

use crate::config::values::TrustProxy;

/// Follows `X-Forwarded-For` from the peer backwards, for as long as whoever wrote an entry is trusted. What is no address
/// ends the chain: then the client is the one that passed it on.
pub fn address(trust: &TrustProxy, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut address = peer;
    if *trust == TrustProxy::Nobody {
        return address;
    }
    let lines = headers.get_all(header::X_FORWARDED_FOR).rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for (hop, entry) in entries.enumerate() {
        match parse(entry) {
            Some(behind) if trust.trusts(address, hop) => address = behind,
            _ => break,
        }
    }
    address
}

/// An address, with or without a port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    entry
        .parse()
        .ok()
        .or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;

    use super::*;
    use crate::http::peer::IpText;

    fn client(trust: &str, peer: &str, forwarded: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(header::X_FORWARDED_FOR, HeaderValue::from_static(line));
        }
        IpText::new(address(
            &TrustProxy::parse(trust).unwrap(),
            peer.parse().unwrap(),
            &headers,
        ))
        .to_string()
    }

    #[test]
    fn a_forwarded_address_counts_only_behind_a_trusted_proxy() {
        assert_eq!(client("false", "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("192.0.2.0/24", "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
        assert_eq!(client("true", "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]),
            "1.1.1.1"
        );
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, 1.1.1.1", "10.0.0.2"]),
            "1.1.1.1"
        );
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.1", &["10.0.0.3, 10.0.0.2"]),
            "10.0.0.3"
        );
        assert_eq!(
            client("true", "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]),
            "6.6.6.6"
        );
        assert_eq!(client("1", "10.0.0.1", &["6.6.6.6, 1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("2", "10.0.0.1", &["6.6.6.6, 1.1.1.1"]), "6.6.6.6");
    }

    #[test]
    fn what_is_no_address_ends_the_chain() {
        assert_eq!(
            client("true", "10.0.0.1", &["1.1.1.1, unknown"]),
            "10.0.0.1"
        );
        assert_eq!(
            client("true", "10.0.0.1", &["<script>, 1.1.1.1"]),
            "1.1.1.1"
        );
        assert_eq!(client("true", "10.0.0.1", &[""]), "10.0.0.1");
        assert_eq!(client("true", "10.0.0.1", &["1.1.1.1:4711"]), "1.1.1.1");
        assert_eq!(
            client("true", "10.0.0.1", &["[2001:db8::1]:4711"]),
            "2001:db8::1"
        );
    }
}
