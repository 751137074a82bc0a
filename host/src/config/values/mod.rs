//! The values of a configuration that are more than a number or a text.

mod network;
mod require;
mod secret;
mod size;
mod trust_proxy;

pub use self::network::Network;
pub use self::require::Require;
pub use self::secret::Secret;
pub use self::size::{bytes, parse_bytes};
pub use self::trust_proxy::TrustProxy;
