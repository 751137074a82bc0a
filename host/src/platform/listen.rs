//! The sockets that a server listens on.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::{fmt, io};

use listenfd::ListenFd;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, Shutdown, SocketType};

use super::sockets;

/// As many as actix-web lets wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Why there is nothing to listen on.
#[derive(Debug)]
pub enum ListenError {
    /// A socket that systemd has handed over cannot be used.
    HandedOver(io::Error),
    /// The address cannot be bound.
    Bind(String, io::Error),
    /// Other processes listen there: "nginx (process 12)".
    InUse(String, Vec<String>, io::Error),
}

impl ListenError {
    /// An address cannot be bound. Where other processes listen there, they are named: one may be a child that an extension of the
    /// host before this one has left.
    fn bind(host: &str, port: u16, cause: io::Error) -> Self {
        let address = format!("{host}:{port}");
        let holders = match cause.kind() {
            io::ErrorKind::AddrInUse => sockets::listening_on(port),
            _ => Vec::new(),
        };
        match holders.is_empty() {
            true => Self::Bind(address, cause),
            false => Self::InUse(address, holders, cause),
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandedOver(_) => f.write_str(
                "cannot use a socket that systemd has handed over; it has to be a listening TCP socket",
            ),
            Self::Bind(address, cause) if cause.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {address}; stop what uses it, or choose another with --port"
            ),
            Self::InUse(address, holders, _) => write!(
                f,
                "cannot listen on {address}, which is in use by {}; end it, or choose another with --port",
                holders.join(" and ")
            ),
            Self::Bind(address, _) => write!(f, "cannot listen on {address}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::HandedOver(cause) | Self::Bind(_, cause) | Self::InUse(.., cause) => Some(cause),
        }
    }
}

/// What a host listens on.
pub struct Listeners {
    /// The sockets.
    pub sockets: Vec<TcpListener>,
    /// They are this host's. Those that systemd has handed over are its own: it gives them to the next host.
    pub are_own: bool,
}

impl Listeners {
    /// The same sockets once more.
    ///
    /// # Errors
    /// Where there are too many descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(TcpListener::try_clone);
        Ok(Self {
            sockets: sockets.collect::<io::Result<_>>()?,
            are_own: self.are_own,
        })
    }

    /// Has nobody listen on them any more, whoever has them open: a process that an extension has forked would keep the ports from
    /// the next host. For the last one who serves.
    pub fn shut_down(&self) {
        for socket in self.sockets.iter().filter(|_| self.are_own) {
            // Err: it does not listen any more.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}

/// The sockets that systemd has opened and handed over (`LISTEN_FDS`); where there are none, one for each address that the name
/// stands for.
///
/// # Errors
/// Where one that was handed over cannot be used, or no address can be bound.
pub fn open(host: &str, port: u16) -> Result<Listeners, ListenError> {
    let given = handed_over().map_err(ListenError::HandedOver)?;
    let are_own = given.is_empty();
    let sockets = match are_own {
        true => listeners(host, port).map_err(|cause| ListenError::bind(host, port, cause))?,
        false => given,
    };
    Ok(Listeners { sockets, are_own })
}

fn handed_over() -> io::Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    (0..given.len())
        .filter_map(|index| given.take_tcp_listener(index).transpose())
        .map(|socket| socket.and_then(listening))
        .collect()
}

/// The socket, where it listens: one that is connected, as of a unit with `Accept=yes`, does not.
fn listening(socket: TcpListener) -> io::Result<TcpListener> {
    match sockopt::socket_acceptconn(&socket)? {
        true => Ok(socket),
        false => Err(io::Error::other("a socket does not listen")),
    }
}

/// Listens on each address that the name stands for; the error is that of the last, where none could be bound.
fn listeners(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut bound = Vec::new();
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in (host, port).to_socket_addrs()? {
        match listen(&address) {
            Ok(listener) => bound.push(listener),
            Err(cause) => failed = cause,
        }
    }
    if bound.is_empty() {
        Err(failed)
    } else {
        Ok(bound)
    }
}

fn listen(address: &SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
