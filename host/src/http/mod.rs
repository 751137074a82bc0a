//! TODO

pub mod facts;
pub mod headers;
pub mod peer;
pub mod reply;
pub mod request_id;
pub mod token_parameter;
