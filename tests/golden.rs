//! What was built for ABI 1.0 is served for ever: two libraries that are kept as they came from the compiler of the day, in
//! `golden/1.0`, and never built again. Between them they use every callback. `golden/1.0/README.md` has their sources' story.
//!
//! The libraries hold behaviour; `released` holds what a build against today's header relies on: names, numbers, layouts.

mod released;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::upstream::{Call, Line, Then};
use crate::support::{Answer, Extension, Host, SECRET, Upstream, eventually, wire};

const C: &str = "directus-extension-golden-c";
const RUST: &str = "directus-extension-golden-rust";

/// What both libraries read and call.
const MANIFEST: &str = "[env]\noptional = [\"GOLDEN_UPSTREAM\", \"GOLDEN_ABSENT\", \"GOLDEN_REFUSES\"]\n\
                        [fetch]\nallow = [\"$GOLDEN_UPSTREAM\"]";

/// Tests of the libraries: they are for one kind of machine, and ignored with a reason on the others.
macro_rules! golden {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        #[cfg_attr(
            not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")),
            ignore = "the golden libraries were built for Linux with glibc on x86-64"
        )]
        fn $name() $body
    )*};
}

fn library(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden/1.0")
        .join(name)
}

fn golden(folder: &str) -> Extension {
    let file = if folder == C {
        "golden_c.so"
    } else {
        "golden_rust.so"
    };
    Extension::of(folder, library(file)).manifest(MANIFEST)
}

/// A host with the golden extension, and the upstream that it calls.
fn served(folder: &str) -> (Host, Upstream) {
    let upstream = Upstream::start(answer);
    let host = Host::plan()
        .extensions(&[&golden(folder)])
        .dotenv("GOLDEN_UPSTREAM", upstream.url())
        .option("--log-level=debug")
        .start();
    (host, upstream)
}

