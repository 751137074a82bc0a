//! A base URL: where a fetch goes, decided before anything that a caller sent is looked at.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_http::Uri;
use actix_http::header::HeaderValue;
use bytes::BufMut as _;
use percent_encoding::percent_decode_str;

use crate::upstream::origin::Origin;

/// Scheme, host, port and path that targets are appended to.
#[derive(Debug)]
pub struct Base {
    /// Bases of one number share their connections.
    number: u64,
    origin: Origin,
    /// The origin, always with a port. It says "http" also where the connection is encrypted, which is the connector's affair.
    url: Uri,
    /// The `Host` header: without the port where it is the scheme's own.
    host: HeaderValue,
    /// Without a slash at the end.
    path: String,
}

impl Base {
    /// Parses `https://host[:port][/path]`. The error says what is wrong, for the extension's author.
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
        let url = format!("http://{host}:{port}/")
            .parse()
            .map_err(|cause| wrong(&format!("{cause}")))?;
        let is_default = port == if origin.https { 443 } else { 80 };
        let host = if is_default {
            host
        } else {
            format!("{host}:{port}")
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            origin,
            url,
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

    /// The same, but with the connections of `other`, which is of the same origin.
    pub fn beside(self, other: &Self) -> Self {
        debug_assert_eq!(self.origin, other.origin);
        Self {
            number: other.number,
            ..self
        }
    }

    /// Whose connections it has: each base its own, but for [`beside`](Self::beside).
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where to connect to.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Writes what a target, "/path?query", "?query" or "", means behind this base, as it is. `None` where it cannot stand in a
    /// request line, or would climb out of the base's path.
    pub fn write_target(&self, line: &mut Vec<u8>, target: &str) -> Option<()> {
        if !(target.is_empty() || target.starts_with(['/', '?'])) {
            return None;
        }
        // Without an early end, so that sixteen bytes are one step.
        let is_bad = target.bytes().fold(false, |is_bad, byte| {
            is_bad | (byte <= b' ') | (byte == 0x7f) | (byte == b'#')
        });
        if is_bad || !self.path.is_empty() && climbs(target) {
            return None;
        }
        line.put_slice(self.path.as_bytes());
        if self.path.is_empty() && !target.starts_with('/') {
            line.push(b'/');
        }
        line.put_slice(target.as_bytes());
        Some(())
    }
}

/// Whether a path has a ".." segment, in whatever spelling a server might take for one.
fn climbs(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let path: Cow<'_, [u8]> = percent_decode_str(path).into();
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| segment == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(base: &Base, target: &str) -> Option<String> {
        let mut line = Vec::new();
        base.write_target(&mut line, target)?;
        Some(String::from_utf8(line).expect("text"))
    }

    #[test]
    fn a_target_is_a_path_whatever_it_looks_like() {
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
            let line = line(&base, target).expect(target);
            assert!(
                line == target || line == format!("/{target}"),
                "{target} became {line}"
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
            assert_eq!(line(&base, target), None);
        }
    }

    #[test]
    fn a_base_with_a_path_is_not_climbed_out_of() {
        let base = Base::parse("http://localhost:8055/twilio/").expect("a base");
        assert_eq!(line(&base, "/a?b=..").as_deref(), Some("/twilio/a?b=.."));
        assert_eq!(line(&base, "").as_deref(), Some("/twilio"));
        for target in [
            "/..",
            "/../users",
            "/a/%2E%2e/x",
            "/..%2fusers",
            "/..\\users",
        ] {
            assert_eq!(line(&base, target), None);
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
