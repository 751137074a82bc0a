//! HTTP as it is on the wire: exact bytes in, exact bytes out. No library that would repair or hide anything.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::DEADLINE;

/// A connection to a server.
pub struct Connection {
    stream: TcpStream,
    /// What has arrived and is not yet read.
    arrived: Vec<u8>,
}

/// An answer, as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In their order, as they were written.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end that its head promised.
    pub is_whole: bool,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server takes connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            arrived: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the server reads");
        self
    }

    /// Sends what the server may not want to read any more.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> &mut Self {
        // Err: the server has closed the connection, and so knows.
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// The next answer; to HEAD see [`answer_to_head`](Self::answer_to_head).
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let has_body = !(100..200).contains(&answer.status) && ![204, 304].contains(&answer.status);
        if has_body {
            answer.is_whole = self.body(&mut answer);
        }
        answer
    }

    /// The next answer, to a request with HEAD: its headers speak of a body that does not come.
    #[track_caller]
    pub fn answer_to_head(&mut self) -> Answer {
        self.head()
    }

    /// Reads an answer's head; its body has not been read.
    #[track_caller]
    pub fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = find(&self.arrived, b"\r\n\r\n") {
                break end;
            }
            let more = self.more().expect("an answer in time");
            let so_far = String::from_utf8_lossy(&self.arrived).into_owned();
            assert!(
                more,
                "the connection ended instead of an answer: {so_far:?}"
            );
        };
        let head = latin1(&self.arrived[..end]);
        self.arrived.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let (_, rest) = first.split_once(' ').expect("a status line");
        let status = rest.get(..3).and_then(|status| status.parse().ok());
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_owned(), value.to_owned())
        };
        Answer {
            status: status.expect("a status"),
            headers: lines.map(field).collect(),
            body: Vec::new(),
            is_whole: true,
        }
    }

    /// Reads at least so many bytes of whatever comes, and takes them.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.arrived.len() < count && self.more().expect("bytes in time") {}
        let count = count.min(self.arrived.len());
        self.arrived.drain(..count).collect()
    }

    /// Reads until so many bytes more are there.
    pub fn wait_for(&mut self, count: usize) {
        let count = self.arrived.len() + count;
        while self.arrived.len() < count && self.more().expect("bytes in time") {}
    }

    /// Whether the server ends the connection without sending anything more.
    pub fn ends(&mut self) -> bool {
        self.arrived.is_empty() && !self.more().unwrap_or(false)
    }

    /// All that comes until the server ends the connection, however it does.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more().unwrap_or(false) {}
        std::mem::take(&mut self.arrived)
    }

    /// Reads the body after a head; false where the connection ends before it is whole.
    pub fn body(&mut self, answer: &mut Answer) -> bool {
        if answer.header("transfer-encoding") == Some("chunked") {
            return self.chunks(&mut answer.body);
        }
        match answer.header("content-length") {
            Some(length) => {
                let length: usize = length.parse().expect("a length");
                answer.body = self.take(length);
                answer.body.len() == length
            }
            None => {
                while let Ok(true) = self.more() {}
                answer.body = std::mem::take(&mut self.arrived);
                true
            }
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                match find(&self.arrived, b"\r\n") {
                    Some(end) => break end,
                    None if self.more().unwrap_or(false) => {}
                    None => return false,
                }
            };
            let line: Vec<u8> = self.arrived.drain(..end + 2).collect();
            let size = usize::from_str_radix(latin1(&line[..end]).trim(), 16).expect("a size");
            let mut chunk = self.take(size + 2);
            if chunk.len() < size + 2 {
                body.append(&mut chunk);
                return false;
            }
            if size == 0 {
                return true;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// Waits for more bytes; false at the end of the connection.
    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.arrived.extend_from_slice(&buffer[..count]);
                Ok(count > 0)
            }
            // Ended without ceremony is ended, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// All headers of that name.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON, not {self:?}"))
    }

    /// Status and code of an answer in Directus's shape of an error.
    #[track_caller]
    pub fn error(&self) -> (u16, String) {
        let code = &self.json()["errors"][0]["extensions"]["code"];
        (self.status, code.as_str().expect("a code").to_owned())
    }

    /// What an error says to people.
    #[track_caller]
    pub fn message(&self) -> String {
        let message = &self.json()["errors"][0]["message"];
        message.as_str().expect("a message").to_owned()
    }
}

/// Each byte its own character, so that nothing is lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Where `part` begins.
pub fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
