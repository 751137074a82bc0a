//! A Directus beside the host, in each of the three ways: by its secret, by asking it, and by reading its database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::identity_support::{database, execute, me};
use crate::support::upstream::{Call, Line, Then};
use crate::support::{Answer, Extension, Host, SECRET, Upstream, eventually};

const USER: &str = "9b3c3a5e-1111-4000-8000-000000000000";
const ROLE: &str = "1f0d9a52-2222-4000-8000-000000000000";
const PARENT: &str = "1f0d9a52-3333-4000-8000-000000000000";

fn jwt(secret: &str, more: Value) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut claims = json!({"id": USER, "role": ROLE, "app_access": true, "admin_access": false,
        "iat": now, "exp": now + 900, "iss": "directus"});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "typ": "JWT"})),
        part(&claims)
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
        text.as_bytes(),
    );
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn answer(status: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Answers as a Directus 12 does; "slow" waits for `go`.
fn directus(go: Arc<AtomicBool>) -> Upstream {
    Upstream::start(move |call: &Call, line: &mut Line| {
        let token = call
            .header("authorization")
            .unwrap_or_default()
            .strip_prefix("Bearer ")
            .unwrap_or_default();
        if token == "slow" {
            while !go.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let is_admin = token.starts_with("admin");
        let bytes = match token {
            "broken" => answer("502 Bad Gateway", &json!({})),
            "garbage" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>".to_vec(),
            token if token.starts_with("bad") => answer(
                "401 Unauthorized",
                &json!({"errors": [{"message": "Invalid user credentials.", "extensions": {"code": "INVALID_CREDENTIALS"}}]}),
            ),
            _ => match call.target.split('?').next().unwrap_or_default() {
                "/users/me" => answer(
                    "200 OK",
                    &json!({"data": {"id": USER, "role": {"id": ROLE, "name": "Editor"}}}),
                ),
                "/roles/me" => answer(
                    "200 OK",
                    &json!({"data": [{"id": ROLE, "name": "Editor"}, {"id": PARENT, "name": "Staff"}]}),
                ),
                "/policies/me/globals" => answer(
                    "200 OK",
                    &json!({"data": {"app_access": true, "admin_access": is_admin, "enforce_tfa": false}}),
                ),
                _ => answer("404 Not Found", &json!({})),
            },
        };
        line.send(bytes);
        Then::Keep
    })
}

fn beside(directus: &Upstream, more: &str) -> Host {
    Host::plan()
        .extensions(&[&Extension::probe()])
        .config(&format!(
            "[auth.directus]\nurl = \"{}\"\n{more}",
            directus.url()
        ))
        .start()
}

fn extensions(host: &Host, token: &str) -> Answer {
    host.get(&format!("/extensions\nAuthorization: Bearer {token}"))
}

#[test]
fn way_1_what_the_directus_signed_is_believed() {
    let host = Host::with(&[&Extension::probe()]);
    let token = jwt(SECRET, json!({}));
    assert_eq!(
        me(&host, &token).json()["data"],
        json!({"id": USER, "role": ROLE})
    );
    assert_eq!(
        extensions(&host, &jwt(SECRET, json!({"admin_access": 1}))).status,
        200
    );
    let session = jwt(SECRET, json!({"session": "s"}));
    assert_eq!(
        host.get(&format!(
            "/users/me\nCookie: directus_session_token={session}"
        ))
        .status,
        200
    );
    assert_eq!(
        me(&host, &jwt("another", json!({}))).error(),
        (403, "INVALID_TOKEN".into())
    );
}

#[test]
fn way_2_an_unknown_token_is_shown_to_the_directus_alone_and_once() {
    let directus = directus(Arc::default());
    let host = beside(&directus, "cache_ms = 60_000");
    for _ in 0..3 {
        assert_eq!(me(&host, "token").json()["data"]["role"], ROLE);
    }
    let calls = directus.calls();
    assert_eq!(calls.len(), 3, "one look-up is three questions");
    assert_eq!(calls[0].target, "/users/me?fields=id,role.id,role.name");
    for call in &calls {
        assert_eq!(call.header("authorization"), Some("Bearer token"));
        assert_eq!(call.header("x-forwarded-for"), Some("127.0.0.1"));
        assert!(!call.target.contains("token") && call.header("cookie").is_none());
    }
    assert_eq!(extensions(&host, "token").status, 403);
    assert_eq!(extensions(&host, "admin").status, 200);
    assert_eq!(
        me(&host, "bad").error(),
        (401, "INVALID_CREDENTIALS".into())
    );
    // One of the Directus that signs with another secret.
    assert_eq!(me(&host, &jwt("another", json!({}))).status, 200);
}

#[test]
fn way_2_an_answer_ends_with_its_time() {
    let directus = directus(Arc::default());
    let host = beside(&directus, "cache_ms = 50");
    assert_eq!(me(&host, "token").status, 200);
    eventually("the Directus is asked again", || {
        me(&host, "token").status == 200 && directus.calls().len() > 3
    });
}

#[test]
fn way_2_many_who_ask_for_one_token_ask_once() {
    let go = Arc::new(AtomicBool::new(false));
    let directus = directus(go.clone());
    let host = beside(&directus, "cache_ms = 60_000");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| me(&host, "slow").status))
            .collect();
        directus.wait_for_calls(1);
        std::thread::sleep(Duration::from_millis(200));
        go.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(statuses, [200; 20]);
    assert_eq!(directus.calls().len(), 3);
}

