//! Who asks, over HTTP: what callers get for each credential, and that no extension or upstream ever sees one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Extension, Host, SECRET, Upstream};

const USER: &str = "9b3c3a5e-1111-4000-8000-000000000000";
const ROLE: &str = "1f0d9a52-2222-4000-8000-000000000000";

fn host() -> Host {
    Host::with(&[&Extension::probe()])
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock").as_secs()
}

/// What Directus puts into the token of a login.
fn claims() -> Value {
    json!({
        "id": USER, "role": ROLE, "app_access": true, "admin_access": false,
        "iat": now(), "exp": now() + 900, "iss": "directus",
    })
}

/// The claims with one more, or another value of one.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn signed(header: &Value, claims: &Value, algorithm: hmac::Algorithm, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(
        &hmac::Key::new(algorithm, secret.as_bytes()),
        text.as_bytes(),
    );
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn token(claims: &Value) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    signed(&header, claims, hmac::HMAC_SHA256, SECRET)
}

/// Asks with a bearer token.
#[track_caller]
fn bearer(host: &Host, token: &str) -> Answer {
    host.get(&format!("/probe/seen\nAuthorization: Bearer {token}"))
}

/// What the extension saw under a name.
fn seen<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}=");
    let lines = answer.text().lines();
    lines
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

#[track_caller]
fn is_anonymous(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(seen(answer, "user"), [""; 0], "{}", answer.text());
    assert_eq!(seen(answer, "role"), [""; 0]);
    assert_eq!(
        (seen(answer, "admin"), seen(answer, "app")),
        (vec!["0"], vec!["0"])
    );
}

#[track_caller]
fn is_admin(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(seen(answer, "admin"), ["1"], "{}", answer.text());
}

#[track_caller]
fn is_refused(answer: &Answer, status: u16, code: &str, message: &str) {
    assert_eq!(answer.error(), (status, code.to_owned()), "{answer:?}");
    assert_eq!(answer.message(), message);
}

#[track_caller]
fn is_401(answer: &Answer) {
    is_refused(
        answer,
        401,
        "INVALID_CREDENTIALS",
        "Invalid user credentials.",
    );
}

#[test]
fn without_a_token_that_counts_the_caller_is_anonymous() {
    let host = host();
    is_anonymous(&host.get("/probe/seen"));
    for value in [
        format!("Token {ADMIN_TOKEN}"),
        format!("Basic {ADMIN_TOKEN}"),
        ADMIN_TOKEN.to_owned(),
        format!("Bearer  {ADMIN_TOKEN}"),
        format!("Bearer {ADMIN_TOKEN} more"),
        "Bearer".to_owned(),
    ] {
        is_anonymous(&host.get(&format!("/probe/seen\nAuthorization: {value}")));
    }
    is_anonymous(&host.get("/probe/seen?access_token="));
    is_anonymous(&host.get("/probe/seen\nCookie: directus_session_token="));
}

#[test]
fn each_request_of_a_connection_is_asked_who_it_is() {
    let host = host();
    let nobody = "GET /probe/seen HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let with = |header: &str| nobody.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
    let admin = with(&format!("Authorization: Bearer {ADMIN_TOKEN}"));
    let cookie = with(&format!("Cookie: directus_session_token={ADMIN_TOKEN}"));
    let wrong = with("Authorization: Bearer x");
    let mut connection = host.connect();
    for _ in 0..3 {
        for (request, is) in [
            (&nobody, is_anonymous as fn(&Answer)),
            (&admin, is_admin),
            (&admin, is_admin),
            (&wrong, is_401),
            (&nobody, is_anonymous),
            (&nobody, is_anonymous),
            (&cookie, is_admin),
        ] {
            connection.send(request);
            is(&connection.answer());
        }
    }
    // All at once, in one piece and in two that end with a head.
    let mut connection = host.connect();
    for pieces in [
        vec![format!("{admin}{nobody}{admin}")],
        vec![admin.clone(), format!("{nobody}{admin}")],
        vec![nobody.clone()],
    ] {
        connection.send(&nobody);
        is_anonymous(&connection.answer());
        let count = pieces.concat().matches("GET ").count();
        for piece in &pieces {
            connection.send(piece);
        }
        for at in 0..count {
            let answer = connection.answer();
            match at % 2 == 0 && count > 1 {
                true => is_admin(&answer),
                false => is_anonymous(&answer),
            }
        }
    }
}

