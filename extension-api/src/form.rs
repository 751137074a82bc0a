//! [`Form`]: `application/x-www-form-urlencoded`, read and written; and what a JSON object is as a form.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Fields of a form, in their order; a name may repeat.
///
/// A JSON object read as a `Form` becomes what APIs that take forms expect: an array repeats its key, `true` and `false` are
/// words, numbers stay as they were written, `null` is left out, and a nested object is its JSON text.
///
/// ```
/// use extension_api::Form;
///
/// let form: Form = serde_json::from_str(r#"{"To": "+15552345", "MediaUrl": ["a", "b"], "Max": 1.50, "At": null}"#)?;
/// assert_eq!(form.as_str(), "To=%2B15552345&MediaUrl=a&MediaUrl=b&Max=1.50");
/// assert_eq!(form.get("To").as_deref(), Some("+15552345"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(String);

impl Form {
    /// A form without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// A form as it is sent.
    pub fn from_encoded(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Adds a field, beside others of that name.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.push(name, value);
        self
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.pairs()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }

    /// The fields, decoded.
    pub fn pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        pairs(&self.0)
    }

    /// The form as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    /// Adds what JSON text stands for. A nested array is its JSON text, like an object.
    fn push_json(&mut self, name: &str, json: &str) -> serde_json::Result<()> {
        match json.as_bytes().first() {
            Some(b'n') => {}
            Some(b'"') => self.push(name, &serde_json::from_str::<Cow<'_, str>>(json)?),
            Some(b'{' | b'[') => self.push(name, &without_spaces(json)),
            _ => self.push(name, json),
        }
        Ok(())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Form, M::Error> {
                let mut form = Form::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    let values = match value.get().as_bytes().first() {
                        Some(b'[') => {
                            serde_json::from_str(value.get()).map_err(M::Error::custom)?
                        }
                        _ => vec![value],
                    };
                    for value in &values {
                        form.push_json(&name, value.get())
                            .map_err(M::Error::custom)?;
                    }
                }
                Ok(form)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// JSON text without the white space between its tokens.
fn without_spaces(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&char| {
            let keep = in_string || !char.is_ascii_whitespace();
            match char {
                '"' if !escaped => in_string = !in_string,
                _ => {}
            }
            escaped = char == '\\' && !escaped;
            keep
        })
        .collect()
}

/// Writes text as the URL standard has forms written.
fn encode(text: &str, to: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                to.push(byte.into())
            }
            b' ' => to.push('+'),
            _ => {
                to.push('%');
                to.push(HEX[usize::from(byte >> 4)].into());
                to.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
}

/// The name and value pairs of a query or a form, decoded.
pub(crate) fn pairs(encoded: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    encoded
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        })
}

/// Decodes `%XX`, and `+` as a space where that is meant. What is not UTF-8 then is replaced by U+FFFD.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !text
        .bytes()
        .any(|byte| byte == b'%' || (plus_is_space && byte == b'+'))
    {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (b'+', _) if plus_is_space => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes())
            .into_owned()
            .into(),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(json: &str) -> String {
        serde_json::from_str::<Form>(json).unwrap().0
    }

    #[test]
    fn a_json_object_becomes_a_form() {
        assert_eq!(form("{}"), "");
        assert_eq!(
            form(r#"{"b":"ä&=+ ","a":true,"c":[1,"x",null,{"k": [1, 2]}]}"#),
            "b=%C3%A4%26%3D%2B+&a=true&c=1&c=x&c=%7B%22k%22%3A%5B1%2C2%5D%7D"
        );
        assert_eq!(
            form(r#"{"n":12345678901234567890123.40e+5,"o":{ "a b" : "c \" d" , "e":[ ] }}"#),
            "n=12345678901234567890123.40e%2B5&o=%7B%22a+b%22%3A%22c+%5C%22+d%22%2C%22e%22%3A%5B%5D%7D"
        );
        assert_eq!(form(r#"{"a":1,"a":2,"e":[]}"#), "a=1&a=2");
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for json in [
            "[]",
            "1",
            "\"a\"",
            "null",
            "",
            "{",
            r#"{"a":"\ud800"}"#,
            r#"{"a":1}x"#,
        ] {
            assert!(serde_json::from_str::<Form>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let all: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        let form = Form::new().field(&all, &all).field("x", "");
        assert_eq!(
            form.pairs().collect::<Vec<_>>(),
            [
                (all.as_str().into(), all.as_str().into()),
                ("x".into(), "".into())
            ]
        );
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(decode("%", false), "%");
        assert_eq!(decode("%4", false), "%4");
        assert_eq!(decode("%zz%41+", false), "%zzA+");
        assert_eq!(decode("%ff", false), "\u{fffd}");
        assert_eq!(
            pairs("a&&=b&c=d=e+f").collect::<Vec<_>>(),
            [
                ("a".into(), "".into()),
                ("".into(), "b".into()),
                ("c".into(), "d=e f".into())
            ]
        );
    }
}
