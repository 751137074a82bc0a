//! A base URL: where a fetch goes, decided before anything that a caller sent is looked at.

use actix_http::Uri;
use actix_http::header::HeaderValue;
use actix_http::uri::{Authority, PathAndQuery, Scheme};

use crate::extension::manifest::Origin;

/// Scheme, host, port and path that targets are appended to.
#[derive(Debug)]
pub struct Base {
    origin: Origin,
    /// Always with a port.
    authority: Authority,
    /// The `Host` header: without the port where it is the scheme's own.
    host: HeaderValue,
    /// Without a slash at the end.
    path: String,
}

impl Base {
    /// Parses "https://host[:port][/path]". The error says what is wrong, for the extension's author.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{url:?} is not a base URL: {what}");
        if url.contains(['?', '#']) {
            return Err(wrong("it must not have a query or a fragment"));
        }
        let uri: Uri = url.parse().map_err(|cause| wrong(&format!("{cause}")))?;
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            // Without the URL: it may hold a password.
            return Err(
                "a base URL must not hold a user or password; send them in a header".into(),
            );
        }
        let origin = Origin::of_uri(&uri).ok_or_else(|| {
            wrong("it must be https:// or http://, a host, and perhaps a port and a path")
        })?;
        let (host, port) = (origin.host.clone(), origin.port);
        let authority = format!("{host}:{port}")
            .parse()
            .map_err(|cause| wrong(&format!("{cause}")))?;
        let is_default = port == if origin.https { 443 } else { 80 };
        let host = if is_default {
            host
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            origin,
            authority,
            host: HeaderValue::from_str(&host).map_err(|cause| wrong(&format!("{cause}")))?,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.origin.https
    }

    /// Scheme, host and port: what an allow list names.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The `Host` header of calls.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Appends a target, "/path?query", "?query" or "", as it is. `None` where it cannot stand in a request line, or would
    /// climb out of the base's path.
    ///
    /// The URL says "http" also where the connection is encrypted, which is the connector's affair.
    pub fn url(&self, target: &str) -> Option<Uri> {
        if !(target.is_empty() || target.starts_with(['/', '?'])) {
            return None;
        }
        // Without an early end, so that sixteen bytes are one step.
        let is_bad = target.bytes().fold(false, |is_bad, byte| {
            is_bad | (byte <= b' ') | (byte == 0x7f) | (byte == b'#')
        });
        if is_bad {
            return None;
        }
        if !self.path.is_empty() && climbs(target) {
            return None;
        }
        let slash = if self.path.is_empty() && !target.starts_with('/') {
            "/"
        } else {
            ""
        };
        let target = if self.path.is_empty() && slash.is_empty() {
            bytes::Bytes::copy_from_slice(target.as_bytes())
        } else {
            [&self.path, slash, target].concat().into()
        };
        let mut parts = actix_http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target).ok()?);
        Uri::from_parts(parts).ok()
    }
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
        .replace("%5c", "/")
        .replace('\\', "/");
    path.split('/').any(|segment| segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_never_changes_the_host() {
        let base = Base::parse("https://api.twilio.com").expect("a base");
        for target in [
            "//other.example/x",
            "/\\other.example/x",
            "/@other.example",
            "/http://other.example/",
            "/../x",
            "/%2e%2e/x",
            "?x=//y",
            "",
        ] {
            let url = base.url(target).expect(target);
            assert_eq!(
                url.authority().map(Authority::as_str),
                Some("api.twilio.com:443"),
                "{target}"
            );
            let path = url.path_and_query().expect("a path").as_str();
            assert!(
                path == target || path == format!("/{target}"),
                "{target} became {path}"
            );
        }
        for target in [
            "@other.example",
            "other.example",
            "http://other.example/",
            ":80/x",
            "/a b",
            "/a\r\nHost: x",
            "/a#b",
        ] {
            assert!(base.url(target).is_none(), "{target}");
        }
    }

    #[test]
    fn a_base_with_a_path_is_not_climbed_out_of() {
        let base = Base::parse("http://localhost:8055/twilio/").expect("a base");
        assert_eq!(
            base.url("/a?b=..").expect("a URL").to_string(),
            "http://localhost:8055/twilio/a?b=.."
        );
        assert_eq!(base.url("").expect("a URL").path(), "/twilio");
        for target in [
            "/..",
            "/../users",
            "/a/%2E%2e/x",
            "/..%2fusers",
            "/..\\users",
        ] {
            assert!(base.url(target).is_none(), "{target}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for url in [
            "",
            "api.twilio.com",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x?y",
            "https://x#y",
            "https://x:99999",
        ] {
            assert!(Base::parse(url).is_err(), "{url}");
        }
        assert!(
            !Base::parse("https://u:secret@x")
                .unwrap_err()
                .contains("secret")
        );
    }
}
