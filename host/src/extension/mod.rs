//! An extension: discovered in its folder, loaded from its library, and ready to be mounted. One loaded build of it is a
//! *generation*.

pub mod context;
pub mod copies;
pub mod discovery;
pub mod error;
pub mod gate;
pub mod instance;
pub mod library;
pub mod loader;
pub mod manifest;
pub mod registry;
pub mod routes;
pub mod watcher;

pub use self::context::{Context, Flight};
pub use self::error::{LoadError, Reason};
pub use self::instance::Extension;
