//! What the host says of itself to those who watch it, and to what stands in front of it.

use serde_json::json;

use crate::support::host::request;
use crate::support::{ADMIN_TOKEN, Extension, Host, eventually};

#[test]
fn everybody_learns_a_status_and_administrators_what_was_checked() {
    let host = Host::with(&[&Extension::good()]);
    let answer = host.get("/server/health");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"status": "ok"}));
    let content_type = answer.header("content-type").unwrap();
    assert!(
        content_type.starts_with("application/health+json"),
        "as Directus"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let told = host.get_as_admin("/server/health").json();
    let checks = told["checks"].as_object().expect("checks");
    let names: Vec<&str> = checks.keys().map(String::as_str).collect();
    let expected = [
        "extensions:refused",
        "store:responseTime",
        "store:writable",
        "workers:blocked",
    ];
    assert_eq!(names, expected);
    for (name, check) in checks {
        assert_eq!(check[0]["status"], "ok", "{name}");
    }
    let took = &checks["store:responseTime"][0];
    assert!(took["observedValue"].as_f64().unwrap() >= 0.0 && took["observedUnit"] == "ms");
    assert_eq!(host.ask("HEAD /server/health", "").status, 200);
    assert_eq!(host.ask("POST /server/health", "").status, 405);
    assert_eq!(host.get("/server/ready").json(), json!({"status": "ok"}));
    assert_eq!(host.ask("HEAD /server/ready", "").status, 200);
    assert_eq!(host.ask("DELETE /server/ready", "").status, 405);
}

#[test]
fn a_refused_extension_is_a_warning_that_names_it_to_administrators() {
    let host = Host::plan()
        .extensions(&[
            &Extension::good(),
            &Extension::empty("directus-extension-empty").manifest(""),
        ])
        .start();
    assert_eq!(host.get("/server/health").text(), r#"{"status":"warn"}"#);
    assert_eq!(host.get("/server/ready").status, 200);
    let told = host.get_as_admin("/server/health").json();
    let check = &told["checks"]["extensions:refused"][0];
    assert_eq!(check["status"], "warn");
    assert_eq!(check["observedValue"], 1);
    assert_eq!(check["output"], "refused: directus-extension-empty");
}

#[test]
fn a_worker_that_an_extension_blocks_is_a_warning() {
    let host = Host::with(&[&Extension::probe()]);
    // One for each worker: they take connections by turns.
    let (mut blocked, mut other) = (host.connect(), host.connect());
    for client in [&mut blocked, &mut other] {
        client.send(request("GET /server/ping", b""));
        assert_eq!(client.answer().text(), "pong");
    }
    let gate = host.folder().join("go");
    let head = format!("GET /probe/block\nX-Gate: {}", gate.display());
    blocked.send(request(&head, b""));
    host.said("an extension blocks a worker; its route should be declared blocking");
    let head = format!("GET /server/health\nAuthorization: Bearer {ADMIN_TOKEN}");
    let mut told = || {
        other.send(request(&head, b""));
        other.answer().json()
    };
    eventually("the other worker tells", || {
        let told = told();
        told["status"] == "warn" && told["checks"]["workers:blocked"][0]["observedValue"] == 1
    });
    std::fs::write(gate, "").expect("a file");
    assert_eq!(blocked.answer().status, 200);
    eventually("all is well", || told()["status"] == "ok");
}
