//! [`HeaderLines`]: headers that are to be sent, checked as they are added.

use std::fmt;

/// Headers that a builder collects. In one buffer, length by length, so that a few cost one allocation and none cost none.
#[derive(Default)]
pub(crate) struct HeaderLines {
    content_type: Option<&'static str>,
    /// For each: the name's length, the value's length, name, value. A value of length `REMOVED` is absent.
    lines: Vec<u8>,
    fault: Option<Box<str>>,
}

/// A name, and its value; `None` where it is to be removed.
type Line<'a> = (&'a str, Option<&'a [u8]>);

const REMOVED: u32 = u32::MAX;
const LENGTHS: usize = 2 * size_of::<u32>();

impl HeaderLines {
    pub(crate) const fn with_content_type(content_type: &'static str) -> Self {
        Self {
            content_type: Some(content_type),
            lines: Vec::new(),
            fault: None,
        }
    }

    /// Sets the content type, which needs no allocation.
    pub(crate) fn set_content_type(&mut self, content_type: &'static str) {
        self.drop_name("content-type");
        self.content_type = Some(content_type);
    }

    /// Adds a line, beside others of that name.
    pub(crate) fn append(&mut self, name: &str, value: &str) {
        if !is_name(name) || !is_value(value.as_bytes()) || value.len() >= REMOVED as usize {
            // The name is shown, the value may be secret.
            return self.fail(format_args!("cannot send header {name:?}: its name or value has a character that no header may have"));
        }
        self.push(name, value.len() as u32, value);
    }

    /// Sets the one line of that name.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.drop_name(name);
        self.append(name, value);
    }

    /// Has the line of that name left out that would be sent by itself.
    pub(crate) fn remove(&mut self, name: &str) {
        self.drop_name(name);
        self.push(name, REMOVED, "");
    }

    /// Keeps the message from being sent.
    pub(crate) fn fail(&mut self, why: impl fmt::Display) {
        self.fault.get_or_insert_with(|| why.to_string().into());
    }

    /// Why the message cannot be sent.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The lines; a value of `None` removes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Line<'_>> {
        let content_type = self
            .content_type
            .map(|value| ("content-type", Some(value.as_bytes())));
        let mut rest = self.lines.as_slice();
        content_type.into_iter().chain(std::iter::from_fn(move || {
            let (line, after) = first_line(rest)?;
            rest = after;
            Some(line)
        }))
    }

    fn push(&mut self, name: &str, value_length: u32, value: &str) {
        self.lines.reserve(LENGTHS + name.len() + value.len());
        self.lines
            .extend_from_slice(&(name.len() as u32).to_ne_bytes());
        self.lines.extend_from_slice(&value_length.to_ne_bytes());
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn drop_name(&mut self, name: &str) {
        if name.eq_ignore_ascii_case("content-type") {
            self.content_type = None;
        }
        let mut at = 0;
        while let Some(((found, _), after)) = first_line(&self.lines[at..]) {
            let (matches, next) = (
                found.eq_ignore_ascii_case(name),
                self.lines.len() - after.len(),
            );
            if matches {
                self.lines.drain(at..next);
            } else {
                at = next;
            }
        }
    }
}

/// The first line of the buffer, and the lines after it.
fn first_line(lines: &[u8]) -> Option<(Line<'_>, &[u8])> {
    let (name_length, rest) = lines.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at(u32::from_ne_bytes(*name_length) as usize);
    let name = std::str::from_utf8(name).expect("`push` writes names from text");
    match u32::from_ne_bytes(*value_length) {
        REMOVED => Some(((name, None), rest)),
        length => {
            let (value, rest) = rest.split_at(length as usize);
            Some(((name, Some(value)), rest))
        }
    }
}

/// RFC 9110, 5.6.2: a token.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110, 5.5: no control character, so that a value cannot begin another line.
pub(crate) fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(fields: &HeaderLines) -> Vec<(&str, Option<&str>)> {
        fields
            .iter()
            .map(|(name, value)| (name, value.map(|value| std::str::from_utf8(value).unwrap())))
            .collect()
    }

    #[test]
    fn lines_keep_their_order_and_may_repeat() {
        let mut fields = HeaderLines::with_content_type("text/plain");
        fields.append("set-cookie", "a=1");
        fields.append("x", "");
        fields.append("Set-Cookie", "b=2");
        assert_eq!(
            lines(&fields),
            [
                ("content-type", Some("text/plain")),
                ("set-cookie", Some("a=1")),
                ("x", Some("")),
                ("Set-Cookie", Some("b=2"))
            ]
        );
    }

    #[test]
    fn set_replaces_and_remove_says_so() {
        let mut fields = HeaderLines::with_content_type("text/plain");
        fields.append("x", "1");
        fields.append("y", "2");
        fields.append("X", "3");
        fields.set("x", "4");
        fields.remove("Content-Type");
        assert_eq!(
            lines(&fields),
            [("y", Some("2")), ("x", Some("4")), ("Content-Type", None)]
        );
    }

    #[test]
    fn a_line_break_or_a_control_character_is_a_fault() {
        for (name, value) in [
            ("x", "a\r\nb: c"),
            ("x", "a\nb"),
            ("x", "\0"),
            ("a b", "c"),
            ("", "c"),
            ("a:", "c"),
            ("ü", "c"),
        ] {
            let mut fields = HeaderLines::default();
            fields.append(name, value);
            assert!(fields.fault().is_some(), "{name:?}: {value:?}");
            assert_eq!(lines(&fields), []);
        }
    }
}
