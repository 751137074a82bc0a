//! Two processes: this one holds the sockets and loads no extension; the server does the rest. When the server ends without having
//! been told to, the supervisor says who did it, starts it anew, and after too many times leaves that extension out.
//!
//! It has one thread, and knows nothing of requests: what it tells of them, the server has written into the page that both map
//! ([`crash_page`](crate::runtime::crash_page)).

mod blame;
mod ending;
mod error;
mod server_process;
mod standing;
mod supervise;
mod systemd;
pub mod upgrade;
mod version;

pub use self::error::SupervisorError;
pub use self::standing::quarantined;
pub use self::supervise::run;
