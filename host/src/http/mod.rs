//! TODO

pub mod facts;
pub mod headers;
pub mod reply;
pub mod request_id;
