//! What a person starts from the command line: a file for each command, and [`cli`] for the arguments.

pub mod accounts;
pub mod backup;
pub mod build;
pub mod check;
pub mod cli;
pub mod demo;
pub mod dev;
pub mod list;
pub mod new;
mod table;
