//! The stand-in as Twilio's clients know the real one.

use extension_api::testing::{Answer, App, Host, RequestBuilder};
use serde_json::Value;

use super::*;

const MESSAGES: &str = "/2010-04-01/Accounts/AC1/Messages.json";

fn host() -> Host {
    Host::new()
        .env("TWILIO_ACCOUNT_SID", "AC1")
        .env("TWILIO_AUTH_TOKEN", "s3cret")
        .env("TWILIO_STANDIN", "on")
}

fn app() -> App {
    host().mount::<Standin>().expect("the stand-in is mounted")
}

fn ask<'a>(app: &'a App, method: &str, url: &str) -> RequestBuilder<'a> {
    app.request(method, url)
        .header("authorization", "Basic QUMxOnMzY3JldA==")
}

fn send(app: &App, fields: &[(&str, &str)]) -> Answer {
    let form = fields
        .iter()
        .fold(Form::new(), |form, (name, value)| form.field(name, value));
    ask(app, "POST", MESSAGES).body(form.as_str()).send()
}

fn send_hello(app: &App, to: &str) -> Value {
    let answer = send(
        app,
        &[("To", to), ("From", "+15017122661"), ("Body", "Hello! 👍")],
    );
    assert_eq!(answer.status, 201);
    answer.json()
}

#[track_caller]
fn assert_fault(answer: &Answer, status: u16, code: u32) {
    let fault = answer.json::<Value>();
    assert_eq!(
        (answer.status, &fault["status"], &fault["code"]),
        (status, &status.into(), &code.into())
    );
    assert_eq!(
        fault["more_info"],
        format!("https://www.twilio.com/docs/errors/{code}")
    );
}

#[test]
fn a_message_is_created_fetched_updated_and_deleted() {
    let app = app();
    let message = send_hello(&app, "+15558675310");
    let sid = message["sid"].as_str().expect("a sid");
    assert!(
        sid.len() == 34
            && sid.starts_with("SM")
            && sid[2..].bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{sid}"
    );
    assert_eq!(
        (
            &message["body"],
            &message["num_segments"],
            &message["status"]
        ),
        (&"Hello! 👍".into(), &"1".into(), &"queued".into())
    );
    assert!(
        message["date_created"]
            .as_str()
            .expect("a date")
            .ends_with(" +0000"),
        "{message}"
    );

    let uri = message["uri"].as_str().expect("an address");
    assert_eq!(ask(&app, "GET", uri).send().json::<Value>(), message);
    let redacted = ask(&app, "POST", uri).body("Body=").send().json::<Value>();
    assert_eq!(
        (&redacted["body"], &redacted["status"]),
        (&"".into(), &"queued".into())
    );
    let cancelled = ask(&app, "POST", uri)
        .body("Status=canceled")
        .send()
        .json::<Value>();
    assert_eq!(cancelled["status"], "canceled");
    assert_fault(
        &ask(&app, "POST", uri).body("Status=canceled").send(),
        400,
        20001,
    );
    assert_fault(&ask(&app, "POST", uri).body("Body=new").send(), 400, 20001);
    let deleted = ask(&app, "DELETE", uri).send();
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    for method in ["GET", "POST", "DELETE"] {
        assert_fault(&ask(&app, method, uri).send(), 404, 20404);
    }
}

