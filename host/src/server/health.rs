//! Whether the host can serve: `GET /server/health` for those who watch it, in Directus's shape, and `GET /server/ready` for
//! what stands in front and asks whether to send requests here.
//!
//! Everybody may ask, so that an answer shows nothing but a status to all but administrators, and costs next to nothing: the
//! databases are looked at once in a second, however many ask, and nobody waits longer than that for one that does not answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_http::header::{self, HeaderValue};
use actix_http::{Response, StatusCode};
use futures_core::future::LocalBoxFuture;
use serde_json::{Map, Value, json};

use super::host::Host;
use crate::extension::registry::State;
use crate::http::body::Body;
use crate::http::reply::json_with;
use crate::store::Health;

/// The type of an answer about health, as Directus gives it.
const HEALTH: HeaderValue = HeaderValue::from_static("application/health+json; charset=utf-8");

/// How well something is; the worst of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    /// It is as it should be.
    Ok,
    /// Something is wrong, and callers are served all the same.
    Warn,
    /// Callers cannot be served.
    Error,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Error => "error",
        }
    }
}

/// Whether all is well: 503 where callers cannot be served. Administrators are told what was checked.
pub fn health(host: &Arc<Host>, is_admin: bool) -> LocalBoxFuture<'static, Response<Body>> {
    let host = host.clone();
    Box::pin(async move {
        let mut checks = checks_of_databases(&host).await;
        checks.push(refused_extensions(&host));
        checks.push(blocked_workers(&host));
        let worst = worst(&checks);
        let mut data = json!({"status": worst.as_str()});
        if is_admin {
            data["releaseId"] = env!("CARGO_PKG_VERSION").into();
            let checks = checks.into_iter();
            let checks: Map<String, Value> = checks
                .map(|check| (check.name.clone(), json!([check.value()])))
                .collect();
            data["checks"] = checks.into();
        }
        answer(worst, &data)
    })
}

/// Whether requests may be sent here: 503 while callers cannot be served, and from the moment on that the host was told to stop.
pub fn ready(host: &Arc<Host>) -> LocalBoxFuture<'static, Response<Body>> {
    let host = host.clone();
    Box::pin(async move {
        let is_stopping = host.is_stopping.load(Ordering::Relaxed);
        let status = match is_stopping || worst(&checks_of_databases(&host).await) == Status::Error
        {
            true => Status::Error,
            false => Status::Ok,
        };
        answer(status, &json!({"status": status.as_str()}))
    })
}

/// Something that was looked at.
struct Check {
    name: String,
    status: Status,
    component: &'static str,
    /// What was measured, and its unit.
    observed: Option<(Value, &'static str)>,
    /// What is wrong.
    output: Option<String>,
}

impl Check {
    fn value(self) -> Value {
        let mut value = json!({"status": self.status.as_str(), "componentType": self.component});
        if let Some((observed, unit)) = self.observed {
            value["observedValue"] = observed;
            value["observedUnit"] = unit.into();
        }
        if let Some(output) = self.output {
            value["output"] = output.into();
        }
        value
    }
}

fn worst(checks: &[Check]) -> Status {
    let all = checks.iter().map(|check| check.status);
    all.max().unwrap_or(Status::Ok)
}

async fn checks_of_databases(host: &Host) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, database) in host.authority.databases() {
        let Health { read, change } = database.health().await;
        let check = |what: &str, status, observed, output| Check {
            name: format!("{name}:{what}"),
            status,
            component: "datastore",
            observed,
            output,
        };
        checks.push(match read {
            Ok(took) => {
                let took_ms = took.as_micros() as f64 / 1_000.0;
                check(
                    "responseTime",
                    Status::Ok,
                    Some((took_ms.into(), "ms")),
                    None,
                )
            }
            Err(cause) => check("responseTime", Status::Error, None, Some(cause)),
        });
        // Tokens count on; only signing in does not work.
        checks.extend(change.map(|change| match change {
            Ok(()) => check("writable", Status::Ok, None, None),
            Err(cause) => check("writable", Status::Warn, None, Some(cause)),
        }));
    }
    checks
}

fn refused_extensions(host: &Host) -> Check {
    let registry = host.catalog.registry.load();
    let refused = registry
        .entries
        .iter()
        .filter(|entry| matches!(entry.state, State::Refused(_)));
    let names: Vec<&str> = refused.map(|entry| entry.folder.as_str()).collect();
    let output = (!names.is_empty()).then(|| format!("refused: {}", names.join(", ")));
    counted("extensions:refused", "extensions", names.len(), output)
}

fn blocked_workers(host: &Host) -> Check {
    let workers = &host.catalog.workers;
    let blocked = workers.blocked();
    let count = workers.count();
    let output = (blocked > 0)
        .then(|| format!("{blocked} of {count} workers are blocked by extensions; see the log"));
    counted("workers:blocked", "workers", blocked, output)
}

/// A count that should be 0.
fn counted(name: &str, unit: &'static str, count: usize, output: Option<String>) -> Check {
    Check {
        name: name.to_owned(),
        status: if count == 0 { Status::Ok } else { Status::Warn },
        component: "component",
        observed: Some((count.into(), unit)),
        output,
    }
}

fn answer(status: Status, data: &Value) -> Response<Body> {
    let code = match status {
        Status::Ok | Status::Warn => StatusCode::OK,
        Status::Error => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = json_with(code, data);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HEALTH);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::extension::copies::Copies;
    use crate::identity::Authority;
    use crate::platform::env::Env;
    use crate::server::host::Supervision;

    #[test]
    fn a_host_that_was_told_to_stop_is_well_and_not_ready() {
        let config = Config::default();
        let authority = Authority::without_store(&config.auth).unwrap();
        let host = Host::new(
            config,
            Env::default(),
            authority,
            Copies::temporary,
            Supervision::default(),
        )
        .unwrap();
        let runtime = actix_rt::Runtime::new().unwrap();
        let ask = || {
            let (health, ready) = (health(&host, false), ready(&host));
            runtime.block_on(async { (health.await.status(), ready.await.status()) })
        };
        assert_eq!(ask(), (StatusCode::OK, StatusCode::OK));
        host.is_stopping.store(true, Ordering::Relaxed);
        assert_eq!(ask(), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        host.end();
    }
}
