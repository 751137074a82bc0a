//! The routes to sign in, in Directus's shapes: `POST /auth/login`, `/auth/refresh`, `/auth/logout`, and `GET /users/me`.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_http::header::{self, HeaderMap, HeaderValue};
use actix_http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::boundary::request::{Incoming, below_mount};
use crate::config;
use crate::http::body::Body;
use crate::http::client_connection::ClientConnection;
use crate::http::facts::content_length;
use crate::http::reply::{self, Refusal, json_with, refuse};
use crate::identity::answers::unauthorized;
use crate::identity::attempts::Wait;
use crate::identity::credential::{self, REFRESH_COOKIE, SESSION_COOKIE};
use crate::identity::jwt::Signed;
use crate::identity::local_users::known;
use crate::identity::{Accountability, AuthError, Authority, Denial as Denied};
use crate::platform::error_chain::error_chain;
use crate::platform::log::{self, Level};
use crate::platform::log_limit;
use crate::platform::threads::COMPUTING;
use crate::server::admin;
use crate::server::server_worker::ServerWorker;
use crate::store::sessions::Refreshed;
use crate::store::users::User;
use crate::store::{Store, StoreError, digest_of, password, random_text, seconds};

/// How long a body may be: an address, a password and a token fit many times.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a password waits for its turn to be checked.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a path is served here.
pub fn serves(path: &str) -> bool {
    path.starts_with("/auth/") || path.trim_end_matches('/') == "/users/me"
}

/// Answers a request for such a path.
pub async fn serve(
    worker: &ServerWorker,
    mut request: Request,
    connection: &Rc<ClientConnection>,
    who: Arc<Accountability>,
) -> Response<Body> {
    let target = below_mount(request.uri(), 0);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let authority = &worker.host.authority;
    let path = path.trim_end_matches('/');
    if path == "/users/me" {
        return match *request.method() {
            Method::GET | Method::HEAD => me(authority, &who, query).await,
            Method::OPTIONS => admin::options("GET, HEAD, OPTIONS"),
            _ => not_by_that_method("GET, HEAD, OPTIONS"),
        };
    }
    // Without a store there is nobody to sign in.
    let (Some(store), "/auth/login" | "/auth/refresh" | "/auth/logout") = (authority.store(), path)
    else {
        let path = path.to_owned();
        return refuse(&Refusal::NotFound { path });
    };
    match *request.method() {
        Method::POST => {}
        Method::OPTIONS => return admin::options("POST, OPTIONS"),
        _ => return not_by_that_method("POST, OPTIONS"),
    }
    let sign_in = SignIn {
        authority,
        store,
        settings: &worker.host.config.auth,
        from: request
            .peer_addr()
            .map(|peer| authority.address(&request.head().headers, peer.ip())),
    };
    let path = path.to_owned();
    let payload = request.take_payload();
    let headers = &request.head().headers;
    let answer = match read_body(headers, payload, connection).await {
        Ok(body) => match path.as_str() {
            "/auth/login" => sign_in.log_in(&body).await,
            "/auth/refresh" => sign_in.refresh(&body, headers).await,
            _ => sign_in.log_out(&body, headers).await,
        },
        Err(problem) => Err(problem),
    };
    answer.unwrap_or_else(Problem::answer)
}

/// Where one signs in.
struct SignIn<'a> {
    authority: &'a Authority,
    store: &'a Store,
    settings: &'a config::Auth,
    from: Option<IpAddr>,
}

