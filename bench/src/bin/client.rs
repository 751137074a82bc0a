//! A client that does exactly what it is told, for what wrk cannot do.
//!
//! - `bench-client ask PORT PATH COUNT SETS [HEADER…]`: so many requests, one after the other, on one connection. Each carries
//!   the headers that all share, and after them those of its own line in the file SETS, parted there by tabs.
//! - `bench-client idle PORT PATH COUNT`: so many connections, each used once, held until the standard input ends.
//! - `bench-client get PORT PATH`: one answer of any size; prints its bytes and seconds.
//! - `bench-client echo PORT PATH BYTES`: sends a body of that size and reads as much back; prints bytes and seconds.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (what, port, path) = (&arguments[0], &arguments[1], &arguments[2]);
    let number = || {
        arguments
            .get(3)
            .and_then(|number| number.parse().ok())
            .unwrap_or(1)
    };
    match what.as_str() {
        "ask" => ask(port, path, number(), &arguments[4], &arguments[5..]),
        "idle" => idle(port, path, number()),
        "get" => get(port, path),
        "echo" => echo(port, path, number()),
        other => Err(io::Error::other(format!("{other} is nothing to do"))),
    }
}

fn connect(port: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(port: &str, path: &str, count: usize, sets: &str, shared: &[String]) -> io::Result<()> {
    let mut stream = connect(port)?;
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    for header in shared {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let sets = std::fs::read_to_string(sets)?;
    for own in sets.lines().cycle().take(count) {
        let request = format!("{head}{}\r\n\r\n", own.replace('\t', "\r\n"));
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream)?;
    }
    Ok(())
}

fn idle(port: &str, path: &str, count: usize) -> io::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(port)?;
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream)?;
        open.push(stream);
    }
    println!("{count} connections are open");
    io::stdin().read_to_end(&mut Vec::new())?;
    for stream in open {
        stream.set_nonblocking(true)?;
        if !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        {
            return Err(io::Error::other("a connection was closed meanwhile"));
        }
    }
    Ok(())
}

fn get(port: &str, path: &str) -> io::Result<()> {
    let mut stream = connect(port)?;
    let begin = Instant::now();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let bytes = read_answer(&mut stream)?;
    println!("{bytes} {}", begin.elapsed().as_secs_f64());
    Ok(())
}

fn echo(port: &str, path: &str, bytes: usize) -> io::Result<()> {
    let mut stream = connect(port)?;
    let begin = Instant::now();
    let mut sender = stream.try_clone()?;
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {bytes}\r\n\r\n");
    let sending = std::thread::spawn(move || -> io::Result<()> {
        sender.write_all(head.as_bytes())?;
        let chunk = vec![b'x'; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let most = left.min(chunk.len());
            sender.write_all(&chunk[..most])?;
            left -= most;
        }
        Ok(())
    });
    let read = read_answer(&mut stream)?;
    sending
        .join()
        .map_err(|_| io::Error::other("sending panicked"))??;
    println!("{read} {}", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Reads one answer to its end, and gives the length of its body as it came over the wire.
fn read_answer(stream: &mut TcpStream) -> io::Result<usize> {
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    let head = loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some(end) = buffer[..filled]
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
        {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        return Err(io::Error::other(format!(
            "not the answer that was expected: {text}"
        )));
    }
    let length = text.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let mut body = filled - head;
    match length {
        Some(length) => {
            while body < length {
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => body += read,
                }
            }
        }
        // Chunked: the end is what ends it. A benchmark's body does not hold that text.
        None => {
            let mut tail: Vec<u8> = buffer[head..filled].to_vec();
            while !tail.ends_with(b"0\r\n\r\n") {
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => {
                        body += read;
                        let keep = tail.len().min(5);
                        tail.drain(..tail.len() - keep);
                        tail.extend_from_slice(&buffer[read.saturating_sub(5)..read]);
                    }
                }
            }
        }
    }
    Ok(body)
}
