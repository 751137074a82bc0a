//! Where a redirect leads, and what goes along.

use std::sync::Arc;

use actix_http::header::{self, HeaderMap, HeaderName};
use actix_http::{Method, StatusCode};
use bytes::Bytes;

use super::base::Base;
use super::body::OutgoingBody;

/// How many redirects are followed.
const REDIRECTS_MAX: u32 = 10;

/// Says whether a call may go to a place.
pub type Allows = Box<dyn Fn(&Base) -> bool + Send>;

/// What it takes to make a call once more, where it is sent elsewhere.
pub struct Follow {
    allows: Allows,
    /// The method of the next call.
    pub method: Method,
    /// Its target.
    pub target: String,
    /// Its headers.
    pub headers: Vec<(HeaderName, Bytes)>,
    left: u32,
}

impl Follow {
    /// Follows a call's redirects to places that `allows` lets it go to.
    pub fn new(allows: Allows, method: Method, target: &str) -> Self {
        Self {
            allows,
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            left: REDIRECTS_MAX,
        }
    }

    /// Where the next call goes and what its body is, if the answer is a redirect that is followed: `sent` is the body of the
    /// call before, where that is still there.
    pub fn next(
        &mut self,
        from: &Base,
        status: StatusCode,
        headers: &HeaderMap,
        sent: Option<Bytes>,
    ) -> Option<(Arc<Base>, OutgoingBody)> {
        let to_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD && self.method != Method::GET,
            307 | 308 => false,
            _ => return None,
        };
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let (base, target) = resolve(from, &self.target, location)?;
        // A body that was streamed is gone, and is not asked for twice.
        let body = if to_get {
            OutgoingBody::Empty
        } else {
            OutgoingBody::of(sent?)
        };
        let is_same = base.origin() == from.origin();
        self.left = self.left.checked_sub(1)?;
        if !is_same && !(self.allows)(&base) {
            return None;
        }
        if to_get {
            self.method = Method::GET;
        }
        self.headers.retain(|(name, _)| {
            let is_credential = matches!(
                *name,
                header::AUTHORIZATION | header::COOKIE | header::PROXY_AUTHORIZATION
            );
            !(is_credential && !is_same || *name == header::CONTENT_TYPE && to_get)
        });
        self.target = target;
        let base = if is_same { base.beside(from) } else { base };
        Some((Arc::new(base), body))
    }
}

/// What a `Location` means: an absolute URL, or a path on the same host.
fn resolve(from: &Base, target: &str, location: &str) -> Option<(Base, String)> {
    let location = location.split('#').next()?;
    let scheme = if from.is_tls() { "https:" } else { "http:" };
    let host = from.host().to_str().ok()?;
    let absolute = match location {
        network if network.starts_with("//") => format!("{scheme}{network}"),
        path if path.starts_with('/') => format!("{scheme}//{host}{path}"),
        url if url.contains("://") => url.to_owned(),
        relative => {
            let mut path = Vec::new();
            from.write_target(&mut path, target.split('?').next()?)?;
            let path = String::from_utf8(path).ok()?;
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}//{host}{folder}/{relative}")
        }
    };
    let after_scheme = absolute.find("://")? + 3;
    let end = absolute[after_scheme..]
        .find(['/', '?'])
        .map_or(absolute.len(), |at| after_scheme + at);
    let base = Base::parse(&absolute[..end]).ok()?;
    Some((base, absolute[end..].to_owned()))
}
