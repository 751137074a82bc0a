//! What an extension reads of a request, made when it first asks.

use actix_http::{RequestHead, Uri};
use extension_api::abi;

use super::{Handle, Shared};
use crate::accountability::client::IpText;
use crate::callbacks::lend;
use crate::connection::Peer;
use crate::noted::Said;

/// What is read of a request: parts of [`Local`](super::Local), which stay where they are, unchanged, until the entry is closed.
pub(super) struct Sources {
    pub(super) request: Kept<RequestHead>,
    pub(super) peer: Kept<Peer>,
    pub(super) said: Kept<Said>,
}

impl Sources {
    /// Those of an entry that is closed.
    pub(super) const NOTHING: Self = Self {
        request: Kept::NOTHING,
        peer: Kept::NOTHING,
        said: Kept::NOTHING,
    };
}

/// What the entry keeps elsewhere, for any thread to read.
pub(super) struct Kept<T>(pub(super) *const T);

impl<T> Kept<T> {
    const NOTHING: Self = Self(std::ptr::null());

    #[expect(
        unsafe_code,
        reason = "any thread may read what only the worker may drop"
    )]
    pub(super) fn get(&self) -> &T {
        debug_assert!(!self.0.is_null(), "the entry is open");
        // SAFETY: set in `open` to a part of `Local`, which lives, unchanged, until the entry is closed: when the extension has
        // finished the request. Who calls this has looked, on the worker, whether the entry is open; or it is the extension,
        // which must not call with a request that it finishes meanwhile (header).
        unsafe { &*self.0 }
    }
}

/// A head as the ABI has it, and what it shows that stands nowhere else.
pub(super) struct Head {
    raw: abi::ext_request_head,
    _roles: Vec<abi::ext_slice>,
    _ip: Option<Box<IpText>>,
}

/// What any thread may read must be made for that.
const fn is_sync<T: Sync>() {}
const _: () = is_sync::<RequestHead>();
const _: () = is_sync::<Peer>();
const _: () = is_sync::<Said>();

/// Path and query below the mount.
pub struct Url {
    /// Path and query with the mount, where they differ from what was sent.
    pub whole: Option<String>,
    /// How much of them stands before what the extension sees.
    pub mount_len: usize,
    /// How much of what the extension sees is path; behind it the query begins.
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

impl Shared {
    #[inline(never)]
    fn make_head(&self) -> Head {
        let request = self.request();
        let who = self.accountability();
        let roles: Vec<_> = who.roles.iter().map(|role| lend::text(role)).collect();
        let url = self.url.text(&request.uri);
        let (path, query) = url.split_at(self.url.path_len);
        let (peer, said) = (self.sources.peer.get(), self.sources.said.get());
        let ip = self.ip.map(|ip| Box::new(IpText::new(ip)));
        let raw = abi::ext_request_head {
            struct_size: size_of::<abi::ext_request_head>() as u32,
            http_version: match request.version {
                actix_http::Version::HTTP_10 => 10,
                _ => 11,
            },
            method: lend::text(request.method.as_str()),
            url: lend::text(url),
            path: lend::text(path),
            query: lend::option(query.strip_prefix('?')),
            params: self.params.as_ptr(),
            param_count: self.params.len(),
            peer: lend::bytes(peer.text()),
            id: lend::text(self.id()),
            deadline_ms: self.timeout.map_or(0, |timeout| timeout.as_millis() as u64),
            body_length: self.body_length.map_or(-1, |length| length as i64),
            body: match &*self.body {
                [] => lend::EMPTY_BUFFER,
                body => abi::ext_buffer {
                    ptr: body.as_ptr(),
                    len: body.len(),
                    ..lend::EMPTY_BUFFER
                },
            },
            accountability: abi::ext_accountability {
                user: lend::option(who.user.as_deref()),
                role: lend::option(who.role.as_deref()),
                roles: roles.as_ptr(),
                role_count: roles.len(),
                ip: lend::bytes(ip.as_deref().unwrap_or(peer.ip_text()).as_bytes()),
                user_agent: lend::option_bytes(said.user_agent()),
                origin: lend::option_bytes(said.origin()),
                session: lend::option(who.session.as_deref()),
                admin: who.admin.into(),
                app: who.app.into(),
                reserved: [0; 6],
            },
        };
        Head {
            raw,
            _roles: roles,
            _ip: ip,
        }
    }
}

impl Handle {
    /// What the extension sees; `None`: it has finished the request.
    pub fn head(&self) -> Option<&'static abi::ext_request_head> {
        let shared = self.shared();
        if shared.head.get().is_none() {
            if !self.is_open() {
                return None;
            }
            let made = shared.make_head();
            // Of one that was finished meanwhile nothing must be left for the next.
            if !self.is_open() {
                return None;
            }
            // Another thread that was first has made the same.
            let _ = shared.head.set(made);
        }
        shared.head.get().map(|head| &head.raw)
    }
}

/// Path and query behind the first `mount_len` bytes of a request's target: "/twilio/a?b" below 7 is "/a?b".
#[inline]
pub fn below_mount(uri: &Uri, mount_len: usize) -> &str {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    &target[mount_len..]
}
