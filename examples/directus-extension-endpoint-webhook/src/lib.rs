//! Takes webhooks as GitHub sends them: `X-Hub-Signature-256` holds an HMAC-SHA256 over the body.
#![forbid(unsafe_code)]

use extension_api::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

struct Webhook {
    ctx: Context,
    key: Hmac<Sha256>,
}

/// What is read of an event; everything else in it is ignored.
#[derive(Deserialize)]
struct Event {
    repository: Repository,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

impl Endpoint for Webhook {
    const ID: &'static str = "webhook";

    fn new(ctx: Context) -> Result<Self> {
        let key = Hmac::new_from_slice(ctx.env("WEBHOOK_SECRET")?.as_bytes())?;
        Ok(Self { ctx, key })
    }

    fn routes(router: &mut Router<Self>) {
        router.post("/", Self::receive);
    }
}

impl Webhook {
    async fn receive(&self, req: Request) -> Result<Response> {
        // The signature is over the bytes as they came: JSON that is parsed and written anew has another one.
        let body = req.bytes().await?;
        if !self.is_signed(&req, &body) {
            return Err(Error::unauthorized("The signature does not fit the body."));
        }
        let event: Event = serde_json::from_slice(&body).map_err(|error| {
            Error::bad_request(format!("Invalid payload. The event is not valid: {error}."))
        })?;
        let kind = req.header("x-github-event").unwrap_or("unknown");
        let repository = event.repository.full_name;
        self.ctx.log(
            Level::Info,
            "webhook received",
            &[("event", &kind), ("repository", &repository)],
        );
        Ok(Response::empty())
    }

    fn is_signed(&self, req: &Request, body: &[u8]) -> bool {
        let digits = req
            .header("x-hub-signature-256")
            .and_then(|value| value.strip_prefix("sha256="));
        let Some(signature) = digits.and_then(|digits| hex::decode(digits).ok()) else {
            return false;
        };
        let mac = self.key.clone().chain_update(body);
        // Takes the same time wherever the first difference is, so that nobody can guess a signature byte by byte.
        mac.verify_slice(&signature).is_ok()
    }
}

export_endpoint!(Webhook);

#[cfg(test)]
mod tests;
