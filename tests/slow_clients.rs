//! Clients that do not read their answers: what they keep, for how long, and what the others get meanwhile.

use std::time::Duration;

use crate::support::host::request;
use crate::support::upstream::Then;
use crate::support::{Connection, Extension, Host, Upstream, eventually};

/// More than the system keeps for a client that does not read.
const LARGE: usize = 32 << 20;

/// Answers with more than anybody takes.
fn endless() -> Upstream {
    Upstream::start(|_, line| {
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
        while line.send(&chunk) {}
        Then::Watch
    })
}

fn in_flight(host: &Host) -> u64 {
    let probe = host.said_of("directus-extension-probe").remove(0);
    let requests = &probe["requests"]["in_flight"];
    requests.as_u64().expect("a number")
}

#[test]
fn a_client_that_does_not_read_is_given_up_and_another_takes_its_place() {
    let upstream = endless();
    let host = Host::plan()
        .config("[log]\nlevel = \"debug\"\n[limits]\nconnections_max = 2\nclient_write_timeout_ms = 1500")
        .option("--workers=1")
        .extensions(&[&Extension::probe(), &Extension::good()])
        .dotenv("UPSTREAM", upstream.url())
        .start();
    let slow: [Connection; 2] = std::array::from_fn(|_| {
        let mut client = host.connect();
        client.send(request("GET /probe/fetch", b""));
        client
    });
    upstream.wait_for_calls(2);
    // As many as there may be are connected: this one waits until one of them is closed.
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    let line = host.said("a client did not take its answer in time; its connection was closed");
    assert_eq!(line["ip"], "127.0.0.1");
    upstream.wait_for_close();
    eventually("nothing is in flight any more", || in_flight(&host) == 0);
    drop(slow);
}

#[test]
fn a_client_that_reads_slowly_gets_the_whole_of_its_answer() {
    let host = Host::plan()
        .config("[limits]\nclient_write_timeout_ms = 5000\nkeep_alive_ms = 500")
        .extensions(&[&Extension::probe()])
        .start();
    let mut client = host.connect();
    let chunks = format!("GET /probe/stream\nX-Chunks: 8\nX-Size: {}", LARGE / 8);
    client.send(request(&chunks, b""));
    let mut answer = client.head();
    // Longer in all than may pass between two writes.
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(800));
        client.wait_for(LARGE / 10);
    }
    assert!(client.body(&mut answer));
    assert_eq!(answer.body.len(), LARGE);
}

#[test]
fn an_answer_is_in_hand_until_its_body_is_over() {
    let large = vec![b'x'; LARGE];
    let answer = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes(),
        &large,
    ]
    .concat();
    let upstream = Upstream::answering(answer);
    let limits = format!("[limits]\nconcurrency_max = 1\nbody_bytes_max = {LARGE}");
    let probe = Extension::probe().more_manifest(&limits);
    let host = Host::plan()
        .extensions(&[&probe, &Extension::good()])
        .dotenv("UPSTREAM", upstream.url())
        .start();
    let chunks = format!("GET /probe/stream\nX-Chunks: 2\nX-Size: {}", LARGE / 2);
    for (head, body) in [
        ("GET /probe/fetch", b"".as_slice()),
        (&chunks, b""),
        ("POST /probe/whole", &large),
    ] {
        let mut client = host.connect();
        client.send(request(head, body));
        let mut answer = client.head();
        // The extension is done with it, the client is not.
        assert_eq!(in_flight(&host), 1, "{head}");
        let refused = host.get("/probe/now");
        assert_eq!(refused.error(), (503, "SERVICE_UNAVAILABLE".into()));
        assert!(client.body(&mut answer));
        assert_eq!((answer.status, answer.body.len()), (200, LARGE), "{head}");
        eventually("it is over", || in_flight(&host) == 0);
        assert_eq!(host.get("/probe/now").text(), "now", "{head}");
    }
}
