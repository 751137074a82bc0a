//! Listeners come and go.

use extension_api::testing::{App, Host};
use serde_json::Value;

use super::*;

fn app() -> App {
    Host::new().mount::<Events>().expect("it is mounted")
}

fn listeners(app: &App) -> Value {
    app.request("GET", "/listeners").send().json::<Value>()["listeners"].clone()
}

#[test]
fn who_leaves_is_no_listener_any_more() {
    let app = app();
    app.request("GET", "/").leave();
    assert_eq!(listeners(&app), 0);
}

#[test]
fn a_listener_sends_no_body() {
    assert_eq!(app().request("GET", "/").body("x").send().status, 400);
}

#[test]
fn only_who_signed_in_publishes() {
    let app = app();
    assert_eq!(app.request("POST", "/").body("x").send().status, 403);
    let published = app.request("POST", "/").user("ada").body("x").send();
    assert_eq!(published.status, 204);
}

#[test]
fn each_line_of_a_text_is_a_line_of_the_event() {
    assert_eq!(event("one"), "data: one\n\n");
    assert_eq!(event("one\ntwo"), "data: one\ndata: two\n\n");
    assert_eq!(event("a\revent: b"), "data: a\ndata: event: b\n\n");
}
