//! Base URLs, and the targets that are appended to them: what the host takes.

/// The origin and the path of a base URL; `None` where it is not one.
pub(super) fn parse(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let is_text = url.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if !["http", "https"].contains(&scheme) || !is_text || url.contains(['?', '#', '@']) {
        return None;
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    // In an IPv6 address colons stand between brackets.
    let port = match authority.rsplit_once(']') {
        Some((_, port)) => port.strip_prefix(':'),
        None => authority.split_once(':').map(|(_, port)| port),
    };
    let has_host = !authority.is_empty() && !authority.starts_with(':');
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let path = path.trim_end_matches('/').to_owned();
    (has_host && is_port).then(|| (format!("{scheme}://{authority}"), path))
}

/// Whether a target may be appended to a base with that path: a path or a query, which does not climb out of the base's path.
pub(super) fn takes(path: &str, target: &str) -> bool {
    let is_target = target.is_empty() || target.starts_with(['/', '?']);
    let is_text = target
        .bytes()
        .all(|byte| byte > b' ' && byte != 0x7f && byte != b'#');
    is_target && is_text && (path.is_empty() || !climbs(target))
}

/// Whether a path has a ".." segment, in whatever spelling a server might take for one.
fn climbs(target: &str) -> bool {
    let path = target
        .split('?')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let path = path
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    path.replace('\\', "/")
        .split('/')
        .any(|segment| segment == "..")
}
