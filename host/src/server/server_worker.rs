//! What a worker needs to serve requests, and what runs beside them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::{Request, Response};

use super::connection::{self, Connections, connections};
use super::host::Host;
use crate::boundary::request::{self, Requests, requests};
use crate::boundary::{call_due, watch_operations};
use crate::platform::thread_locals::touch_thread_locals;
use crate::runtime::worker::Worker;
use crate::upstream::{self, Upstream};

thread_local! {
    static CURRENT: Cell<Option<&'static ServerWorker>> = const { Cell::new(None) };
}

/// A worker of the server. Lives as long as the process, as does the [`Worker`].
pub struct ServerWorker {
    /// The server that it works for.
    pub host: Arc<Host>,
    /// The event-loop thread.
    pub worker: &'static Worker,
    /// Clients' connections.
    pub connections: &'static Connections,
    /// Requests that extensions work on.
    pub requests: &'static Requests,
    /// Outgoing connections.
    pub upstream: Rc<Upstream>,
}

impl ServerWorker {
    /// Makes this thread a worker of `host`, if it is none yet, and starts what runs beside its requests.
    pub fn start(host: &Arc<Host>) -> &'static Self {
        if let Some(worker) = CURRENT.get() {
            return worker;
        }
        touch_thread_locals();
        // actix keeps these for the next request of the thread.
        drop((Request::new(), Response::ok()));
        let worker: &'static Self = Box::leak(Box::new(Self {
            host: host.clone(),
            worker: Worker::start(&host.catalog.workers, call_due),
            connections: connections(),
            requests: requests(),
            upstream: upstream::start(&host.config.fetch),
        }));
        CURRENT.set(Some(worker));
        actix_rt::spawn(request::watch_deadlines());
        actix_rt::spawn(watch_operations());
        actix_rt::spawn(connection::watch(host.config.limits.clone()));
        worker
    }
}