/// What the upstream answers, by the path that it is called with; to another one, nothing.
fn answer(call: &Call, line: &mut Line) -> Then {
    let path = call.target.split('?').next().unwrap_or_default();
    let (head, body) = match path {
        "/relayed" => (
            "200 OK\r\nX-Kept: kept\r\nX-Removed: removed",
            "relayed".to_owned(),
        ),
        "/forward/a%20b" => ("207 Multi-Status", "forwarded".to_owned()),
        "/uploaded" => (
            "202 Accepted\r\nX-Twice: a\r\nX-Twice: b",
            wire::latin1(&call.body),
        ),
        "/given-up" => ("200 OK", "x".repeat(1 << 20)),
        "/blocking" => ("200 OK", "the upstream".to_owned()),
        _ => return Then::Watch,
    };
    let length = body.len();
    line.send(format!(
        "HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    Then::Keep
}

/// Asks, and compares status and body.
#[track_caller]
fn says(host: &Host, head: &str, body: &str, status: u16, text: &str) -> Answer {
    let answer = host.ask(head, body);
    assert_eq!(
        (answer.status, answer.text(), answer.is_whole),
        (status, text, true),
        "{head}"
    );
    answer
}

/// [`says`], but for the order of lines: headers of different names have none.
#[track_caller]
fn says_in_any_order(host: &Host, head: &str, body: &str, status: u16, text: &str) {
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let answer = host.ask(head, body);
    assert_eq!(
        (answer.status, sorted(answer.text())),
        (status, sorted(text)),
        "{head}"
    );
}

#[test]
fn the_golden_libraries_are_those_that_were_built_then() {
    for (file, digest) in [
        (
            "golden_c.so",
            "954e342fc82fb0d21677f4f9e2108c4bf9a3076b5e08906ad5ae2f6c0bc66baa",
        ),
        (
            "golden_rust.so",
            "06089ae38f59d17b41129b4a8a3eed7c030442a6b0c26b659488c88a99de5514",
        ),
    ] {
        let bytes = std::fs::read(library(file)).expect("a library");
        let is = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let is: String = is
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(is, digest, "{file} is never built again");
    }
}

/// The answer to a request that the host itself answers with a 500, whatever the extension said.
const UNEXPECTED: &str = r#"{"errors":[{"message":"An unexpected error occurred.","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}"#;

/// Its log lines of this sentence so far, each by its level and its fact of this name.
fn lines(host: &Host, sentence: &str, fact: &str) -> Vec<(String, Value)> {
    let log = host.log();
    let lines = log.iter().filter(|line| line["message"] == sentence);
    let pair = |line: &Value| {
        (
            line["level"].as_str().unwrap_or_default().to_owned(),
            line[fact].clone(),
        )
    };
    lines.map(pair).collect()
}

/// A caller who is nobody special: what the host says of a token that a Directus signed.
fn token() -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = r#"{"id":"golden-user","role":"golden-role","app_access":true,"admin_access":false,"session":"golden-session","iat":1,"exp":99999999999,"iss":"directus"}"#;
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Sends a request, waits until its handler runs, and leaves.
fn ask_and_leave(host: &Host, path: &str) {
    let mut connection = host.connect();
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: golden\r\n\r\n"));
    host.said("golden request waits");
}

// ---- In C ----

golden! {
    fn a_library_in_c_is_mounted_with_all_its_endpoints() {
        let (host, _upstream) = served(C);
        for id in ["golden-c", "golden-c-too"] {
            let answer = says(&host, &format!("GET /{id}/now"), "", 200, "golden C");
            assert_eq!(answer.header("x-golden"), Some("C 1.0"));
            assert_eq!(answer.header("content-type"), Some("text/plain"));
        }
        says(
            &host,
            "GET /golden-c/created",
            "",
            200,
            "env set=0\nenv absent=2\nenv undeclared=-5\nbase denied=-6\nbase invalid=-4\ninterface=0\ntable known=1\n",
        );
    }

    fn a_library_in_c_reads_what_it_is_asked() {
        let (host, _upstream) = served(C);
        let answer = host.ask("PURGE /golden-c/head/a%20b/and/2/rest/of?q=1&q=%20&r", "body");
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(
            answer.text(),
            format!(
                "struct_size known=1\nhttp_version=11\nmethod=PURGE\nurl=/head/a%20b/and/2/rest/of?q=1&q=%20&r\n\
                 path=/head/a%20b/and/2/rest/of\nquery=q=1&q=%20&r\nparam one=a%20b\nparam two=2\nparam *=rest/of\n\
                 peer known=1\nid={id}\ndeadline_ms=60000\nbody_length=4\n"
            )
        );
        let answer = host.get("/golden-c/head/a/and/b/");
        assert!(answer.text().contains("query absent\nparam one=a\nparam two=b\nparam *=\n"), "{answer:?}");
        says(
            &host,
            "GET /golden-c/who\nUser-Agent: gold\nOrigin: http://x",
            "",
            200,
            "user absent\nrole absent\nip=127.0.0.1\nuser_agent=gold\norigin=http://x\nsession absent\nadmin=0\napp=0\n",
        );
        says(
            &host,
            &format!("GET /golden-c/who\nAuthorization: Bearer {}", token()),
            "",
            200,
            "user=golden-user\nrole=golden-role\nroles=golden-role\nip=127.0.0.1\nuser_agent absent\norigin absent\n\
             session=golden-session\nadmin=0\napp=1\n",
        );
        says_in_any_order(
            &host,
            "GET /golden-c/headers\nX-Twice: a\nX-Other: b\nX-Twice: c",
            "",
            200,
            "headers=0\nx-other=b\nx-twice=a\nx-twice=c\nheader 0=0\nvalue=a\nheader 1=0\nvalue=c\nheader 2=2\n",
        );
        says(&host, "POST /golden-c/whole", "a body", 200, "length=6\nbody=a body\n");
        says(&host, "POST /golden-c/blocking", "a body", 200, "length=6\nbody=a body\n");
    }

    fn a_library_in_c_gets_its_buffers_back() {
        let (host, _upstream) = served(C);
        for _ in 0..3 {
            host.get("/golden-c/headers");
        }
        eventually("every buffer is released, once", || {
            // Each look is a buffer, too, and comes back before the next one.
            host.get("/golden-c/released");
            let before = host.get("/golden-c/released");
            let behind = host.get("/golden-c/released");
            let count = |answer: &Answer| answer.text().trim_start_matches("released=").trim().parse::<u32>().expect("a number");
            count(&before) >= 4 && count(&behind) == count(&before) + 1
        });
    }

    fn a_library_in_c_fails_as_it_says() {
        let (host, _upstream) = served(C);
        says(
            &host,
            "GET /golden-c/error",
            "",
            418,
            r#"{"errors":[{"message":"I am a golden teapot.","extensions":{"code":"GOLDEN_TEAPOT"}}]}"#,
        );
        says(&host, "GET /golden-c/broke", "", 500, UNEXPECTED);
        assert_eq!(host.said("the extension panicked")["cause"], "a golden secret");
        says(&host, "GET /golden-c/drop", "", 500, UNEXPECTED);
        says(&host, "GET /golden-c/finished", "", 200, "answered");
        let line = host.said("golden statuses");
        assert_eq!(line["statuses"], "respond=0\nagain=-2\nheader=0\nhead known=1\n");
    }

    fn a_library_in_c_writes_to_the_log() {
        let (host, _upstream) = served(C);
        let answer = says(&host, "GET /golden-c/log", "", 200, "levels=4\n");
        host.said("a golden line of no request");
        let levels = ["error", "warn", "info", "debug"];
        assert_eq!(
            lines(&host, "a golden line", "fact"),
            levels.map(|level| (level.to_owned(), "of C".into()))
        );
        let id = answer.header("x-request-id").expect("an id");
        assert!(lines(&host, "a golden line", "request").iter().all(|(_, of)| of == id));
        assert_eq!(lines(&host, "a golden line of no request", "request"), [("warn".to_owned(), Value::Null)]);
    }

    fn a_library_in_c_streams() {
        let (host, _upstream) = served(C);
        let large = "0123456789abcdef".repeat(1 << 14);
        says(&host, "POST /golden-c/echo", &large, 200, &large);
        let answer = host.get("/golden-c/truncated");
        assert_eq!((answer.status, answer.text(), answer.is_whole), (200, "the beginning", false));
    }

    fn a_library_in_c_waits() {
        let (host, _upstream) = served(C);
        says(&host, "GET /golden-c/later", "", 200, "slept=0\nposted=0\n");
        says(&host, "GET /golden-c/cancelled", "", 200, "woken=3\n");
        says(&host, "GET /golden-c/watch", "", 200, "watched");
        host.logged("the request is over", |line| line["message"] == "golden request is over" && line["status"] == 0);
        ask_and_leave(&host, "/golden-c/watch-unanswered");
        host.logged("its client has left", |line| line["message"] == "golden request is over" && line["status"] == 3);
    }

    fn a_library_in_c_calls_out() {
        let (host, upstream) = served(C);
        let answer = says(&host, "GET /golden-c/relay", "", 203, "relayed");
        assert_eq!(
            (answer.header("x-kept"), answer.header("x-edited"), answer.header("x-removed")),
            (Some("kept"), Some("by C"), None)
        );
        says(&host, "REPORT /golden-c/forward/a%20b?c=d\nX-Private: p\nX-Public: q", "a body", 207, "forwarded");
        says_in_any_order(
            &host,
            "POST /golden-c/upload",
            "",
            200,
            "fetched=0\nfetched_head=0\nstatus=202\nbody_length=11\nfetched_header=0\nvalue=b\nfetched_headers=0\n\
             x-twice=a\nx-twice=b\ncontent-length=11\none and two\nend=1\nfetched_drop=0\n",
        );
        says(&host, "GET /golden-c/given-up", "", 200, "fetched=0\nfetched_drop=0\nagain=-1\n");
        says(&host, "GET /golden-c/late", "", 200, "fetched=-12\nmessage known=1\n");
        reached(&upstream, &["PUT /relayed?by=C", "REPORT /forward/a%20b?c=d", "POST /uploaded", "GET /given-up", "GET /late"], "one and two");
    }

    fn a_library_in_c_refuses_and_is_stopped() {
        refuses(C);
        let (host, _upstream) = served(C);
        let log = host.stop();
        assert!(log.said("the golden extension in C stops"));
        assert!(log.said("the golden extension in C is destroyed"));
    }
}

// ---- In Rust ----

golden! {
    fn a_library_in_rust_is_mounted_with_all_its_endpoints() {
        let (host, _upstream) = served(RUST);
        let answer = says(&host, "GET /golden-rust/now", "", 200, "golden Rust");
        assert_eq!(answer.header("x-golden"), Some("Rust 1.0"));
        says(&host, "DELETE /golden-rust-too/%C3%A4", "", 200, "ä");
        says(
            &host,
            "GET /golden-rust/created",
            "",
            200,
            "GOLDEN_ABSENT None\nPATH 500\nhttps://elsewhere.example true\nftp://elsewhere.example true\n",
        );
    }

    fn a_library_in_rust_reads_what_it_is_asked() {
        let (host, _upstream) = served(RUST);
        let answer = host.ask("PURGE /golden-rust/head/a%20b/and/2/rest/of?q=1&q=%20&r", "body");
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(
            answer.text(),
            format!(
                "PURGE /head/a%20b/and/2/rest/of?q=1&q=%20&r\n/head/a%20b/and/2/rest/of ? q=1&q=%20&r\n\
                 query q=1\nquery q= \nquery r=\nparam one=a b\nparam two=2\nparam *=rest/of\npeer true\nid {id}\n\
                 deadline Some(60s)\nbody Some(4) json false\n"
            )
        );
        says(
            &host,
            "GET /golden-rust/who\nUser-Agent: gold\nOrigin: http://x",
            "",
            200,
            "user None\nrole None\nroles []\nip Some(\"127.0.0.1\")\nuser_agent Some(\"gold\")\norigin Some(\"http://x\")\n\
             session None\nadmin false app false\n",
        );
        says(
            &host,
            &format!("GET /golden-rust/who\nAuthorization: Bearer {}", token()),
            "",
            200,
            "user Some(\"golden-user\")\nrole Some(\"golden-role\")\nroles [\"golden-role\"]\nip Some(\"127.0.0.1\")\n\
             user_agent None\norigin None\nsession Some(\"golden-session\")\nadmin false app true\n",
        );
        says_in_any_order(
            &host,
            "GET /golden-rust/headers\nX-Twice: a\nX-Other: b\nX-Twice: c",
            "",
            200,
            "x-other=Some(\"b\")\nx-twice=Some(\"a\")\nx-twice=Some(\"c\")\n[\"a\", \"c\"] Some(\"a\") None\n",
        );
    }

    fn a_library_in_rust_reads_bodies() {
        let (host, _upstream) = served(RUST);
        let large = "0123456789abcdef".repeat(1 << 14);
        says(&host, "POST /golden-rust/chunks", &large, 201, "262144");
        says(&host, "PUT /golden-rust/json\nContent-Type: application/json", "[1,2,3]", 200, "6");
        says(&host, "PATCH /golden-rust/form", "a=b%20c&d=+e", 200, "a=b c\nd= e");
        says(&host, "POST /golden-rust/blocking", "a body", 200, "a body and the upstream");
        assert_eq!(host.ask("PUT /golden-rust/json", "no JSON").error(), (400, "INVALID_PAYLOAD".to_owned()));
    }

    fn a_library_in_rust_fails_and_panics_and_serves_on() {
        let (host, _upstream) = served(RUST);
        says(
            &host,
            "GET /golden-rust/error",
            "",
            418,
            r#"{"errors":[{"message":"I am a golden teapot.","extensions":{"code":"GOLDEN_TEAPOT"}}]}"#,
        );
        for (path, cause) in [("panic", "a golden handler fell over"), ("panic-later", "a golden handler fell over later")] {
            says(&host, &format!("GET /golden-rust/{path}"), "", 500, UNEXPECTED);
            host.logged(cause, |line| {
                line["message"] == "the extension panicked" && line["cause"].as_str().is_some_and(|of| of.ends_with(cause))
            });
        }
        says(&host, "GET /golden-rust/now", "", 200, "golden Rust");
    }

    fn a_library_in_rust_writes_to_the_log() {
        let (host, _upstream) = served(RUST);
        assert_eq!(host.get("/golden-rust/log").status, 204);
        host.logged("the last line", |line| line["message"] == "a golden line" && line["level"] == "debug");
        let levels = ["error", "warn", "info", "debug"];
        assert_eq!(lines(&host, "a golden line", "fact"), levels.map(|level| (level.to_owned(), "of Rust".into())));
    }

    fn a_library_in_rust_streams() {
        let (host, _upstream) = served(RUST);
        let large = "0123456789abcdef".repeat(1 << 14);
        says(&host, "POST /golden-rust/echo", &large, 200, &large);
        let answer = host.get("/golden-rust/truncated");
        assert_eq!((answer.status, answer.text(), answer.is_whole), (200, "the beginning", false));
    }

    fn a_library_in_rust_waits_and_drops_what_nobody_waits_for() {
        let (host, _upstream) = served(RUST);
        says(&host, "GET /golden-rust/later", "", 200, "slept");
        ask_and_leave(&host, "/golden-rust/never");
        eventually("the handler's future is dropped", || host.get("/golden-rust/dropped").text() == "1");
    }

    fn a_library_in_rust_calls_out() {
        let (host, upstream) = served(RUST);
        let answer = says(&host, "GET /golden-rust/relay", "", 203, "relayed");
        assert_eq!(
            (answer.header("x-kept"), answer.header("x-edited"), answer.header("x-removed")),
            (Some("kept"), Some("by Rust"), None)
        );
        says(&host, "REPORT /golden-rust/forward/a%20b?c=d\nX-Private: p\nX-Public: q", "a body", 207, "forwarded");
        says_in_any_order(
            &host,
            "POST /golden-rust/upload",
            " and two",
            200,
            "202 Some(11)\nx-twice=Some(\"a\")\nx-twice=Some(\"b\")\ncontent-length=Some(\"11\")\nSome(\"a\")\none and two",
        );
        says(&host, "GET /golden-rust/given-up", "", 200, "given up 200");
        says(&host, "GET /golden-rust/late", "", 200, "late");
        reached(&upstream, &["PUT /relayed?by=Rust", "REPORT /forward/a%20b?c=d", "POST /uploaded", "GET /given-up", "GET /late"], "one and two");
    }

    fn a_library_in_rust_refuses_and_ends_its_thread() {
        refuses(RUST);
        let (host, _upstream) = served(RUST);
        let log = host.stop();
        assert!(log.said("the golden thread ends"));
        assert!(log.said("the golden extension in Rust stops"));
    }
}

/// These calls, in this order, reached the upstream, each with what was meant for it.
#[track_caller]
fn reached(upstream: &Upstream, lines: &[&str], uploaded: &str) {
    let calls = upstream.calls();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| format!("{} {}", call.method, call.target))
        .collect();
    assert_eq!(seen, lines);
    assert_eq!(
        (
            calls[0].header("x-key"),
            wire::latin1(&calls[0].body).as_str()
        ),
        (Some("golden key"), "a constant body")
    );
    assert_eq!(
        (calls[1].header("x-public"), calls[1].header("x-private")),
        (Some("q"), None)
    );
    assert_eq!(wire::latin1(&calls[1].body), "a body");
    assert_eq!(
        (
            calls[2].header("transfer-encoding"),
            wire::latin1(&calls[2].body).as_str()
        ),
        (Some("chunked"), uploaded)
    );
}

/// What `create` says when it fails is what the operator reads.
#[track_caller]
fn refuses(folder: &str) {
    let host = Host::plan()
        .extensions(&[&golden(folder)])
        .dotenv("GOLDEN_UPSTREAM", "http://127.0.0.1:9")
        .dotenv("GOLDEN_REFUSES", "1")
        .start();
    let error = host.said_of(folder)[0]["error"].clone();
    let message = error["message"].as_str().expect("a sentence");
    assert!(
        message.contains("the golden extension was told to refuse"),
        "{message}"
    );
}
