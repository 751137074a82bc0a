//! TODO

pub mod accounts;
pub mod build;
pub mod check;
pub mod cli;
pub mod demo;
pub mod dev;
pub mod list;
pub mod new;
