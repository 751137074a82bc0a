//! [`Router`]: which handler serves which requests.

use crate::error::Result;
use crate::handler::Handler;
use crate::request::Request;
use crate::response::Response;

/// Collects an endpoint's routes: method, pattern, handler.
///
/// A pattern is made of segments: literal (`/users`), named (`/:id`, one segment that is not empty) or, last, `/*` (the rest,
/// also empty). The most specific one wins, whatever the order. A handler is an `async fn(&self, Request) ->
/// Result<Response>`; its future need not be `Send`.
///
/// ```
/// use extension_api::prelude::*;
///
/// struct Users;
///
/// impl Endpoint for Users {
///     fn new(_: Context) -> Result<Self> {
///         Ok(Self)
///     }
///
///     fn routes(router: &mut Router<Self>) {
///         router.get("/:id", Self::show);
///         router.get("/", async |_: &Self, _| Ok(Response::json(&["ada", "grace"])));
///     }
/// }
///
/// impl Users {
///     async fn show(&self, req: Request) -> Result<Response> {
///         Ok(Response::text(req.param("id").into_owned()))
///     }
/// }
/// ```
pub struct Router<T> {
    pub(crate) routes: Vec<Route<T>>,
}

pub(crate) struct Route<T> {
    /// `None`: every method.
    pub(crate) method: Option<String>,
    pub(crate) pattern: String,
    pub(crate) handler: Handler<T>,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $method:literal)*) => {$(
        $(#[$doc])*
        pub fn $name<F>(&mut self, pattern: &str, handler: F)
        where
            F: AsyncFn(&T, Request) -> Result<Response> + Send + Sync + 'static,
        {
            self.route($method, pattern, handler);
        }
    )*};
}

impl<T: Send + Sync + 'static> Router<T> {
    pub(crate) fn new() -> Self {
        Self { routes: Vec::new() }
    }

    methods! {
        /// Serves GET, and with it HEAD.
        get "GET"
        /// Serves POST.
        post "POST"
        /// Serves PUT.
        put "PUT"
        /// Serves PATCH.
        patch "PATCH"
        /// Serves DELETE.
        delete "DELETE"
        /// Serves HEAD, in place of the handler for GET.
        head "HEAD"
        /// Serves OPTIONS, in place of the host's own answer.
        options "OPTIONS"
        /// Serves every method that has no route of its own.
        any ""
    }

    /// Serves a method of any name; an empty one stands for every method.
    pub fn route<F>(&mut self, method: &str, pattern: &str, handler: F)
    where
        F: AsyncFn(&T, Request) -> Result<Response> + Send + Sync + 'static,
    {
        self.push(method, pattern, Handler::Asynchronous(Box::new(handler)));
    }

    /// Serves by a handler that may block: called on a bounded pool of threads, when the whole body is here, in
    /// [`Request::body`]. In it, [`block_on`](crate::block_on) waits for a call of the context's.
    pub fn blocking<F>(&mut self, method: &str, pattern: &str, handler: F)
    where
        F: Fn(&T, Request) -> Result<Response> + Send + Sync + 'static,
    {
        self.push(method, pattern, Handler::Blocking(Box::new(handler)));
    }

    fn push(&mut self, method: &str, pattern: &str, handler: Handler<T>) {
        let method = (!method.is_empty()).then(|| method.to_owned());
        self.routes.push(Route {
            method,
            pattern: pattern.to_owned(),
            handler,
        });
    }
}

impl<T> std::fmt::Debug for Router<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self
            .routes
            .iter()
            .map(|route| (route.method.as_deref().unwrap_or("*"), &route.pattern));
        f.debug_list().entries(routes).finish()
    }
}
