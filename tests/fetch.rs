//! Outgoing calls of extensions: where they may go, what goes along, what comes back, and how they fail.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;

use crate::support::host::{Plan, request};
use crate::support::upstream::{Then, ok};
use crate::support::wire::find;
use crate::support::{Answer, DEADLINE, Extension, Host, Upstream, eventually};

const TAKE_HEADERS: u32 = 1;
const TAKE_BODY: u32 = 2;
const FOLLOW_REDIRECTS: u32 = 8;
const DECOMPRESS: u32 = 16;

fn plan(upstream: &Upstream) -> Plan {
    plan_to(&upstream.url())
}

fn plan_to(url: &str) -> Plan {
    Host::plan()
        .extensions(&[&Extension::probe(), &Extension::good()])
        .dotenv("UPSTREAM", url)
}

fn host(upstream: &Upstream) -> Host {
    plan(upstream).start()
}

/// A port of this machine where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("a bound socket"))
}

// ---- Where they may go ----

#[test]
fn a_call_to_an_origin_that_is_not_allowed_is_denied_and_the_line_to_add_is_named() {
    let (allowed, other) = (Upstream::saying("allowed"), Upstream::saying("other"));
    let host = host(&allowed);
    assert_eq!(host.get("/probe/fetch").text(), "allowed");
    let answer = host.get(&format!("/probe/fetch\nX-Base: {}", other.url()));
    assert_eq!(answer.text(), "refused -6", "EXT_DENIED");
    let line = host.said("the extension called the host wrongly");
    assert_eq!(line["extension"], "directus-extension-probe");
    let rule = line["rule"].as_str().expect("a rule");
    let to_add = format!(
        "add \"{}\" to allow under [fetch] in extension.toml",
        other.url()
    );
    assert!(rule.contains(&to_add), "{rule}");
    assert_eq!(other.connections(), 0);
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let upstream = Upstream::saying("allowed");
    let host = host(&upstream);
    let port = upstream.address().port();
    for (base, answer) in [
        (format!("http://127.0.0.1:{port}/a/path"), "allowed"),
        (format!("https://127.0.0.1:{port}"), "refused -6"),
        (format!("http://localhost:{port}"), "refused -6"),
        ("http://127.0.0.1".to_owned(), "refused -6"),
        (
            format!("http://127.0.0.1:{port}@other.example"),
            "refused -4",
        ),
        (format!("http://user:word@127.0.0.1:{port}"), "refused -4"),
        (format!("http://127.0.0.1:{port}?a=b"), "refused -4"),
        (format!("ftp://127.0.0.1:{port}"), "refused -4"),
        ("127.0.0.1".to_owned(), "refused -4"),
    ] {
        let asked = host.get(&format!("/probe/fetch\nX-Base: {base}"));
        assert_eq!(asked.text(), answer, "{base}");
    }
}

#[test]
fn a_target_is_appended_and_never_leads_elsewhere() {
    let upstream = Upstream::saying("here");
    let host = host(&upstream);
    for target in [
        "/a%2Fb%3Ec?d=e+f&d=g&h=%26",
        "//other.example/x",
        "/\\other.example/x",
        "/@other.example/",
        "/http://other.example/",
        "/../x",
        "/%2e%2e/x",
        "?only=query",
    ] {
        let before = upstream.calls().len();
        assert_eq!(
            host.get(&format!("/probe/fetch\nX-Target: {target}"))
                .text(),
            "here"
        );
        let call = upstream.calls().remove(before);
        let expected = if target.starts_with('?') {
            format!("/{target}")
        } else {
            target.to_owned()
        };
        assert_eq!(call.target, expected);
        assert_eq!(
            call.header("host"),
            Some(upstream.address().to_string().as_str())
        );
    }
    for target in [
        "@other.example/",
        "x",
        ".other.example",
        ":80/",
        "/a b",
        "/a#b",
    ] {
        let answer = host.get(&format!("/probe/fetch\nX-Target: {target}"));
        assert_eq!(answer.text(), "refused -4", "{target}");
    }
}

#[test]
fn a_target_never_climbs_out_of_the_bases_path() {
    let upstream = Upstream::saying("here");
    let host = host(&upstream);
    let base = format!("{}/v1", upstream.url());
    let fetch =
        |target: &str| host.get(&format!("/probe/fetch\nX-Base: {base}\nX-Target: {target}"));
    assert_eq!(fetch("/a").text(), "here");
    assert_eq!(upstream.call().target, "/v1/a");
    for target in [
        "/../secret",
        "/a/../../secret",
        "/%2e%2e/secret",
        "/.%2E/secret",
        "/..%2fsecret",
        "/..\\secret",
    ] {
        assert_eq!(fetch(target).text(), "refused -4", "{target}");
    }
    assert_eq!(upstream.calls().len(), 1);
}

