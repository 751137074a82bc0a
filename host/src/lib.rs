//! The host: scans a folder for compiled extensions, loads them through the C ABI of `extension-api`, and serves their routes.
//!
//! Each module is a layer, from the top down; imports run down only, which `tests/layers.rs` holds against the table in
//! ARCHITECTURE.md. Start reading at `server` for the host's life and at `server::dispatch` for that of a request.

pub mod commands;
pub mod server;
pub mod supervisor;

pub mod boundary;
pub mod extension;
pub mod identity;

pub mod http;
pub mod upstream;

pub mod config;
pub mod platform;
pub mod runtime;
pub mod store;
