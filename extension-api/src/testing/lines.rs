//! Header lines as tests write and read them.

/// Names in lower case, and values, in their order.
pub(super) type Lines = Vec<(String, String)>;

/// The first value of that name.
pub(super) fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.as_str())
}
