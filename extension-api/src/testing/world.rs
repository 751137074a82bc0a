//! A small host behind the testing kit: what the real host's callbacks answer, over one locked state and one worker thread.
//!
//! What each callback answers at each stage is told by one table of cases, `tests/fixtures/callback_cases.rs` of the
//! repository, which runs against this and against the real host.

mod base;
mod callbacks;
mod completion;
mod head;
mod operations;
mod pointer;
mod requests;
mod routes;
mod run;
mod state;

pub(super) use head::RequestSpec;
pub(super) use run::RunningExtension;
pub(super) use state::Grants;
