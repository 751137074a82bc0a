//! A size in bytes, as a number or as people write it.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

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
}
