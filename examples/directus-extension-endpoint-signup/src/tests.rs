//! What is right is taken; what is wrong is named.

use extension_api::testing::{Answer, Host};
use serde_json::{Value, json};

use super::*;

fn post(body: &str) -> Answer {
    let app = Host::new().mount::<Signups>().expect("it is mounted");
    app.request("POST", "/").body(body).send()
}

#[test]
fn a_signup_is_accepted_as_it_was_understood() {
    let answer = post(r#"{"email": "ada@example.com", "seats": 2}"#);
    assert_eq!(
        (answer.status, answer.json::<Value>()),
        (
            201,
            json!({"email": "ada@example.com", "seats": 2, "newsletter": false})
        )
    );
}

#[test]
fn a_mistake_is_a_400_that_names_the_field() {
    for (body, named) in [
        (r#"{"seats": 2}"#, "email"),
        (r#"{"email": "ada", "seats": 2}"#, "email"),
        (r#"{"email": "ada@x@y", "seats": 2}"#, "email"),
        (r#"{"email": 7, "seats": 2}"#, "email"),
        (r#"{"email": "ada@example.com"}"#, "seats"),
        (r#"{"email": "ada@example.com", "seats": 0}"#, "seats"),
        (r#"{"email": "ada@example.com", "seats": 51}"#, "seats"),
        (r#"{"email": "ada@example.com", "seats": "2"}"#, "seats"),
        (
            r#"{"email": "ada@example.com", "seats": 2, "newsletter": 1}"#,
            "newsletter",
        ),
        (
            r#"{"email": "ada@example.com", "seats": 2, "admin": true}"#,
            "admin",
        ),
    ] {
        let error = &post(body).json::<Value>()["errors"][0];
        assert_eq!(error["extensions"]["code"], "INVALID_PAYLOAD", "{body}");
        let message = error["message"].as_str().expect("a sentence");
        assert!(message.contains(named), "{body}: {message}");
    }
}

#[test]
fn what_is_no_json_is_a_400() {
    for body in ["", "{", "[]", r#"{"email": "a@b", "seats": 1} {}"#] {
        assert_eq!(post(body).status, 400, "{body}");
    }
}
