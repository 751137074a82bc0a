//! Passwords: argon2id, in the text form that other programs read, too.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};

use super::error::StoreError;
use super::values::random;

/// How long a password may be. Longer ones are no safer, and cost time to hash.
pub const BYTES_MAX: usize = 1024;

/// 46 MiB and one pass: the first of the settings that OWASP gives for argon2id, all of the same strength. Of so much memory
/// the allocator keeps nothing for itself, so that a host is as small after a sign-in as before it; of the 19 MiB of the
/// crate's default it does.
const MEMORY_KIB: u32 = 47_104;
const PASSES: u32 = 1;

/// Hashes a password with a new salt. Takes some 30 ms.
///
/// # Errors
/// Where it is empty or over-long.
pub fn hash(password: &str) -> Result<String, StoreError> {
    if password.is_empty() {
        return Err(StoreError::Invalid("the password is empty".to_owned()));
    }
    if password.len() > BYTES_MAX {
        return Err(StoreError::Invalid(format!(
            "the password is longer than {BYTES_MAX} bytes"
        )));
    }
    let salt = random::<16>()?;
    let hash = hasher().and_then(|hasher| {
        let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
        hash.ok().map(|hash| hash.to_string())
    });
    hash.ok_or(StoreError::Password)
}

/// Tells whether a password is the one that was hashed. Without a hash the work is done all the same, so that a clock does
/// not tell which users there are.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    static NOBODY: LazyLock<String> = LazyLock::new(|| hash_of_nobody().unwrap_or_default());
    let text = hash.unwrap_or(&NOBODY);
    let is_right = PasswordHash::new(text).is_ok_and(|parsed| {
        Argon2::default()
            .verify_password(password.as_bytes(), &parsed)
            .is_ok()
    });
    is_right && hash.is_some()
}

/// A hash with the same cost as every other.
fn hash_of_nobody() -> Option<String> {
    let hash = hasher()?.hash_password_with_salt(b"nobody", b"nobody's salt 16");
    hash.ok().map(|hash| hash.to_string())
}

fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).ok()?;
    Some(Argon2::from(params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_alone() {
        let kept = hash("correct horse").unwrap();
        assert!(
            kept.starts_with("$argon2id$v=19$m=47104,t=1,p=1$"),
            "{kept}"
        );
        assert!(verify("correct horse", Some(&kept)));
        assert!(!verify("correct horsf", Some(&kept)));
        assert_ne!(kept, hash("correct horse").unwrap());
    }

    #[test]
    fn nobody_has_no_password() {
        assert!(hash_of_nobody().is_some());
        assert!(!verify("nobody", None));
        assert!(!verify("", None));
        assert!(!verify("x", Some("no hash")));
        assert!(hash("").is_err());
        assert!(hash(&"x".repeat(BYTES_MAX + 1)).is_err());
    }
}
