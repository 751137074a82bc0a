//! The source of identity for tokens that a Directus, or this host, signed with SECRET: JWTs with HS256, as Directus
//! makes them: `{id, role, app_access, admin_access, session?, iat, exp, iss: "directus"}`.
//!
//! Nothing of a token is believed before its signature is checked; its issuer is only looked at to tell which answer a bad
//! one gets. Beyond what Directus demands, `exp` must be there and no other algorithm than HS256 counts.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Accountability, Refusal};

/// Checks tokens against the secret.
#[derive(Debug)]
pub struct Verifier {
    key: Option<hmac::Key>,
}

impl Verifier {
    /// Prepares the secret; without one, no token is good.
    pub fn new(secret: Option<&str>) -> Verifier {
        Verifier {
            key: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
        }
    }

    /// Says whose token it is. `None`: it does not look like a JWT of a Directus, and is another source's affair.
    pub fn identify(
        &self,
        token: &[u8],
        now: SystemTime,
    ) -> Option<Result<Accountability, Refusal>> {
        let parts = Parts::split(token)?;
        let header = URL_SAFE_NO_PAD.decode(parts.header).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(parts.payload).ok()?;
        let header: Header<'_> = serde_json::from_slice(&header).ok()?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
        if !matches!(&claims.iss, Claim::Text(issuer) if issuer == "directus") {
            return None;
        }
        Some(
            self.check(&parts, &header)
                .and_then(|()| claims.believe(now)),
        )
    }

    fn check(&self, parts: &Parts<'_>, header: &Header<'_>) -> Result<(), Refusal> {
        let key = self.key.as_ref().ok_or(Refusal::InvalidToken)?;
        let hs256 = matches!(&header.alg, Claim::Text(algorithm) if algorithm == "HS256");
        // A critical extension must be understood (RFC 7515, 4.1.11); none is.
        if !hs256 || !matches!(header.crit, Claim::Missing) {
            return Err(Refusal::InvalidToken);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(parts.signature)
            .map_err(|_| Refusal::InvalidToken)?;
        hmac::verify(key, parts.signed, &signature).map_err(|_| Refusal::InvalidToken)
    }
}

/// The parts of a JWT as they were sent.
struct Parts<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    /// Header and payload with the dot between them.
    signed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(token: &'a [u8]) -> Option<Parts<'a>> {
        let mut parts = token.splitn(3, |byte| *byte == b'.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let signed = &token[..header.len() + 1 + payload.len()];
        // A bad signature is a bad JWT; a fourth part makes it none.
        let well_formed = signature
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        well_formed.then_some(Parts {
            header,
            payload,
            signature,
            signed,
        })
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow, default)]
    alg: Claim<'a>,
    #[serde(borrow, default)]
    crit: Claim<'a>,
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow, default)]
    iss: Claim<'a>,
    #[serde(borrow, default)]
    id: Claim<'a>,
    #[serde(borrow, default)]
    role: Claim<'a>,
    #[serde(borrow, default)]
    admin_access: Claim<'a>,
    #[serde(borrow, default)]
    app_access: Claim<'a>,
    #[serde(borrow, default)]
    session: Claim<'a>,
    #[serde(borrow, default)]
    exp: Claim<'a>,
    #[serde(borrow, default)]
    nbf: Claim<'a>,
}

impl Claims<'_> {
    /// Reads claims whose signature is good.
    fn believe(&self, now: SystemTime) -> Result<Accountability, Refusal> {
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs() as f64;
        match self.nbf {
            Claim::Missing => {}
            Claim::Number(not_before) if not_before <= seconds => {}
            _ => return Err(Refusal::InvalidToken),
        }
        match self.exp {
            Claim::Number(expires) if seconds < expires => {}
            Claim::Number(_) => return Err(Refusal::TokenExpired),
            _ => return Err(Refusal::InvalidToken),
        }
        // Directus always writes these three.
        if matches!(self.role, Claim::Missing) {
            return Err(Refusal::InvalidToken);
        }
        let (admin, app) = (self.admin_access.flag()?, self.app_access.flag()?);
        let (role, session) = (self.role.text()?, self.session.text()?);
        let Some(user) = self.id.text()? else {
            return Ok(Accountability::default());
        };
        let roles = role.iter().cloned().collect();
        Ok(Accountability {
            user: Some(user),
            role,
            roles,
            admin,
            app,
            session,
            ..Accountability::default()
        })
    }
}

/// A claim of whatever type: a token of another issuer may hold anything, and only decides which answer it gets.
#[derive(Default)]
enum Claim<'a> {
    #[default]
    Missing,
    Null,
    Flag(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Other,
}

impl Claim<'_> {
    /// Directus writes `true` or 1, depending on its database.
    fn flag(&self) -> Result<bool, Refusal> {
        match self {
            Claim::Flag(flag) => Ok(*flag),
            Claim::Number(number) => Ok(*number == 1.0),
            Claim::Null => Ok(false),
            Claim::Missing | Claim::Text(_) | Claim::Other => Err(Refusal::InvalidToken),
        }
    }

    fn text(&self) -> Result<Option<Arc<str>>, Refusal> {
        match self {
            Claim::Missing | Claim::Null => Ok(None),
            Claim::Text(text) if text.is_empty() => Ok(None),
            Claim::Text(text) => Ok(Some(Arc::from(text.as_ref()))),
            Claim::Flag(_) | Claim::Number(_) | Claim::Other => Err(Refusal::InvalidToken),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Claim<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claim<'a>, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Claim<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Claim<'de>, E> {
                Ok(Claim::Null)
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Claim<'de>, E> {
                Ok(Claim::Flag(flag))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Claim<'de>, E> {
                Ok(Claim::Number(number as f64))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Claim<'de>, E> {
                Ok(Claim::Number(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Claim<'de>, E> {
                Ok(Claim::Number(number))
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Claim<'de>, E> {
                Ok(Claim::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Claim<'de>, E> {
                Ok(Claim::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Claim<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Claim::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Claim::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