// ---- How they fail ----

#[test]
fn failures_are_told_apart() {
    // Not even a TLS handshake keeps it from answering.
    let plain = Upstream::raw(|line| {
        line.send(ok("no TLS here"));
    });
    let closing = Upstream::raw(|line| drop(line.head()));
    let not_http = Upstream::answering("SSH-2.0-OpenSSH_9.2\r\n\r\n");
    let host = Host::plan()
        .extensions(&[&Extension::probe().manifest("[fetch]\nallow = [\"*\"]")])
        .start();
    let tls = plain.url().replace("http:", "https:");
    for (base, status) in [
        (nobody(), "fetch -10:"),                           // EXT_CONNECT
        ("http://nonexistent.invalid".into(), "fetch -9:"), // EXT_RESOLVE
        (tls, "fetch -11:"),                                // EXT_TLS
        (closing.url(), "fetch -8:"),                       // EXT_BROKEN
        (not_http.url(), "fetch -8:"),
    ] {
        let answer = host.get(&format!("/probe/fetch\nX-Base: {base}"));
        assert_eq!(answer.status, 502);
        assert!(
            answer.text().starts_with(status),
            "{base}: {}",
            answer.text()
        );
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_is_a_timeout() {
    let silent = Upstream::start(|_, _| Then::Watch);
    let host = host(&silent);
    for limit in ["X-First-Byte-Ms: 100", "X-Total-Ms: 100"] {
        let answer = host.get(&format!("/probe/fetch\n{limit}"));
        assert!(
            answer.text().starts_with("fetch -12:"),
            "{limit}: {}",
            answer.text()
        );
    }
    silent.wait_for_close();
}

#[test]
fn a_body_that_stalls_is_a_timeout() {
    let stalling = Upstream::start(|_, line| {
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
        Then::Watch
    });
    let host = host(&stalling);
    for (limit, why) in [
        (
            "X-First-Byte-Ms: 200",
            "sent nothing more within 200 ms (first_byte_ms of the call)",
        ),
        (
            "X-Total-Ms: 200",
            "did not end its answer within 200 ms (total_ms of the call)",
        ),
    ] {
        let answer = host.get(&format!("/probe/fetch\nX-Read: 1\n{limit}"));
        assert_eq!(answer.text(), "read 4 bytes, then -12", "{limit}");
        let relayed = host.get(&format!("/probe/fetch\n{limit}"));
        assert_eq!((relayed.status, relayed.text()), (200, "some"));
        assert!(!relayed.is_whole, "{limit}");
        is_told_as_broken_off(&host, &relayed, &format!("{} {why}", stalling.url()));
    }
}

/// The client of a relay sees only that the body is not whole: the operator is told why, once.
#[track_caller]
fn is_told_as_broken_off(host: &Host, relayed: &Answer, cause: &str) {
    let id = relayed.header("x-request-id").expect("an id");
    let sentence =
        "an upstream broke off while its answer was relayed; the client's is cut off, too";
    let is_it = |line: &Value| line["message"] == sentence && line["request"] == id;
    let line = host.logged("the upstream is named", is_it);
    assert_eq!(line["level"], "warn");
    assert_eq!(line["extension"], "directus-extension-probe");
    assert_eq!(line["route"], "* /probe/fetch");
    assert_eq!(line["cause"], cause);
    assert_eq!(host.log().iter().filter(|line| is_it(line)).count(), 1);
}

#[test]
fn a_connection_that_cannot_be_made_in_time_is_a_timeout() {
    // A listener whose backlog is full takes no further connection.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let mut waiting = Vec::new();
    while let Ok(socket) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300))
    {
        waiting.push(socket);
        assert!(waiting.len() < 10_000, "the backlog has no end");
    }
    let host = plan_to(&format!("http://{address}")).start();
    let answer = host.get("/probe/fetch\nX-Connect-Ms: 100");
    assert!(answer.text().starts_with("fetch -12:"), "{}", answer.text());
}

#[test]
fn calls_with_times_of_their_own_take_no_memory_of_their_own() {
    let host = plan_to(&nobody())
        .config("[log]\naccess = false")
        .option("--workers=1")
        .start();
    let mut client = host.connect();
    let mut connect_ms = 1_000;
    let mut fetch = |count: usize| {
        for _ in 0..count {
            connect_ms += 1;
            client.send(request(
                &format!("GET /probe/fetch\nX-Connect-Ms: {connect_ms}"),
                b"",
            ));
            let answer = client.answer();
            assert!(answer.text().starts_with("fetch -10:"), "{}", answer.text());
        }
    };
    fetch(2_000);
    let before = host.resident();
    fetch(8_000);
    let grown = host.resident().saturating_sub(before);
    if Host::gives_memory_back() {
        assert!(grown < 1 << 20, "{grown} bytes for 8,000 calls");
    }
}