#[test]
fn a_list_is_paged_and_stays_whole_while_messages_come() {
    let app = app();
    let mut sent: Vec<_> = (0..5).map(|_| send_hello(&app, "+15558675310")).collect();
    sent.reverse();
    let (mut listed, mut next) = (
        Vec::new(),
        Some(format!("{MESSAGES}?PageSize=2&To=%2B15558675310")),
    );
    let mut pages = 0;
    while let Some(uri) = next {
        let page = ask(&app, "GET", &uri).send().json::<Value>();
        assert_eq!(
            (&page["page"], &page["page_size"]),
            (&pages.into(), &2.into())
        );
        assert_eq!(page["previous_page_uri"].is_null(), pages == 0);
        listed.extend(page["messages"].as_array().expect("a list").clone());
        next = page["next_page_uri"].as_str().map(str::to_owned);
        pages += 1;
        send_hello(&app, "+15558675310");
    }
    assert_eq!((listed, pages), (sent, 3));
    let other = ask(&app, "GET", &format!("{MESSAGES}?To=%2B15550000000"))
        .send()
        .json::<Value>();
    assert_eq!(
        (
            &other["messages"],
            &other["page_size"],
            &other["next_page_uri"]
        ),
        (&json!([]), &50.into(), &Value::Null)
    );
    assert_fault(
        &ask(&app, "GET", &format!("{MESSAGES}?PageSize=x")).send(),
        400,
        20001,
    );
}

#[test]
fn the_previous_page_is_the_one_before() {
    let app = app();
    for _ in 0..5 {
        send_hello(&app, "+15558675310");
    }
    let get = |uri: &str| ask(&app, "GET", uri).send().json::<Value>();
    let first = get(&format!("{MESSAGES}?PageSize=2"));
    let second = get(first["next_page_uri"].as_str().expect("a second page"));
    let third = get(second["next_page_uri"].as_str().expect("a third page"));
    assert_eq!(
        get(third["previous_page_uri"].as_str().expect("a page before"))["messages"],
        second["messages"]
    );
    assert_eq!(
        get(second["previous_page_uri"].as_str().expect("a page before"))["messages"],
        first["messages"]
    );
}

#[test]
fn what_is_missing_or_wrong_is_said_as_twilio_does() {
    let app = app();
    let (to, from, body) = (
        ("To", "+15558675310"),
        ("From", "+15017122661"),
        ("Body", "x"),
    );
    assert_fault(&send(&app, &[from, body]), 400, 21604);
    assert_fault(&send(&app, &[("To", "12"), from, body]), 400, 21211);
    assert_fault(&send(&app, &[to, body]), 400, 21603);
    assert_fault(&send(&app, &[to, from]), 400, 21602);
    assert_fault(
        &send(&app, &[to, from, ("Body", &"x".repeat(1601))]),
        400,
        21617,
    );
    assert_eq!(
        send(
            &app,
            &[("To", "whatsapp:+15558675310"), from, ("MediaUrl", "x")]
        )
        .status,
        201
    );
    let scheduled = send(
        &app,
        &[
            to,
            ("MessagingServiceSid", "MG1"),
            body,
            ("SendAt", "2030-01-01T00:00:00Z"),
        ],
    );
    assert_eq!(
        (
            &scheduled.json::<Value>()["status"],
            &scheduled.json::<Value>()["from"]
        ),
        (&"scheduled".into(), &Value::Null)
    );
}

#[test]
fn nobody_comes_in_without_the_credentials() {
    let app = app();
    for authorization in ["", "Basic", "Basic QUMxOndyb25n", "Bearer QUMxOnMzY3JldA=="] {
        for url in [MESSAGES, "/", "/2010-04-01/Accounts/AC1/Messages/SM1.json"] {
            let answer = app
                .request("GET", url)
                .header("authorization", authorization)
                .send();
            assert_fault(&answer, 401, 20003);
            assert_eq!(
                answer.header("www-authenticate"),
                Some("Basic realm=\"Twilio API\"")
            );
        }
    }
    assert_fault(
        &ask(&app, "GET", "/2010-04-01/Accounts/AC2/Messages.json").send(),
        404,
        20404,
    );
    assert_fault(
        &ask(&app, "GET", "/2010-04-01/Accounts/AC1/Calls.json").send(),
        404,
        20404,
    );
}

#[test]
fn it_is_off_unless_it_is_switched_on() {
    let refusal = host()
        .env("TWILIO_STANDIN", "")
        .mount::<Standin>()
        .err()
        .expect("the stand-in refuses");
    assert_eq!(
        refusal,
        "the stand-in for Twilio is off; TWILIO_STANDIN=on switches it on"
    );
}
