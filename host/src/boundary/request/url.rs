//! What of a request's target an extension sees: path and query below its mount.

use actix_http::Uri;

/// Path and query below the mount.
#[derive(Default)]
pub struct Url {
    /// Path and query with the mount, where they differ from what was sent.
    pub whole: Option<String>,
    /// How much of them stands before what the extension sees.
    pub mount_len: usize,
    /// How much of what the extension sees is path; after it the query begins.
    pub path_len: usize,
}

impl Url {
    /// The text; what was sent as `uri`, where nothing else is said.
    #[inline]
    pub fn text<'a>(&'a self, uri: &'a Uri) -> &'a str {
        match &self.whole {
            Some(whole) => &whole[self.mount_len..],
            None => below_mount(uri, self.mount_len),
        }
    }

    /// The part of [`text`](Self::text) before the first '?'.
    #[inline]
    pub fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        &self.text(uri)[..self.path_len]
    }
}

/// Path and query after the first `mount_len` bytes of a request's target: "/twilio/a?b" below 7 is "/a?b".
#[inline]
pub fn below_mount(uri: &Uri, mount_len: usize) -> &str {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    &target[mount_len..]
}