#[test]
fn an_answer_that_breaks_off_reaches_the_client_broken_off() {
    for (name, answer, part) in [
        (
            "length",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
            "some",
        ),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
            "some",
        ),
        (
            "mid-chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nsome",
            "some",
        ),
    ] {
        let (seen, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let breaking = Upstream::start(move |_, line| {
            line.send(answer);
            let _ = wait.lock().expect("a lock").recv_timeout(DEADLINE);
            Then::Close
        });
        let host = host(&breaking);
        let mut client = host.connect();
        client.send(request("GET /probe/fetch", b""));
        let mut relayed = client.head();
        seen.send(()).expect("the upstream waits");
        assert_eq!(relayed.status, 200, "{name}");
        let is_whole = client.body(&mut relayed);
        assert!(!is_whole, "{name}: the client took {relayed:?} for whole");
        assert!(part.starts_with(relayed.text()), "{name}");
        seen.send(()).expect("the upstream waits");
        let read = host.get("/probe/fetch\nX-Read: 1");
        assert!(read.text().ends_with("then -8"), "{name}: {}", read.text());
        assert_eq!(host.get("/c-sample/now").status, 200);
    }
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    for version in ["1.0", "1.1"] {
        let upstream = Upstream::start(move |_, line| {
            line.send(format!("HTTP/{version} 200 OK\r\n\r\nall "));
            std::thread::sleep(Duration::from_millis(50));
            line.send("of it");
            Then::Close
        });
        let answer = host(&upstream).get("/probe/fetch");
        assert_eq!((answer.text(), answer.is_whole), ("all of it", true));
    }
}

#[test]
fn an_answer_in_a_coding_that_is_not_known_is_refused_and_none_is_one() {
    let in_coding = |coding: &'static str| {
        let upstream = Upstream::start(move |_, line| {
            line.send(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n"
            ));
            line.send("all of it");
            Then::Close
        });
        let answer = host(&upstream).get("/probe/fetch");
        assert!(answer.is_whole);
        answer.text().to_owned()
    };
    let refused = in_coding("unheard-of");
    assert!(
        refused.starts_with("fetch -8: ") && refused.contains("the answer is not HTTP"),
        "EXT_BROKEN: {refused}"
    );
    assert_eq!(in_coding("identity"), "all of it");
}

#[test]
fn an_answer_that_is_longer_than_it_says_spoils_no_other() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsomeHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
    );
    let host = host(&upstream);
    for _ in 0..3 {
        assert_eq!(host.get("/probe/fetch").text(), "some");
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn an_early_answer_reaches_the_client_before_its_body_is_out() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::raw(move |line| {
        if line.head().is_some() {
            line.send("HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much");
            let _ = wait.lock().expect("a lock").recv_timeout(DEADLINE);
        }
    });
    let host = host(&upstream);
    let mut client = host.connect();
    client.send(
        "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\nContent-Length: 8\r\n\r\nsome",
    );
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (413, "too much"));
    end.send(()).expect("the upstream waits");
    assert_eq!(host.get("/c-sample/now").status, 200);
}

