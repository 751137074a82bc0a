//! Bodies whose framing is more than they hold: from clients, and from upstreams.

use crate::support::host::request;
use crate::support::upstream::Then;
use crate::support::{Connection, Extension, Host, Upstream};

/// More than a body without a length may take on its connection: twice its limit and 256 KiB, beside what was read with its head.
fn too_much(body_bytes_max: usize) -> usize {
    2 * body_bytes_max + (512 << 10)
}

const LIMIT: usize = 1_000;

/// Framing without end, that says nothing.
fn endless_framings(bytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    let filled = |start: &str, fill: u8| {
        let mut framing = start.as_bytes().to_vec();
        framing.resize(bytes, fill);
        framing
    };
    let mut extensions = b"1;x=".to_vec();
    while extensions.len() < bytes {
        // So long that the body itself stays far below its limit, which is refused otherwise.
        extensions.extend_from_slice(&[b'y'; 3_000]);
        extensions.extend_from_slice(b"\r\nz\r\n1;x=");
    }
    vec![
        ("an extension without end", filled("1;x=", b'y')),
        ("a size with zeros without end", filled("0", b'0')),
        ("spaces without end", filled("1", b' ')),
        ("a trailer without end", filled("0\r\nX-A: ", b'y')),
        ("trailers without end", {
            let mut trailers = b"0\r\n".to_vec();
            while trailers.len() < bytes {
                trailers.extend_from_slice(b"X-A: b\r\n");
            }
            trailers
        }),
        ("chunks whose extensions are long", extensions),
    ]
}

fn host(upstream: &Upstream) -> Host {
    let probe = Extension::probe().more_manifest(&format!("[limits]\nbody_bytes_max = {LIMIT}"));
    Host::plan()
        .extensions(&[&probe, &Extension::good()])
        .dotenv("UPSTREAM", upstream.url())
        .start()
}

fn send(host: &Host, head: &str, body: &[u8]) -> Connection {
    let mut client = host.connect();
    let head = format!("{head}\nTransfer-Encoding: chunked");
    // What the host does not read any more may not be taken.
    let _ = client.try_send(request(&head, body));
    client
}

/// Whether the host closes the connection, in time.
fn is_closed(client: &mut Connection) -> bool {
    client.take(1).is_empty()
}

#[test]
fn framing_counts_towards_the_limit_of_a_body() {
    let upstream = Upstream::start(|_, _| Then::Watch);
    let host = host(&upstream);
    for (name, framing) in endless_framings(too_much(LIMIT)) {
        for path in ["/probe/count", "/probe/whole"] {
            let mut client = send(&host, &format!("POST {path}"), &framing);
            let answer = client.answer();
            assert_eq!(
                answer.error(),
                (413, "CONTENT_TOO_LARGE".into()),
                "{name}, {path}"
            );
            assert_eq!(answer.header("connection"), Some("close"), "{name}, {path}");
            assert!(is_closed(&mut client), "{name}, {path}");
        }
        // Passed on, it is the call that fails: EXT_TOO_LARGE.
        let mut client = send(&host, "POST /probe/fetch\nX-Flags: 3", &framing);
        assert!(client.answer().text().starts_with("fetch -7:"), "{name}");
        assert!(is_closed(&mut client), "{name}");
    }
    assert_eq!(host.get("/probe/now").text(), "now");
}

#[test]
fn framing_counts_on_the_hosts_own_routes() {
    let upstream = Upstream::saying("");
    let host = host(&upstream);
    for (name, framing) in endless_framings(too_much(16 << 10)) {
        let mut client = send(&host, "POST /auth/login", &framing);
        assert_eq!(client.answer().status, 413, "{name}");
        assert!(is_closed(&mut client), "{name}");
    }
}

#[test]
fn framing_that_nobody_reads_ends_the_connection() {
    let host = Host::plan()
        .config(&format!(
            "[limits]\nclient_request_timeout_ms = 600000\nbody_bytes_max = {LIMIT}"
        ))
        .extensions(&[&Extension::good()])
        .start();
    for (name, framing) in endless_framings(too_much(LIMIT)) {
        for (path, status) in [("/c-sample/now", 200), ("/nowhere", 404)] {
            let mut client = send(&host, &format!("GET {path}"), &framing);
            assert_eq!(client.answer().status, status, "{name}, {path}");
            assert!(is_closed(&mut client), "{name}, {path}");
        }
    }
}

#[test]
fn a_body_of_small_chunks_is_a_body() {
    let upstream = Upstream::saying("");
    let host = host(&upstream);
    let mut client = host.connect();
    let body = "1;a\r\nx\r\n".repeat(LIMIT) + "0\r\nX-Trailer: y\r\n\r\n";
    for path in ["/probe/count", "/probe/whole", "/probe/count"] {
        let head = format!("POST {path}\nTransfer-Encoding: chunked");
        client.send(request(&head, body.as_bytes()));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{path}");
        assert!([format!("{LIMIT} bytes"), "x".repeat(LIMIT)].contains(&answer.text().to_owned()));
    }
    // What follows a body on its connection has no limit that is the body's.
    for _ in 0..200 {
        let long = format!("GET /probe/now\nX-Long: {}", "x".repeat(8_000));
        client.send(request(&long, b""));
        assert_eq!(client.answer().text(), "now");
    }
}

#[test]
fn an_upstreams_framing_has_an_end() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    for (name, framing) in endless_framings(1 << 20) {
        let upstream = Upstream::raw(move |line| {
            line.head();
            line.send(chunked);
            line.send(&framing);
            line.watch();
        });
        let host = host(&upstream);
        let read = host.get("/probe/fetch\nX-Read: 1");
        assert!(read.text().ends_with("then -8"), "{name}: {}", read.text());
        let relayed = host.get("/probe/fetch");
        assert_eq!((relayed.status, relayed.is_whole), (200, false), "{name}");
        upstream.wait_for_close();
    }
}

#[test]
fn what_an_upstream_says_before_its_answer_has_an_end() {
    for (start, piece) in [
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
        ("HTTP/1.1 200 OK\r\nX-A: ", "y"),
        ("HTTP/1.1 200 ", "O"),
    ] {
        let upstream = Upstream::raw(move |line| {
            line.head();
            line.send(start);
            line.send(piece.repeat((1 << 20) / piece.len()));
            line.watch();
        });
        let host = host(&upstream);
        let answer = host.get("/probe/fetch");
        assert!(
            answer.text().starts_with("fetch -8:"),
            "{piece:?}: {}",
            answer.text()
        );
    }
}

#[test]
fn an_upstream_may_answer_in_small_chunks() {
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    answer.extend("1;a\r\nx\r\n".repeat(100_000).into_bytes());
    answer.extend_from_slice(b"0\r\nX-Trailer: y\r\n\r\n");
    let upstream = Upstream::answering(answer);
    let host = host(&upstream);
    assert_eq!(
        host.get("/probe/fetch\nX-Read: 1").text(),
        "read 100000 bytes, then 1"
    );
    assert_eq!(host.get("/probe/fetch").body.len(), 100_000);
}
