//! An origin: the scheme, host and port of a URL, which say where its connections lead.

use std::fmt;

use actix_http::Uri;

/// Scheme, host and port: what a URL begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether the scheme is https rather than http.
    pub https: bool,
    /// The host, in lower case; an IPv6 address in brackets.
    pub host: String,
    /// The port, the scheme's own one included.
    pub port: u16,
}

impl Origin {
    /// The origin of an http or https URL without a user; its path and query are passed over.
    pub fn of_url(url: &str) -> Option<Origin> {
        Origin::of_uri(&url.trim().parse().ok()?)
    }

    /// The origin of an http or https URL without a user.
    pub fn of_uri(uri: &Uri) -> Option<Origin> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        let rest = authority.as_str().strip_prefix(host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if rest.is_empty() && https => 443,
            None if rest.is_empty() => 80,
            None => return None,
        };
        (!host.is_empty()).then(|| Origin {
            https,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.https, self.port) {
            (true, 443) => write!(f, "https://{}", self.host),
            (true, port) => write!(f, "https://{}:{port}", self.host),
            (false, 80) => write!(f, "http://{}", self.host),
            (false, port) => write!(f, "http://{}:{port}", self.host),
        }
    }
}