#[test]
fn a_body_and_its_answer_go_both_ways_at_once() {
    const CHUNKS: usize = 3;
    let upstream = Upstream::raw(|line| {
        let Some(head) = line.head() else { return };
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..CHUNKS {
            let chunk = line.exactly(8);
            line.send(chunk);
        }
        let end = line.exactly(5);
        line.send(end);
    });
    let host = host(&upstream);
    let mut client = host.connect();
    client.send(
        "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let head = client.head();
    assert_eq!(head.status, 200);
    for chunk in [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"3\r\nten\r\n"] {
        client.send(chunk);
        assert_eq!(client.take(8), chunk);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.take(5), b"0\r\n\r\n");
}

#[test]
fn what_an_upstream_says_before_its_answer_is_passed_over() {
    let upstream = Upstream::answering(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer",
    );
    let host = host(&upstream);
    for _ in 0..2 {
        let answer = host.get("/probe/fetch");
        assert_eq!(
            (answer.status, answer.text(), answer.header("link")),
            (200, "answer", None)
        );
    }
    let switching = Upstream::answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    let host = plan(&switching).start();
    let answer = host.get("/probe/fetch");
    assert!(answer.text().starts_with("fetch -8:"), "{}", answer.text());
}

#[test]
fn a_call_is_never_sent_twice() {
    let closing = Upstream::start(|_, _| Then::Close);
    let host = host(&closing);
    for method in ["POST", "GET"] {
        let before = closing.calls().len();
        let answer = host.get(&format!("/probe/fetch\nX-Method: {method}\nX-Body: once"));
        assert!(answer.text().starts_with("fetch -8:"), "{}", answer.text());
        assert_eq!(closing.calls().len(), before + 1, "{method}");
    }
}

#[test]
fn a_call_on_a_connection_that_has_gone_stale_is_not_lost() {
    // The upstream closes each connection after an answer that promised to keep it.
    let upstream = Upstream::start(|_, line| {
        line.send(ok("once"));
        Then::Close
    });
    let host = host(&upstream);
    let mut failed = 0;
    for _ in 0..20 {
        if host.get("/probe/fetch\nX-Method: POST").text() != "once" {
            failed += 1;
        }
    }
    assert_eq!(
        failed, 0,
        "calls were lost on connections that the upstream had closed"
    );
    assert_eq!(upstream.calls().len(), 20);
}

#[test]
fn a_client_that_leaves_ends_the_call() {
    let silent = Upstream::start(|_, _| Then::Watch);
    let host = host(&silent);
    let mut client = host.connect();
    client.send("GET /probe/fetch HTTP/1.1\r\nHost: a\r\n\r\n");
    silent.wait_for_calls(1);
    drop(client);
    silent.wait_for_close();
}

#[test]
fn a_client_that_leaves_mid_relay_ends_the_call() {
    let endless = Upstream::start(|_, line| {
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
        while line.send(&chunk) {}
        Then::Watch
    });
    let host = host(&endless);
    let mut client = host.connect();
    client.send("GET /probe/fetch HTTP/1.1\r\nHost: a\r\n\r\n");
    client.take(1 << 20);
    drop(client);
    endless.wait_for_close();
}

#[test]
fn a_slow_reader_of_a_relay_costs_no_memory() {
    const SIZE: usize = 100 << 20;
    let large = Upstream::start(|_, line| {
        line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let chunk = [b'x'; 1 << 16];
        for _ in 0..SIZE >> 16 {
            if !line.send(chunk) {
                break;
            }
        }
        Then::Close
    });
    let host = host(&large);
    assert_eq!(host.get("/probe/fetch").body.len(), SIZE);
    let after_one = host.resident();
    let mut client = host.connect();
    client.send("GET /probe/fetch HTTP/1.1\r\nHost: a\r\n\r\n");
    client.take(1 << 20);
    let (mut last, mut same) = (0, 0);
    crate::support::eventually("the relay rests", || {
        let now = host.resident();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 40
    });
    let grown = last.saturating_sub(after_one) >> 20;
    assert!(grown < 24, "it holds {grown} MiB for one client");
}

// ---- What goes along, what comes back ----

#[test]
fn a_forwarded_request_keeps_its_end_to_end_headers_and_no_others() {
    let upstream = Upstream::saying("got it");
    let host = host(&upstream);
    let head = format!(
        "POST /probe/fetch?q=1\nX-Flags: {}\nX-Custom: one\nX-Custom: two\nUser-Agent: me/1\nAccept: */*\n\
         Connection: keep-alive, X-Named\nX-Named: hop\nKeep-Alive: timeout=5\nProxy-Connection: x\nTE: trailers\n\
         Trailer: x\nUpgrade: websocket\nProxy-Authorization: Basic x\nContent-Type: text/plain\nX-Empty:",
        TAKE_HEADERS | TAKE_BODY
    );
    let answer = host.ask(&head, "the body");
    assert_eq!(answer.text(), "got it");
    let call = upstream.call();
    assert_eq!(
        (call.method.as_str(), call.body.as_slice()),
        ("POST", b"the body".as_slice())
    );
    assert_eq!(call.headers_named("x-custom"), ["one", "two"]);
    assert_eq!(call.header("user-agent"), Some("me/1"));
    assert_eq!(call.header("content-type"), Some("text/plain"));
    assert_eq!(call.header("content-length"), Some("8"));
    assert_eq!(call.header("x-empty"), Some(""));
    assert_eq!(call.headers_named("host"), [upstream.address().to_string()]);
    for name in [
        "x-named",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
        "transfer-encoding",
        "expect",
    ] {
        assert_eq!(call.header(name), None, "{name}");
    }
    let connection = call.header("connection").unwrap_or_default();
    assert!(!connection.to_lowercase().contains("named"), "{connection}");
}

#[test]
fn nothing_is_sent_that_nobody_asked_for() {
    let upstream = Upstream::saying("got it");
    let host = host(&upstream);
    for (method, length) in [
        ("GET", None),
        ("DELETE", None),
        ("POST", Some("0")),
        ("PUT", Some("0")),
        ("PATCH", Some("0")),
    ] {
        let before = upstream.calls().len();
        host.get(&format!("/probe/fetch\nX-Method: {method}"));
        let call = upstream.calls().remove(before);
        assert_eq!(call.header("content-length"), length, "{method}");
        let names = call.headers.iter().map(|(name, _)| name.as_str());
        let others = names.filter(|name| !matches!(*name, "host" | "content-length"));
        assert_eq!(others.count(), 0, "{call:?}");
    }
}

#[test]
fn a_body_that_is_forwarded_keeps_its_framing() {
    let upstream = Upstream::saying("got it");
    let host = host(&upstream);
    let flags = TAKE_HEADERS | TAKE_BODY;
    let head = format!("POST /probe/fetch\nX-Flags: {flags}\nTransfer-Encoding: chunked");
    host.ask(&head, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let call = upstream.call();
    assert_eq!(call.body, b"abcde");
    assert_eq!(call.header("transfer-encoding"), Some("chunked"));
    assert_eq!(call.header("content-length"), None);
}

#[test]
fn a_forwarded_body_that_breaks_off_is_broken_off_for_the_upstream_too() {
    let (told, whole) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::raw(move |line| {
        let Some(mut call) = line.head() else { return };
        line.record(call.clone());
        let is_whole = line.body(&mut call);
        let _ = told.lock().expect("a lock").send(is_whole);
    });
    let host = host(&upstream);
    let part = "x".repeat(100_000);
    for (framing, part) in [
        ("Content-Length: 100001", part.clone()),
        ("Transfer-Encoding: chunked", format!("186a0\r\n{part}\r\n")),
    ] {
        let before = upstream.calls().len();
        let mut client = host.connect();
        client.send(format!(
            "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\n{framing}\r\n\r\n{part}"
        ));
        upstream.wait_for_calls(before + 1);
        drop(client);
        let is_whole = whole.recv_timeout(DEADLINE).expect("an end");
        assert!(
            !is_whole,
            "{framing}: the upstream took half a body for a whole one"
        );
    }
}

#[test]
fn a_forwarded_body_goes_on_as_it_arrives() {
    let (arrived, wait) = std::sync::mpsc::channel();
    let arrived = std::sync::Mutex::new(arrived);
    let upstream = Upstream::raw(move |line| {
        let Some(mut call) = line.head() else { return };
        let _ = arrived.lock().expect("a lock").send(());
        line.body(&mut call);
        line.record(call);
        line.send(ok("got it"));
    });
    let host = host(&upstream);
    let mut client = host.connect();
    client.send(
        "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\nContent-Length: 8\r\n\r\nsome",
    );
    wait.recv_timeout(DEADLINE).expect("the first half goes on");
    client.send("more");
    assert_eq!(client.answer().text(), "got it");
    assert_eq!(upstream.call().body, b"somemore");
}

#[test]
fn a_request_for_a_websocket_has_the_body_that_it_declares() {
    let upstream = Upstream::saying("got it");
    let host = host(&upstream);
    for (body, framing) in [("", ""), ("a=b", "Content-Length: 3\r\n")] {
        let before = upstream.calls().len();
        let mut client = host.connect();
        client.send(format!(
            "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{framing}\r\n{body}"
        ));
        assert_eq!(client.answer().text(), "got it");
        let call = upstream.calls().remove(before);
        assert_eq!(call.body, body.as_bytes());
        assert_eq!(
            (call.header("upgrade"), call.header("transfer-encoding")),
            (None, None)
        );
    }
}

#[test]
fn expect_100_continue_is_answered_by_the_host() {
    let upstream = Upstream::saying("got it");
    let host = host(&upstream);
    let mut client = host.connect();
    client.send(
        "POST /probe/fetch HTTP/1.1\r\nHost: a\r\nX-Flags: 3\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    );
    assert_eq!(client.answer().status, 100);
    client.send("body");
    assert_eq!(client.answer().text(), "got it");
    let call = upstream.call();
    assert_eq!(
        (call.header("expect"), call.body.as_slice()),
        (None, b"body".as_slice())
    );
}

#[test]
fn a_relay_keeps_status_headers_and_body_and_drops_what_is_of_the_connection() {
    let upstream = Upstream::answering(
        "HTTP/1.1 418 I'm a teapot\r\nX-Custom: one\r\nX-Custom: two\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\
         Connection: keep-alive, X-Named\r\nX-Named: hop\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
         Upgrade: h2c\r\nContent-Encoding: gzip\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n\x1f\x08abc",
    );
    let host = host(&upstream);
    let answer = host.get("/probe/fetch");
    assert_eq!(answer.status, 418);
    assert_eq!(answer.body, b"\x1f\x08abc", "not decoded");
    assert_eq!(
        answer.headers_named("x-custom").collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(answer.headers_named("set-cookie").count(), 2);
    assert_eq!(answer.header("etag"), Some("\"x\""));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(
        answer.headers_named("content-length").collect::<Vec<_>>(),
        ["5"]
    );
    for name in [
        "x-named",
        "keep-alive",
        "proxy-authenticate",
        "upgrade",
        "transfer-encoding",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.headers_named("x-request-id").count(), 1);
}

#[test]
fn a_chunked_answer_is_relayed_chunk_by_chunk() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, line| {
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        let _ = wait.lock().expect("a lock").recv_timeout(DEADLINE);
        line.send("3\r\ntwo\r\n0\r\n\r\n");
        Then::Keep
    });
    let host = host(&upstream);
    let mut client = host.connect();
    client.send("GET /probe/fetch HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    let first = client.take(8);
    assert!(
        find(&first, b"one").is_some(),
        "the first chunk waits for the second"
    );
    go.send(()).expect("the upstream waits");
    assert!(find(&client.take(13), b"two").is_some());
}

#[test]
fn a_relay_to_head_has_the_length_and_no_body() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    let host = host(&upstream);
    let answer = host.ask(&format!("HEAD /probe/fetch\nX-Flags: {TAKE_HEADERS}"), "");
    assert_eq!(upstream.call().method, "HEAD");
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, Some("500"))
    );
    for (status, reason) in [(204, "No Content"), (304, "Not Modified")] {
        let upstream =
            Upstream::answering(format!("HTTP/1.1 {status} {reason}\r\nETag: \"x\"\r\n\r\n"));
        let host = plan(&upstream).start();
        let mut client = host.connect();
        for _ in 0..2 {
            client.send(request("GET /probe/fetch", b""));
            let answer = client.answer();
            assert_eq!(
                (answer.status, answer.header("etag")),
                (status, Some("\"x\""))
            );
        }
    }
}