#[test]
fn way_2_a_directus_that_cannot_tell_is_503_and_nobody_gets_through() {
    let directus = directus(Arc::default());
    let host = beside(&directus, "timeout_ms = 300");
    for token in ["slow", "broken", "garbage"] {
        let began = Instant::now();
        let answer = host.get(&format!("/probe/seen\nAuthorization: Bearer {token}"));
        assert_eq!(
            answer.error(),
            (503, "SERVICE_UNAVAILABLE".into()),
            "{token}"
        );
        assert!(answer.header("retry-after").is_some());
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    host.said("the Directus cannot tell who asks");
    let log = serde_json::to_string(&host.log()).unwrap();
    assert!(!log.contains("slow") && !log.contains("garbage\""), "{log}");
    let dead = Host::plan()
        .config("[auth.directus]\nurl = \"http://127.0.0.1:1\"")
        .start();
    assert_eq!(me(&dead, "token").status, 503);
    // Whoever is known without it still is.
    assert_eq!(me(&dead, crate::support::ADMIN_TOKEN).status, 200);
    assert_eq!(dead.get("/server/ping").status, 200);
}

/// The columns of Directus 11 and 12, as its migrations leave them.
fn schema(is_postgres: bool) -> Vec<String> {
    let (uuid, time, json) = if is_postgres {
        ("uuid", "timestamp with time zone", "json")
    } else {
        ("char(36)", "datetime", "json")
    };
    vec![
        format!(
            "CREATE TABLE directus_roles (id {uuid} NOT NULL PRIMARY KEY, name varchar(100) NOT NULL, icon varchar(64) NOT NULL DEFAULT 'supervised_user_circle', description text, parent {uuid} REFERENCES directus_roles(id))"
        ),
        format!(
            "CREATE TABLE directus_users (id {uuid} NOT NULL PRIMARY KEY, first_name varchar(50), last_name varchar(50), email varchar(128) UNIQUE, password varchar(255), location varchar(255), title varchar(50), description text, tags {json}, avatar {uuid}, language varchar(255), tfa_secret varchar(255), status varchar(16) NOT NULL DEFAULT 'active', role {uuid} REFERENCES directus_roles(id), token varchar(255) UNIQUE, last_access {time}, last_page varchar(255), provider varchar(128) NOT NULL DEFAULT 'default', external_identifier varchar(255), auth_data {json}, email_notifications boolean DEFAULT true, appearance varchar(255), theme_dark varchar(255), theme_light varchar(255), theme_light_overrides {json}, theme_dark_overrides {json}, text_direction varchar(255) NOT NULL DEFAULT 'auto')"
        ),
        format!(
            "CREATE TABLE directus_sessions (token varchar(64) NOT NULL PRIMARY KEY, \"user\" {uuid} REFERENCES directus_users(id), expires {time} NOT NULL, ip varchar(255), user_agent text, share {uuid}, origin varchar(255), next_token varchar(64))"
        ),
        format!(
            "CREATE TABLE directus_policies (id {uuid} NOT NULL PRIMARY KEY, name varchar(100) NOT NULL, icon varchar(64) NOT NULL DEFAULT 'badge', description text, ip_access text, enforce_tfa boolean NOT NULL DEFAULT false, admin_access boolean NOT NULL DEFAULT false, app_access boolean NOT NULL DEFAULT false)"
        ),
        format!(
            "CREATE TABLE directus_access (id {uuid} NOT NULL PRIMARY KEY, role {uuid} REFERENCES directus_roles(id), \"user\" {uuid} REFERENCES directus_users(id), policy {uuid} NOT NULL REFERENCES directus_policies(id), sort integer)"
        ),
    ]
}

fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

#[test]
fn way_3_the_database_of_a_directus_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}/directus.db", folder.path().display());
    let postgres = database();
    let is_postgres = postgres.is_some();
    let (url, to_write) = match postgres {
        Some(url) => (url.clone(), url),
        None => (file.clone(), format!("{file}?mode=rwc")),
    };
    let run = |statements: &[String]| {
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        execute(&to_write, &statements);
    };
    run(&schema(is_postgres));
    let at = |seconds: i64| {
        if is_postgres {
            format!("now() + interval '{seconds} seconds'")
        } else {
            format!("(CAST(strftime('%s', 'now') AS INTEGER) + {seconds}) * 1000")
        }
    };
    let user = |number: u32, role: &str, token: &str, status: &str| {
        format!(
            "INSERT INTO directus_users (id, email, role, token, status) VALUES ('{}', 'u{number}@x', {role}, '{token}', '{status}')",
            id(number)
        )
    };
    let (staff, editor) = (format!("'{PARENT}'"), format!("'{ROLE}'"));
    run(&[
        format!("INSERT INTO directus_roles (id, name) VALUES ({staff}, 'Staff')"),
        format!(
            "INSERT INTO directus_roles (id, name, parent) VALUES ({editor}, 'Editor', {staff})"
        ),
        user(1, &editor, "of-editor", "active"),
        user(2, &editor, "of-suspended", "suspended"),
        user(3, "NULL", "of-nobody", "active"),
        user(4, "NULL", "of-admin-by-user", "active"),
        user(5, "NULL", "of-admin-elsewhere", "active"),
        format!(
            "INSERT INTO directus_policies (id, name, app_access, admin_access, ip_access) VALUES ('{}', 'App', true, false, NULL), ('{}', 'Admin', true, true, NULL), ('{}', 'Admin inside', true, true, '10.0.0.0/8,nonsense')",
            id(91),
            id(92),
            id(93)
        ),
        format!(
            "INSERT INTO directus_access (id, role, policy) VALUES ('{}', {staff}, '{}')",
            id(81),
            id(91)
        ),
        format!(
            "INSERT INTO directus_access (id, \"user\", policy) VALUES ('{}', '{}', '{}'), ('{}', '{}', '{}')",
            id(82),
            id(4),
            id(92),
            id(83),
            id(5),
            id(93)
        ),
        format!(
            "INSERT INTO directus_sessions (token, \"user\", expires) VALUES ('good', '{}', {}), ('over', '{}', {})",
            id(1),
            at(600),
            id(1),
            at(-600)
        ),
    ]);
    let host = Host::plan()
        .extensions(&[&Extension::probe()])
        .config("[auth]\ntrust_proxy = true\n[extensions.probe]\nrequire = [\"Staff\"]\n[auth.directus]\ncache_ms = 200")
        .dotenv("AUTH_DIRECTUS_DATABASE_URL", &url)
        .start();
    assert_eq!(
        me(&host, "of-editor").json()["data"],
        json!({"id": id(1), "role": ROLE})
    );
    let staff_only = |token: &str| {
        host.get(&format!("/probe/seen\nAuthorization: Bearer {token}"))
            .status
    };
    assert_ne!(
        staff_only("of-editor"),
        403,
        "the role above counts, by its name"
    );
    assert_eq!(staff_only("of-nobody"), 403);
    assert_eq!(extensions(&host, "of-editor").status, 403);
    assert_eq!(extensions(&host, "of-admin-by-user").status, 200);
    assert_eq!(extensions(&host, "of-admin-elsewhere").status, 403);
    assert_eq!(
        extensions(&host, "of-admin-elsewhere\nX-Forwarded-For: 10.1.1.1").status,
        200
    );
    assert_eq!(me(&host, "of-suspended").status, 401);
    assert_eq!(me(&host, "of-somebody-else").status, 401);
    assert_eq!(host.get("/users/me?access_token=of-editor%00").status, 401);
    // A session's end is seen, and so is a user's.
    let session = |name: &str, user: String| jwt(SECRET, json!({"id": user, "session": name}));
    let good = session("good", id(1));
    assert_eq!(me(&host, &good).status, 200);
    for token in [
        session("over", id(1)),
        session("none", id(1)),
        session("good", id(3)),
        jwt(SECRET, json!({"id": id(2)})),
        jwt(SECRET, json!({"id": id(7)})),
        jwt(SECRET, json!({"id": "no uuid"})),
    ] {
        assert_eq!(
            me(&host, &token).error(),
            (401, "INVALID_CREDENTIALS".into())
        );
    }
    assert_eq!(
        me(
            &host,
            &jwt(SECRET, json!({"id": id(1), "admin_access": true}))
        )
        .status,
        200
    );
    assert_eq!(
        extensions(
            &host,
            &jwt(SECRET, json!({"id": id(1), "admin_access": true}))
        )
        .status,
        403,
        "rights are those of the database"
    );
    run(&[
        "DELETE FROM directus_sessions WHERE token = 'good'".to_owned(),
        format!(
            "UPDATE directus_users SET status = 'suspended' WHERE id = '{}'",
            id(4)
        ),
    ]);
    eventually("the session has ended", || me(&host, &good).status == 401);
    eventually("the user is suspended", || {
        me(&host, "of-admin-by-user").status == 401
    });
}

#[test]
fn way_3_a_database_of_something_else_ends_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}/other.db", folder.path().display());
    execute(&format!("{file}?mode=rwc"), &["CREATE TABLE a (b)"]);
    let ended = Host::plan()
        .dotenv("AUTH_DIRECTUS_DATABASE_URL", &file)
        .fail();
    assert_eq!(ended.code, Some(1));
    let line = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        line.contains("other.db of a Directus 11 or later"),
        "{line}"
    );
}
