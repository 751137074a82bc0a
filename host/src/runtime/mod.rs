//! A worker, and what it needs to call foreign code: nothing here knows what an extension or a request is.

pub mod contract_checks;
pub mod crash_page;
pub mod deadline;
pub mod fatal_signals;
pub mod ffi_out;
mod flight_count;
pub mod handle;
pub mod in_flight;
mod inbox;
pub mod slot_state;
mod sync;
pub mod worker;
pub mod workers;
