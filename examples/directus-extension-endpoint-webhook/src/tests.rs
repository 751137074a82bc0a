//! Only the sender who knows the secret is heard.

use extension_api::testing::{Answer, App, Host};

use super::*;

/// The example in GitHub's documentation: secret, body and signature.
const SECRET: &str = "It's a Secret to Everybody";
const HELLO: &str = "Hello, World!";
const HELLO_SIGNATURE: &str =
    "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

const EVENT: &str = r#"{ "repository" : {"full_name": "ada/engine"} }"#;

fn app() -> App {
    let host = Host::new().env("WEBHOOK_SECRET", SECRET);
    host.mount::<Webhook>().expect("it is mounted")
}

fn signature(body: &str) -> String {
    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
    let digest = key.chain_update(body).finalize().into_bytes();
    format!("sha256={}", hex::encode(digest))
}

fn send(app: &App, signature: &str, body: &str) -> Answer {
    app.request("POST", "/")
        .header("X-GitHub-Event", "push")
        .header("X-Hub-Signature-256", signature)
        .body(body)
        .send()
}

#[test]
fn a_signed_event_is_received() {
    let app = app();
    assert_eq!(send(&app, &signature(EVENT), EVENT).status, 204);
    assert_eq!(
        app.log(),
        ["info webhook received event=push repository=ada/engine"]
    );
}

#[test]
fn the_signature_is_that_of_githubs_documentation() {
    // The signature is good; the body is no event.
    let answer = send(&app(), HELLO_SIGNATURE, HELLO);
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[test]
fn an_event_with_another_signature_or_none_is_refused_and_never_received() {
    let app = app();
    let good = signature(EVENT);
    for bad in [
        "",
        "sha256=",
        &good[..good.len() - 2],
        &good.replace("sha256=", "sha1="),
        &signature("{}"),
        HELLO_SIGNATURE,
    ] {
        assert_eq!(send(&app, bad, EVENT).status, 401, "{bad}");
    }
    // One byte more in the body.
    assert_eq!(send(&app, &good, &format!("{EVENT} ")).status, 401);
    assert_eq!(app.request("POST", "/").body(EVENT).send().status, 401);
    let received = |line: &String| line.contains("received") || line.contains("ada/engine");
    assert!(!app.log().iter().any(received), "{:?}", app.log());
}

#[test]
fn without_a_secret_it_is_not_served() {
    let refusal = Host::new().mount::<Webhook>().err();
    assert_eq!(
        refusal.as_deref(),
        Some("environment variable WEBHOOK_SECRET is not set")
    );
}
