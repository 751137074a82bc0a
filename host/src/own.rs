//! The host's own routes: whether it lives, what it is, and which extensions it serves.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_http::header::{self, HeaderValue};
use actix_http::{Method, Response, StatusCode};
use extension_api::abi::{EXT_ABI_MAJOR, EXT_ABI_MINOR};
use serde_json::{Value, json};

use crate::accountability::Accountability;
use crate::extension::{Extension, library};
use crate::registry::{Entry, State, whole};
use crate::reply::{Body, Refusal, json_with, refuse, text};
use crate::server::Host;

/// The answer of the host's own routes; `None` where the path is none of them.
pub fn serve(
    host: &Host,
    method: &Method,
    path: &str,
    who: &Accountability,
) -> Option<Response<Body>> {
    let answer = match path {
        "/server/ping" => || text(StatusCode::OK, "pong"),
        "/server/health" => return on_get(method, || health(host)),
        "/server/info" => return on_get(method, || info(host, who)),
        "/extensions" | "/extensions/" if who.admin => return on_get(method, || extensions(host)),
        "/extensions" | "/extensions/" => return Some(refuse(&Refusal::Forbidden)),
        _ => return None,
    };
    on_get(method, answer)
}

fn on_get(method: &Method, answer: impl FnOnce() -> Response<Body>) -> Option<Response<Body>> {
    const ALLOW: &str = "GET, HEAD, OPTIONS";
    Some(match *method {
        Method::GET | Method::HEAD => answer(),
        Method::OPTIONS => options(ALLOW),
        _ => refuse(&Refusal::MethodNotAllowed {
            allow: ALLOW.to_owned(),
        }),
    })
}

/// The answer to OPTIONS.
pub fn options(allow: &str) -> Response<Body> {
    let mut response = Response::with_body(StatusCode::OK, Body::Empty);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// "ok" where everything that was found is served, "warn" where something is refused: the host itself works in both cases.
fn health(host: &Host) -> Response<Body> {
    let status = if host.registry.load().refused().next().is_some() {
        "warn"
    } else {
        "ok"
    };
    json_with(StatusCode::OK, &json!({"status": status}))
}

/// What everybody may know, and for administrators what helps them.
fn info(host: &Host, who: &Accountability) -> Response<Body> {
    let mut data = json!({"name": "extension-host"});
    if who.admin {
        let registry = host.registry.load();
        data["version"] = env!("CARGO_PKG_VERSION").into();
        data["abi"] = format!("{EXT_ABI_MAJOR}.{EXT_ABI_MINOR}").into();
        data["uptime_s"] = host.started.elapsed().as_secs().into();
        data["workers"] = host.worker_count().into();
        data["extensions"] =
            json!({"mounted": registry.mounted().count(), "refused": registry.refused().count()});
        data["libraries_mapped"] = library::mapped().into();
    }
    json_with(StatusCode::OK, &json!({"data": data}))
}

fn extensions(host: &Host) -> Response<Body> {
    let registry = host.registry.load();
    let data: Vec<Value> = registry.entries.iter().flat_map(entry).collect();
    json_with(StatusCode::OK, &json!({"data": data}))
}

/// What there is to say of an extension folder: one value for each of its endpoints, or one that says why there is none.
pub fn entry(entry: &Entry) -> Vec<Value> {
    match &entry.state {
        State::Mounted(extension) => described(extension, "mounted"),
        State::Disabled(extension) => described(extension, "disabled"),
        State::Off(switch) => vec![json!({
            "id": null,
            "folder": entry.folder,
            "version": null,
            "routes": [],
            "state": "disabled",
            "enabled_by": switch,
            "error": null,
        })],
        State::Refused(error) => vec![json!({
            "id": null,
            "folder": entry.folder,
            "version": null,
            "routes": [],
            "state": "refused",
            "error": {"code": error.code(), "message": whole(error.as_ref())},
        })],
    }
}

fn described(extension: &Arc<Extension>, state: &str) -> Vec<Value> {
    let describe = |endpoint: &crate::extension::instance::Endpoint| {
        let route = |route: &crate::extension::routes::Route| json!({"method": route.method.as_ref().map_or("*", Method::as_str), "pattern": route.pattern});
        json!({
            "id": endpoint.id,
            "folder": extension.name(),
            "name": extension.manifest.name,
            "version": extension.manifest.version,
            "description": extension.manifest.description,
            "routes": endpoint.routes.iter().map(route).collect::<Vec<_>>(),
            "state": state,
            "error": null,
            "sdk": extension.sdk,
            "generation": extension.generation,
            "loaded_at": rfc3339(extension.loaded_at),
            "requests": {"in_flight": extension.context.requests(), "total": extension.context.served()},
        })
    };
    extension.endpoints.iter().map(describe).collect()
}

fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    time::OffsetDateTime::from_unix_timestamp(since.as_secs() as i64)
        .ok()
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_default()
}
