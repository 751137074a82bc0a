//! UNSAFE: how an extension answers a request.
#![expect(
    unsafe_code,
    reason = "the functions of the ABI take raw pointers; the header says what they must point at"
)]

use std::hint::cold_path;
use std::mem::MaybeUninit;

use actix_http::header::HeaderMap;
use actix_http::{Response, StatusCode};
use bytes::Bytes;
use extension_api::abi::*;

use super::answer_headers::{Declared, Edits, set_headers, status_of};
use super::ffi_in::{lossy, of_fetched, of_request, sized};
use super::relayed::relayed;
use super::start_operation::{on_worker, staged};
use super::whole_body::whole_body;
use super::{buffers, request};
use crate::http::body::Body;
use crate::http::reply::{self, Failure, REQUEST_ID, Refusal};
use crate::platform::log::Level;
use crate::platform::log_limit;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::fatal_signals::extension_here;
use crate::runtime::worker::current;

pub(super) unsafe extern "C" fn respond(
    request: ext_request,
    response: *const ext_response,
) -> ext_status {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the header makes it a response, lent for the call.
    let Some(response) = (unsafe { sized("respond", response, &mut room) }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { buffers::take(response.body) };
    let Some(request) = of_request(request) else {
        cold_path();
        return stale("respond");
    };
    answer_with(request, response, body)
}

pub(super) unsafe extern "C" fn stream(
    request: ext_request,
    head: *const ext_response,
) -> ext_status {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the header makes it a response, lent for the call.
    let Some(response) = (unsafe { sized("stream", head, &mut room) }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { buffers::take(response.body) };
    let Some(request) = of_request(request) else {
        return stale("stream");
    };
    if !body.is_empty() {
        return reject(request, "the head of a stream must have no body");
    }
    let mut headers = HeaderMap::new();
    let made = status_of(response.status)
        .and_then(|status| Ok((status, set_headers(&mut headers, response)?)));
    let (status, declared) = match made {
        Ok(made) => made,
        Err(rule) => return reject(request, rule),
    };
    if let Err(status) = request.claim(true) {
        return late(request, status);
    }
    request.worker().run(move |_| {
        request.answer(with_headers(
            status,
            headers,
            Body::Declared(declared.length),
        ));
    });
    EXT_OK
}

pub(super) unsafe extern "C" fn write(
    request: ext_request,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given by the rules of the header, also where the call fails.
    let chunk = unsafe { buffers::take(chunk) };
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    let write = move |worker, completion| request.write(worker, chunk, completion);
    on_worker(request.worker(), completion, || request.hold(), write)
}

pub(super) unsafe extern "C" fn end(request: ext_request, status: ext_status) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    if request.worker().is_current() {
        return current()
            .map(|worker| request.end(worker, status == EXT_OK))
            .map_or(EXT_GONE, |ended| {
                ended.map_or_else(|status| staged("end", status), |()| EXT_OK)
            });
    }
    request.worker().run(move |worker| {
        let _ = request
            .end(worker, status == EXT_OK)
            .map_err(|status| staged("end", status));
    });
    EXT_OK
}

pub(super) unsafe extern "C" fn fail(request: ext_request, error: *const ext_error) -> ext_status {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the header makes it an error, lent for the call.
    let Some(error) = (unsafe { sized("fail", error, &mut room) }) else {
        return EXT_INVALID;
    };
    let Some(request) = of_request(request) else {
        return stale("fail");
    };
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    let failure = Failure {
        status: u16::try_from(error.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        code: Some(lossy(&error.code)).filter(|code| !code.is_empty()),
        message: lossy(&error.message),
        cause: Some(lossy(&error.cause)).filter(|cause| !cause.is_empty()),
        is_panic: error.flags & EXT_ERROR_PANIC != 0,
    };
    if failure.is_panic {
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        contract_checks::note(Rule::DoesNotPanic, || {
            format!("{}: {cause}", named(request))
        });
    }
    if !(400..600).contains(&error.status) {
        contract_checks::note(Rule::ValidAnswers, || {
            format!(
                "{}: `fail` was given the status {}",
                named(request),
                error.status
            )
        });
    }
    request.worker().run(move |worker| {
        request.log_failure(&failure);
        let is_admin = request
            .read()
            .is_some_and(|shared| shared.accountability().admin);
        request.answer(reply::fail(&failure, is_admin));
        request.finish(worker);
    });
    EXT_OK
}

pub(super) unsafe extern "C" fn relay(
    request: ext_request,
    fetched: ext_fetched,
    edits: *const ext_response,
) -> ext_status {
    let answer = of_fetched(fetched);
    // Given in every case, so that it ends here in every case.
    let discard = move || {
        if let Some(answer) = answer {
            answer
                .worker()
                .run(move |worker| drop(answer.close(worker)));
        }
    };
    let Some(request) = of_request(request) else {
        discard();
        return stale("relay");
    };
    let mut room = MaybeUninit::uninit();
    // SAFETY: NULL, or a response, lent for the call.
    let edits = unsafe { sized("relay", edits, &mut room) };
    let edits = edits.map(Edits::read).transpose();
    let (answer, edits) = match (answer, edits) {
        (Some(answer), Ok(edits)) => (answer, edits),
        (None, _) => return reject(request, "the answer that was to be relayed is over"),
        (_, Err(rule)) => {
            discard();
            return reject(request, rule);
        }
    };
    if let Err(status) = request.claim(false) {
        discard();
        return late(request, status);
    }
    request.worker().run(move |worker| {
        // An answer that was fetched on another worker cannot move here: its connection belongs there.
        let response = match answer.close(worker) {
            Some((status, headers, Some(body))) => {
                let mut response = relayed(status, headers, body, request.hand_flight_on());
                if let Some(edits) = edits {
                    edits.apply(&mut response);
                }
                response
            }
            _ => {
                discard();
                invalid(
                    request,
                    "only an answer that was fetched on the request's worker can be relayed",
                )
            }
        };
        request.answer(response);
        request.finish(worker);
    });
    EXT_OK
}

pub(super) unsafe extern "C" fn give_up(request: ext_request) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    request.give_up();
    EXT_OK
}

fn with_headers(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::with_body(status, body);
    *response.headers_mut() = headers;
    response
}

/// Answers whole with what an extension gave: directly on the request's worker, else as a job of it.
fn answer_with(request: request::Handle, given: &ext_response, body: Bytes) -> ext_status {
    let status = match status_of(given.status) {
        Ok(status) => status,
        Err(rule) => return reject(request, rule),
    };
    if !request.worker().is_current() {
        cold_path();
        return answer_from_elsewhere(request, status, given, body);
    }
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    // Straight into the answer's own header map.
    let mut response = Response::with_body(status, whole_body(request, body));
    let headers = response.headers_mut();
    let made = set_headers(headers, given);
    match made {
        Ok(Declared { has_id: true, .. }) => {}
        Ok(_) => headers.append(REQUEST_ID, request.id().header_value()),
        Err(rule) => {
            cold_path();
            response = reply::with_id(invalid(request, rule), request.id())
        }
    }
    if let Some(worker) = current() {
        request.conclude(worker, response);
    }
    made.map_or(EXT_INVALID, |_| EXT_OK)
}

#[inline(never)]
fn answer_from_elsewhere(
    request: request::Handle,
    status: StatusCode,
    given: &ext_response,
    body: Bytes,
) -> ext_status {
    let mut headers = HeaderMap::new();
    match set_headers(&mut headers, given) {
        Ok(_) => match request.claim(false) {
            Ok(()) => {
                request.worker().run(move |worker| {
                    let body = whole_body(request, body);
                    request.answer(with_headers(status, headers, body));
                    request.finish(worker);
                });
                EXT_OK
            }
            Err(status) => late(request, status),
        },
        Err(rule) => reject(request, rule),
    }
}

/// Answers with a 500 in place of what breaks a rule.
fn reject(request: request::Handle, rule: &'static str) -> ext_status {
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    request.worker().run(move |worker| {
        request.answer(invalid(request, rule));
        request.finish(worker);
    });
    EXT_INVALID
}

/// What the client gets in place of an answer that breaks the rules.
fn invalid(request: request::Handle, rule: &str) -> Response<Body> {
    contract_checks::note(Rule::ValidAnswers, || format!("{}: {rule}", named(request)));
    request.log(
        Level::Error,
        &format!("the extension's answer was not sent: {rule}"),
    );
    reply::refuse(&Refusal::Internal)
}

/// An answer that came too late, or twice.
fn late(request: request::Handle, status: ext_status) -> ext_status {
    if status == EXT_ANSWERED {
        contract_checks::note(Rule::AnswersOnce, || {
            format!("{} was answered twice", named(request))
        });
    }
    request.worker().run(move |worker| {
        if status == EXT_GONE {
            request.log(
                Level::Debug,
                "the extension answered after the request was over",
            );
            request.finish(worker);
        } else {
            request.log(
                Level::Warn,
                "the extension answered a request twice; the second answer was discarded",
            );
        }
    });
    status
}

/// A handle whose time is over. Whose it was is not known any more, but who uses it.
fn stale(call: &str) -> ext_status {
    contract_checks::note(Rule::LetsFinishedGo, || {
        format!("`{call}` was called with a finished request")
    });
    let name = extension_here();
    let name = name.as_deref().unwrap_or("unknown");
    log_limit::event(
        (name, call),
        Level::Warn,
        "an extension used a request that it had finished before",
        &[("extension", &name), ("call", &call)],
    );
    EXT_GONE
}

/// A request, for a report.
fn named(request: request::Handle) -> String {
    match request.read() {
        Some(shared) => shared.line(),
        None => "a finished request".to_owned(),
    }
}
