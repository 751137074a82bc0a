//! What the supervisor hands to a server that it starts, and what the server tells it: over a socket that is the server's
//! standard input. Descriptors go first, with one line of JSON; then each message is a line.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::listen::Listeners;

/// A page and so many sockets fit into one message.
const DESCRIPTORS_MAX: usize = 64;

/// What a server starts with.
pub struct Handover {
    /// Where it notes who is inside which extension.
    pub page: File,
    /// What it listens on.
    pub listeners: Listeners,
    /// What else it is told.
    pub opening: Opening,
}

/// What a server is told when it starts: the first line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// What it is not to load.
    pub quarantined: Vec<Quarantined>,
    /// Where it has its settings from.
    pub settings: SettingsText,
    /// Why it is started.
    pub occasion: Occasion,
}

/// The texts of the files that settings come from, as they were when somebody asked for a server. They may hold secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsText {
    /// `config.toml`; `None`: there was none.
    pub config: Option<String>,
    /// The file of variables, where it is not to be read anew.
    pub env: Option<String>,
}

impl fmt::Debug for SettingsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SettingsText")
    }
}

/// Why a server is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Occasion {
    /// The operator has started the host.
    #[default]
    Start,
    /// Somebody wants another one.
    Upgrade {
        /// What the one before serves, by the names of folders: it is to be served on.
        serves: Vec<String>,
    },
    /// The one before has ended or does not come back. Whatever can be served is better than nothing.
    Replacement {
        /// What that one served, by the names of folders: it comes first. Empty where that is not known.
        serves: Vec<String>,
    },
}

/// An extension that is not loaded any more, because it has ended the server too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its folder's name.
    pub extension: String,
    /// The ids under which it was served; none where it never was.
    pub ids: Vec<String>,
    /// Which files did it: others are loaded.
    pub fingerprint: u64,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// What happened, as a sentence.
    pub why: String,
}

/// An extension's code in which a thread was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The extension.
    pub extension: String,
    /// The ids under which it was served; none before it was mounted.
    pub ids: Vec<String>,
    /// Which files the build was made of.
    pub fingerprint: u64,
    /// Its build.
    pub generation: u64,
    /// The route, where it worked for a request.
    pub route: Option<String>,
    /// That request's id.
    pub request: Option<String>,
}

/// What a server tells its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// It takes requests.
    Ready,
    /// It has looked at its extensions again, as SIGHUP asks.
    Reloaded,
    /// A worker does not come back from an extension. The server accepts no connections until it hears
    /// [`AcceptAgain`](Order::AcceptAgain): one that comes to that worker would be lost.
    Stuck {
        /// Where it is.
        place: Place,
        /// For how long already.
        stuck_ms: u64,
    },
    /// It was told to end, and accepts no more connections.
    Stopping,
    /// What it serves from now on, by the names of folders.
    Serves {
        /// The names.
        extensions: Vec<String>,
    },
    /// An administrator wants an extension tried again.
    Released {
        /// Its folder's name.
        extension: String,
    },
}

/// What a supervisor tells its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// No other server has taken its place: connections are its own again.
    AcceptAgain,
    /// No other server follows: when it ends, nobody listens any more.
    NobodyFollows,
}

impl Order {
    /// Gives the order, without waiting for anything: a server that does not read has come to its end.
    pub fn give(self, to: &UnixStream) {
        // Err: see above.
        let _ = write_line(to, &self);
    }
}

