//! The status and the headers that an extension gives an answer, checked.

use std::hint::cold_path;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_http::{Response, StatusCode};
use extension_api::abi::*;

use super::ffi_in::{bytes, slice_of};
use crate::http::body::Body;
use crate::http::reply::{self, REQUEST_ID};
use crate::http::{facts, headers};

/// The status of an answer; the error is the rule that it breaks.
pub(super) fn status_of(status: u32) -> Result<StatusCode, &'static str> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or("the status of an answer must be from 200 to 599")
}

/// What an answer's headers say that the host heeds.
#[derive(Clone, Copy, Default)]
pub(super) struct Declared {
    /// The length that `Content-Length` declares.
    pub(super) length: Option<u64>,
    /// They name the request themselves.
    pub(super) has_id: bool,
}

/// Sets an answer's headers; the error is the rule that they break.
pub(super) fn set_headers(
    headers: &mut HeaderMap,
    response: &ext_response,
) -> Result<Declared, &'static str> {
    let mut declared = Declared::default();
    for field in slice_of(response.headers, response.header_count) {
        if bytes(&field.name) == CONTENT_TYPE {
            headers.append(header::CONTENT_TYPE, value_of(field)?);
            continue;
        }
        let (name, value) = header_of(field)?;
        match name {
            header::CONTENT_LENGTH => {
                cold_path();
                declared.length = facts::length(&value);
            }
            name if headers::is_hop_by_hop(&name) => {}
            name => {
                declared.has_id |= name == REQUEST_ID;
                headers.append(name, value);
            }
        }
    }
    Ok(declared)
}

fn header_of(field: &ext_field) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
    Ok((name, value_of(field)?))
}

fn value_of(field: &ext_field) -> Result<HeaderValue, &'static str> {
    match bytes(&field.value) {
        // What nearly every answer has is neither parsed nor copied.
        b"application/json; charset=utf-8" => Ok(reply::JSON),
        b"text/plain; charset=utf-8" => Ok(reply::TEXT),
        value => headers::value_of(value).ok_or(NOT_A_VALUE),
    }
}

/// As extensions write it, for the most part.
const CONTENT_TYPE: &[u8] = b"content-type";

pub(super) const NOT_A_NAME: &str = "a header's name is not a token";

pub(super) const NOT_A_VALUE: &str = "a header's value holds a control character";

/// Whether an extension has a say in a header: those of the connection, its target and the body's length are the host's.
pub(super) fn is_settable(name: &HeaderName) -> bool {
    !headers::is_hop_by_hop(name) && *name != header::CONTENT_LENGTH && *name != header::HOST
}

/// Changes to a relayed answer.
pub(super) struct Edits {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

impl Edits {
    pub(super) fn read(given: &ext_response) -> Result<Self, &'static str> {
        let status = if given.status == 0 {
            None
        } else {
            Some(status_of(given.status)?)
        };
        Ok(Self {
            status,
            headers: edited(slice_of(given.headers, given.header_count))?,
        })
    }

    pub(super) fn apply(self, response: &mut Response<Body>) {
        if let Some(status) = self.status {
            *response.status_mut() = status;
        }
        apply(self.headers, response.headers_mut());
    }
}

/// Headers to set, or to remove where the value is absent.
fn edited(fields: &[ext_field]) -> Result<Vec<(HeaderName, Option<HeaderValue>)>, &'static str> {
    let mut edits = Vec::with_capacity(fields.len());
    for field in fields {
        if field.value.ptr.is_null() {
            let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
            edits.push((name, None));
        } else {
            let (name, value) = header_of(field)?;
            edits.push((name, Some(value)));
        }
    }
    edits.retain(|(name, _)| is_settable(name));
    Ok(edits)
}

/// Sets each name's lines in place of those that were there; several lines of one name stay several.
fn apply(edits: Vec<(HeaderName, Option<HeaderValue>)>, headers: &mut HeaderMap) {
    for (index, (name, _)) in edits.iter().enumerate() {
        if !edits[..index].iter().any(|(before, _)| before == name) {
            headers.remove(name);
        }
    }
    for (name, value) in edits {
        if let Some(value) = value {
            headers.append(name, value);
        }
    }
}
