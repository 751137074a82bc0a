//! [`Handler`]: what serves a route, with the type of the author's function erased.

use crate::bridge::{PoolRequest, WorkerRequest};
use crate::error::Result;
use crate::request::Request;
use crate::response::Response;

/// What serves the requests of one route. Its kind says on which threads: the host is told so with the route.
pub(crate) enum Handler<T> {
    Asynchronous(Box<dyn Asynchronous<T>>),
    Blocking(Box<dyn Blocking<T>>),
}

/// An asynchronous handler, which is polled on the request's worker.
pub(crate) trait Asynchronous<T>: Send + Sync {
    fn serve<'a>(&'a self, endpoint: &'a T, request: WorkerRequest<'a>);
}

impl<T, F> Asynchronous<T> for F
where
    T: 'static,
    F: AsyncFn(&T, Request) -> Result<Response> + Send + Sync,
{
    fn serve<'a>(&'a self, endpoint: &'a T, request: WorkerRequest<'a>) {
        request.serve(|hold| self(endpoint, Request::new(hold)));
    }
}

/// A handler that may block, on a thread of the pool.
pub(crate) trait Blocking<T>: Send + Sync {
    fn serve<'a>(&'a self, endpoint: &'a T, request: PoolRequest<'a>);
}

impl<T, F> Blocking<T> for F
where
    T: 'static,
    F: Fn(&T, Request) -> Result<Response> + Send + Sync,
{
    fn serve<'a>(&'a self, endpoint: &'a T, request: PoolRequest<'a>) {
        request.serve(async |hold| self(endpoint, Request::new(hold)));
    }
}
