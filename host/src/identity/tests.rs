//! Which credentials are believed, and what the others are answered with: the room as a whole, without a store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_http::StatusCode;
use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::admin_token::{ADMIN_TOKEN_ROLE, ADMIN_TOKEN_USER};
use super::answers::{AuthError, Denial};
use super::authority::{Authority, Identified};
use super::credential::TOKEN_BYTES_MAX;
use super::who::Accountability;
use crate::config;
use crate::config::values::Secret;
use crate::http::facts::RequestFacts;

const SECRET: &str = "a-secret-that-both-know";
const ADMIN: &str = "the-admin-token";
const USER: &str = "9b3c3a5e-0000-4000-8000-000000000000";
const ROLE: &str = "1f0d9a52-0000-4000-8000-000000000000";
const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const NOW: u64 = 1_800_000_000;

fn authority() -> Authority {
    Authority::without_store(&config::Auth {
        secret: Secret::new(SECRET),
        admin_token: Secret::new(ADMIN),
        ..config::Auth::default()
    })
    .unwrap()
}

/// Without a store and a Directus, every answer is there at once.
fn at_once(identified: Identified) -> Result<Arc<Accountability>, AuthError> {
    match identified {
        Identified::Now(answer) => answer,
        Identified::Pending(_) => panic!("no source has to be waited for"),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn sign(header: &str, payload: &str, secret: &str) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
        signed.as_bytes(),
    );
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn claims(more: &str) -> String {
    format!(
        r#"{{"id":"{USER}","role":"{ROLE}","app_access":true,"admin_access":false,"iat":1799999999,"exp":1800000900,"iss":"directus"{more}}}"#
    )
}

fn jwt(payload: &str) -> String {
    sign(HS256, payload, SECRET)
}

fn ask_with(headers: &[(HeaderName, &str)], url: &str) -> Result<Arc<Accountability>, AuthError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    let peer = Some("127.0.0.1".parse().unwrap());
    let query = url.split_once('?').map(|(_, query)| query);
    let facts = RequestFacts::of(&map, query, false);
    at_once(authority().identify(&map, &facts, query, peer, now, None))
}

fn ask(authorization: &str) -> Result<Arc<Accountability>, AuthError> {
    ask_with(&[(header::AUTHORIZATION, authorization)], "/twilio/x")
}

fn bearer(token: &str) -> Result<Arc<Accountability>, AuthError> {
    ask(&format!("Bearer {token}"))
}

fn query(query: &str) -> Result<Arc<Accountability>, AuthError> {
    ask_with(&[], &format!("/twilio/x?{query}"))
}

fn cookie(cookie: &str) -> Result<Arc<Accountability>, AuthError> {
    ask_with(&[(header::COOKIE, cookie)], "/twilio/x")
}

fn is_admin(who: Result<Arc<Accountability>, AuthError>) -> bool {
    who.unwrap().admin
}

fn is_anonymous(who: Result<Arc<Accountability>, AuthError>) -> bool {
    *who.unwrap() == Accountability::default()
}

fn refused(who: Result<Arc<Accountability>, AuthError>) -> Denial {
    who.unwrap_err().denial
}

#[test]
fn without_a_token_that_counts_the_caller_is_anonymous() {
    assert!(is_anonymous(ask_with(&[], "/twilio/x")));
    for authorization in [
        "Token the-admin-token",
        "Basic dGhlOmFkbWlu",
        "the-admin-token",
        "Bearer  the-admin-token",
        "Bearer the-admin-token x",
        "Bearer\tthe-admin-token",
        "Bearer",
        "",
    ] {
        assert!(is_anonymous(ask(authorization)), "{authorization:?}");
    }
    assert!(is_anonymous(query("access_token=")));
    assert!(is_anonymous(query("access_token")));
    assert!(is_anonymous(query("access_tokens=x&a[access_token]=x")));
    assert!(is_anonymous(cookie(
        "directus_session_token=; directus_refresh_token=x; other=y"
    )));
}

#[test]
fn a_wrong_token_is_401_wherever_it_stands() {
    assert_eq!(refused(bearer("wrong")), Denial::InvalidCredentials);
    assert_eq!(
        refused(query("access_token=wrong")),
        Denial::InvalidCredentials
    );
    assert_eq!(
        refused(cookie("directus_session_token=wrong")),
        Denial::InvalidCredentials
    );
    let answer = Denial::InvalidCredentials;
    assert_eq!(answer.status(), 401);
    assert_eq!(
        answer.body(),
        r#"{"errors":[{"message":"Invalid user credentials.","extensions":{"code":"INVALID_CREDENTIALS"}}]}"#
    );
}

#[test]
fn a_list_or_object_in_the_query_is_a_wrong_token() {
    for doubled in [
        "access_token=the-admin-token&access_token=the-admin-token",
        "access_token=&access_token=",
        "access_token[]=the-admin-token",
        "access_token%5B%5D=the-admin-token",
        "access_token[a]=the-admin-token",
        "access_token=the-admin-token&access%5ftoken[0]=x",
    ] {
        assert_eq!(
            refused(query(doubled)),
            Denial::InvalidCredentials,
            "{doubled}"
        );
    }
}

