//! `POST /signup` takes JSON. What is wrong with it is a 400 that names the field; what is right has a type that says so.
#![forbid(unsafe_code)]

use extension_api::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest address that mail is delivered to (RFC 5321).
const EMAIL_BYTES_MAX: usize = 254;
const SEATS_MAX: u8 = 50;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Signup {
    email: Email,
    seats: Seats,
    #[serde(default)]
    newsletter: bool,
}

/// Text that may be an address: somebody, one `@`, somewhere.
#[derive(Deserialize, Serialize)]
#[serde(try_from = "String")]
struct Email(String);

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_part = |part: &str| !part.is_empty() && !part.contains(['@', ' ', '"', '\\']);
        let is_plain = !text.contains(char::is_control) && text.len() <= EMAIL_BYTES_MAX;
        match text.split_once('@') {
            Some((name, host)) if is_plain && is_part(name) && is_part(host) => Ok(Self(text)),
            _ => Err("this is no e-mail address"),
        }
    }
}

/// From 1 to [`SEATS_MAX`].
#[derive(Deserialize, Serialize)]
#[serde(try_from = "u8")]
struct Seats(u8);

impl TryFrom<u8> for Seats {
    type Error = String;

    fn try_from(count: u8) -> Result<Self, Self::Error> {
        match count {
            1..=SEATS_MAX => Ok(Self(count)),
            _ => Err(format!("this is not from 1 to {SEATS_MAX}")),
        }
    }
}

struct Signups;

impl Endpoint for Signups {
    const ID: &'static str = "signup";

    fn new(_: Context) -> Result<Self> {
        Ok(Self)
    }

    fn routes(router: &mut Router<Self>) {
        router.post("/", Self::accept);
    }
}

impl Signups {
    async fn accept(&self, req: Request) -> Result<Response> {
        let signup: Signup = valid(&req.bytes().await?)?;
        // Here: store it.
        Ok(Response::json(&signup).status(201))
    }
}

/// Reads JSON; a mistake in it is the caller's, and the answer says at which field.
fn valid<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (field, problem) = (error.path(), error.inner());
        Error::bad_request(format!("Invalid payload. At {field}: {problem}."))
    })?;
    // Nothing follows the value.
    reader
        .end()
        .map_err(|problem| Error::bad_request(format!("Invalid payload. {problem}.")))?;
    Ok(value)
}

export_endpoint!(Signups);

#[cfg(test)]
mod tests;
