//! The routes that an extension has declared: which one serves a request.

use super::pointer::Pointer;
use crate::testing::lines::Lines;

#[derive(Clone)]
pub(super) struct Route {
    /// `None`: every method.
    pub(super) method: Option<String>,
    pub(super) pattern: String,
    pub(super) flags: u32,
    /// What the extension is called with.
    pub(super) route: Pointer,
}

impl Route {
    /// Whether both serve the same method on the same paths.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let unnamed = |pattern: &str| -> Vec<String> {
            let segments = pattern
                .split('/')
                .map(|segment| match segment.strip_prefix(':') {
                    Some(_) => ":".to_owned(),
                    None => segment.to_owned(),
                });
            segments.collect()
        };
        self.method == other.method && unnamed(&self.pattern) == unnamed(&other.pattern)
    }
}

/// Whether a pattern is well-formed.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let Some(rest) = pattern.strip_prefix('/') else {
        return false;
    };
    let segments: Vec<&str> = rest.split('/').collect();
    let mut names = Vec::new();
    segments
        .iter()
        .enumerate()
        .all(|(index, segment)| match segment.strip_prefix(':') {
            Some(name) => {
                let is_new = !name.is_empty() && !names.contains(&name);
                names.push(name);
                is_new
            }
            None => !segment.contains('*') || *segment == "*" && index + 1 == segments.len(),
        })
}

/// The most specific route, and its parameters; else 404 or 405.
pub(super) fn find<'a>(
    routes: &'a [Route],
    method: &str,
    path: &str,
) -> Result<(&'a Route, Lines), u16> {
    let on_path: Vec<_> = routes
        .iter()
        .filter_map(|route| match_path(&route.pattern, path).map(|found| (route, found)))
        .collect();
    let best = on_path
        .iter()
        .map(|(_, (rank, _))| rank)
        .max()
        .ok_or(404_u16)?;
    let of_method = |wanted: Option<&str>| {
        on_path
            .iter()
            .find(|(route, (rank, _))| rank == best && route.method.as_deref() == wanted)
    };
    let found = of_method(Some(method));
    let found = found
        .or_else(|| of_method(Some("GET")).filter(|_| method == "HEAD"))
        .or_else(|| of_method(None));
    found
        .map(|(route, (_, params))| (*route, params.clone()))
        .ok_or(405)
}

/// How specific each segment's match is, and the parameters; `None` where the pattern does not match.
fn match_path(pattern: &str, path: &str) -> Option<(Vec<u8>, Lines)> {
    let (mut rank, mut params) = (Vec::new(), Vec::new());
    let mut path = path.strip_prefix('/')?;
    let mut pattern = pattern.strip_prefix('/')?;
    loop {
        let (wanted, next_pattern) = pattern
            .split_once('/')
            .map_or((pattern, None), |(a, b)| (a, Some(b)));
        if wanted == "*" {
            rank.push(0);
            params.push(("*".to_owned(), path.to_owned()));
            return Some((rank, params));
        }
        let (segment, next_path) = path
            .split_once('/')
            .map_or((path, None), |(a, b)| (a, Some(b)));
        match wanted.strip_prefix(':') {
            Some(name) if !segment.is_empty() => {
                rank.push(1);
                params.push((name.to_owned(), segment.to_owned()));
            }
            None if wanted == segment => rank.push(2),
            _ => return None,
        }
        match (next_pattern, next_path) {
            (None, None) => return Some((rank, params)),
            (Some(next_pattern), Some(next_path)) => (pattern, path) = (next_pattern, next_path),
            _ => return None,
        }
    }
}
