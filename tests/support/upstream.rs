//! The server behind the host: it records what reaches it, byte for byte, and answers as a test says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::DEADLINE;
use super::wire::{find, latin1};

/// A recording server on a port of its own.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Call {
    pub method: String,
    pub target: String,
    /// In their order, as they were written.
    pub headers: Vec<(String, String)>,
    /// Without the framing.
    pub body: Vec<u8>,
}

/// The host's connection to an upstream.
pub struct Line {
    stream: Box<dyn Both + Send>,
    socket: TcpStream,
    arrived: Vec<u8>,
    shared: Arc<Shared>,
}

/// What is read and written.
pub trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// What becomes of a connection when an answer has been given.
pub enum Then {
    /// It may be used again.
    Keep,
    /// It is closed.
    Close,
    /// Nothing more is sent; that the host closes it is recorded.
    Watch,
}

/// Makes of a socket what HTTP is spoken over.
pub type Wrap = dyn Fn(TcpStream) -> io::Result<Box<dyn Both + Send>> + Send + Sync;

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    is_over: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    connections: usize,
    /// Connections that the host closed under [`Then::Watch`].
    closed: usize,
}

impl Upstream {
    /// Answers each whole request with these bytes, on connections that stay open.
    pub fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, line| {
            line.send(&answer);
            Then::Keep
        })
    }

    /// Answers 200 with a text.
    pub fn saying(text: &str) -> Self {
        Self::answering(ok(text))
    }

    /// Answers each whole request as `answer` says.
    pub fn start(answer: impl Fn(&Call, &mut Line) -> Then + Send + Sync + 'static) -> Self {
        Self::serve(plain(), move |line| {
            loop {
                let Some(mut call) = line.head() else { return };
                line.body(&mut call);
                line.record(call.clone());
                match answer(&call, line) {
                    Then::Keep => {}
                    Then::Close => return line.close(),
                    Then::Watch => return line.watch(),
                }
            }
        })
    }

    /// [`start`](Self::start) over TLS.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(&Call, &mut Line) -> Then + Send + Sync + 'static,
    ) -> Self {
        let wrap = move |socket: TcpStream| -> io::Result<Box<dyn Both + Send>> {
            let session =
                rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            Ok(Box::new(rustls::StreamOwned::new(session, socket)))
        };
        Self::serve(Box::new(wrap), move |line| {
            while let Some(mut call) = line.head() {
                line.body(&mut call);
                line.record(call.clone());
                if !matches!(answer(&call, line), Then::Keep) {
                    return line.close();
                }
            }
        })
    }

    /// Has each connection served by `serve`, from its first byte.
    pub fn raw(serve: impl Fn(&mut Line) + Send + Sync + 'static) -> Self {
        Self::serve(plain(), serve)
    }

    fn serve(wrap: Box<Wrap>, serve: impl Fn(&mut Line) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let (of_thread, serve, wrap) = (shared.clone(), Arc::new(serve), Arc::new(wrap));
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if of_thread.is_over.load(Ordering::Acquire) {
                    return;
                }
                let (shared, serve, wrap) = (of_thread.clone(), serve.clone(), wrap.clone());
                thread::spawn(move || {
                    let _ = socket.set_read_timeout(Some(DEADLINE));
                    let _ = socket.set_write_timeout(Some(DEADLINE));
                    shared.note(|seen| seen.connections += 1);
                    let Ok(copy) = socket.try_clone() else { return };
                    if let Ok(mut sockets) = shared.sockets.lock() {
                        sockets.extend(socket.try_clone());
                    }
                    let Ok(stream) = wrap(socket) else { return };
                    let mut line = Line {
                        stream,
                        socket: copy,
                        arrived: Vec::new(),
                        shared,
                    };
                    serve(&mut line);
                    line.close();
                });
            }
        });
        Self { address, shared }
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that reached it so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.read(|seen| seen.calls.clone())
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.shared.read(|seen| seen.connections)
    }

    /// The only request that reached it.
    #[track_caller]
    pub fn call(&self) -> Call {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "{calls:#?}");
        calls.remove(0)
    }

    /// Waits until so many requests have reached it.
    #[track_caller]
    pub fn wait_for_calls(&self, count: usize) {
        self.shared
            .wait(&format!("{count} calls"), |seen| seen.calls.len() >= count);
    }

    /// Waits until the host has closed a connection that was answered with [`Then::Watch`].
    #[track_caller]
    pub fn wait_for_close(&self) {
        self.shared
            .wait("the host closes its connection", |seen| seen.closed > 0);
    }
}

