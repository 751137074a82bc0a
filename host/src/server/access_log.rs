//! The access log: one line for each request when its answer is decided.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_http::{Method, Request, Response};

use crate::boundary::request::RequestInfo;
use crate::http::body::Body;
use crate::http::peer::IpText;
use crate::http::request_id::RequestId;
use crate::identity::Accountability;
use crate::platform::log::{self, Level};

/// What the access log says of a request: one line when the answer is decided.
pub struct AccessLine {
    began: Instant,
    method: Method,
    /// Without its query, which may hold what is nobody's business.
    path: String,
    ip: IpAddr,
    who: OnceCell<Arc<Accountability>>,
}

impl AccessLine {
    /// `None` where no line would be written.
    #[inline]
    pub fn begin(is_on: bool, request: &Request, info: &RequestInfo) -> Option<Rc<Self>> {
        if !is_on {
            return None;
        }
        Self::begin_where_enabled(request, info)
    }

    #[inline(never)]
    fn begin_where_enabled(request: &Request, info: &RequestInfo) -> Option<Rc<Self>> {
        log::enabled(Level::Info).then(|| {
            let peer = info.connection.peer().address().ip();
            Rc::new(Self {
                began: Instant::now(),
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                ip: info.ip.unwrap_or(peer),
                who: OnceCell::new(),
            })
        })
    }

    /// Notes who asks.
    #[inline(never)]
    pub fn identified(&self, who: &Arc<Accountability>) {
        // It is found out once.
        let _ = self.who.set(who.clone());
    }

    #[inline(never)]
    /// Writes the line.
    pub fn write(&self, response: &Response<Body>, id: RequestId) {
        let took_ms = self.began.elapsed().as_micros() as f64 / 1_000.0;
        let ip = IpText::new(self.ip);
        let status = response.status().as_u16();
        let mut fields: Vec<log::Field<'_>> = vec![
            ("method", &self.method),
            ("path", &self.path),
            ("status", &status),
            ("took_ms", &took_ms),
            ("ip", &ip),
        ];
        let user = self.who.get().and_then(|who| who.user.as_deref());
        if let Some(user) = &user {
            fields.push(("user", user));
        }
        fields.push(("request", &id));
        log::event(Level::Info, "answered", &fields);
    }
}