impl SignIn<'_> {
    async fn log_in(&self, body: &Fields) -> Result<Response<Body>, Problem> {
        let email = body.text("email")?.ok_or_else(|| required("email"))?;
        let password = body.text("password")?.ok_or_else(|| required("password"))?;
        let mode = body.mode()?.unwrap_or(Mode::Json);
        if email.len() > 255 || password.len() > password::BYTES_MAX {
            return Err(Problem::Denied(Denied::InvalidCredentials));
        }
        let attempts = self.authority.attempts();
        attempts
            .begin(email, self.from, Instant::now())
            .map_err(Problem::TooMany)?;
        let found = {
            let email = email.to_owned();
            let found = self
                .store
                .read(|db| async move { db.user_by_email(&email).await });
            found.await?
        };
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
        let is_right = self.check(password.to_owned(), hash).await?;
        let user = match user {
            Some(user) if is_right && user.is_active() => user,
            _ => {
                let from = self.from.map(|from| from.to_string()).unwrap_or_default();
                log::info("a sign-in failed", &[("ip", &from)]);
                return Err(Problem::Denied(Denied::InvalidCredentials));
            }
        };
        known(&user).at(self.from).map_err(Problem::Denied)?;
        attempts.succeeded(email, self.from);
        let (token, expires) = self.new_token(mode)?;
        let (id, digest) = (user.id.clone(), digest_of(token.as_bytes()));
        self.store
            .change(|db| async move { db.begin_session(&id, digest, expires).await })
            .await?;
        self.signed_in(&user, mode, &token)
    }

    async fn refresh(&self, body: &Fields, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
        let (old, mode) = self.session(body, headers)?;
        let (new, expires) = self.new_token(mode)?;
        let (old, digest) = (digest_of(old.as_bytes()), digest_of(new.as_bytes()));
        let refreshed = self
            .store
            .change(|db| async move { db.refresh_session(old, digest, expires).await })
            .await?;
        match refreshed {
            Refreshed::Renewed(user) => self.signed_in(&user, mode, &new),
            Refreshed::Unknown => Err(Problem::Ended(mode)),
            Refreshed::Reused => {
                self.authority.forget();
                let from = self.from.map(|from| from.to_string()).unwrap_or_default();
                log_limit::event(
                    (
                        "a refresh token was used twice: its session has been ended",
                        "",
                    ),
                    Level::Warn,
                    "a refresh token was used twice: its session has been ended",
                    &[("ip", &from)],
                );
                Err(Problem::Ended(mode))
            }
        }
    }

    async fn log_out(&self, body: &Fields, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
        let (token, mode) = self.session(body, headers)?;
        let digest = digest_of(token.as_bytes());
        self.store
            .change(|db| async move { db.end_session(digest).await })
            .await?;
        self.authority.forget();
        let mut response = Response::with_body(StatusCode::NO_CONTENT, Body::Empty);
        self.clear_cookie(mode, &mut response);
        Ok(response)
    }

    /// Checks a password off the event loop, and not more at once than there are turns.
    async fn check(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        let permit = self.authority.password_permits().acquire();
        let permit = actix_rt::time::timeout(PERMIT_TIMEOUT, permit).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Problem::Denied(Denied::Unavailable));
        };
        let checked = COMPUTING.run(move || password::verify(&password, hash.as_deref()));
        // The pool has logged that the system gives no thread.
        checked
            .await
            .map_err(|_| Problem::Denied(Denied::Unavailable))
    }

    /// The session that a request is about, and how its tokens travel.
    fn session(&self, body: &Fields, headers: &HeaderMap) -> Result<(String, Mode), Problem> {
        let sent = body.text("refresh_token")?;
        let in_cookie = |name| credential::cookie_named(headers, name);
        let mode = match body.mode()? {
            Some(mode) => mode,
            None if sent.is_some() => Mode::Json,
            None if in_cookie(REFRESH_COOKIE).is_some() => Mode::Cookie,
            None if in_cookie(SESSION_COOKIE).is_some() => Mode::Session,
            None => Mode::Json,
        };
        let token = match mode {
            Mode::Json => sent.map(str::to_owned),
            Mode::Cookie => in_cookie(REFRESH_COOKIE),
            Mode::Session => in_cookie(SESSION_COOKIE).and_then(|token| self.session_of(&token)),
        };
        let token = token.filter(|token| !token.is_empty() && token.len() <= 255);
        let missing = || {
            Problem::Payload(
                "The refresh token is required in either the payload or cookie".to_owned(),
            )
        };
        token.map(|token| (token, mode)).ok_or_else(missing)
    }

    /// What a session's cookie names.
    fn session_of(&self, cookie: &str) -> Option<String> {
        match self
            .authority
            .jwt()
            .read(cookie.as_bytes(), SystemTime::now())
        {
            Signed::Good(claimed) => claimed.who.session.as_deref().map(str::to_owned),
            _ => None,
        }
    }

    /// A new refresh token, or what a session's cookie names, and when it ends.
    fn new_token(&self, mode: Mode) -> Result<(String, i64), Problem> {
        let ttl = match mode {
            Mode::Json | Mode::Cookie => self.settings.refresh_token_ttl_ms,
            Mode::Session => self.settings.session_ttl_ms,
        };
        let expires = seconds(SystemTime::now()).saturating_add((ttl / 1000) as i64);
        Ok((random_text()?, expires))
    }

    fn signed_in(&self, user: &User, mode: Mode, token: &str) -> Result<Response<Body>, Problem> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            data: Data<'a>,
        }
        #[derive(Serialize)]
        struct Data<'a> {
            expires: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            refresh_token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            access_token: Option<&'a str>,
        }
        let expires = match mode {
            Mode::Json | Mode::Cookie => self.settings.access_token_ttl_ms,
            Mode::Session => self.settings.session_ttl_ms,
        };
        let mut known = known(user);
        if mode == Mode::Session {
            Arc::make_mut(&mut known.who).session = Some(token.into());
        }
        let ttl = Duration::from_millis(expires);
        let access = self.authority.jwt().sign(&known, SystemTime::now(), ttl);
        let access =
            access.ok_or_else(|| Problem::Failed("a token cannot be signed".to_owned()))?;
        let data = Data {
            expires,
            refresh_token: (mode == Mode::Json).then_some(token),
            access_token: (mode != Mode::Session).then_some(access.as_str()),
        };
        let mut response = json_with(StatusCode::OK, &Envelope { data });
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match mode {
            Mode::Json => {}
            Mode::Cookie => {
                let ttl = self.settings.refresh_token_ttl_ms;
                self.set_cookie(headers, REFRESH_COOKIE, token, ttl);
            }
            Mode::Session => {
                let ttl = self.settings.session_ttl_ms;
                self.set_cookie(headers, SESSION_COOKIE, &access, ttl);
            }
        }
        Ok(response)
    }

    fn set_cookie(&self, headers: &mut HeaderMap, name: &str, value: &str, ttl_ms: u64) {
        let secure = if self.settings.cookie_secure {
            "; Secure"
        } else {
            ""
        };
        let cookie = format!(
            "{name}={value}; Max-Age={}; Path=/; HttpOnly; SameSite=Lax{secure}",
            ttl_ms / 1000
        );
        // Tokens are base64url with dots, which every cookie may hold.
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }

    fn clear_cookie(&self, mode: Mode, response: &mut Response<Body>) {
        match mode {
            Mode::Json => {}
            Mode::Cookie => self.set_cookie(response.headers_mut(), REFRESH_COOKIE, "", 0),
            Mode::Session => self.set_cookie(response.headers_mut(), SESSION_COOKIE, "", 0),
        }
    }
}

