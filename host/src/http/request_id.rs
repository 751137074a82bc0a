//! Request ids.

use std::cell::Cell;

use actix_http::header::HeaderValue;

use super::headers::value_of;

/// A request's id: 16 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct RequestId([u8; 16]);

impl Default for RequestId {
    fn default() -> Self {
        Self([b'0'; 16])
    }
}

impl RequestId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The digits, as they are.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The digits, for a header.
    pub fn header_value(&self) -> HeaderValue {
        value_of(&self.0).expect("digits may stand in a header")
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Request ids: a random beginning for each worker, then a count.
pub struct Ids {
    next: Cell<RequestId>,
}

impl Default for Ids {
    fn default() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let beginning = std::hash::RandomState::new().build_hasher().finish() as u32;
        let mut first = RequestId::default();
        first.0[..8].copy_from_slice(format!("{beginning:08x}").as_bytes());
        let next = Cell::new(first);
        Self { next }
    }
}

impl Ids {
    /// The next one.
    pub fn next(&self) -> RequestId {
        let id = self.next.get();
        self.next.set(id.following());
        id
    }
}

impl RequestId {
    /// The one that is one more, in the last eight digits.
    fn following(mut self) -> Self {
        for digit in self.0[8..].iter_mut().rev() {
            *digit = match *digit {
                b'9' => b'a',
                b'f' => b'0',
                digit => digit + 1,
            };
            if *digit != b'0' {
                break;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_in_their_last_eight_digits() {
        let following = |id: &str| {
            let id = RequestId(id.as_bytes().try_into().expect("16 digits"));
            id.following().as_str().to_owned()
        };
        assert_eq!(following("5eed5eed00000000"), "5eed5eed00000001");
        assert_eq!(following("5eed5eed00000009"), "5eed5eed0000000a");
        assert_eq!(following("5eed5eed00000eff"), "5eed5eed00000f00");
        assert_eq!(following("5eed5eedffffffff"), "5eed5eed00000000");
    }
}
