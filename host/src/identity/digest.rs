//! The digest under which a token is cached and compared: neither the token itself nor its length is kept.

/// SHA-256 of a token, or of another text of any length.
pub type Digest = [u8; 32];

/// Computes the digest.
pub fn digest(text: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, text);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