fn write_line(mut to: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

#[derive(Serialize, Deserialize)]
struct FirstLine {
    opening: Opening,
    /// See [`Listeners::are_own`].
    own_listeners: bool,
}

impl Handover {
    /// Sends it. The other side need not read yet.
    ///
    /// # Errors
    /// Where the system does not take it.
    pub fn send(&self, to: &UnixStream) -> io::Result<()> {
        let opening = FirstLine {
            opening: self.opening.clone(),
            own_listeners: self.listeners.are_own,
        };
        let mut line = serde_json::to_vec(&opening)?;
        line.push(b'\n');
        let mut descriptors = vec![self.page.as_fd()];
        descriptors.extend(self.listeners.sockets.iter().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many addresses to listen on"));
        }
        let sent = rustix::net::sendmsg(
            to,
            &[IoSlice::new(&line)],
            &mut ancillary,
            SendFlags::empty(),
        )?;
        (&*to).write_all(&line[sent..])
    }

    fn receive(from: &UnixStream) -> io::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // One byte: the rest has no descriptors with it.
        let mut first = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        rustix::net::recvmsg(
            from,
            &mut [IoSliceMut::new(&mut first)],
            &mut ancillary,
            flags,
        )?;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let mut line = first.to_vec();
        // No further: what follows is not ours to read.
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            (&*from).read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let FirstLine {
            opening,
            own_listeners,
        } = serde_json::from_slice(&line)?;
        let mut descriptors = descriptors.into_iter();
        let page = descriptors.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self {
            page: page.into(),
            listeners: Listeners {
                sockets: descriptors.map(TcpListener::from).collect(),
                are_own: own_listeners,
            },
            opening,
        })
    }
}

/// A server's way to its supervisor.
pub struct Link {
    stream: Mutex<UnixStream>,
    /// See [`Order::AcceptAgain`].
    accept_again: Notify,
    is_last: AtomicBool,
}

impl Link {
    /// Takes what the supervisor hands over, and the way back to it, from the standard input.
    ///
    /// # Errors
    /// Where no supervisor is at the other end.
    pub fn from_stdin() -> io::Result<(Self, Handover)> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let handover = Handover::receive(&stream)?;
        let link = Self {
            stream: Mutex::new(stream),
            accept_again: Notify::new(),
            is_last: AtomicBool::new(false),
        };
        Ok((link, handover))
    }

    /// Tells the supervisor something. Where it has gone, nobody needs to know.
    pub fn tell(&self, notice: &Notice) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // Err: see above.
        let _ = write_line(&stream, notice);
    }

    /// Waits until connections are to be accepted again.
    pub async fn accept_again(&self) {
        self.accept_again.notified().await;
    }

    /// Whether nobody takes over when this server ends.
    pub fn is_last(&self) -> bool {
        self.is_last.load(Ordering::Relaxed)
    }

    /// Takes orders until the supervisor has gone. Blocks: for a thread of its own.
    pub fn obey(&self) {
        let stream = self
            .stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_clone();
        let Ok(stream) = stream else {
            return;
        };
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Order::AcceptAgain) => self.accept_again.notify_one(),
                Ok(Order::NobodyFollows) => self.is_last.store(true, Ordering::Relaxed),
                // A newer supervisor may know more to say.
                Err(_) => {}
            }
        }
        self.is_last.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received_and_nothing_behind_it() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let quarantined = vec![Quarantined {
            extension: "a".into(),
            ids: vec!["b".into()],
            fingerprint: 1,
            since: 2,
            why: "it has crashed\n".into(),
        }];
        let opening = Opening {
            quarantined,
            occasion: Occasion::Upgrade {
                serves: vec!["a".into()],
            },
            ..Opening::default()
        };
        let handover = Handover {
            page: tempfile::tempfile().unwrap(),
            listeners: Listeners {
                sockets: vec![listener],
                are_own: true,
            },
            opening: opening.clone(),
        };
        handover.send(&here).unwrap();
        (&here).write_all(b"more").unwrap();
        drop(handover);
        let received = Handover::receive(&there).unwrap();
        assert_eq!(received.opening, opening);
        assert_eq!(received.listeners.sockets[0].local_addr().unwrap(), address);
        let mut more = [0; 4];
        (&there).read_exact(&mut more).unwrap();
        assert_eq!(&more, b"more");
    }
}