#[test]
fn a_compressed_body_is_decoded_only_where_that_is_asked_for() {
    // "hello hello hello" by gzip.
    const GZIP: [u8; 28] = [
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 203, 72, 205, 201, 201, 87, 200, 64, 144, 0, 128, 136,
        249, 229, 17, 0, 0, 0,
    ];
    let gzip = GZIP.as_slice();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        gzip.len()
    );
    let upstream = Upstream::answering([head.as_bytes(), gzip].concat());
    let host = host(&upstream);
    assert_eq!(host.get("/probe/fetch").body, gzip);
    assert_eq!(upstream.call().header("accept-encoding"), None);
    let read = host.get("/probe/fetch\nX-Read: 1");
    assert_eq!(read.text(), "read 28 bytes, then 1");
    let decoded = host.get(&format!("/probe/fetch\nX-Read: 1\nX-Flags: {DECOMPRESS}"));
    assert_eq!(decoded.text(), "read 17 bytes, then 1");
    assert_eq!(upstream.calls()[2].header("accept-encoding"), Some("gzip"));
}

#[test]
fn connections_to_an_upstream_are_used_again() {
    let upstream = Upstream::saying("again");
    let host = plan(&upstream).option("--workers=1").start();
    for _ in 0..10 {
        assert_eq!(host.get("/probe/fetch").text(), "again");
    }
    assert_eq!((upstream.calls().len(), upstream.connections()), (10, 1));
}

