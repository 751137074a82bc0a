//! Listens, takes connections, and leads each request to whoever serves it.

mod access_log;
pub mod admin;
mod blocking;
mod connection;
pub mod dispatch;
mod health;
pub mod host;
mod kept_signals;
mod serve;
mod serve_error;
pub mod server_worker;
mod service;
mod shutdown;
pub mod sign_in;
mod target;
mod watch;

pub use self::host::{Host, Supervision};
pub use self::serve::{run, run_until};
pub use self::serve_error::ServeError;
pub use self::shutdown::Ended;
