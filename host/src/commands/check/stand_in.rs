//! What answers an extension's outgoing calls while it is checked: never the real thing, and not always well.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How the stand-in behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Behaviour {
    /// Answers 200 with JSON.
    Well,
    /// Answers 500 with JSON.
    Failing,
    /// Answers nothing, and keeps the connection.
    Silent,
    /// Closes the connection in the middle of an answer's body.
    BreakingOff,
    /// Answers what is no HTTP.
    Garbled,
}

impl Behaviour {
    const ALL: [Self; 5] = [
        Self::Well,
        Self::Failing,
        Self::Silent,
        Self::BreakingOff,
        Self::Garbled,
    ];
}

/// A server on a free port, for as long as the process lives.
pub struct StandIn {
    /// Where it is.
    pub address: SocketAddr,
    behaviour: Arc<AtomicU8>,
    calls: Arc<AtomicUsize>,
}

impl StandIn {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system gives no port.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let stand_in = Self {
            address: listener.local_addr()?,
            behaviour: Arc::default(),
            calls: Arc::default(),
        };
        let (behaviour, calls) = (stand_in.behaviour.clone(), stand_in.calls.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, calls) = (behaviour.clone(), calls.clone());
                // A thread that cannot be started is a connection that breaks off: that happens, too.
                let _ = thread::Builder::new().spawn(move || serve(stream, &behaviour, &calls));
            }
        });
        Ok(stand_in)
    }

    /// Changes how calls from now on are answered.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.store(behaviour as u8, Ordering::Relaxed);
    }

    /// The calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Serves a connection until it ends, in whatever way.
fn serve(mut stream: TcpStream, behaviour: &AtomicU8, calls: &AtomicUsize) {
    const BODY: &str = r#"{"data":[{"id":"1","name":"from extension-host check"}],"status":"ok"}"#;
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let whole = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
    };
    while take_request(&mut stream).is_some() {
        calls.fetch_add(1, Ordering::Relaxed);
        let behaviour =
            Behaviour::ALL[usize::from(behaviour.load(Ordering::Relaxed)) % Behaviour::ALL.len()];
        let (answer, is_kept) = match behaviour {
            Behaviour::Well => (whole("200 OK"), true),
            Behaviour::Failing => (whole("500 Internal Server Error"), true),
            Behaviour::Silent => {
                // Until the other side leaves.
                let _ = io::copy(&mut stream, &mut io::sink());
                return;
            }
            Behaviour::BreakingOff => (
                whole("200 OK")[..whole("200 OK").len() - 20].to_owned(),
                false,
            ),
            Behaviour::Garbled => ("\0\u{1}\u{2} this is not HTTP\r\n\r\n".to_owned(), false),
        };
        if stream.write_all(answer.as_bytes()).is_err() || !is_kept {
            return;
        }
    }
}

/// Reads a request to its end.
fn take_request(stream: &mut TcpStream) -> Option<()> {
    let mut arrived = Vec::new();
    let end = loop {
        if let Some(end) = arrived.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, &mut arrived)?;
    };
    let head = String::from_utf8_lossy(&arrived[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok());
    let is_chunked = head.contains("transfer-encoding: chunked");
    loop {
        let is_over = match length {
            Some(length) => arrived.len() >= end + length,
            None => !is_chunked || arrived.ends_with(b"0\r\n\r\n"),
        };
        if is_over {
            return Some(());
        }
        more(stream, &mut arrived)?;
    }
}

fn more(stream: &mut TcpStream, arrived: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 << 10];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    arrived.extend_from_slice(&buffer[..count]);
    Some(())
}