#[test]
fn a_request_is_not_taken_for_another_whose_bytes_look_the_same() {
    let host = host();
    let nobody = "GET /probe/seen HTTP/1.1\r\nHost: a\r\n\r\n";
    let authorization = format!("Authorization: Bearer {ADMIN_TOKEN}\r\n");
    let admin = format!("GET /probe/seen HTTP/1.1\r\n{authorization}Host: a\r\n\r\n");

    // The second half of a head is what follows the first line of another.
    let mut connection = host.connect();
    connection.send(nobody);
    is_anonymous(&connection.answer());
    connection.send(format!("GET /probe/seen HTTP/1.1\r\n{authorization}"));
    std::thread::sleep(Duration::from_millis(200));
    connection.send("X-Other: b\r\nHost: a\r\n\r\n");
    is_admin(&connection.answer());

    // A request comes while another waits behind one that takes its time; they have come in one piece, or in two.
    for at_once in [true, false] {
        let gate = host.folder().join(format!("go-{at_once}"));
        let mut connection = host.connect();
        let hold = format!(
            "GET /probe/hold HTTP/1.1\r\nHost: a\r\nX-Gate: {}\r\n\r\n",
            gate.display()
        );
        match at_once {
            true => connection.send(format!("{hold}{nobody}")),
            false => connection.send(&hold),
        };
        std::thread::sleep(Duration::from_millis(200));
        if !at_once {
            connection.send(nobody);
            std::thread::sleep(Duration::from_millis(200));
        }
        connection.send(&admin);
        std::thread::sleep(Duration::from_millis(200));
        std::fs::write(&gate, "").expect("a file");
        assert_eq!(connection.answer().text(), "held");
        is_anonymous(&connection.answer());
        is_admin(&connection.answer());
        connection.send(&admin);
        is_admin(&connection.answer());
    }
}

#[test]
fn a_wrong_token_is_401_on_every_route() {
    let host = host();
    for path in [
        "/probe/seen",
        "/probe",
        "/nowhere",
        "/server/ping",
        "/extensions",
        "/",
    ] {
        is_401(&host.get(&format!("{path}\nAuthorization: Bearer wrong")));
        is_401(&host.get(&format!("{path}?access_token=wrong")));
        let by_cookie = host.get(&format!("{path}\nCookie: directus_session_token=wrong"));
        is_401(&by_cookie);
        let cleared = by_cookie
            .header("set-cookie")
            .expect("the cookie is cleared");
        assert!(cleared.starts_with("directus_session_token=;"), "{cleared}");
    }
    for query in [
        format!("access_token={ADMIN_TOKEN}&access_token={ADMIN_TOKEN}"),
        format!("access_token[]={ADMIN_TOKEN}"),
        format!("access_token%5B%5D={ADMIN_TOKEN}"),
        format!("access_token[a]={ADMIN_TOKEN}"),
    ] {
        is_401(&host.get(&format!("/probe/seen?{query}")));
    }
    is_401(&bearer(&host, &token(&with("iss", json!("other")))));
    is_401(&bearer(&host, &"x".repeat(20_000)));
}

#[test]
fn the_body_of_401_is_that_of_directus_byte_for_byte() {
    assert_eq!(
        bearer(&host(), "wrong").text(),
        r#"{"errors":[{"message":"Invalid user credentials.","extensions":{"code":"INVALID_CREDENTIALS"}}]}"#
    );
}

#[test]
fn an_expired_token_is_said_to_be_expired() {
    let expired = token(&with("exp", json!(now() - 10)));
    is_refused(
        &bearer(&host(), &expired),
        401,
        "TOKEN_EXPIRED",
        "Token expired.",
    );
}

