//! The examples in the real host: what newcomers copy does what its README says.

use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::{fs, thread};

use serde_json::{Value, json};

use crate::support::host::request;
use crate::support::upstream::{Then, ok};
use crate::support::{ADMIN_TOKEN, Answer, DEADLINE, Extension, Host, Upstream, built, eventually};

/// An example: its own manifest, and its library.
fn example(name: &str) -> Extension {
    let folder = format!("directus-extension-endpoint-{name}");
    let source = built::checkout().join("examples").join(&folder);
    let manifest = fs::read_to_string(source.join("extension.toml")).expect("a manifest");
    let extension = match source.join("Makefile").is_file() {
        true => with_made(name, &source),
        false => Extension::of(&folder, built::library(&folder.replace('-', "_"))),
    };
    extension.manifest(&manifest)
}

/// The examples that there are.
fn example_names() -> impl Iterator<Item = String> {
    let folders = fs::read_dir(built::checkout().join("examples")).expect("the examples");
    folders.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some(
            name.strip_prefix("directus-extension-endpoint-")?
                .to_owned(),
        )
    })
}

/// An extension with what its own Makefile makes of `source`; elsewhere, since another test may be making the same.
fn with_made(name: &str, source: &std::path::Path) -> Extension {
    let made = built::scratch();
    let output = Command::new("make")
        .arg(format!("DIST={}", made.path().display()))
        .current_dir(source)
        .output()
        .expect("the tests need make");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let library = format!("lib{}.so", name.replace('-', "_"));
    let bytes = fs::read(made.path().join(&library)).expect("a library");
    Extension::empty(&format!("directus-extension-endpoint-{name}"))
        .file(&format!("dist/{library}"), bytes)
}

