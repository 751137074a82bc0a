//! A line between two programs that can be cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How the line is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Everything goes through.
    Open,
    /// Every connection is closed at once.
    Closed,
    /// Nothing goes through, and nobody is told.
    Silent,
}

/// Takes connections and leads them to a server, or not.
pub struct Cut {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    line: Mutex<Line>,
    open: Mutex<Vec<TcpStream>>,
}

impl Cut {
    /// A line to that server, open.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            server,
            line: Mutex::new(Line::Open),
            open: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Err: it was closed meanwhile.
                let _ = shared.connect(client);
            }
        });
        Self { address, state }
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the line is. What is closed or silent then stays so: only new connections are led through again.
    pub fn set(&self, line: Line) {
        *self.state.line.lock().expect("no test panics here") = line;
        if line == Line::Closed {
            let open = std::mem::take(&mut *self.state.open.lock().expect("no test panics here"));
            for stream in open {
                // Err: it is closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl State {
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if *self.line.lock().expect("no test panics here") == Line::Closed {
            return Ok(());
        }
        let server = TcpStream::connect(self.server)?;
        let mut open = self.open.lock().expect("no test panics here");
        open.extend([client.try_clone()?, server.try_clone()?]);
        drop(open);
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let state = self.clone();
            thread::spawn(move || state.pass(from, to));
        }
        Ok(())
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            if *self.line.lock().expect("no test panics here") == Line::Silent {
                // It has swallowed bytes: nothing sensible can come after them.
                return std::mem::forget((from, to));
            }
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // Err: it is closed already.
        let _ = to.shutdown(Shutdown::Both);
    }
}
