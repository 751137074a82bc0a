//! Passes the requests of signed-in callers on to Twilio, with the account's credentials, which they never see.
#![forbid(unsafe_code)]

use base64::{Engine, engine::general_purpose::STANDARD};
use extension_api::prelude::*;

struct Twilio {
    api: Base,
    authorization: String,
    json: bool,
}

impl Endpoint for Twilio {
    const ID: &'static str = "twilio";

    fn new(ctx: Context) -> Result<Self> {
        let account = ctx.env("TWILIO_ACCOUNT_SID")?;
        let token = ctx.env("TWILIO_AUTH_TOKEN")?;
        Ok(Self {
            api: ctx.base(ctx.env_or("TWILIO_API_BASE", "https://api.twilio.com")?)?,
            authorization: format!("Basic {}", STANDARD.encode(format!("{account}:{token}"))),
            json: match ctx.env_or("TWILIO_BODY_FORMAT", "form")? {
                "form" => false,
                "json" => true,
                _ => return Err(Error::internal("TWILIO_BODY_FORMAT must be form or json")),
            },
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.any("/*", Self::proxy);
    }
}

impl Twilio {
    async fn proxy(&self, req: Request) -> Result<Response> {
        if req.accountability().user().is_none() {
            let refusal = Response::text("You don't have permission to access this.");
            return Ok(refusal.status(403));
        }
        let mut call = req.forward(&self.api);
        call = call.header("authorization", &self.authorization);
        if !self.json && req.method() == "POST" && req.is_json() {
            call = call.form(&req.json().await?);
        }
        Ok(Response::relay(call.send().await?))
    }
}

export_endpoint!(Twilio);

#[cfg(test)]
mod tests;
