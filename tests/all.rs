//! The host as its users meet it: the real binary as a process of its own, real sockets, extensions good and bad.
//!
//! A test says what it needs of [`support`]: a host with some extensions, an upstream that records what reaches it, exact
//! bytes on the wire. It asserts the caller's answer and what the other side saw, and waits for events, never for time.

mod support;

mod authoring;
mod callback_cases;
mod conformance;
mod connections;
mod copies;
mod examples;
mod faults;
mod fetch;
mod golden;
mod http;
mod identity;
mod identity_directus;
mod identity_own;
mod identity_support;
mod layers;
mod life;
mod loading;
mod log;
mod reload;
mod threads;
mod twilio;
