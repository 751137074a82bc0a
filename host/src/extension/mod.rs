//! From a folder to something that can be called: an extension is discovered, checked, loaded, mounted, watched and replaced. One
//! loaded build of it is a *generation*.

pub mod backend;
pub mod catalog;
pub mod changes;
mod companions;
pub mod context;
pub mod copies;
pub mod discovery;
pub mod error;
pub mod gate;
pub mod hook_thread;
mod in_process;
pub mod library;
pub mod loaded;
pub mod loader;
pub mod manifest;
pub mod marks;
pub mod open_fault;
pub mod opened;
mod pipeline;
pub mod quarantine;
pub mod registry;
pub mod reload_thread;
pub mod routes;
pub mod trial;
pub mod watcher;
