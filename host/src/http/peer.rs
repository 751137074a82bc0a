//! The other end of a client's connection: its address, and the texts that requests show of it.

use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

/// The other end of a connection, and as text, which requests on the connection show.
pub struct Peer {
    address: SocketAddr,
    text: Vec<u8>,
    ip_text: IpText,
}

impl Peer {
    /// Writes the texts.
    pub fn new(address: SocketAddr) -> Self {
        let mut text = Vec::new();
        write_peer(&mut text, address);
        Self {
            address,
            text,
            ip_text: IpText::new(address.ip()),
        }
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// "address:port".
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The address alone.
    pub fn ip_text(&self) -> &IpText {
        &self.ip_text
    }
}

/// An address as text, without an allocation. An IPv4 address inside IPv6 reads as IPv4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IpText {
    bytes: [u8; IpText::BYTES_MAX],
    length: u8,
}

impl IpText {
    /// The longest form: `xxxx:` seven times, and `xxxx`.
    const BYTES_MAX: usize = 39;

    /// Writes the address.
    pub fn new(address: IpAddr) -> IpText {
        let mut text = IpText {
            bytes: [0; IpText::BYTES_MAX],
            length: 0,
        };
        match address.to_canonical() {
            IpAddr::V4(address) => text.push_v4(address.octets()),
            // Every address fits: `every_address_fits` tries the longest.
            IpAddr::V6(address) => drop(write!(text, "{address}")),
        }
        text
    }

    /// Writes what nearly every request comes from. Formatting it as std does costs a tenth of a whole request.
    fn push_v4(&mut self, octets: [u8; 4]) {
        for (place, octet) in octets.into_iter().enumerate() {
            if place > 0 {
                self.push(b'.');
            }
            if octet >= 100 {
                self.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.push(b'0' + octet / 10 % 10);
            }
            self.push(b'0' + octet % 10);
        }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Write for IpText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let start = usize::from(self.length);
        let end = start + part.len();
        self.bytes
            .get_mut(start..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(part.as_bytes());
        self.length = end as u8;
        Ok(())
    }
}

impl Deref for IpText {
    type Target = str;

    fn deref(&self) -> &str {
        // What was written is whole strings.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// Writes "address:port" as std does.
pub fn write_peer(text: &mut Vec<u8>, peer: SocketAddr) {
    if peer.ip().is_ipv4() {
        text.extend_from_slice(IpText::new(peer.ip()).as_bytes());
        text.push(b':');
        let mut digits = [0; 5];
        let (mut start, mut left) = (digits.len(), peer.port());
        loop {
            start -= 1;
            digits[start] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        text.extend_from_slice(&digits[start..]);
    } else {
        // Writing to a Vec does not fail.
        let _ = io::Write::write_fmt(text, format_args!("{peer}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_peers_read_as_std_writes_them() {
        for peer in [
            "0.0.0.0:0",
            "127.0.0.1:80",
            "255.100.10.9:65535",
            "192.168.0.101:9",
            "[::1]:443",
            "[::ffff:192.0.2.7]:10",
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            let mut text = Vec::new();
            write_peer(&mut text, peer);
            assert_eq!(text, peer.to_string().into_bytes());
            assert_eq!(
                &*IpText::new(peer.ip()),
                peer.ip().to_canonical().to_string()
            );
        }
    }

    #[test]
    fn every_address_fits() {
        assert_eq!(
            &*IpText::new("::ffff:192.0.2.7".parse().unwrap()),
            "192.0.2.7"
        );
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888";
        assert_eq!(&*IpText::new(longest.parse().unwrap()), longest);
        assert_eq!(longest.len(), IpText::BYTES_MAX);
    }
}
