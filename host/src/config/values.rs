//! The values of a configuration that are more than a number or a text.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// A text that is never shown. Empty: not set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being shown.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, where it is set: for signing and comparing only.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "(not set)"
        } else {
            "(secret)"
        })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }

            // The usual error would show the number.
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom("a secret stands in quotes"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom("a secret stands in quotes"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Parses a size in bytes as Directus does: `1048576`, `"100kb"`, `"1mb"`, `"1.5 GB"`; a kb is 1024 bytes.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size, expected bytes as in 1048576, \"100kb\" or \"1mb\"");
    let trimmed = text.trim();
    let digits = trimmed
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        "tb" => 1 << 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let well_formed = number.starts_with(|char: char| char.is_ascii_digit());
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    // Below 2^53 the product is exact enough to be cut off to whole bytes.
    (well_formed && bytes < (1_u64 << 53) as f64)
        .then_some(bytes as u64)
        .ok_or_else(wrong)
}

/// Reads a size in bytes from an integer or a text.
///
/// # Errors
/// Where it is neither.
pub fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size in bytes, as in 1048576 or \"1mb\"")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
            u64::try_from(number).map_err(|_| E::custom("a size cannot be negative"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_bytes(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Bytes)
}

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

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Parses an address or a CIDR block.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        (prefix <= bits).then_some(Network { address, prefix })
    }

    /// Whether the address lies in the block. An IPv4 address that came in over an IPv6 socket counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host_bits = 32 - self.prefix;
                (network.to_bits() ^ address.to_bits())
                    .checked_shr(host_bits)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host_bits = 128 - self.prefix;
                (network.to_bits() ^ address.to_bits())
                    .checked_shr(host_bits)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }

    fn all<const N: usize>(texts: [&str; N]) -> [Network; N] {
        texts.map(|text| Network::parse(text).expect("the built-in blocks are well-formed"))
    }
}

/// Who may call an extension, whatever its own code does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Require {
    /// Everybody: the extension decides.
    #[default]
    Nothing,
    /// Every signed-in user.
    User,
    /// Administrators.
    Admin,
    /// Users with one of these roles, and administrators.
    Roles(Vec<String>),
}

impl<'de> Deserialize<'de> for Require {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Require, D::Error> {
        struct Rule;
        impl<'de> Visitor<'de> for Rule {
            type Value = Require;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"user\", \"admin\" or a list of roles")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Require, E> {
                match text {
                    "user" => Ok(Require::User),
                    "admin" => Ok(Require::Admin),
                    _ => Err(E::custom(format!(
                        "{text:?} is neither \"user\" nor \"admin\"; a role stands in a list: [{text:?}]"
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Require, A::Error> {
                let mut roles = Vec::new();
                while let Some(role) = seq.next_element()? {
                    roles.push(role);
                }
                // An empty list could be read as "everybody" or as "nobody".
                if roles.is_empty() {
                    return Err(de::Error::custom(
                        "the list of roles is empty; name one, or write \"admin\"",
                    ));
                }
                Ok(Require::Roles(roles))
            }
        }
        deserializer.deserialize_any(Rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_directus_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("100kb", 102_400),
            ("1mb", 1 << 20),
            ("1.5 MB", 1_572_864),
            ("2GB", 2 << 30),
            ("7b", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "mb",
            "-1",
            "1mib",
            "1 m b",
            ".5mb",
            "1..5mb",
            "99999999999tb",
            "1e9",
            "inf",
            "nan",
            "1.5tbx",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_contain_their_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            Network::parse(network)
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("192.0.2.7", "::ffff:192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.8"));
        assert!(contains("fe80::/10", "febf::1"));
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "x",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

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

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "(secret)");
        assert_eq!(Secret::default().reveal(), None);
        let error = toml::from_str::<std::collections::BTreeMap<String, Secret>>("secret = 1234")
            .unwrap_err();
        assert_eq!(error.message(), "a secret stands in quotes");
    }
}