fn plain() -> Box<Wrap> {
    Box::new(|socket| Ok(Box::new(socket)))
}

/// An answer 200 with a text.
pub fn ok(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Ok(sockets) = self.shared.sockets.lock() {
            for socket in sockets.iter() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Call {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).into_iter().next()
    }

    /// All headers of that name.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Everything as text, to search for what must not be there.
    pub fn whole(&self) -> String {
        let mut whole = format!("{} {}\n", self.method, self.target);
        for (name, value) in &self.headers {
            whole.push_str(&format!("{name}: {value}\n"));
        }
        whole + "\n" + &latin1(&self.body)
    }
}

impl Line {
    /// Sends bytes as they are; false where the host has left.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream
            .write_all(bytes.as_ref())
            .and_then(|()| self.stream.flush())
            .is_ok()
    }

    /// Reads a request's head; none where the connection ends.
    pub fn head(&mut self) -> Option<Call> {
        let end = loop {
            match find(&self.arrived, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.more() => {}
                None => return None,
            }
        };
        let head = latin1(&self.arrived[..end]);
        self.arrived.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Some(Call {
            method: first.next()?.to_owned(),
            target: first.next()?.to_owned(),
            headers: lines.filter_map(field).collect(),
            body: Vec::new(),
        })
    }

    /// Reads its body; false where the connection ends before it is whole.
    pub fn body(&mut self, call: &mut Call) -> bool {
        if call.header("transfer-encoding") == Some("chunked") {
            return self.chunks(&mut call.body);
        }
        let length: usize = call
            .header("content-length")
            .map_or(0, |length| length.parse().expect("a length"));
        while self.arrived.len() < length && self.more() {}
        let count = length.min(self.arrived.len());
        call.body = self.arrived.drain(..count).collect();
        count == length
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                match find(&self.arrived, b"\r\n") {
                    Some(end) => break end,
                    None if self.more() => {}
                    None => return false,
                }
            };
            let line: Vec<u8> = self.arrived.drain(..end + 2).collect();
            let size = usize::from_str_radix(latin1(&line[..end]).trim(), 16).expect("a size");
            while self.arrived.len() < size + 2 {
                if !self.more() {
                    return false;
                }
            }
            body.extend(self.arrived.drain(..size));
            self.arrived.drain(..2);
            if size == 0 {
                return true;
            }
        }
    }

    /// Reads so many bytes as they come; fewer where the connection ends.
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.arrived.len() < count && self.more() {}
        let count = count.min(self.arrived.len());
        self.arrived.drain(..count).collect()
    }

    /// Records a request.
    pub fn record(&self, call: Call) {
        self.shared.note(|seen| seen.calls.push(call));
    }

    /// Waits for the host to close the connection, and records that it did.
    pub fn watch(&mut self) {
        while self.more() {
            self.arrived.clear();
        }
        self.shared.note(|seen| seen.closed += 1);
    }

    /// Ends the connection.
    pub fn close(&mut self) {
        let _ = self.stream.flush();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        self.arrived.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

impl Shared {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().expect("no test panics here"));
        self.changed.notify_all();
    }

    fn read<R>(&self, read: impl FnOnce(&Seen) -> R) -> R {
        read(&self.seen.lock().expect("no test panics here"))
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().expect("no test panics here");
        let (seen, waited) = self
            .changed
            .wait_timeout_while(seen, DEADLINE, |seen| !is_so(seen))
            .expect("no test panics here");
        let calls = seen.calls.clone();
        drop(seen);
        assert!(
            !waited.timed_out(),
            "waited in vain: {what}; saw {calls:#?}"
        );
    }
}
