//! What an extension reads of a request, made when it first asks.

use std::borrow::Cow;

use actix_http::RequestHead;
use actix_http::header::{self, HeaderName};
use extension_api::abi;

use super::sources::Head;
use super::state::{Handle, Shared};
use crate::http::peer::IpText;
use crate::runtime::ffi_out;

/// As much of a User-Agent header as an extension sees, as in Directus.
const USER_AGENT_BYTES_MAX: usize = 1024;

impl Shared {
    #[inline(never)]
    fn make_head(&self) -> Head {
        let request = self.request();
        let who = self.accountability();
        let roles: Vec<_> = who.roles.iter().map(|role| ffi_out::text(role)).collect();
        let url = self.url.text(&request.uri);
        let (path, query) = url.split_at(self.url.path_len);
        let peer = self.sources.peer.get();
        let (user_agent, user_agent_text) =
            text_of(request, &header::USER_AGENT, USER_AGENT_BYTES_MAX);
        let (origin, origin_text) = text_of(request, &header::ORIGIN, usize::MAX);
        let ip = self.ip.map(|ip| Box::new(IpText::new(ip)));
        let raw = abi::ext_request_head {
            struct_size: size_of::<abi::ext_request_head>() as u32,
            http_version: match request.version {
                actix_http::Version::HTTP_10 => 10,
                _ => 11,
            },
            method: ffi_out::text(request.method.as_str()),
            url: ffi_out::text(url),
            path: ffi_out::text(path),
            query: ffi_out::option(query.strip_prefix('?')),
            params: self.params.0.as_ptr(),
            param_count: self.params.0.len(),
            peer: ffi_out::bytes(peer.text()),
            id: ffi_out::text(self.id.as_str()),
            deadline_ms: self.timeout.map_or(0, |timeout| timeout.as_millis() as u64),
            body_length: self.body_length.map_or(-1, |length| length as i64),
            body: match self.body.get() {
                None => ffi_out::EMPTY_BUFFER,
                Some(body) => abi::ext_buffer {
                    ptr: body.as_ptr(),
                    len: body.len(),
                    ..ffi_out::EMPTY_BUFFER
                },
            },
            accountability: abi::ext_accountability {
                user: ffi_out::option(who.user.as_deref()),
                role: ffi_out::option(who.role.as_deref()),
                roles: roles.as_ptr(),
                role_count: roles.len(),
                ip: ffi_out::bytes(ip.as_deref().unwrap_or(peer.ip_text()).as_bytes()),
                user_agent,
                origin,
                session: ffi_out::option(who.session.as_deref()),
                admin: who.admin.into(),
                app: who.app.into(),
                reserved: [0; 6],
            },
        };
        Head {
            raw,
            _roles: roles,
            _ip: ip,
            _texts: [user_agent_text, origin_text],
        }
    }
}

/// The first line of a header, cut off after `bytes_max`, as UTF-8; what is not UTF-8 in it is replaced, and then stands in the
/// text that is given beside it.
fn text_of(
    request: &RequestHead,
    name: &HeaderName,
    bytes_max: usize,
) -> (abi::ext_slice, Option<Box<str>>) {
    let Some(value) = request.headers.get(name) else {
        return (ffi_out::ABSENT, None);
    };
    let bytes = &value.as_bytes()[..value.len().min(bytes_max)];
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => (ffi_out::text(text), None),
        Cow::Owned(text) => {
            let text = text.into_boxed_str();
            (ffi_out::text(&text), Some(text))
        }
    }
}

impl Handle {
    /// What the extension sees, good until it finishes the request; `None`: it has.
    pub fn head(&self) -> Option<*const abi::ext_request_head> {
        let shared = self.read()?;
        let head = shared.head.get_or_init(|| shared.make_head());
        Some(&raw const head.raw)
    }
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;

    use super::*;

    fn user_agent(bytes: &[u8]) -> String {
        let mut head = RequestHead::default();
        let headers = &mut head.headers;
        headers.append(header::USER_AGENT, HeaderValue::from_bytes(bytes).unwrap());
        headers.append(header::USER_AGENT, HeaderValue::from_static("second"));
        let (slice, text) = text_of(&head, &header::USER_AGENT, USER_AGENT_BYTES_MAX);
        // What is borrowed is what was sent, cut off.
        let text = text.unwrap_or_else(|| std::str::from_utf8(&bytes[..slice.len]).unwrap().into());
        assert_eq!(slice.len, text.len());
        text.into()
    }

    #[test]
    fn a_header_reads_as_text_whatever_it_holds() {
        assert_eq!(user_agent(b"curl/8"), "curl/8");
        assert_eq!(user_agent("é".as_bytes()), "é");
        assert_eq!(user_agent(b"\xff"), "\u{fffd}");
        assert_eq!(user_agent(&[b'x'; 2_000]).len(), 1_024);
        let long = [&[b'x'; 1_023][..], "é".as_bytes()].concat();
        assert!(user_agent(&long).ends_with("x\u{fffd}"));
    }

    #[test]
    fn a_header_that_is_not_there_is_absent() {
        let (slice, text) = text_of(&RequestHead::default(), &header::ORIGIN, 10);
        assert!(slice.ptr.is_null() && text.is_none());
    }
}
