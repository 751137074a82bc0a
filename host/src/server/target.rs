//! Where a request's target leads: to which mount, and with what below it.

use std::borrow::Cow;
use std::hint::cold_path;

use crate::boundary::request::Url;
use crate::identity::redact;

/// Path and query below the mount: "/twilio/2010/A.json?P=2" is for "twilio" and "/2010/A.json?P=2".
///
/// Without credentials, so that they cannot be passed on by accident. `/twilio` and `/twilio?x` get the slash that they lack.
/// `path` is what of `target` stands before the query, which `may_hold_token`.
pub fn below<'a>(target: &'a str, path: &'a str, may_hold_token: bool) -> (&'a str, Url) {
    let rest = path.strip_prefix('/').unwrap_or_default();
    let mount_end = rest.bytes().position(|byte| byte == b'/');
    let mount_end = mount_end.unwrap_or(rest.len());
    let mount_len = (mount_end + 1).min(path.len());
    let mut path_len = path.len() - mount_len;
    let mut whole = None;
    if may_hold_token || path_len == 0 {
        cold_path();
        let mut changed = redact::redact_url(target);
        if path_len == 0 {
            changed.to_mut().insert(mount_len, '/');
            path_len = 1;
        }
        if let Cow::Owned(changed) = changed {
            whole = Some(changed);
        }
    }
    let url = Url {
        whole,
        mount_len,
        path_len,
    };
    (&rest[..mount_end], url)
}

/// How much of a target stands before its query. The parser knows; nobody needs to look for the '?' again.
pub fn path_len(uri: &actix_http::Uri, target: &str) -> usize {
    target.len() - uri.query().map_or(0, |query| query.len() + 1)
}
