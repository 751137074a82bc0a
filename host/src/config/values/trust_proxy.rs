//! Which proxies are believed about the address of a client.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::network::Network;

/// Which peers are believed when they say, in `X-Forwarded-For`, on whose behalf they call.
/// The values of Directus's IP_TRUST_PROXY, which are those of Express's `trust proxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TrustProxy {
    /// None: the caller is the peer.
    #[default]
    Nobody,
    /// Every one, so that the first entry of the header counts, whoever wrote it. Safe only where each request comes
    /// through a proxy that sets the header anew.
    Everybody,
    /// So many hops, the peer being the first one.
    Hops(usize),
    /// Those with these addresses.
    Listed(Vec<Network>),
}

impl TrustProxy {
    /// Whether the address, so many hops away (the peer: 0), is believed.
    pub fn trusts(&self, address: IpAddr, hop: usize) -> bool {
        match self {
            TrustProxy::Nobody => false,
            TrustProxy::Everybody => true,
            TrustProxy::Hops(count) => hop < *count,
            TrustProxy::Listed(networks) => {
                networks.iter().any(|network| network.contains(address))
            }
        }
    }

    /// Parses `true`, `false`, a number of hops, or addresses, CIDR blocks and the names `loopback`, `linklocal` and
    /// `uniquelocal`, separated by commas.
    ///
    /// # Errors
    /// A sentence that names the part which is none of these.
    pub fn parse(text: &str) -> Result<TrustProxy, String> {
        match text.trim() {
            "true" => Ok(TrustProxy::Everybody),
            "false" => Ok(TrustProxy::Nobody),
            text => match text.parse() {
                Ok(hops) => Ok(TrustProxy::from_hops(hops)),
                Err(_) => TrustProxy::listed(text.split(',')),
            },
        }
    }

    fn from_hops(hops: usize) -> TrustProxy {
        if hops == 0 {
            TrustProxy::Nobody
        } else {
            TrustProxy::Hops(hops)
        }
    }

    fn listed<'a>(parts: impl Iterator<Item = &'a str>) -> Result<TrustProxy, String> {
        let mut networks = Vec::new();
        for part in parts.map(str::trim) {
            match part {
                "loopback" => networks.extend(Network::all(["127.0.0.0/8", "::1/128"])),
                "linklocal" => networks.extend(Network::all(["169.254.0.0/16", "fe80::/10"])),
                "uniquelocal" => networks.extend(Network::all(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"])),
                "" => {}
                part => networks.push(Network::parse(part).ok_or_else(|| {
                    format!("{part:?} is no proxy, expected true, false, a number of hops, addresses, CIDR blocks, loopback, linklocal or uniquelocal")
                })?),
            }
        }
        Ok(if networks.is_empty() {
            TrustProxy::Nobody
        } else {
            TrustProxy::Listed(networks)
        })
    }
}

impl<'de> Deserialize<'de> for TrustProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrustProxy, D::Error> {
        struct Trust;
        impl<'de> Visitor<'de> for Trust {
            type Value = TrustProxy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, a number of hops, or addresses and CIDR blocks")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<TrustProxy, E> {
                Ok(if all {
                    TrustProxy::Everybody
                } else {
                    TrustProxy::Nobody
                })
            }

            fn visit_i64<E: de::Error>(self, hops: i64) -> Result<TrustProxy, E> {
                let hops = usize::try_from(hops)
                    .map_err(|_| E::custom("a number of hops cannot be negative"))?;
                Ok(TrustProxy::from_hops(hops))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TrustProxy, E> {
                TrustProxy::parse(text).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TrustProxy, A::Error> {
                let mut parts = Vec::<String>::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                TrustProxy::listed(parts.iter().map(String::as_str)).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Trust)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_proxies_read_as_express_reads_them() {
        assert_eq!(TrustProxy::parse("true"), Ok(TrustProxy::Everybody));
        assert_eq!(TrustProxy::parse("false"), Ok(TrustProxy::Nobody));
        assert_eq!(TrustProxy::parse("2"), Ok(TrustProxy::Hops(2)));
        assert_eq!(TrustProxy::parse("0"), Ok(TrustProxy::Nobody));
        let listed = TrustProxy::parse("loopback, 192.0.2.0/24").unwrap();
        assert!(listed.trusts("127.0.0.1".parse().unwrap(), 5));
        assert!(listed.trusts("::1".parse().unwrap(), 0));
        assert!(listed.trusts("192.0.2.9".parse().unwrap(), 0));
        assert!(!listed.trusts("10.0.0.1".parse().unwrap(), 0));
        assert!(
            TrustProxy::parse("loopback, nginx")
                .unwrap_err()
                .starts_with("\"nginx\" is no proxy")
        );
    }
}
