//! TODO

pub mod completion;
pub mod contract_checks;
pub mod deadline;
pub mod ffi_out;
pub mod handle;
pub mod worker;