/// An answer 200 with JSON.
fn ok_json(value: &Value) -> Vec<u8> {
    let body = value.to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn every_example_is_sound() {
    let variables = [
        ("WEBHOOK_SECRET", "secret"),
        ("WEATHER_API", "http://weather.example"),
        ("NEWS_API", "http://news.example"),
        ("STORAGE_URL", "http://storage.example"),
        ("STORAGE_TOKEN", "token"),
    ];
    // `events` is left out here: on a stream without an end each of the check's clients waits for its time to be over, a
    // minute and a half in all.
    let names = example_names().filter(|name| name != "events");
    let mut count = 0;
    for name in names {
        let scratch = built::scratch();
        let output = Command::new(built::host())
            .args(["check", "--json"])
            .arg(example(&name).put(scratch.path()))
            .current_dir(scratch.path())
            .env_clear()
            .env("TMPDIR", scratch.path())
            .envs(variables)
            .stdin(Stdio::null())
            .output()
            .expect("the host runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        count += 1;
    }
    assert_eq!(count, 5);
}

// ---- webhook ----

#[test]
fn a_webhook_counts_only_with_the_signature_of_its_exact_bytes() {
    let host = Host::plan()
        .extensions(&[&example("webhook")])
        .dotenv("WEBHOOK_SECRET", "s3cret")
        .start();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"s3cret");
    let event = "{\n  \"repository\": {\"full_name\": \"ada/engine\"}\n}";
    let tag = ring::hmac::sign(&key, event.as_bytes());
    let signature: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let send = |signature: &str, body: &str| {
        let head =
            format!("POST /webhook\nX-GitHub-Event: push\nX-Hub-Signature-256: sha256={signature}");
        host.ask(&head, body)
    };
    // The same JSON, written in another way.
    let rewritten = r#"{"repository":{"full_name":"ada/engine"}}"#;
    let refused = send(&signature, rewritten);
    assert_eq!(refused.error(), (401, "INVALID_CREDENTIALS".to_owned()));
    assert_eq!(send(&signature, event).status, 204);
    let line = host.said("webhook received");
    assert_eq!(line["repository"], "ada/engine");
    let received = |line: &&Value| line["message"] == "webhook received";
    assert_eq!(host.log().iter().filter(received).count(), 1);
}

// ---- city ----

#[test]
fn both_apis_of_a_city_are_asked_at_once_and_then_not_again_for_a_while() {
    // Each answers when the other has been asked, too: one after the other would wait in vain.
    let both_asked = Arc::new(Barrier::new(2));
    let api = |answer: Value| {
        let both_asked = both_asked.clone();
        Upstream::start(move |_, line| {
            both_asked.wait();
            line.send(ok_json(&answer));
            Then::Keep
        })
    };
    let (weather, news) = (api(json!({"degrees": 21})), api(json!(["quiet"])));
    let plan = || {
        Host::plan()
            .extensions(&[&example("city")])
            .dotenv("WEATHER_API", weather.url())
            .dotenv("NEWS_API", news.url())
    };
    let host = plan().start();
    let city = json!({"city": "New York", "weather": {"degrees": 21}, "news": ["quiet"]});
    for _ in 0..3 {
        assert_eq!(host.get("/city/New%20York").json(), city);
    }
    assert_eq!(weather.call().target, "/weather?city=New+York");
    assert_eq!(news.call().target, "/news?city=New+York");

    // Where nothing is kept, each request asks both.
    let forgetful = plan().dotenv("CITY_CACHE_MS", "0").start();
    for _ in 0..2 {
        assert_eq!(forgetful.get("/city/New%20York").json(), city);
    }
    assert_eq!((weather.calls().len(), news.calls().len()), (3, 3));
}

// ---- upload ----

fn uploading(storage: &Upstream) -> Host {
    Host::plan()
        .extensions(&[&example("upload")])
        .config("[limits]\nbody_bytes_max = 100_000_000")
        .dotenv("STORAGE_URL", format!("{}/files", storage.url()))
        .dotenv("STORAGE_TOKEN", "s3cret")
        .start()
}

#[test]
fn an_upload_reaches_the_storage_before_all_of_it_has_been_sent() {
    const HALF: usize = 32 << 20;
    let (sender, half_arrived) = mpsc::channel();
    let sender = Mutex::new(sender);
    let storage = Upstream::raw(move |line| {
        let Some(mut call) = line.head() else { return };
        call.body = line.exactly(HALF);
        let _ = sender.lock().expect("no test panics here").send(());
        call.body.extend(line.exactly(HALF));
        line.record(call);
        line.send(ok("stored"));
    });
    let host = uploading(&storage);
    let before = host.resident();
    let mut client = host.connect();
    let length = 2 * HALF;
    let head = format!(
        "PUT /upload/film.mp4\nAuthorization: Bearer {ADMIN_TOKEN}\nContent-Type: video/mp4\nContent-Length: {length}\nX-Acl: public"
    );
    client.send(request(&head, &vec![b'a'; HALF]));
    half_arrived
        .recv_timeout(DEADLINE)
        .expect("the first half arrives before the second is sent");
    assert!(
        !Host::gives_memory_back() || host.resident() < before + HALF as u64 / 2,
        "the half that has passed is not kept"
    );
    client.send(vec![b'b'; HALF]);
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.json()),
        (201, json!({"stored": "film.mp4"}))
    );

    let call = storage.call();
    assert_eq!(
        (call.method.as_str(), call.target.as_str()),
        ("PUT", "/files/film.mp4")
    );
    assert_eq!(call.headers_named("authorization"), ["Bearer s3cret"]);
    assert_eq!(call.headers_named("content-length"), [length.to_string()]);
    assert_eq!(call.headers_named("content-type"), ["video/mp4"]);
    assert_eq!(call.header("x-acl"), None);
    assert!(!call.whole().contains(ADMIN_TOKEN));
    let (first, second) = call.body.split_at(HALF);
    assert!(first.iter().all(|byte| *byte == b'a') && second.iter().all(|byte| *byte == b'b'));
}

#[test]
fn an_upload_without_a_user_or_a_plain_name_never_reaches_the_storage() {
    let storage = Upstream::saying("never");
    let host = uploading(&storage);
    assert_eq!(host.ask("PUT /upload/film.mp4", "x").status, 403);
    for name in ["..", "a%2Fb", "film.mp4?acl=public"] {
        let head = format!("PUT /upload/{name}\nAuthorization: Bearer {ADMIN_TOKEN}");
        assert_eq!(host.ask(&head, "x").status, 400, "{name}");
    }
    assert_eq!(storage.connections(), 0);
}

// ---- events ----

