//! The host's own routes: whether it lives, what it is, and which extensions it serves. Whether it is well is [`health`]'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_http::header::{self, HeaderValue};
use actix_http::{Method, Response, StatusCode};
use extension_api::abi::{EXT_ABI_MAJOR, EXT_ABI_MINOR};
use futures_core::future::LocalBoxFuture;
use serde_json::{Value, json};

use crate::extension::error::{LoadError, Reason};
use crate::extension::library;
use crate::extension::loaded::{Endpoint, Extension};
use crate::extension::registry::{FolderEntry, State};
use crate::extension::reload_thread::ReloadError;
use crate::http::body::Body;
use crate::http::reply::{Refusal, errors, json_with, refuse, text};
use crate::identity::Accountability;
use crate::platform::error_chain::error_chain;
use crate::platform::threads::COMPUTING;
use crate::server::health;
use crate::server::host::Host;

/// An answer of the host's own.
pub enum Served {
    /// It is there.
    Now(Response<Body>),
    /// It takes a while.
    Pending(LocalBoxFuture<'static, Response<Body>>),
}

/// Serves the host's own routes; `None` where the path is none of them.
pub fn serve(
    host: &Arc<Host>,
    method: &Method,
    path: &str,
    who: &Accountability,
) -> Option<Served> {
    let now = match path {
        "/server/ping" => on(method, &Method::GET, || text(StatusCode::OK, "pong")),
        "/server/health" if is_get(method) => {
            return Some(Served::Pending(health::health(host, who.admin)));
        }
        "/server/ready" if is_get(method) => return Some(Served::Pending(health::ready(host))),
        "/server/health" | "/server/ready" => {
            on(method, &Method::GET, || refuse(&Refusal::Internal))
        }
        "/server/info" => on(method, &Method::GET, || info(host, who)),
        "/extensions" | "/extensions/" if who.admin => {
            if matches!(*method, Method::GET | Method::HEAD) {
                let host = host.clone();
                return Some(Served::Pending(Box::pin(async move {
                    compute_hashes(&host).await;
                    extensions(&host)
                })));
            }
            on(method, &Method::GET, || extensions(host))
        }
        "/extensions" | "/extensions/" => refuse(&Refusal::Forbidden),
        _ => {
            let id = path.strip_prefix("/extensions/")?.strip_suffix("/reload")?;
            if !who.admin {
                refuse(&Refusal::Forbidden)
            } else if *method == Method::POST {
                return Some(Served::Pending(Box::pin(reload(
                    host.clone(),
                    id.to_owned(),
                ))));
            } else {
                on(method, &Method::POST, || refuse(&Refusal::Internal))
            }
        }
    };
    Some(Served::Now(now))
}

/// Answers where the method is the served one; HEAD is served like GET.
fn on(method: &Method, served: &Method, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    let allow = if *served == Method::GET {
        "GET, HEAD, OPTIONS".to_owned()
    } else {
        format!("{served}, OPTIONS")
    };
    if method == served || (*served == Method::GET && is_get(method)) {
        answer()
    } else if *method == Method::OPTIONS {
        options(&allow)
    } else {
        refuse(&Refusal::MethodNotAllowed { allow })
    }
}

fn is_get(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Loads an extension anew, whether its files have changed or not, and answers with what came of it.
async fn reload(host: Arc<Host>, id: String) -> Response<Body> {
    let path = format!("/extensions/{id}/reload");
    let meant = {
        let registry = host.catalog.registry.load();
        let mounted = registry
            .find(&id)
            .map(|mount| mount.extension.name().to_owned());
        let refused = || registry.entry(&id).map(|entry| entry.folder.clone());
        mounted.map(|folder| (folder, id.clone())).or_else(|| {
            let folder = refused().or_else(|| host.catalog.quarantine.folder_of(&id))?;
            Some((folder.clone(), folder))
        })
    };
    let Some((folder, wanted)) = meant else {
        return refuse(&Refusal::NotFound { path });
    };
    match host.reloads.refresh(Some(wanted)).await {
        Ok(_) => {}
        // It has been logged.
        Err(ReloadError::Failed) => return refuse(&Refusal::Internal),
        Err(waiting) => {
            let message = waiting.to_string();
            return errors(
                StatusCode::SERVICE_UNAVAILABLE,
                &message,
                "SERVICE_UNAVAILABLE",
            );
        }
    }
    compute_hashes(&host).await;
    let registry = host.catalog.registry.load();
    match registry.entry(&folder) {
        None => refuse(&Refusal::NotFound { path }),
        Some(entry) => match (&entry.state, &entry.rejected) {
            (State::Refused(error), _) | (_, Some(error)) => errors(
                StatusCode::UNPROCESSABLE_ENTITY,
                &error_chain(error.as_ref()),
                error.code(),
            ),
            _ => json_with(StatusCode::OK, &json!({"data": self::entry(&host, entry)})),
        },
    }
}

/// The answer to OPTIONS.
pub fn options(allow: &str) -> Response<Body> {
    let mut response = Response::with_body(StatusCode::OK, Body::Empty);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// What everybody may know, and for administrators what helps them.
fn info(host: &Host, who: &Accountability) -> Response<Body> {
    let mut data = json!({"name": "extension-host"});
    if who.admin {
        let registry = host.catalog.registry.load();
        data["version"] = env!("CARGO_PKG_VERSION").into();
        data["abi"] = format!("{EXT_ABI_MAJOR}.{EXT_ABI_MINOR}").into();
        data["uptime_s"] = host.started.elapsed().as_secs().into();
        data["workers"] = host.catalog.workers.count().into();
        data["extensions"] =
            json!({"mounted": registry.mounted().count(), "refused": registry.refused().count()});
        data["libraries_mapped"] = library::mapped().into();
    }
    json_with(StatusCode::OK, &json!({"data": data}))
}

/// Has the hashes of libraries computed that nobody has asked for yet, off the workers. One look at a time: the next finds them.
async fn compute_hashes(host: &Arc<Host>) {
    let registry = host.catalog.registry.load_full();
    let is_missing = |extension: &&Arc<Extension>| !extension.has_content_sha256();
    if registry.loaded().find(is_missing).is_none() {
        return;
    }
    let _one_at_a_time = host.hashing.lock().await;
    let compute = move || {
        for extension in registry.loaded() {
            extension.content_sha256();
        }
    };
    // Err: the system gives no thread, which has been logged; the answer goes without what is missing.
    let _ = COMPUTING.run(compute).await;
}

fn extensions(host: &Host) -> Response<Body> {
    let registry = host.catalog.registry.load();
    let data: Vec<Value> = registry
        .entries
        .iter()
        .flat_map(|known| entry(host, known))
        .collect();
    json_with(StatusCode::OK, &json!({"data": data}))
}

/// What there is to say of an extension folder: one value for each of its endpoints, or one that says why there is none.
pub fn entry(host: &Host, entry: &FolderEntry) -> Vec<Value> {
    match &entry.state {
        State::Mounted(extension) => described(host, entry, extension, "mounted"),
        State::Disabled(extension) => described(host, entry, extension, "disabled"),
        State::Off(switch) => vec![json!({
            "id": null,
            "folder": entry.folder,
            "version": null,
            "routes": [],
            "state": "disabled",
            "enabled_by": switch,
            "error": null,
        })],
        State::Refused(error) if matches!(error.reason, Reason::Quarantined { .. }) => {
            quarantined(entry, error)
        }
        State::Refused(error) => vec![json!({
            "id": null,
            "folder": entry.folder,
            "version": null,
            "routes": [],
            "state": "refused",
            "error": {"code": error.code(), "message": error_chain(error.as_ref())},
        })],
    }
}

/// One value for each id under which it was served.
fn quarantined(entry: &FolderEntry, error: &LoadError) -> Vec<Value> {
    let Reason::Quarantined { ids, since, .. } = &error.reason else {
        return Vec::new();
    };
    let since = rfc3339(UNIX_EPOCH + Duration::from_secs(*since));
    let of = |id: Option<&String>| {
        json!({
            "id": id,
            "folder": entry.folder,
            "version": null,
            "routes": [],
            "state": "quarantined",
            "since": since,
            "error": {"code": error.code(), "message": error_chain(error)},
        })
    };
    match ids.as_slice() {
        [] => vec![of(None)],
        ids => ids.iter().map(|id| of(Some(id))).collect(),
    }
}

fn described(
    host: &Host,
    entry: &FolderEntry,
    extension: &Arc<Extension>,
    state: &str,
) -> Vec<Value> {
    let describe = |endpoint: &Endpoint| {
        let route = |route: &crate::extension::routes::Route| json!({"method": route.method.as_ref().map_or("*", Method::as_str), "pattern": route.pattern});
        json!({
            "id": endpoint.id,
            "folder": extension.name(),
            "name": extension.manifest.name,
            "version": extension.manifest.version,
            "description": extension.manifest.description,
            "routes": endpoint.routes.iter().map(route).collect::<Vec<_>>(),
            "state": state,
            // Why the newest build is not the one that is served.
            "error": entry.rejected.as_ref().map(|error| json!({"code": error.code(), "message": error_chain(error.as_ref())})),
            "warnings": extension.warnings,
            "sdk": extension.sdk,
            "generation": extension.generation,
            "content_sha256": extension.content_sha256(),
            "loaded_at": rfc3339(extension.loaded_at),
            "requests": {"in_flight": extension.context.in_flight.requests(), "total": extension.context.in_flight.served()},
            "requests_on_older_generations": host.catalog.requests_on_older(extension.name()),
            "libraries_mapped": extension.generation,
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