#[test]
fn calls_over_the_limit_wait_for_their_turn_and_those_that_leave_take_none() {
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, line| {
        let _ = wait.lock().expect("no panic").recv_timeout(DEADLINE);
        line.send(ok("in turn"));
        Then::Keep
    });
    let host = plan(&upstream)
        .config("[fetch]\nconnections_max = 1\n[log]\nlevel = \"debug\"")
        .option("--workers=1")
        .start();
    let ask = |target: &str| {
        let mut client = host.connect();
        client.send(request(
            &format!("GET /probe/fetch\nX-Target: {target}"),
            b"",
        ));
        client
    };
    let mut first = ask("/first");
    upstream.wait_for_calls(1);
    let (leaves, mut last) = (ask("/leaves"), ask("/last"));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(upstream.calls().len(), 1);
    drop(leaves);
    host.said("the client left before the answer");
    for client in [&mut first, &mut last] {
        answer.send(()).expect("the upstream waits");
        assert_eq!(client.answer().text(), "in turn");
    }
    answer.send(()).expect("the upstream waits");
    assert_eq!(ask("/one-more").answer().text(), "in turn");
    let targets: Vec<_> = upstream
        .calls()
        .into_iter()
        .map(|call| call.target)
        .collect();
    assert_eq!(targets, ["/first", "/last", "/one-more"]);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_connection_that_was_idle_for_long_is_closed() {
    let upstream = Upstream::raw(|line| {
        if line.head().is_some() {
            line.send(ok("once"));
            line.watch();
        }
    });
    let host = plan(&upstream).config("[fetch]\nidle_ms = 200").start();
    assert_eq!(host.get("/probe/fetch").text(), "once");
    upstream.wait_for_close();
}