#[test]
fn every_listener_gets_what_is_published_and_who_leaves_is_noticed() {
    let host = Host::with(&[&example("events")]);
    let count = || host.get("/events/listeners").json()["listeners"].clone();
    // Enough for both workers of the host to have some.
    let mut listeners: Vec<_> = (0..6)
        .map(|_| {
            let mut listener = host.connect();
            listener.send(request("GET /events", b""));
            let head = listener.head();
            assert_eq!(head.header("content-type"), Some("text/event-stream"));
            listener
        })
        .collect();
    eventually("all listen", || count() == 6);
    let publish = |text: &str| -> Answer {
        let head = format!("POST /events\nAuthorization: Bearer {ADMIN_TOKEN}");
        host.ask(&head, text)
    };
    assert_eq!(host.ask("POST /events", "a lie").status, 403);
    assert_eq!(publish("rain\nand wind").status, 204);
    let event = "data: rain\ndata: and wind\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    for listener in &mut listeners {
        let got = listener.take(chunk.len());
        assert_eq!(String::from_utf8_lossy(&got).to_lowercase(), chunk);
    }
    // Nothing is sent to those who leave: that they have left is noticed all the same.
    listeners.truncate(1);
    eventually("only one is left", || count() == 1);
}

// ---- signup, in Rust and in C ----

#[test]
fn a_signup_is_accepted_or_its_wrong_field_is_named_in_rust_as_in_c() {
    let host = Host::with(&[&example("signup"), &example("signup-c")]);
    thread::scope(|scope| {
        for id in ["signup", "signup-c"] {
            let host = &host;
            scope.spawn(move || takes_signups(host, id));
        }
    });
}

fn takes_signups(host: &Host, id: &str) {
    let post = |body: &str| {
        let head = format!("POST /{id}\nContent-Type: application/json");
        host.ask(&head, body)
    };
    for (body, newsletter) in [
        (r#"{"email":"ada@example.com","seats":50}"#, false),
        (
            " {\"newsletter\" : true,\r\n\t\"seats\" : 50 , \"email\" : \"ada@example.com\" }\n",
            true,
        ),
    ] {
        let answer = post(body);
        let read = json!({"email": "ada@example.com", "seats": 50, "newsletter": newsletter});
        assert_eq!((answer.status, answer.json()), (201, read), "{id}: {body}");
        let content_type = answer.header("content-type");
        assert_eq!(content_type, Some("application/json; charset=utf-8"));
    }
    let good_email = r#""email":"ada@example.com""#;
    let long = "a".repeat(251);
    for (body, named) in [
        (r#"{"seats":2}"#.to_owned(), "email"),
        (r#"{"email":"ada","seats":2}"#.to_owned(), "email"),
        (r#"{"email":"@example.com","seats":2}"#.to_owned(), "email"),
        (r#"{"email":"ada@","seats":2}"#.to_owned(), "email"),
        (r#"{"email":"a@b@c","seats":2}"#.to_owned(), "email"),
        (r#"{"email":"a b@c","seats":2}"#.to_owned(), "email"),
        (r#"{"email":"a\"@c","seats":2}"#.to_owned(), "email"),
        (format!(r#"{{"email":"{long}@b.c","seats":2}}"#), "email"),
        (r#"{"email":7,"seats":2}"#.to_owned(), "email"),
        (
            format!(r#"{{{good_email},{good_email},"seats":2}}"#),
            "email",
        ),
        (format!("{{{good_email}}}"), "seats"),
        (format!(r#"{{{good_email},"seats":0}}"#), "seats"),
        (format!(r#"{{{good_email},"seats":51}}"#), "seats"),
        (format!(r#"{{{good_email},"seats":-1}}"#), "seats"),
        (format!(r#"{{{good_email},"seats":1.5}}"#), "seats"),
        (format!(r#"{{{good_email},"seats":"2"}}"#), "seats"),
        (format!(r#"{{{good_email},"seats":[2]}}"#), "seats"),
        (
            format!(r#"{{{good_email},"seats":2,"newsletter":1}}"#),
            "newsletter",
        ),
        (
            format!(r#"{{{good_email},"seats":2,"admin":true}}"#),
            "field",
        ),
        (String::new(), "Invalid payload"),
        ("{".to_owned(), "Invalid payload"),
        ("[]".to_owned(), "Invalid payload"),
        ("7".to_owned(), "Invalid payload"),
        (r#"{"email"}"#.to_owned(), "Invalid payload"),
        (format!(r#"{{{good_email},"seats":2"#), "Invalid payload"),
        (
            format!(r#"{{{good_email},"seats":2}} {{}}"#),
            "Invalid payload",
        ),
        (format!("{{{good_email},\"seats\":2}}\0"), "Invalid payload"),
    ] {
        let answer = post(&body);
        let refused = (400, "INVALID_PAYLOAD".to_owned());
        assert_eq!(answer.error(), refused, "{id}: {body}");
        let message = answer.message();
        assert!(message.contains(named), "{id}: {body}: {message}");
    }
}