#[test]
fn a_jwt_of_another_issuer_is_a_wrong_token() {
    for payload in [
        claims("").replace("directus", "other"),
        claims("").replace("\"directus\"", "7"),
        "{}".into(),
        "[]".into(),
        "x".into(),
    ] {
        assert_eq!(
            refused(bearer(&jwt(&payload))),
            Denial::InvalidCredentials,
            "{payload}"
        );
    }
    assert_eq!(
        refused(bearer(&format!("{}.x", jwt(&claims(""))))),
        Denial::InvalidCredentials
    );
}

#[test]
fn a_wrong_cookie_is_also_cleared() {
    assert!(
        cookie("directus_session_token=wrong")
            .unwrap_err()
            .clear_cookie
    );
    let forged = sign(HS256, &claims(""), "other secret");
    assert!(
        cookie(&format!("directus_session_token={forged}"))
            .unwrap_err()
            .clear_cookie
    );
    let expired = jwt(&claims("").replace("1800000900", "1"));
    assert!(
        !cookie(&format!("directus_session_token={expired}"))
            .unwrap_err()
            .clear_cookie
    );
    assert!(!bearer("wrong").unwrap_err().clear_cookie);
}

#[test]
fn an_expired_jwt_is_401_of_its_own() {
    for expires in [
        NOW.to_string(),
        "1".into(),
        "-1".into(),
        "1799999999.5".into(),
    ] {
        let who = bearer(&jwt(&claims("").replace("1800000900", &expires)));
        assert_eq!(refused(who), Denial::TokenExpired, "{expires}");
    }
    assert_eq!(
        (Denial::TokenExpired.status(), Denial::TokenExpired.code()),
        (StatusCode::UNAUTHORIZED, "TOKEN_EXPIRED")
    );
}

