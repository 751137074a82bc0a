//! A client that does what clients must not do: it sends what it likes, and leaves when it likes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How much of an answer is read: of one that never ends, too.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long a body is read that goes on and on.
const BODY_READ: Duration = Duration::from_millis(300);

/// A connection.
pub struct Client(TcpStream);

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientResponse {
    /// An answer of this status.
    Status(u16),
    /// The connection ended, or nothing came in time.
    Nothing,
}

impl Client {
    /// Connects.
    pub fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends bytes; that the server does not want them is its right.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Sends nothing more, and reads on.
    pub fn half_close(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Reads an answer: its head, and of its body what comes soon.
    pub fn answer(&mut self) -> ClientResponse {
        let mut arrived = Vec::new();
        let Some(end) = self.head(&mut arrived) else {
            return ClientResponse::Nothing;
        };
        let head = String::from_utf8_lossy(&arrived[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let declared = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok());
        let is_over = |arrived: &[u8]| match declared {
            Some(length) => arrived.len() >= end + length,
            None => arrived.ends_with(b"\r\n0\r\n\r\n"),
        };
        let until = Instant::now() + BODY_READ;
        let _ = self.0.set_read_timeout(Some(BODY_READ));
        while !is_over(&arrived) && arrived.len() < ANSWER_BYTES_MAX && Instant::now() < until {
            if !self.more(&mut arrived) {
                break;
            }
        }
        status.map_or(ClientResponse::Nothing, ClientResponse::Status)
    }

    /// Reads the first bytes of an answer, and no more.
    pub fn read_first_bytes(&mut self) {
        let _ = self.0.read(&mut [0; 16]);
    }

    fn head(&mut self, arrived: &mut Vec<u8>) -> Option<usize> {
        const HEAD_BYTES_MAX: usize = 1 << 20;
        loop {
            if let Some(end) = arrived.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Some(end + 4);
            }
            if arrived.len() > HEAD_BYTES_MAX || !self.more(arrived) {
                return None;
            }
        }
    }

    fn more(&mut self, arrived: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.0.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                arrived.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}
