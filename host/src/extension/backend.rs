//! How an extension is called, wherever it runs. Today there is one way, [`InProcess`](super::in_process::InProcess); another,
//! in a process of its own, needs no change of those who call.

use extension_api::abi::{ext_request, ext_status};

use super::context::Context;
use super::routes::RouteData;

/// One instance of an extension: created once, called many times at once, stopped once.
pub trait Backend: Send + Sync {
    /// Makes the instance, which declares its endpoints through `context`. May block for long: not for a worker.
    fn create(&self, context: &'static Context) -> ext_status;

    /// Lets the extension handle a request that is for a route. On the request's worker, or on a thread that may block where
    /// the route says so.
    fn handle(&self, route: RouteData, request: ext_request);

    /// Stops and destroys the instance, of which nothing is in flight any more. May block: not for a worker.
    fn stop(&self);
}
