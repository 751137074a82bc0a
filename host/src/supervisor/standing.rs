//! What the supervisor lets others know: the commands `upgrade` and `list` ask it, over a socket whose name follows from the
//! settings, wherever they keep their temporary files. It answers its own user and root.

use std::hash::Hasher as _;
use std::io::{self, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Uid, getuid};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::platform::fnv::Fnv;
use crate::platform::handover::Quarantined;

/// How a supervisor and its server stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The server's process.
    pub server: u32,
    /// How often the server was replaced because somebody asked for it.
    pub upgrades: u64,
    /// How often that failed.
    pub failed_upgrades: u64,
    /// What is left out.
    pub quarantined: Vec<Quarantined>,
}

/// Where the supervisor is asked.
pub struct StandingSocket(tokio::net::UnixListener);

impl StandingSocket {
    /// The supervisor's for these settings. Needs a runtime.
    ///
    /// # Errors
    /// Where another supervisor has the same extensions folder and configuration file; nothing depends on it but those commands.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&address(config)?)?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener).map(Self)
    }

    /// The next one that asks and may.
    pub async fn asker(&self) -> tokio::net::UnixStream {
        loop {
            match self.0.accept().await {
                Ok((asker, _)) if asker.peer_cred().is_ok_and(|peer| may_ask(peer.uid())) => {
                    return asker;
                }
                Ok(_) => {}
                // Too many descriptors, perhaps.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn may_ask(user: u32) -> bool {
    user == 0 || user == getuid().as_raw()
}

impl Standing {
    /// Tells it to one that has asked. Waits for nobody: what does not fit is not read.
    pub fn tell(&self, asker: &tokio::net::UnixStream) {
        if let Ok(text) = serde_json::to_vec(self) {
            // Err: it has gone.
            let _ = asker.try_write(&text);
        }
    }
}

/// The supervisor for these settings, and how it stands; `None`: there is none of this user.
pub fn standing(config: &Config) -> Option<(Pid, Standing)> {
    const WITHIN: Duration = Duration::from_secs(2);
    let mut stream = UnixStream::connect_addr(&address(config).ok()?).ok()?;
    // By the system's word: anybody may take such a name, and say anything.
    let peer = socket_peercred(&stream).ok()?;
    if peer.uid != getuid() && getuid() != Uid::ROOT {
        return None;
    }
    stream.set_read_timeout(Some(WITHIN)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some((peer.pid, serde_json::from_str(&text).ok()?))
}

/// What the supervisor for these settings leaves out, for the commands beside it.
pub fn quarantined(config: &Config) -> Vec<Quarantined> {
    standing(config)
        .map(|(_, standing)| standing.quarantined)
        .unwrap_or_default()
}

/// Two hosts may share a folder of extensions; then each has its settings from a file of its own.
fn address(config: &Config) -> io::Result<SocketAddr> {
    let mut key = Fnv::default();
    for path in [&config.extensions_path, &config.file] {
        let canonical = path.canonicalize();
        let path = canonical.as_ref().unwrap_or(path);
        key.write(path.as_os_str().as_encoded_bytes());
        key.write_u8(0);
    }
    SocketAddr::from_abstract_name(format!("extension-host/supervisor/{:016x}", key.finish()))
}
