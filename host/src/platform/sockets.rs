//! Which TCP sockets there are, and which processes have them open, as /proc tells; nothing where a system has no /proc.

use std::fs;

/// A TCP socket of this network namespace.
pub struct TcpSocket {
    /// Its own port.
    pub port: u16,
    /// The other side's port; 0 where there is none.
    pub peer_port: u16,
    /// Whether it takes connections.
    pub is_listening: bool,
    inode: String,
}

impl TcpSocket {
    /// What a descriptor of it is called in /proc: `socket:[123]`.
    pub fn link(&self) -> String {
        format!("socket:[{}]", self.inode)
    }
}

/// All TCP sockets.
pub fn tcp_sockets() -> Vec<TcpSocket> {
    /// See tcp_states.h of the kernel.
    const LISTEN: &str = "0A";
    let files = ["tcp", "tcp6"].map(|file| fs::read_to_string(format!("/proc/self/net/{file}")));
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    // "0: 0100007F:1F77 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 INODE …"
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(TcpSocket {
            port: port(fields.get(1)?)?,
            peer_port: port(fields.get(2)?)?,
            is_listening: *fields.get(3)? == LISTEN,
            inode: (*fields.get(9)?).to_owned(),
        })
    };
    let lines = files.iter().flatten().flat_map(|file| file.lines());
    lines.filter_map(socket).collect()
}

/// The processes that have a socket open that takes connections on a port: "nginx (process 12)". Those of other users are not seen.
pub fn listening_on(port: u16) -> Vec<String> {
    let mut links = tcp_sockets();
    links.retain(|socket| socket.is_listening && socket.port == port);
    let links: Vec<String> = links.iter().map(TcpSocket::link).collect();
    let holds = |id: &u32| {
        let open = fs::read_dir(format!("/proc/{id}/fd"));
        let mut targets = open
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    };
    let entries = fs::read_dir("/proc");
    let ids = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let name = |id: u32| {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        format!("{} (process {id})", name.trim())
    };
    ids.filter(holds).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_named() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let us = format!("(process {})", std::process::id());
        let named = listening_on(port);
        assert!(named.iter().any(|name| name.ends_with(&us)), "{named:?}");
        drop(listener);
        assert!(!listening_on(port).iter().any(|name| name.ends_with(&us)));
    }
}
