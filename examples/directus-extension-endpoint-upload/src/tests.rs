//! What the storage sees, and what it never sees.

use extension_api::testing::{App, Canned, Host};
use serde_json::Value;

use super::*;

fn app(status: u16) -> App {
    Host::new()
        .env("STORAGE_URL", "https://storage.example/files")
        .env("STORAGE_TOKEN", "s3cret")
        .upstream(move |_| Canned::new(status))
        .mount::<Upload>()
        .expect("it is mounted")
}

#[test]
fn a_file_goes_on_with_its_type_and_the_storages_credential_alone() {
    let app = app(201);
    let answer = app
        .request("PUT", "/cat-1.png")
        .user("ada")
        .header("Content-Type", "image/png")
        .header("X-Acl", "public")
        .header("Cookie", "a=b")
        .chunks(["half a cat", ", whole"])
        .send();
    assert_eq!(
        (answer.status, answer.json::<Value>()),
        (201, json!({"stored": "cat-1.png"}))
    );
    let call = app.calls().remove(0);
    assert_eq!(
        (call.method.as_str(), call.url.as_str(), call.text()),
        (
            "PUT",
            "https://storage.example/files/cat-1.png",
            "half a cat, whole"
        )
    );
    assert_eq!(call.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(call.header("content-type"), Some("image/png"));
    assert_eq!((call.header("x-acl"), call.header("cookie")), (None, None));
}

#[test]
fn only_signed_in_callers_with_a_plain_name_reach_the_storage() {
    let app = app(201);
    let anonymous = app.request("PUT", "/cat.png").body("x").send();
    assert_eq!(anonymous.status, 403);
    for name in ["..", ".profile", "a%2Fb", "%2e%2e", "a?acl=public", "a b"] {
        let request = app.request("PUT", &format!("/{name}"));
        assert_eq!(request.user("ada").body("x").send().status, 400, "{name}");
    }
    assert!(app.calls().is_empty());
}

#[test]
fn a_storage_that_refuses_is_a_502() {
    let answer = app(507).request("PUT", "/cat.png").user("ada").send();
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("s3cret"));
}