// ---- Redirects ----

/// An upstream that sends `/start` elsewhere.
fn redirecting(status: u16, location: String) -> Upstream {
    Upstream::start(move |call, line| {
        if call.target == "/start" {
            line.send(format!(
                "HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            ));
        } else {
            line.send(ok("the end"));
        }
        Then::Keep
    })
}

#[test]
fn redirects_are_not_followed_unless_that_is_asked_for() {
    let upstream = redirecting(302, "/end".into());
    let host = host(&upstream);
    let answer = host.get("/probe/fetch\nX-Target: /start");
    assert_eq!(
        (answer.status, answer.header("location")),
        (302, Some("/end"))
    );
    assert_eq!(upstream.calls().len(), 1);
    let answer = host.get(&format!(
        "/probe/fetch\nX-Target: /start\nX-Flags: {FOLLOW_REDIRECTS}"
    ));
    assert_eq!(answer.text(), "the end");
}

#[test]
fn redirects_are_followed_to_allowed_origins_only() {
    let forbidden = Upstream::saying("forbidden");
    let upstream = redirecting(302, format!("{}/end", forbidden.url()));
    let host = host(&upstream);
    let answer = host.get(&format!(
        "/probe/fetch\nX-Target: /start\nX-Flags: {FOLLOW_REDIRECTS}"
    ));
    assert_eq!(answer.status, 302, "the redirect itself is the answer");
    assert_eq!(forbidden.connections(), 0);
}

#[test]
fn credentials_stay_with_their_origin_when_a_redirect_is_followed() {
    let second = Upstream::saying("second");
    let first = redirecting(307, format!("{}/end", second.url()));
    let same = redirecting(307, "/end".into());
    let allow = format!(
        "[fetch]\nallow = [\"{}\", \"{}\", \"{}\"]",
        first.url(),
        second.url(),
        same.url()
    );
    let host = Host::plan()
        .extensions(&[&Extension::probe().manifest(&allow)])
        .start();
    let fetch = |base: &Upstream| {
        host.get(&format!(
            "/probe/fetch\nX-Base: {}\nX-Target: /start\nX-Flags: {FOLLOW_REDIRECTS}\nX-Authorization: Basic secret",
            base.url()
        ))
    };
    assert_eq!(fetch(&first).text(), "second");
    assert_eq!(first.call().header("authorization"), Some("Basic secret"));
    assert_eq!(second.call().header("authorization"), None);
    assert_eq!(fetch(&same).text(), "the end");
    assert_eq!(
        same.calls()[1].header("authorization"),
        Some("Basic secret")
    );
}

#[test]
fn a_redirect_changes_the_method_as_browsers_do() {
    for (status, method, body) in [
        (301, "GET", ""),
        (302, "GET", ""),
        (303, "GET", ""),
        (307, "POST", "x=1"),
        (308, "POST", "x=1"),
    ] {
        let upstream = redirecting(status, "/end".into());
        let host = plan(&upstream).start();
        host.get(&format!(
            "/probe/fetch\nX-Target: /start\nX-Flags: {FOLLOW_REDIRECTS}\nX-Method: POST\nX-Body: x=1"
        ));
        let end = &upstream.calls()[1];
        assert_eq!(
            (end.method.as_str(), end.body.as_slice()),
            (method, body.as_bytes()),
            "{status}"
        );
    }
}

#[test]
fn redirects_that_go_in_circles_come_to_an_end() {
    let upstream =
        Upstream::answering("HTTP/1.1 302 Round\r\nLocation: /round\r\nContent-Length: 0\r\n\r\n");
    let host = host(&upstream);
    let answer = host.get(&format!("/probe/fetch\nX-Flags: {FOLLOW_REDIRECTS}"));
    assert_eq!(answer.status, 302);
    assert_eq!(upstream.calls().len(), 11, "the call and ten redirects");
}

// ---- TLS ----

/// A certificate authority that nobody knows, and a server with a certificate of its own.
fn authority() -> (String, Arc<rustls::ServerConfig>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().expect("a key");
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.signed_by(&server_key, &issuer))
        .expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the defaults")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .expect("the key of the certificate");
    (authority.pem(), Arc::new(config))
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_unless_ssl_cert_file_knows_it() {
    let (pem, config) = authority();
    let upstream = Upstream::start_tls(config, |_, line| {
        line.send(ok("by TLS"));
        Then::Keep
    });
    let port = upstream.address().port();
    let url = format!("https://localhost:{port}");

    let host = plan_to(&url).start();
    let answer = host.get("/probe/fetch");
    assert!(answer.text().starts_with("fetch -11:"), "{}", answer.text());
    assert!(upstream.calls().is_empty());
    assert_eq!(host.get("/c-sample/now").status, 200);

    let plan = plan_to(&url);
    let file = plan.folder().join("authority.pem");
    std::fs::write(&file, &pem).expect("a file");
    let host = plan
        .variable("SSL_CERT_FILE", file.display().to_string())
        .start();
    let answer = host.get("/probe/fetch\nX-Target: /a?b");
    assert_eq!(answer.text(), "by TLS");
    let call = upstream.call();
    assert_eq!(call.target, "/a?b");
    assert_eq!(
        call.header("host"),
        Some(format!("localhost:{port}").as_str())
    );
}

#[test]
fn certificate_roots_that_could_not_be_read_are_tried_again() {
    let (pem, config) = authority();
    let upstream = Upstream::start_tls(config, |_, line| {
        line.send(ok("by TLS"));
        Then::Keep
    });
    let plan = plan_to(&format!("https://localhost:{}", upstream.address().port()));
    let file = plan.folder().join("authority.pem");
    let host = plan
        .variable("SSL_CERT_FILE", file.display().to_string())
        .start();
    let answer = host.get("/probe/fetch");
    assert!(
        answer.text().contains("no certificate roots were found"),
        "{}",
        answer.text()
    );
    std::fs::write(&file, &pem).expect("a file");
    eventually("the roots are read", || {
        host.get("/probe/fetch").text() == "by TLS"
    });
}

#[test]
fn certificate_roots_are_where_they_were_at_the_start_whatever_an_extension_changes() {
    let (pem, config) = authority();
    let upstream = Upstream::start_tls(config, |_, line| {
        line.send(ok("by TLS"));
        Then::Keep
    });
    let plan = plan_to(&format!("https://localhost:{}", upstream.address().port()));
    std::fs::write(plan.folder().join("authority.pem"), &pem).expect("a file");
    // By a path that leads elsewhere from the directory that the extension goes to, as does the variable that it sets.
    let changes = Extension::c("directus-extension-changes", "changes_process.c", &[]);
    let host = plan
        .extensions(&[&changes])
        .variable("SSL_CERT_FILE", "authority.pem")
        .start();
    assert_eq!(host.get("/changes/").status, 200);
    assert_eq!(host.get("/probe/fetch").text(), "by TLS");
}

#[test]
fn a_large_body_goes_both_ways_over_tls() {
    let (pem, config) = authority();
    let upstream = Upstream::start_tls(config, |call, line| {
        line.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            call.body.len()
        ));
        line.send(&call.body);
        Then::Keep
    });
    let plan = plan_to(&format!("https://localhost:{}", upstream.address().port()));
    let file = plan.folder().join("authority.pem");
    std::fs::write(&file, &pem).expect("a file");
    let host = plan
        .option("--workers=1")
        .variable("SSL_CERT_FILE", file.display().to_string())
        .start();
    let body: String = (0..140_000).map(|number| format!("{number:7}")).collect();
    for _ in 0..2 {
        let answer = host.ask("POST /probe/fetch\nX-Flags: 3", &body);
        assert_eq!((answer.status, answer.body.len()), (200, body.len()));
        assert!(answer.body == body.as_bytes());
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let (pem, config) = authority();
    let upstream = Upstream::start_tls(config, |_, line| {
        line.send(ok("by TLS"));
        Then::Keep
    });
    let plan = plan_to(&upstream.url().replace("http:", "https:"));
    let file = plan.folder().join("authority.pem");
    std::fs::write(&file, &pem).expect("a file");
    let host = plan
        .variable("SSL_CERT_FILE", file.display().to_string())
        .start();
    let answer = host.get("/probe/fetch");
    assert!(answer.text().starts_with("fetch -11:"), "{}", answer.text());
    assert!(upstream.calls().is_empty());
}