/// How tokens travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Both in the answer's body.
    Json,
    /// The refresh token in a cookie.
    Cookie,
    /// A session's token in a cookie, and nothing else.
    Session,
}

/// Who asks, as far as the store or the token knows.
async fn me(authority: &Authority, who: &Accountability, query: &str) -> Response<Body> {
    let Some(id) = who.user.clone() else {
        return refuse(&Refusal::Forbidden);
    };
    let user = match authority.store() {
        Some(store) => {
            let id = id.clone();
            let found = store.read(|db| async move { db.user_by_id(&id).await });
            match found.await {
                Ok(user) => user,
                Err(cause) => return Problem::from(cause).answer(),
            }
        }
        None => None,
    };
    let role = match user.as_ref().and_then(|user| user.role.as_ref()) {
        Some(role) => json!({"id": role.id, "name": role.name}),
        None => match &who.role {
            Some(role) => json!({"id": **role, "name": who.role_names.first().map(|name| &**name)}),
            None => Value::Null,
        },
    };
    let mut data = Map::new();
    data.insert("id".to_owned(), json!(&*id));
    if let Some(user) = &user {
        data.insert("email".to_owned(), json!(user.email));
        data.insert("status".to_owned(), json!(user.status));
    }
    data.insert("role".to_owned(), role);
    json_with(StatusCode::OK, &json!({"data": pick(data, query)}))
}

/// Keeps the fields that `fields=` names, as in Directus: a role is its id, and an object where its own fields are asked for.
fn pick(mut data: Map<String, Value>, query: &str) -> Map<String, Value> {
    let named: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| matches!(&**name, "fields" | "fields[]"))
        .flat_map(|(_, list)| list.split(',').map(str::to_owned).collect::<Vec<_>>())
        .filter(|field| !field.is_empty())
        .collect();
    let has = |name: &str| named.iter().any(|field| field == name);
    let all = named.is_empty() || has("*") || has("*.*");
    let of_role = |name: &str| has("role.*") || has("*.*") || has(&format!("role.{name}"));
    if let Some(Value::Object(role)) = data.get("role") {
        let picked: Map<String, Value> = role
            .iter()
            .filter(|(name, _)| of_role(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let role = if picked.is_empty() {
            role["id"].clone()
        } else {
            Value::Object(picked)
        };
        data.insert("role".to_owned(), role);
    }
    let of_role = named.iter().any(|field| field.starts_with("role."));
    data.retain(|name, _| all || has(name) || (name == "role" && of_role));
    data
}

/// The members of a body that is a JSON object.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::Payload(format!("\"{name}\" must be a string"))),
        }
    }

    fn mode(&self) -> Result<Option<Mode>, Problem> {
        match self.text("mode")? {
            None => Ok(None),
            Some("json") => Ok(Some(Mode::Json)),
            Some("cookie") => Ok(Some(Mode::Cookie)),
            Some("session") => Ok(Some(Mode::Session)),
            Some(_) => Err(Problem::Payload(
                "\"mode\" must be one of [json, cookie, session]".to_owned(),
            )),
        }
    }
}

