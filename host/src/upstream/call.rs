//! A call, ready to be made.

use std::hint::cold_path;
use std::sync::Arc;
use std::time::Duration;

use actix_http::Method;
use actix_http::header::{self, HeaderName};
use bytes::Bytes;

use super::base::Base;
use super::redirect::{Allows, Follow};
use super::request_head::RequestHead;

/// One call, ready to be made.
pub struct Call {
    pub(super) base: Arc<Base>,
    pub(super) head: RequestHead,
    pub(super) limits: Limits,
    pub(super) follow: Option<Box<Follow>>,
    pub(super) decompress: bool,
}

/// How long a call may take.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// To resolve, connect and shake hands.
    pub connect: Option<Duration>,
    /// To the answer's head, and then from chunk to chunk.
    pub first_byte: Option<Duration>,
    /// To the end of the answer.
    pub total: Option<Duration>,
}

impl Call {
    /// Prepares a call. `None` where the target cannot stand behind the base; see [`Base::write_target`].
    pub fn new(base: Arc<Base>, method: &Method, target: &str) -> Option<Self> {
        Some(Self {
            head: RequestHead::new(method, &base, target)?,
            base,
            limits: Limits::default(),
            follow: None,
            decompress: false,
        })
    }

    /// The call that a redirect has led to. `None` where its target cannot stand behind the base.
    pub(super) fn redirected(
        base: Arc<Base>,
        follow: Box<Follow>,
        decompress: bool,
    ) -> Option<Self> {
        let mut head = RequestHead::new(&follow.method, &base, &follow.target)?;
        for (name, value) in &follow.headers {
            head.add(name, value);
        }
        Some(Self {
            base,
            head,
            limits: Limits::default(),
            follow: Some(follow),
            decompress,
        })
    }

    /// Where it goes.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// Sets limits; `None`: the host's default.
    pub fn limit(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Follows redirects to places that `allows` lets it go to. Before any header is added.
    pub fn follow(mut self, method: Method, target: &str, allows: Allows) -> Self {
        self.follow = Some(Box::new(Follow::new(allows, method, target)));
        self
    }

    /// Asks for gzip, and decodes it.
    pub fn decompress(mut self) -> Self {
        self.add(&header::ACCEPT_ENCODING, b"gzip");
        self.decompress = true;
        self
    }

    /// Adds a header: none of the connection's own, and neither `Host` nor `Content-Length`. The caller vouches that the value has
    /// no control characters.
    pub fn add(&mut self, name: &HeaderName, value: &[u8]) {
        self.head.add(name, value);
        if let Some(follow) = &mut self.follow {
            cold_path();
            let value = Bytes::copy_from_slice(value);
            follow.headers.push((name.clone(), value));
        }
    }
}