#[test]
fn a_jwt_that_was_not_signed_with_the_secret_is_403() {
    let good = jwt(&claims(""));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let none = sign(r#"{"alg":"none"}"#, &claims(""), SECRET);
    let (unsigned, _) = none.rsplit_once('.').unwrap();
    for token in [
        sign(HS256, &claims(""), "other secret"),
        format!("{signed}."),
        format!("{signed}.x"),
        format!("{signed}.AAAA"),
        none.clone(),
        format!("{unsigned}."),
        sign(r#"{"alg":"HS512"}"#, &claims(""), SECRET),
        sign(r#"{"alg":"hs256"}"#, &claims(""), SECRET),
        sign(r#"{"typ":"JWT"}"#, &claims(""), SECRET),
        sign(r#"{"alg":"HS256","crit":["x"]}"#, &claims(""), SECRET),
    ] {
        assert_eq!(refused(bearer(&token)), Denial::InvalidToken, "{token}");
    }
    assert_eq!(
        (
            Denial::InvalidToken.status(),
            Denial::InvalidToken.message()
        ),
        (StatusCode::FORBIDDEN, "Invalid token.")
    );
}

#[test]
fn a_jwt_without_what_directus_writes_is_403() {
    for payload in [
        claims("").replace(r#","exp":1800000900"#, ""),
        claims("").replace("1800000900", "\"1800000900\""),
        claims("").replace("1800000900", "null"),
        claims("").replace(r#""app_access":true,"#, ""),
        claims("").replace(r#""admin_access":false,"#, ""),
        claims("").replace(&format!(r#""role":"{ROLE}","#), ""),
        claims("").replace(&format!("\"{ROLE}\""), "7"),
        claims(r#","nbf":1800000001"#),
        claims(r#","nbf":"x""#),
    ] {
        assert_eq!(
            refused(bearer(&jwt(&payload))),
            Denial::InvalidToken,
            "{payload}"
        );
    }
    assert!(bearer(&jwt(&claims(r#","nbf":1800000000"#))).is_ok());
}

#[test]
fn without_a_secret_no_jwt_is_good() {
    let authority = Authority::without_store(&config::Auth::default()).unwrap();
    let mut headers = HeaderMap::new();
    for secret in [SECRET, ""] {
        let value =
            HeaderValue::from_str(&format!("Bearer {}", sign(HS256, &claims(""), secret))).unwrap();
        headers.insert(header::AUTHORIZATION, value);
        assert_eq!(
            refused(at_once(authority.identify(
                &headers,
                &RequestFacts::of(&headers, None, false),
                None,
                None,
                now,
                None
            ))),
            Denial::InvalidToken
        );
    }
}

#[test]
fn a_token_in_query_and_header_is_400() {
    for url in [
        "/x?access_token=the-admin-token",
        "/x?access_token[]=a",
        "/x?access_token=a&access_token=b",
    ] {
        let who = ask_with(&[(header::AUTHORIZATION, "Bearer the-admin-token")], url);
        assert_eq!(refused(who), Denial::SeveralTokens);
    }
    assert!(is_admin(ask_with(
        &[(header::AUTHORIZATION, "Bearer the-admin-token")],
        "/x?access_token="
    )));
    assert!(is_admin(ask_with(
        &[(header::AUTHORIZATION, "Basic x")],
        "/x?access_token=the-admin-token"
    )));
    assert_eq!(
        (Denial::SeveralTokens.status(), Denial::SeveralTokens.code()),
        (StatusCode::BAD_REQUEST, "INVALID_PAYLOAD")
    );
}

#[test]
fn header_and_query_win_over_the_cookie() {
    let wrong = (header::COOKIE, "directus_session_token=wrong");
    assert!(is_admin(ask_with(
        &[
            wrong.clone(),
            (header::AUTHORIZATION, "Bearer the-admin-token")
        ],
        "/x"
    )));
    assert!(is_admin(ask_with(
        std::slice::from_ref(&wrong),
        "/x?access_token=the-admin-token"
    )));
    let right = (header::COOKIE, "directus_session_token=the-admin-token");
    let who = ask_with(&[right, (header::AUTHORIZATION, "Bearer wrong")], "/x").unwrap_err();
    assert_eq!(
        (who.denial, who.clear_cookie),
        (Denial::InvalidCredentials, false)
    );
}

#[test]
fn bearer_is_read_in_any_case() {
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert!(is_admin(ask(&format!("{scheme} the-admin-token"))));
    }
}

#[test]
fn cookies_and_queries_are_decoded() {
    assert!(is_admin(query("a=1&access_token=the%2Dadmin-token")));
    assert!(is_admin(cookie(
        "a=1; directus_session_token=\"the%2Dadmin-token\"; directus_session_token=wrong"
    )));
    let lines = [
        (header::COOKIE, "a=1"),
        (header::COOKIE, "directus_session_token=the-admin-token"),
    ];
    assert!(is_admin(ask_with(&lines, "/x")));
}

#[test]
fn a_good_jwt_says_who_asks() {
    let who = bearer(&jwt(&claims(r#","session":"s1""#))).unwrap();
    assert_eq!(who.user.as_deref(), Some(USER));
    assert_eq!(who.role.as_deref(), Some(ROLE));
    assert_eq!(who.roles, [Arc::from(ROLE)]);
    assert_eq!(who.session.as_deref(), Some("s1"));
    assert!(who.app && !who.admin);
    let numbers = claims("").replace(
        r#""app_access":true,"admin_access":false"#,
        r#""app_access":0,"admin_access":1"#,
    );
    let who = bearer(&jwt(&numbers)).unwrap();
    assert!(!who.app && who.admin);
}

#[test]
fn a_user_without_role_has_none() {
    let who = bearer(&jwt(&claims("").replace(&format!("\"{ROLE}\""), "null"))).unwrap();
    assert_eq!(
        (who.user.as_deref(), who.role.clone(), who.roles.len()),
        (Some(USER), None, 0)
    );
}

#[test]
fn a_jwt_without_id_is_anonymous() {
    let admin = claims("").replace("\"admin_access\":false", "\"admin_access\":true");
    assert!(is_anonymous(bearer(&jwt(
        &admin.replace(&format!(r#""id":"{USER}","#), "")
    ))));
    assert!(is_anonymous(bearer(&jwt(
        &admin.replace(&format!("\"{USER}\""), "null")
    ))));
    assert!(is_anonymous(bearer(&jwt(&admin.replace(USER, "")))));
}

#[test]
fn the_admin_token_is_an_administrator() {
    let who = bearer(ADMIN).unwrap();
    assert_eq!(who.user.as_deref(), Some(ADMIN_TOKEN_USER));
    assert_eq!(
        (who.role.as_deref(), who.roles.len()),
        (Some(ADMIN_TOKEN_ROLE), 1)
    );
    assert!(who.admin && who.app);
    for wrong in ["the-admin-toke", "the-admin-tokenx", "THE-ADMIN-TOKEN"] {
        assert_eq!(refused(bearer(wrong)), Denial::InvalidCredentials);
    }
}

#[test]
fn a_token_that_is_too_long_is_a_wrong_one() {
    let long = "x".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(refused(bearer(&long)), Denial::InvalidCredentials);
    assert_eq!(
        refused(query(&format!("access_token={long}"))),
        Denial::InvalidCredentials
    );
    assert!(
        cookie(&format!("directus_session_token={long}"))
            .unwrap_err()
            .clear_cookie
    );
    let payload = claims(&format!(r#","pad":"{long}""#));
    assert_eq!(refused(bearer(&jwt(&payload))), Denial::InvalidCredentials);
}

#[test]
fn nothing_shows_a_secret() {
    let shown = format!("{:?}", authority());
    assert!(!shown.contains(SECRET) && !shown.contains(ADMIN), "{shown}");
}

#[test]
fn bodies_say_what_the_parts_say() {
    for denial in [
        Denial::InvalidCredentials,
        Denial::TokenExpired,
        Denial::InvalidToken,
        Denial::SeveralTokens,
    ] {
        let body: serde_json::Value = serde_json::from_str(denial.body()).unwrap();
        assert_eq!(body["errors"][0]["message"], denial.message());
        assert_eq!(body["errors"][0]["extensions"]["code"], denial.code());
    }
}
