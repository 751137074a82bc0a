//! `extension-host check FOLDER`: loads one extension as the host would, says what it is, and drives it as a hostile world
//! would.
//!
//! The extension is loaded by a second process ([`subject`]), through the host's own code, and served over real sockets.
//! This process is the world around it: it starts the other one (`process`), sends requests ([`drive`]), and answers the
//! extension's outgoing calls ([`stand_in`]). Broken rules of the ABI are noticed by
//! [`contract_checks`](crate::runtime::contract_checks); what the extension changes of its process, by the second process itself
//! (`shared`, `descriptors`, `processes`).

mod client;
mod command;
mod descriptors;
pub mod drive;
mod error;
mod inspect;
mod options;
mod process;
mod processes;
mod protocol;
mod report;
mod request;
mod result;
mod shared;
pub mod stand_in;
pub mod subject;

pub use self::command::run;
pub use self::error::CheckError;
pub use self::options::CheckOptions;
