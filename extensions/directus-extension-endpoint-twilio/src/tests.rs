//! What callers get, and what Twilio sees.

use extension_api::testing::{App, Call, Canned, Host, RequestBuilder};
use serde_json::{Value, json};

use super::*;

const MESSAGES: &str = "/2010-04-01/Accounts/AC1/Messages.json";

fn host() -> Host {
    Host::new()
        .env("TWILIO_ACCOUNT_SID", "AC1")
        .env("TWILIO_AUTH_TOKEN", "s3cret")
}

fn app(host: Host) -> App {
    let created =
        |_: &Call| Canned::json(201, &json!({"sid": "SM1"})).header("twilio-request-id", "RQ1");
    host.upstream(created)
        .mount::<Twilio>()
        .expect("the proxy is mounted")
}

/// Sends as a signed-in caller; what Twilio sees of it.
fn seen_by_twilio(app: &App, request: impl FnOnce(&App) -> RequestBuilder<'_>) -> Call {
    assert_eq!(request(app).user("ada").send().status, 201);
    app.calls().pop().expect("Twilio was called")
}

#[test]
fn anonymous_requests_never_reach_twilio() {
    let app = app(host());
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let answer = app
            .request(method, MESSAGES)
            .json(&json!({"To": "+1"}))
            .send();
        assert_eq!(
            (answer.status, answer.text()),
            (403, "You don't have permission to access this.")
        );
    }
    assert!(app.calls().is_empty());
}

#[test]
fn a_json_object_goes_on_as_a_form() {
    let body = json!({"To": "+15558675310", "Body": "a & b", "MediaUrl": ["x", "y"], "Max": 2, "Smart": true, "At": null});
    let call = seen_by_twilio(&app(host()), |app| {
        app.request("POST", MESSAGES).json(&body)
    });
    assert_eq!(
        (call.method.as_str(), call.url.clone()),
        ("POST", format!("https://api.twilio.com{MESSAGES}"))
    );
    assert_eq!(call.header("authorization"), Some("Basic QUMxOnMzY3JldA=="));
    assert_eq!(
        call.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let mut fields: Vec<_> = call.text().split('&').collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "Body=a+%26+b",
            "Max=2",
            "MediaUrl=x",
            "MediaUrl=y",
            "Smart=true",
            "To=%2B15558675310"
        ]
    );
}

#[test]
fn a_form_goes_on_byte_for_byte() {
    let form = "To=%2b1&Body=a%20b+c&Body=&odd";
    let call = seen_by_twilio(&app(host()), |app| {
        app.request("POST", MESSAGES)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    });
    assert_eq!(call.text(), form);
}

#[test]
fn json_goes_on_as_json_where_that_is_asked_for() {
    let body = json!({"To": "+1"});
    let app = app(host().env("TWILIO_BODY_FORMAT", "json"));
    let call = seen_by_twilio(&app, |app| app.request("POST", MESSAGES).json(&body));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(
        serde_json::from_str::<Value>(call.text()).expect("JSON"),
        body
    );
}

#[test]
fn json_that_is_no_object_is_the_callers_mistake() {
    let app = app(host());
    for body in ["[1]", "{", "\"text\"", "null"] {
        let request = app
            .request("POST", MESSAGES)
            .user("ada")
            .header("content-type", "application/json")
            .body(body);
        let answer = request.send();
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(
            answer.json::<Value>()["errors"][0]["extensions"]["code"],
            "INVALID_PAYLOAD"
        );
    }
    assert!(app.calls().is_empty());
}

#[test]
fn every_method_and_url_goes_on_as_it_came_to_one_host_alone() {
    let app = app(host());
    for (method, url) in [
        ("DELETE", "/2010-04-01/Accounts/AC1/Messages/SM1.json"),
        (
            "GET",
            "/2010-04-01/Accounts/AC1/Messages.json?DateSent%3E=2024-01-01&To=%2B1&To=a+b",
        ),
        ("PUT", "/a%2Fb"),
        ("GET", "//other.example/x"),
        ("GET", "/\\other.example/x"),
        ("GET", "/@other.example"),
        ("GET", "/http://other.example/"),
        ("GET", "/../../x"),
        ("GET", "/%2e%2e/x"),
    ] {
        let call = seen_by_twilio(&app, |app| app.request(method, url));
        assert_eq!(
            (call.method.as_str(), call.url.clone()),
            (method, format!("https://api.twilio.com{url}"))
        );
    }
}

#[test]
fn the_answer_comes_back_as_it_is() {
    let limited = |_: &Call| {
        Canned::json(429, &json!({"code": 20429}))
            .header("retry-after", "3")
            .header("twilio-x", "y")
    };
    let app = host()
        .upstream(limited)
        .mount::<Twilio>()
        .expect("the proxy is mounted");
    let answer = app.request("GET", MESSAGES).user("ada").send();
    assert_eq!((answer.status, answer.text()), (429, r#"{"code":20429}"#));
    assert_eq!(
        (answer.header("retry-after"), answer.header("twilio-x")),
        (Some("3"), Some("y"))
    );
}

#[test]
fn an_upstream_that_fails_is_a_502_or_504_without_secrets_and_not_asked_again() {
    for (error, status) in [
        (FetchError::Connect("s3cret".into()), 502),
        (FetchError::Broken("s3cret".into()), 502),
        (FetchError::Timeout("s3cret".into()), 504),
    ] {
        let failing = move |_: &Call| Canned::error(error.clone());
        let app = host()
            .upstream(failing)
            .mount::<Twilio>()
            .expect("the proxy is mounted");
        let answer = app
            .request("POST", MESSAGES)
            .user("ada")
            .json(&json!({"To": "+1"}))
            .send();
        assert_eq!((answer.status, app.calls().len()), (status, 1));
        assert!(!answer.text().contains("s3cret"));
    }
}

#[test]
fn twilios_regional_hosts_are_reached() {
    let app = app(host().env("TWILIO_API_BASE", "https://api.dublin.ie1.twilio.com/"));
    let call = seen_by_twilio(&app, |app| app.request("GET", MESSAGES));
    assert_eq!(
        call.url,
        format!("https://api.dublin.ie1.twilio.com{MESSAGES}")
    );
}

#[test]
fn what_is_missing_or_wrong_keeps_it_from_being_mounted() {
    let refusal = |host: Host| host.mount::<Twilio>().err().expect("the proxy refuses");
    let no_token = Host::new()
        .env("TWILIO_ACCOUNT_SID", "AC1")
        .env("TWILIO_AUTH_TOKEN", "");
    assert_eq!(
        refusal(no_token),
        "environment variable TWILIO_AUTH_TOKEN is not set"
    );
    let format = refusal(host().env("TWILIO_BODY_FORMAT", "xml"));
    assert_eq!(format, "TWILIO_BODY_FORMAT must be form or json");
}
