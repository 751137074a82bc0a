//! [`Head`] and [`HeaderFields`]: what the extension reads of a message, and what keeps it in its place.
#![expect(
    unsafe_code,
    reason = "structs of the ABI point to what is kept beside them"
)]

use std::ptr;
use std::sync::Arc;

use crate::abi::*;
use crate::bridge::{ABSENT, slice, struct_size};
use crate::testing::lines::Lines;
use crate::testing::upstream::BodyEnd;

/// A request as a test makes it.
#[derive(Default)]
pub(in crate::testing) struct RequestSpec {
    pub(in crate::testing) method: String,
    pub(in crate::testing) url: String,
    pub(in crate::testing) user: Option<String>,
    pub(in crate::testing) role: Option<String>,
    pub(in crate::testing) admin: bool,
    pub(in crate::testing) headers: Lines,
    pub(in crate::testing) body_length: Option<usize>,
    pub(in crate::testing) chunks: Vec<Vec<u8>>,
    pub(in crate::testing) body_end: BodyEnd,
    pub(in crate::testing) leaves: bool,
}

/// What a head's raw struct points into: nothing of it changes until it is dropped.
pub(super) struct Head {
    pub(super) spec: RequestSpec,
    pub(super) headers: HeaderFields,
    pub(super) raw: ext_request_head,
    /// What only `raw` points to.
    _whole: Vec<u8>,
    _params: HeaderFields,
    _roles: Vec<ext_slice>,
}

/// Lines, and the raw structs that point to them.
pub(super) struct HeaderFields {
    pub(super) lines: Lines,
    pub(super) raw: Vec<ext_field>,
}

// SAFETY: the raw structs point to text and lists on the heap that are kept beside them, and move with them.
unsafe impl Send for Head {}
// SAFETY: nothing of it changes, so it can be read from everywhere.
unsafe impl Sync for Head {}
// SAFETY: as for `Head`.
unsafe impl Send for HeaderFields {}

fn optional(text: &Option<String>) -> ext_slice {
    text.as_ref().map_or(ABSENT, |text| slice(text.as_bytes()))
}

impl HeaderFields {
    pub(super) fn new(lines: Lines) -> Self {
        let field = |(name, value): &(String, String)| ext_field {
            name: slice(name.as_bytes()),
            value: slice(value.as_bytes()),
        };
        let raw = lines.iter().map(field).collect();
        Self { lines, raw }
    }

    /// The value of the line of that name and index.
    pub(super) fn get(&self, name: &str, index: usize) -> Option<ext_slice> {
        let of_name = self
            .lines
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| slice(value.as_bytes())).nth(index)
    }
}

impl Head {
    /// `has_whole_body`: the body is in the head.
    pub(super) fn new(mut spec: RequestSpec, params: Lines, has_whole_body: bool) -> Arc<Self> {
        let headers = HeaderFields::new(std::mem::take(&mut spec.headers));
        let params = HeaderFields::new(params);
        let role = |role: &String| slice(role.as_bytes());
        let roles: Vec<_> = spec.role.iter().map(role).collect();
        let whole = if has_whole_body {
            spec.chunks.concat()
        } else {
            Vec::new()
        };
        let (path, query) = match spec.url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (spec.url.as_str(), None),
        };
        let has_no_body = spec.chunks.is_empty() && spec.body_end == BodyEnd::Whole;
        let raw = ext_request_head {
            struct_size: struct_size::<ext_request_head>(),
            http_version: 11,
            method: slice(spec.method.as_bytes()),
            url: slice(spec.url.as_bytes()),
            path: slice(path.as_bytes()),
            query: query.map_or(ABSENT, |query| slice(query.as_bytes())),
            params: params.raw.as_ptr(),
            param_count: params.raw.len(),
            peer: slice(b"127.0.0.1:50000"),
            id: slice(b"test"),
            deadline_ms: 0,
            body_length: if has_no_body {
                0
            } else {
                spec.body_length.map_or(-1, |length| length as i64)
            },
            body: ext_buffer {
                ptr: whole.as_ptr(),
                len: whole.len(),
                owner: ptr::null_mut(),
                release: None,
            },
            accountability: ext_accountability {
                user: optional(&spec.user),
                role: optional(&spec.role),
                roles: roles.as_ptr(),
                role_count: roles.len(),
                ip: slice(b"127.0.0.1"),
                user_agent: ABSENT,
                origin: ABSENT,
                session: ABSENT,
                admin: spec.admin.into(),
                app: spec.admin.into(),
                reserved: [0; 6],
            },
        };
        Arc::new(Self {
            spec,
            headers,
            raw,
            _whole: whole,
            _params: params,
            _roles: roles,
        })
    }
}
