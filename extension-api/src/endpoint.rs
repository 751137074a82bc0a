//! [`Endpoint`]: what an author writes.

use crate::context::Context;
use crate::error::Result;
use crate::router::Router;

/// Routes under one name. An extension has one of them, or several: see [`export_endpoint!`](crate::export_endpoint).
///
/// There is one value of it, which all requests share.
pub trait Endpoint: Sized + Send + Sync + 'static {
    /// The name under which it is served: `[a-z0-9][a-z0-9_-]*`. Empty: that of the extension's folder.
    const ID: &'static str = "";

    /// Makes it: reads variables, parses URLs. May block for a short while.
    ///
    /// # Errors
    ///
    /// Why the extension cannot be served; the operator reads it.
    fn new(ctx: Context) -> Result<Self>;

    /// Declares its routes.
    fn routes(router: &mut Router<Self>);

    /// Ends what it has started, threads above all. No request is open any more.
    fn stop(&self) {}
}
