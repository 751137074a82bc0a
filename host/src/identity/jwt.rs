//! The source of identity for tokens that a Directus, or this host, signed with SECRET: JWTs with HS256, as Directus
//! makes them: `{id, role, app_access, admin_access, session?, iat, exp, iss: "directus"}`.
//!
//! No claim of a token is believed before its signature is checked; its issuer only decides which answer a bad token gets. Beyond what Directus demands, `exp` must be there and no other algorithm than HS256 counts.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::answers::Denial;
use super::known::Known;
use super::who::Accountability;

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

    /// Reads a token and checks its signature.
    pub fn read(&self, token: &[u8], now: SystemTime) -> Signed {
        self.try_read(token, now).unwrap_or(Signed::No)
    }

    fn try_read(&self, token: &[u8], now: SystemTime) -> Option<Signed> {
        let parts = Parts::split(token)?;
        let header = URL_SAFE_NO_PAD.decode(parts.header).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(parts.payload).ok()?;
        let header: Header<'_> = serde_json::from_slice(&header).ok()?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
        if !matches!(&claims.iss, Claim::Text(issuer) if issuer == "directus") {
            return None;
        }
        // A critical extension must be understood (RFC 7515, 4.1.11); none is.
        let is_understood = matches!(&header.alg, Claim::Text(algorithm) if algorithm == "HS256")
            && matches!(header.crit, Claim::Missing);
        let bad = |denial, may_be_anothers| Signed::Bad {
            denial,
            may_be_anothers,
        };
        Some(if !is_understood {
            bad(Denial::InvalidToken, false)
        } else if !self.is_ours(&parts) {
            bad(Denial::InvalidToken, true)
        } else {
            match claims.believe(now) {
                Ok(claimed) => Signed::Good(claimed),
                Err(denial) => bad(denial, false),
            }
        })
    }

    fn is_ours(&self, parts: &Parts<'_>) -> bool {
        let (Some(key), Ok(signature)) = (&self.key, URL_SAFE_NO_PAD.decode(parts.signature))
        else {
            return false;
        };
        hmac::verify(key, parts.signed, &signature).is_ok()
    }

    /// Signs a token for a user of this host, in Directus's form. `None`: there is no secret.
    pub fn sign(&self, user: &Known, issued: SystemTime, ttl: Duration) -> Option<String> {
        let issued = seconds(issued) as u64;
        let claims = Written {
            id: user.who.user.as_deref(),
            role: user.who.role.as_deref(),
            app_access: user.who.app,
            admin_access: user.who.admin,
            session: user.who.session.as_deref(),
            iat: issued,
            exp: issued + ttl.as_secs(),
            iss: "directus",
            by: HOST,
        };
        // The header is always the same; the claims are plain text and numbers, which are always written.
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?);
        let signed = format!("{header}.{claims}");
        let tag = hmac::sign(self.key.as_ref()?, signed.as_bytes());
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }
}

/// What a token says about itself.
#[derive(Debug)]
pub enum Signed {
    /// Nothing: it does not look like a JWT of a Directus; other sources may know it.
    No,
    /// It is such a JWT, and not good here.
    Bad {
        /// Why.
        denial: Denial,
        /// Another secret might verify it.
        may_be_anothers: bool,
    },
    /// It was signed with our secret and has not expired.
    Good(Claimed),
}

/// What a JWT with a good signature says.
#[derive(Debug)]
pub struct Claimed {
    /// Who the user is.
    pub who: Accountability,
    /// When the token was made, in seconds since 1970.
    pub issued: Option<f64>,
    /// When it expires.
    pub expires: f64,
    /// Whether a host signed it, and no Directus.
    pub is_by_host: bool,
}

/// The value of the claim `by` in tokens that a host signed. Directus does not know the claim, and ignores it.
const HOST: &str = "extension-host";

/// The claims of a token that is signed here; a Directus understands them.
#[derive(Serialize)]
struct Written<'a> {
    id: Option<&'a str>,
    role: Option<&'a str>,
    app_access: bool,
    admin_access: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    iat: u64,
    exp: u64,
    iss: &'a str,
    by: &'a str,
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs() as f64
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
        // With a bad signature it is a bad JWT; with a fourth part it is not a JWT at all.
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
    iat: Claim<'a>,
    #[serde(borrow, default)]
    nbf: Claim<'a>,
    #[serde(borrow, default)]
    by: Claim<'a>,
}

impl Claims<'_> {
    /// Reads claims whose signature is good.
    fn believe(&self, now: SystemTime) -> Result<Claimed, Denial> {
        let seconds = seconds(now);
        match self.nbf {
            Claim::Missing => {}
            Claim::Number(not_before) if not_before <= seconds => {}
            _ => return Err(Denial::InvalidToken),
        }
        let expires = match self.exp {
            Claim::Number(expires) if seconds < expires => expires,
            Claim::Number(_) => return Err(Denial::TokenExpired),
            _ => return Err(Denial::InvalidToken),
        };
        // Directus always writes these three.
        if matches!(self.role, Claim::Missing) {
            return Err(Denial::InvalidToken);
        }
        let (admin, app) = (self.admin_access.flag()?, self.app_access.flag()?);
        let (role, session) = (self.role.text()?, self.session.text()?);
        let who = match self.id.text()? {
            None => Accountability::default(),
            Some(user) => Accountability {
                user: Some(user),
                roles: role.iter().cloned().collect(),
                role,
                admin,
                app,
                session,
                ..Accountability::default()
            },
        };
        let issued = match self.iat {
            Claim::Number(issued) => Some(issued),
            _ => None,
        };
        Ok(Claimed {
            who,
            issued,
            expires,
            is_by_host: matches!(&self.by, Claim::Text(by) if by == HOST),
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
    fn flag(&self) -> Result<bool, Denial> {
        match self {
            Claim::Flag(flag) => Ok(*flag),
            Claim::Number(number) => Ok(*number == 1.0),
            Claim::Null => Ok(false),
            Claim::Missing | Claim::Text(_) | Claim::Other => Err(Denial::InvalidToken),
        }
    }

    fn text(&self) -> Result<Option<Arc<str>>, Denial> {
        match self {
            Claim::Missing | Claim::Null => Ok(None),
            Claim::Text(text) if text.is_empty() => Ok(None),
            Claim::Text(text) => Ok(Some(Arc::from(text.as_ref()))),
            Claim::Flag(_) | Claim::Number(_) | Claim::Other => Err(Denial::InvalidToken),
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
