//! The host as its users meet it: the real binary as a process of its own, real sockets, extensions good and bad.
//!
//! A test says what it needs of [`support`]: a host with some extensions, an upstream that records what reaches it, exact
//! bytes on the wire. It asserts the caller's answer and what the other side saw, and waits for events, never for time.

mod support;

mod authoring;
mod callback_cases;
mod compressed;
mod conformance;
mod connections;
mod copies;
mod documented;
mod examples;
mod faults;
mod fetch;
mod framing;
mod golden;
mod handed_over;
mod health;
mod http;
mod hygiene;
mod identity;
mod identity_directus;
mod identity_faults;
mod identity_own;
mod identity_store;
mod identity_support;
mod layers;
mod life;
mod loading;
mod log;
mod reload;
mod slow_clients;
mod supervisor;
mod threads;
mod trial;
mod twilio;
