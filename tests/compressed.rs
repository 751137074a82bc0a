//! Answers that come compressed and are decoded for the extension: that they are right, and what they take.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::support::upstream::Then;
use crate::support::{Extension, Host, Upstream};

/// EXT_FETCH_DECOMPRESS
const DECOMPRESS: u32 = 16;
const FOLLOW_REDIRECTS: u32 = 8;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// An answer in a coding, in chunks of so many bytes.
fn coded(coding: &str, body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(chunk_bytes) {
        answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

fn host(upstream: &Upstream) -> Host {
    Host::plan()
        .extensions(&[&Extension::probe()])
        .dotenv("UPSTREAM", upstream.url())
        .start()
}

/// What an extension reads of an answer.
fn read(answer: Vec<u8>) -> String {
    let upstream = Upstream::answering(answer);
    let host = host(&upstream);
    let read = host.get(&format!("/probe/fetch\nX-Read: 1\nX-Flags: {DECOMPRESS}"));
    read.text().to_owned()
}

/// What an extension relays of an answer, though decoding is not for that.
fn relayed(answer: Vec<u8>) -> Vec<u8> {
    let upstream = Upstream::answering(answer);
    let host = host(&upstream);
    host.get(&format!("/probe/fetch\nX-Flags: {DECOMPRESS}"))
        .body
}

#[test]
fn a_compressed_answer_is_decoded_however_it_arrives() {
    let text: Vec<u8> = (0..100_000_u32)
        .flat_map(|number| format!("{number}, ").into_bytes())
        .collect();
    for (coding, body) in [
        ("gzip", gzip(&text)),
        ("X-GZIP", gzip(&text)),
        ("deflate", deflate(&text)),
        // One after the other, as `cat a.gz b.gz` makes it.
        (
            "gzip",
            [gzip(&text[..1_000]), gzip(&text[1_000..])].concat(),
        ),
    ] {
        for chunk_bytes in [7, 8_192, usize::MAX] {
            let chunk_bytes = chunk_bytes.min(body.len());
            let decoded = relayed(coded(coding, &body, chunk_bytes));
            assert!(
                decoded == text,
                "{coding}, {chunk_bytes}: {} bytes",
                decoded.len()
            );
        }
    }
    assert_eq!(
        relayed(coded("br", b"not known here", 5)),
        b"not known here"
    );
}

#[test]
fn an_answer_without_a_body_is_empty_whatever_its_coding() {
    assert_eq!(read(coded("gzip", b"", 1)), "read 0 bytes, then 1");
    assert_eq!(read(coded("deflate", b"", 1)), "read 0 bytes, then 1");
    assert_eq!(read(coded("gzip", &gzip(b""), 1)), "read 0 bytes, then 1");
    let none = b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
    assert_eq!(read(none), "read 0 bytes, then 1");
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 100\r\n\r\n",
    );
    let head = format!("/probe/fetch\nX-Read: 1\nX-Method: HEAD\nX-Flags: {DECOMPRESS}");
    assert_eq!(host(&upstream).get(&head).text(), "read 0 bytes, then 1");
}

#[test]
fn a_compressed_answer_that_is_not_whole_is_broken() {
    let text = b"hello hello hello ".repeat(1_000);
    for (coding, body) in [("gzip", gzip(&text)), ("deflate", deflate(&text))] {
        for part in [1, body.len() / 2, body.len() - 1] {
            let said = read(coded(coding, &body[..part], 10));
            assert!(said.ends_with("then -8"), "{coding}, {part}: {said}");
        }
        let mut other = body.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        let said = read(coded(coding, &other, 10));
        assert!(said.ends_with("then -8"), "{coding}, another sum: {said}");
        let said = read(coded(coding, &[&body, b"and more".as_slice()].concat(), 10));
        assert!(said.ends_with("then -8"), "{coding}, more after it: {said}");
    }
}

#[test]
fn a_redirect_that_is_followed_is_decoded_at_its_end() {
    let upstream = Upstream::start(|call, line| {
        match call.target.as_str() {
            "/start" => {
                line.send("HTTP/1.1 307 There\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n")
            }
            _ => line.send(coded("gzip", &gzip(b"hello hello hello"), 10)),
        };
        Then::Keep
    });
    let flags = FOLLOW_REDIRECTS | DECOMPRESS;
    let read = format!("/probe/fetch\nX-Target: /start\nX-Read: 1\nX-Flags: {flags}");
    assert_eq!(host(&upstream).get(&read).text(), "read 17 bytes, then 1");
    for call in upstream.calls() {
        assert_eq!(
            call.header("accept-encoding"),
            Some("gzip"),
            "{}",
            call.target
        );
    }
}

#[test]
fn a_body_that_grows_a_thousandfold_takes_no_more_memory() {
    const BOMB_BYTES: usize = 16 << 20;
    const AT_ONCE: usize = 12;
    let upstream = Upstream::answering(coded("gzip", &gzip(&vec![0; BOMB_BYTES]), usize::MAX >> 1));
    let host = host(&upstream);
    let fetch = || {
        let read = host.get(&format!("/probe/fetch\nX-Read: 1\nX-Flags: {DECOMPRESS}"));
        assert_eq!(read.text(), format!("read {BOMB_BYTES} bytes, then 1"));
    };
    let at_once = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(fetch);
            }
        });
    };
    // What is made at the first call, and for as many answers as there will be at once.
    let warm_up = || host.get("/probe/fetch");
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(warm_up))));
    let growth = |count: usize| {
        host.forget_most_resident();
        let before = host.most_resident();
        at_once(count);
        host.most_resident() - before
    };
    let (one, all) = (growth(1), growth(AT_ONCE));
    if Host::gives_memory_back() {
        assert!(one < 4 << 20, "one call took {one} bytes");
        assert!(all < 16 << 20, "{AT_ONCE} calls took {all} bytes");
    }
}
