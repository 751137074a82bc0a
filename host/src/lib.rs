//! The host: scans a folder for compiled extensions, loads them through the C ABI of `extension-api`, and serves their routes.
//!
//! Start reading at `server` for its life and at `dispatch` for that of a request; ARCHITECTURE.md has the map.

pub mod account_cli;
pub mod accountability;
pub mod auth;
pub mod breach;
pub mod build;
pub mod callbacks;
pub mod check;
pub mod cli;
pub mod config;
pub mod connection;
pub mod deadline;
pub mod demo;
pub mod dev;
pub mod dispatch;
pub mod env;
pub mod extension;
pub mod fetched;
pub mod fnv;
pub mod handle;
pub mod list;
pub mod loading;
pub mod log;
pub mod memory;
pub mod new;
pub mod noted;
pub mod operation;
pub mod own;
pub mod registry;
pub mod reply;
pub mod request;
pub mod scratch;
pub mod server;
pub mod store;
pub mod upstream;
pub mod watcher;
pub mod worker;
