//! How a worker takes connections, and requests from them.

use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_rt::net::TcpStream;
use actix_service::{Service, ServiceFactory, fn_factory};
use futures_core::future::LocalBoxFuture;

use super::connection::{Http, ServedConnection};
use super::dispatch::{ResponseFuture, serve};
use super::host::Host;
use super::server_worker::ServerWorker;
use crate::http::body::Body;
use crate::runtime::worker::Worker;

/// Makes what a worker accepts connections with. It takes bare requests: routing is one hash look-up in [`dispatch`](super::dispatch), which
/// costs less than actix-web's own application, whose scopes are tried one after the other.
#[derive(Clone)]
pub struct Factory {
    /// What is served.
    pub host: Arc<Host>,
}

impl ServiceFactory<TcpStream> for Factory {
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = Accept;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Accept, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let worker = ServerWorker::start(&self.host);
        let limits = &self.host.config.limits;
        let keep_alive = if limits.keep_alive_ms == 0 {
            KeepAlive::Disabled
        } else {
            // The worker itself closes what is idle; see `connection`.
            KeepAlive::Os
        };
        let dispatch = Dispatch { worker };
        let factory = HttpService::build()
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::from_millis(limits.client_request_timeout_ms))
            .client_disconnect_timeout(Duration::from_secs(1))
            // A client that closes its side has left: what it asked for is cancelled.
            .h1_allow_half_closed(false)
            .h1(fn_factory(move || ready(Ok::<_, ()>(dispatch.clone()))));
        Box::pin(async move {
            let http = Rc::new(factory.new_service(()).await?);
            Ok(Accept {
                worker: worker.worker,
                http,
            })
        })
    }
}

/// Takes connections up.
pub struct Accept {
    worker: &'static Worker,
    http: Rc<Http<Dispatch>>,
}

impl Service<TcpStream> for Accept {
    type Response = ();
    type Error = DispatchError;
    type Future = ServedConnection<Dispatch>;

    actix_service::always_ready!();

    fn call(&self, stream: TcpStream) -> Self::Future {
        ServedConnection::new(self.worker, &self.http, stream)
    }
}

/// Takes the requests of connections.
#[derive(Clone)]
pub struct Dispatch {
    worker: &'static ServerWorker,
}

impl Service<Request> for Dispatch {
    type Response = Response<Body>;
    type Error = actix_web::Error;
    type Future = ResponseFuture;

    actix_service::always_ready!();

    fn call(&self, request: Request) -> Self::Future {
        serve(self.worker, request)
    }
}
