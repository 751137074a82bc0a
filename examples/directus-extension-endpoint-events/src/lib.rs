//! Server-sent events: what a signed-in caller posts to `/events`, everybody gets who listens at `GET /events`.
#![forbid(unsafe_code)]

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use extension_api::prelude::*;
use futures::channel::mpsc::{Sender, channel};
use futures::future::{Either, select};
use futures::stream::StreamExt;
use serde_json::json;

/// How many events a listener may be behind; then its stream ends, and its browser connects again.
const BEHIND_MAX: usize = 64;

/// After so long a silence something is sent, because proxies close connections on which nothing happens.
const SILENCE: Duration = Duration::from_secs(15);

struct Events {
    ctx: Context,
    listeners: Mutex<Vec<Sender<String>>>,
}

impl Endpoint for Events {
    const ID: &'static str = "events";

    fn new(ctx: Context) -> Result<Self> {
        let listeners = Mutex::default();
        Ok(Self { ctx, listeners })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/", Self::listen);
        router.post("/", Self::publish);
        router.get("/listeners", Self::count);
    }
}

impl Events {
    async fn listen(&self, req: Request) -> Result<Response> {
        // After a body that nobody reads, the host does not see that the client has left.
        if req.body_length() != Some(0) {
            return Err(Error::bad_request("A listener sends no body."));
        }
        let (sender, mut events) = channel(BEHIND_MAX);
        self.listeners().push(sender);
        let ctx = self.ctx.clone();
        // When the client leaves, this future is dropped wherever it waits, and `events` with it: its sender sees that.
        let stream = Response::stream(async move |mut out| {
            loop {
                match select(events.next(), pin!(ctx.sleep(SILENCE))).await {
                    Either::Left((Some(event), _)) => out.write(event).await?,
                    Either::Left((None, _)) => return Ok(()),
                    Either::Right((slept, _)) => {
                        slept?;
                        out.write(":\n\n").await?;
                    }
                }
            }
        });
        Ok(stream
            .header("content-type", "text/event-stream")
            .header("cache-control", "no-store"))
    }

    async fn publish(&self, req: Request) -> Result<Response> {
        if req.accountability().user().is_none() {
            return Err(Error::forbidden("Only signed-in users may publish."));
        }
        let event = event(&req.text().await?);
        // Who has left, or is too far behind, is no listener any more.
        self.listeners()
            .retain_mut(|listener| listener.try_send(event.clone()).is_ok());
        Ok(Response::empty())
    }

    async fn count(&self, _req: Request) -> Result<Response> {
        let mut listeners = self.listeners();
        listeners.retain(|listener| !listener.is_closed());
        Ok(Response::json(&json!({"listeners": listeners.len()})))
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Sender<String>>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text as an event: each of its lines after `data:`, an empty line at the end.
fn event(text: &str) -> String {
    let lines = text
        .split(['\n', '\r'])
        .map(|line| format!("data: {line}\n"));
    lines.chain(["\n".to_owned()]).collect()
}

export_endpoint!(Events);

#[cfg(test)]
mod tests;