#[test]
fn a_token_that_was_not_signed_with_the_secret_is_403() {
    let host = host();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let none = json!({"alg": "none", "typ": "JWT"});
    let other = signed(&header, &claims(), hmac::HMAC_SHA256, "another secret");
    let mut unsigned = signed(&none, &claims(), hmac::HMAC_SHA256, SECRET);
    let good = token(&claims());
    let (rest, _) = good.rsplit_once('.').expect("three parts");
    for forged in [other, unsigned.clone(), format!("{rest}.")] {
        is_refused(
            &bearer(&host, &forged),
            403,
            "INVALID_TOKEN",
            "Invalid token.",
        );
    }
    unsigned.truncate(unsigned.rfind('.').expect("three parts") + 1);
    is_refused(
        &bearer(&host, &unsigned),
        403,
        "INVALID_TOKEN",
        "Invalid token.",
    );
    // An administrator by another hand's claims.
    let swapped = token(&with("admin_access", json!(true)));
    let claims_of_admin = swapped.split('.').nth(1).expect("three parts");
    let tag = good.rsplit('.').next().expect("three parts");
    let header = good.split('.').next().expect("three parts");
    let forged = format!("{header}.{claims_of_admin}.{tag}");
    is_refused(
        &bearer(&host, &forged),
        403,
        "INVALID_TOKEN",
        "Invalid token.",
    );
}

