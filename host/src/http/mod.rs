//! What of HTTP both sides need: towards clients and towards upstreams. Knows neither extensions nor who asks.

pub mod body;
pub mod client_connection;
pub mod facts;
pub mod headers;
pub mod peer;
pub mod reply;
pub mod request_id;
pub mod token_parameter;