fn required(name: &str) -> Problem {
    Problem::Payload(format!("\"{name}\" is required"))
}

/// Reads a body that is a JSON object, or none.
async fn read_body(
    headers: &HeaderMap,
    payload: actix_http::Payload,
    connection: &Rc<ClientConnection>,
) -> Result<Fields, Problem> {
    let length = content_length(headers);
    let mut body = Incoming::new(payload, length, BODY_BYTES_MAX, connection);
    let mut bytes = Vec::new();
    let all = async {
        while let Some(chunk) = std::future::poll_fn(|cx| body.poll_chunk(cx)).await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(_) if body.is_too_large() => {
                    return Err(Problem::Refused(Refusal::ContentTooLarge));
                }
                Err(_) => return Err(Problem::Refused(Refusal::BadBody)),
            }
        }
        Ok(())
    };
    let arrived = actix_rt::time::timeout(BODY_TIMEOUT, all).await;
    arrived.unwrap_or(Err(Problem::Refused(Refusal::BadBody)))?;
    if bytes.is_empty() {
        return Ok(Fields(Map::new()));
    }
    // Another type could be sent by a form on any web page, without its user knowing.
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = content_type.is_some_and(|content_type| {
        let essence = content_type.split(|byte| *byte == b';').next();
        essence.is_some_and(|essence| {
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/json")
        })
    });
    if !is_json {
        return Err(Problem::Payload(
            "The body must be JSON, with the content type application/json".to_owned(),
        ));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        _ => Err(Problem::Payload(
            "The body must be a JSON object".to_owned(),
        )),
    }
}

fn not_by_that_method(allow: &str) -> Response<Body> {
    refuse(&Refusal::MethodNotAllowed {
        allow: allow.to_owned(),
    })
}

/// Why nobody was signed in.
enum Problem {
    /// The request is not understood.
    Payload(String),
    /// The host's own answer.
    Refused(Refusal),
    /// It is not let in.
    Denied(Denied),
    /// There is no such session any more: its cookie goes, too.
    Ended(Mode),
    /// Too many failures.
    TooMany(Wait),
    /// Something failed that the caller can do nothing about; for the log.
    Failed(String),
}

impl From<StoreError> for Problem {
    fn from(cause: StoreError) -> Problem {
        // A database that does not answer is logged by the store, once for all who ask.
        if !cause.is_fault() {
            log::error("nobody was signed in", &[("cause", &error_chain(&cause))]);
        }
        Problem::Denied(Denied::Unavailable)
    }
}

impl Problem {
    fn answer(self) -> Response<Body> {
        let denied = |denial, clear_cookie| {
            unauthorized(&AuthError {
                denial,
                clear_cookie,
            })
        };
        match self {
            Problem::Payload(reason) => reply::errors(
                StatusCode::BAD_REQUEST,
                &format!("Invalid payload. {reason}."),
                "INVALID_PAYLOAD",
            ),
            Problem::Refused(refusal) => refuse(&refusal),
            Problem::Denied(refusal) => denied(refusal, false),
            Problem::Ended(mode) => {
                let mut response = denied(Denied::InvalidCredentials, mode == Mode::Session);
                if mode == Mode::Cookie {
                    response.headers_mut().append(
                        header::SET_COOKIE,
                        HeaderValue::from_static(
                            "directus_refresh_token=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax",
                        ),
                    );
                }
                response
            }
            Problem::TooMany(Wait(wait)) => {
                let seconds = wait.as_secs().max(1);
                let mut response = reply::errors(
                    StatusCode::TOO_MANY_REQUESTS,
                    &format!("Too many requests, retry after {seconds}s."),
                    "REQUESTS_EXCEEDED",
                );
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                response
            }
            Problem::Failed(what) => {
                log_limit::event((&what, ""), Level::Error, &what, &[]);
                refuse(&Refusal::Internal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(query: &str) -> Value {
        let data = json!({"id": "i", "email": "e", "role": {"id": "r", "name": "n"}});
        let Value::Object(data) = data else { panic!() };
        Value::Object(pick(data, query))
    }

    #[test]
    fn fields_are_picked_as_in_directus() {
        assert_eq!(picked(""), json!({"id": "i", "email": "e", "role": "r"}));
        assert_eq!(picked("fields=*"), picked(""));
        assert_eq!(picked("a=b&fields=id"), json!({"id": "i"}));
        assert_eq!(
            picked("fields=id,role.id,role.name,nothing"),
            json!({"id": "i", "role": {"id": "r", "name": "n"}})
        );
        assert_eq!(
            picked("fields[]=role.name&fields[]=id"),
            picked("fields%5B%5D=role.name%2Cid")
        );
        assert_eq!(picked("fields=*,role.name")["role"], json!({"name": "n"}));
    }
}