#[test]
fn only_hs256_with_an_end_is_accepted() {
    let host = host();
    let header = json!({"alg": "HS512", "typ": "JWT"});
    let hs512 = signed(&header, &claims(), hmac::HMAC_SHA512, SECRET);
    let endless = token(&without("exp"));
    for refused in [hs512, endless] {
        let answer = bearer(&host, &refused);
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
}

#[test]
fn a_query_token_and_a_bearer_together_are_400() {
    let answer = host().get(&format!(
        "/probe/seen?access_token={ADMIN_TOKEN}\nAuthorization: Bearer {ADMIN_TOKEN}"
    ));
    assert_eq!(answer.error(), (400, "INVALID_PAYLOAD".into()));
}

#[test]
fn header_and_query_win_over_the_cookie() {
    let host = host();
    let cookie = "Cookie: directus_session_token=wrong";
    is_admin(&host.get(&format!(
        "/probe/seen\n{cookie}\nAuthorization: Bearer {ADMIN_TOKEN}"
    )));
    is_admin(&host.get(&format!("/probe/seen?access_token={ADMIN_TOKEN}\n{cookie}")));
}

#[test]
fn a_token_counts_in_each_of_its_places() {
    let host = host();
    for scheme in ["Bearer", "bearer", "BEARER"] {
        is_admin(&host.get(&format!(
            "/probe/seen\nAuthorization: {scheme} {ADMIN_TOKEN}"
        )));
    }
    is_admin(&host.get(&format!("/probe/seen?access_token={ADMIN_TOKEN}")));
    is_admin(&host.get(&format!(
        "/probe/seen\nCookie: directus_session_token={ADMIN_TOKEN}"
    )));
}

#[test]
fn a_login_token_says_who_asks() {
    let host = host();
    let answer = bearer(&host, &token(&with("session", json!("the-session"))));
    assert_eq!(seen(&answer, "user"), [USER]);
    assert_eq!(
        (seen(&answer, "role"), seen(&answer, "roles")),
        (vec![ROLE], vec![ROLE])
    );
    assert_eq!(
        (seen(&answer, "admin"), seen(&answer, "app")),
        (vec!["0"], vec!["1"])
    );
    assert_eq!(seen(&answer, "session"), ["the-session"]);
    assert_eq!(seen(&answer, "ip"), ["127.0.0.1"]);

    let admin = bearer(&host, &token(&with("admin_access", json!(true))));
    is_admin(&admin);
    let without_role = bearer(&host, &token(&with("role", Value::Null)));
    assert_eq!(seen(&without_role, "user"), [USER]);
    assert_eq!(
        (seen(&without_role, "role"), seen(&without_role, "roles")),
        (vec![], vec![])
    );
    is_anonymous(&bearer(&host, &token(&without("id"))));
}

#[test]
fn client_and_site_are_known_where_they_say_so() {
    let host = host();
    let answer = host
        .get("/probe/seen\nUser-Agent: me/1\nOrigin: https://a.example\nX-Forwarded-For: 1.2.3.4");
    assert_eq!(
        (seen(&answer, "user_agent"), seen(&answer, "origin")),
        (vec!["me/1"], vec!["https://a.example"])
    );
    assert_eq!(
        seen(&answer, "ip"),
        ["127.0.0.1"],
        "nobody's X-Forwarded-For counts"
    );
    let host = Host::plan()
        .extensions(&[&Extension::probe()])
        .dotenv("IP_TRUST_PROXY", "loopback")
        .start();
    let answer = host.get("/probe/seen\nX-Forwarded-For: 6.6.6.6, 1.2.3.4");
    assert_eq!(seen(&answer, "ip"), ["1.2.3.4"]);
}

#[test]
fn the_operator_says_who_may_call_an_extension() {
    let plan = |require: &str| {
        Host::plan()
            .config(&format!("[extensions.probe]\nrequire = {require}"))
            .extensions(&[&Extension::probe()])
            .start()
    };
    let user = token(&claims());
    for (require, anonymous, known) in [
        ("\"user\"".to_owned(), 403, 200),
        ("\"admin\"".to_owned(), 403, 403),
        (format!("[\"{ROLE}\"]"), 403, 200),
        ("[\"another-role\"]".to_owned(), 403, 403),
    ] {
        let host = plan(&require);
        let answer = host.get("/probe/seen");
        assert_eq!(answer.error(), (anonymous, "FORBIDDEN".into()), "{require}");
        assert_eq!(bearer(&host, &user).status, known, "{require}");
        is_admin(&bearer(&host, ADMIN_TOKEN));
    }
}

// ---- What nobody sees ----

#[test]
fn no_credential_is_visible_to_an_extension() {
    let host = host();
    for (target, lines) in [
        (
            "/probe/seen",
            format!("Authorization: Bearer {ADMIN_TOKEN}"),
        ),
        (
            "/probe/seen",
            format!("Cookie: directus_session_token={ADMIN_TOKEN}"),
        ),
        (
            "/probe/seen",
            format!(
                "Authorization: Bearer {ADMIN_TOKEN}\nReferer: https://a.example/?access_token={ADMIN_TOKEN}"
            ),
        ),
        (
            &format!("/probe/seen?access_token={ADMIN_TOKEN}"),
            "Accept: */*".to_owned(),
        ),
        (
            &format!("/probe/seen?a=b&access%5Ftoken={ADMIN_TOKEN}&c"),
            "Accept: */*".to_owned(),
        ),
        (
            &format!("/probe/seen?a=b&%61ccess_token={ADMIN_TOKEN}"),
            "Accept: */*".to_owned(),
        ),
    ] {
        let answer = host.get(&format!("{target}\n{lines}"));
        is_admin(&answer);
        let text = answer.text();
        assert!(!text.contains(ADMIN_TOKEN), "{target} {lines}:\n{text}");
        for name in [
            "authorization",
            "access_token",
            "directus_session_token",
            "access%5Ftoken",
        ] {
            assert!(!text.to_lowercase().contains(name), "{name}:\n{text}");
        }
    }
    // A scheme that is none of this host's is no business of an extension either, unless its manifest says so.
    let basic = host.get("/probe/seen\nAuthorization: Basic dTpw");
    assert!(!basic.text().contains("dTpw"), "{}", basic.text());
    let probe = Extension::probe().more_manifest("[request]\nbasic_auth = true");
    let basic = Host::with(&[&probe]).get("/probe/seen\nAuthorization: Basic dTpw");
    assert!(
        basic.text().contains("header authorization: Basic dTpw"),
        "{}",
        basic.text()
    );
}

#[test]
fn what_is_no_credential_stays_byte_for_byte() {
    let host = host();
    let query = "a=%2F%3E+b&a=c&access_tokens=x&x_access_token=y&&=&d";
    let target = format!("/probe/seen?{query}&access_token={ADMIN_TOKEN}");
    let cookies = "a=b;  directus_session=x; directus_session_token2=y";
    let answer = host.get(&format!(
        "{target}\nCookie: {cookies}\nReferer: https://a.example/?token=x"
    ));
    assert_eq!(seen(&answer, "url"), [format!("/seen?{query}")]);
    assert_eq!(seen(&answer, "query"), [query]);
    let text = answer.text();
    assert!(
        text.contains(&format!("header cookie: {cookies}\n")),
        "{text}"
    );
    assert!(
        text.contains("header referer: https://a.example/?token=x\n"),
        "{text}"
    );

    let mixed = format!("a=b; directus_session_token={ADMIN_TOKEN}; c=d");
    let answer = host.get(&format!("/probe/seen\nCookie: {mixed}"));
    is_admin(&answer);
    assert!(
        answer.text().contains("header cookie: a=b; c=d\n"),
        "{}",
        answer.text()
    );
}

#[test]
fn no_credential_reaches_an_upstream() {
    const TAKE_HEADERS: u32 = 1;
    let upstream = Upstream::saying("got it");
    let host = Host::plan()
        .extensions(&[&Extension::probe()])
        .dotenv("UPSTREAM", upstream.url())
        .start();
    for lines in [
        format!("Authorization: Bearer {ADMIN_TOKEN}"),
        format!(
            "Cookie: a=b; directus_session_token={ADMIN_TOKEN}; directus_refresh_token=refresh-me"
        ),
        format!(
            "Authorization: Bearer {ADMIN_TOKEN}\nReferer: http://x/?access_token={ADMIN_TOKEN}"
        ),
        format!("Authorization: Bearer {ADMIN_TOKEN}\nProxy-Authorization: Basic {ADMIN_TOKEN}"),
    ] {
        let before = upstream.calls().len();
        host.get(&format!("/probe/fetch\nX-Flags: {TAKE_HEADERS}\n{lines}"));
        let whole = upstream.calls()[before].whole();
        assert!(!whole.contains(ADMIN_TOKEN), "{whole}");
        assert!(!whole.contains("refresh-me"), "{whole}");
        assert!(!whole.to_lowercase().contains("authorization"), "{whole}");
    }
}

#[test]
fn only_administrators_read_the_list_of_extensions() {
    let host = host();
    assert_eq!(host.get("/extensions").error(), (403, "FORBIDDEN".into()));
    let by_user = host.get(&format!(
        "/extensions\nAuthorization: Bearer {}",
        token(&claims())
    ));
    assert_eq!(by_user.error(), (403, "FORBIDDEN".into()));
    assert_eq!(host.get_as_admin("/extensions").status, 200);
}

// ---- The log ----

#[test]
fn the_log_says_who_a_failing_request_came_from() {
    let host = Host::plan()
        .extensions(&[&Extension::probe()])
        .dotenv("IP_TRUST_PROXY", "loopback")
        .start();
    let user = token(&claims());
    for (path, sentence) in [
        (
            "/probe/drop",
            "the extension gave a request up without an answer",
        ),
        ("/probe/fail?status=500", "the extension failed"),
    ] {
        let id = |answer: &Answer| answer.header("x-request-id").expect("an id").to_owned();
        let known = id(&host.get(&format!(
            "{path}\nX-Forwarded-For: 6.6.6.6, 1.2.3.4\nX-Status: 500\nAuthorization: Bearer {user}"
        )));
        let unknown = id(&host.get(&format!("{path}\nX-Status: 500")));
        for sentence in [sentence, "answered"] {
            let line = |id: &str| {
                host.logged(sentence, |line| {
                    line["message"] == sentence && line["request"] == *id
                })
            };
            let of_known = line(&known);
            assert_eq!(
                (&of_known["ip"], &of_known["user"]),
                (&"1.2.3.4".into(), &USER.into())
            );
            let of_unknown = line(&unknown);
            assert_eq!(
                (&of_unknown["ip"], &of_unknown["user"]),
                (&"127.0.0.1".into(), &Value::Null)
            );
        }
    }
}
