//! The values that the store keeps: times in seconds, digests of tokens, random texts and ids.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::error::StoreError;

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    seconds(SystemTime::now())
}

/// A time as it is kept.
pub fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// What is kept of a token.
pub fn digest_of(token: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, token).as_ref())
}

/// The digits of a digest.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// 32 random bytes as text: a token, a password, a secret.
///
/// # Errors
/// Where the system gives none.
pub fn random_text() -> Result<String, StoreError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

pub(super) fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], StoreError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::NoRandomness)?;
    Ok(bytes)
}

/// A new id, as Directus makes them.
pub(super) fn new_id() -> Result<String, StoreError> {
    Ok(uuid::Builder::from_random_bytes(random()?)
        .into_uuid()
        .to_string())
}
