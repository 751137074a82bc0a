//! What an extension may call, and what its handles point at: raw pointers come in, the host's own types go on.
//!
//! Every function of the [table](CALLBACKS) may be called from every thread. What concerns a request or an answer happens on
//! its worker: at once where the caller is that worker, else as a job of it.

mod answer_headers;
mod answers;
mod buffers;
mod completion;
mod fetched;
mod fetches;
mod ffi_in;
mod fields;
mod operation;
mod relayed;
pub mod request;
mod start_operation;
mod table;
mod upload;
mod whole_body;

pub use self::completion::call_due;
pub use self::operation::watch_deadlines as watch_operations;
pub use self::table::CALLBACKS;
