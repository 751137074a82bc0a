//! An upstream that costs little: one thread, keep-alive, answers that are made beforehand.
//!
//! `/bytes/N` answers N bytes, anything else a small JSON beside the headers of an API.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
content-type: application/json; charset=utf-8\r\n\
content-length: 165\r\n\
date: Mon, 23 Nov 2026 00:00:00 GMT\r\n\
twilio-concurrent-requests: 1\r\n\
twilio-request-id: RQ0123456789abcdef0123456789abcdef\r\n\
twilio-request-duration: 0.012\r\n\
access-control-allow-origin: *\r\n\
x-api-domain: api.twilio.com\r\n\
\r\n\
{\"sid\":\"SM0123456789abcdef0123456789abcdef\",\"status\":\"queued\",\"to\":\"+15550100\",\"from\":\"+15550101\",\"body\":\"Hello from the benchmark\",\"num_segments\":\"1\",\"price\":null}\n";

/// One byte too many, and those who look what is left on a connection would not use it again.
const _: () = assert!(ANSWER.len() - HEAD_BYTES == 165);
const HEAD_BYTES: usize = {
    let mut at = 0;
    while !(ANSWER[at] == b'\r' && ANSWER[at + 2] == b'\r') {
        at += 1;
    }
    at + 4
};

fn main() -> io::Result<()> {
    let port = extension_host_bench::argument(1).unwrap_or(9000);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(port))
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A client that goes away is nobody's business.
        tokio::spawn(async move { connection(stream).await.unwrap_or_default() });
    }
}

async fn connection(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let head = loop {
            if let Some(end) = find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let length = content_length(&buffer[..head]);
        let bytes = bytes_asked_for(&buffer[..head]);
        let mut left = length.saturating_sub(buffer.len() - head);
        buffer.drain(..buffer.len().min(head + length));
        let mut sink = vec![0; left.min(64 * 1024)];
        while left > 0 {
            let most = left.min(sink.len());
            match stream.read(&mut sink[..most]).await? {
                0 => return Ok(()),
                read => left -= read,
            }
        }
        match bytes {
            None => stream.write_all(ANSWER).await?,
            Some(bytes) => answer_bytes(&mut stream, bytes).await?,
        }
    }
}

async fn answer_bytes(stream: &mut TcpStream, mut bytes: usize) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = vec![b'x'; 64 * 1024];
    while bytes > 0 {
        let most = bytes.min(chunk.len());
        stream.write_all(&chunk[..most]).await?;
        bytes -= most;
    }
    Ok(())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0)
}

fn bytes_asked_for(head: &[u8]) -> Option<usize> {
    let start = find(head, b"/bytes/")?;
    let rest = &head[start + 7..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}
