//! A stand-in for Twilio's Messages API, in memory: for demos and tests of the Twilio extension.
#![forbid(unsafe_code)]

mod message;
mod page;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine, engine::general_purpose::STANDARD};
use extension_api::prelude::*;
use serde_json::json;

use message::Message;
use page::Page;

/// The oldest messages give way: whoever fills the memory of a demo ends it.
const MESSAGES_MAX: usize = 10_000;

struct Standin {
    account: String,
    /// The credentials, as Basic authentication writes them.
    credentials: String,
    /// The oldest first.
    messages: Mutex<Vec<Message>>,
}

/// What is answered in place of a message.
struct Fault {
    status: u16,
    code: u32,
    message: String,
}

impl Endpoint for Standin {
    const ID: &'static str = "twilio-standin";

    fn new(ctx: Context) -> Result<Self> {
        if ctx.env_opt("TWILIO_STANDIN")? != Some("on") {
            return Err(Error::internal(
                "the stand-in for Twilio is off; TWILIO_STANDIN=on switches it on",
            ));
        }
        let (account, token) = (
            ctx.env("TWILIO_ACCOUNT_SID")?,
            ctx.env("TWILIO_AUTH_TOKEN")?,
        );
        let credentials = STANDARD.encode(format!("{account}:{token}"));
        Ok(Self {
            account: account.to_owned(),
            credentials,
            messages: Mutex::default(),
        })
    }

    fn routes(router: &mut Router<Self>) {
        const MESSAGES: &str = "/2010-04-01/Accounts/:account/Messages.json";
        const MESSAGE: &str = "/2010-04-01/Accounts/:account/Messages/:message";
        router.post(MESSAGES, async |standin: &Self, req| {
            answer(standin.create(req).await?)
        });
        router.get(MESSAGES, async |standin: &Self, req| {
            answer(standin.list(&req))
        });
        router.get(MESSAGE, async |standin: &Self, req| {
            answer(standin.fetch(&req))
        });
        router.post(MESSAGE, async |standin: &Self, req| {
            answer(standin.update(req).await?)
        });
        router.delete(MESSAGE, async |standin: &Self, req| {
            answer(standin.delete(&req))
        });
        router.any("/*", async |standin: &Self, req: Request| {
            answer(
                standin
                    .authorize(&req)
                    .and_then(|()| Err(Fault::not_found(&req))),
            )
        });
    }
}

fn answer(answer: Result<Response, Fault>) -> Result<Response> {
    Ok(answer.unwrap_or_else(Fault::into_response))
}

impl Standin {
    async fn create(&self, req: Request) -> Result<Result<Response, Fault>> {
        if let Err(fault) = self.authorize_for_account(&req) {
            return Ok(Err(fault));
        }
        let form = req.form().await?;
        Ok(Message::from_form(&self.account, &form).map(|message| {
            let answer = Response::json(message.json()).status(201);
            let mut messages = self.messages();
            if messages.len() == MESSAGES_MAX {
                messages.remove(0);
            }
            messages.push(message);
            answer
        }))
    }

    fn list(&self, req: &Request) -> Result<Response, Fault> {
        self.authorize_for_account(req)?;
        let page = Page::from_query(req)?;
        Ok(Response::json(&page.of(&self.messages(), req.path())))
    }

    fn fetch(&self, req: &Request) -> Result<Response, Fault> {
        self.authorize_for_account(req)?;
        let messages = self.messages();
        let at = find(&messages, req)?;
        Ok(Response::json(messages[at].json()))
    }

    async fn update(&self, req: Request) -> Result<Result<Response, Fault>> {
        if let Err(fault) = self.authorize_for_account(&req) {
            return Ok(Err(fault));
        }
        let form = req.form().await?;
        let mut messages = self.messages();
        Ok(find(&messages, &req).and_then(|at| {
            messages[at].update(&form)?;
            Ok(Response::json(messages[at].json()))
        }))
    }

    fn delete(&self, req: &Request) -> Result<Response, Fault> {
        self.authorize_for_account(req)?;
        let mut messages = self.messages();
        let at = find(&messages, req)?;
        messages.remove(at);
        Ok(Response::empty())
    }

    /// Other accounts than the credentials' own are as good as none.
    fn authorize_for_account(&self, req: &Request) -> Result<(), Fault> {
        self.authorize(req)?;
        if req.param("account") == self.account.as_str() {
            Ok(())
        } else {
            Err(Fault::not_found(req))
        }
    }

    fn authorize(&self, req: &Request) -> Result<(), Fault> {
        let given = req
            .header("authorization")
            .and_then(|value| value.split_once(' '));
        match given {
            Some((scheme, credentials))
                if scheme.eq_ignore_ascii_case("basic")
                    && credentials.trim() == self.credentials =>
            {
                Ok(())
            }
            _ => Err(Fault {
                status: 401,
                code: 20003,
                message: "Authenticate".to_owned(),
            }),
        }
    }

    fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        // Each change is one step, so that a panic in between leaves nothing half done.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the message is that the path names: `SM….json`.
fn find(messages: &[Message], req: &Request) -> Result<usize, Fault> {
    let name = req.param("message");
    let sid = name.strip_suffix(".json");
    messages
        .iter()
        .position(|message| Some(message.sid()) == sid)
        .ok_or_else(|| Fault::not_found(req))
}

impl Fault {
    fn bad_request(code: u32, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            code,
            message: message.into(),
        }
    }

    fn not_found(req: &Request) -> Self {
        Self {
            status: 404,
            code: 20404,
            message: format!("The requested resource {} was not found", req.path()),
        }
    }

    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
        } = self;
        let more_info = format!("https://www.twilio.com/docs/errors/{code}");
        let body =
            json!({"code": code, "message": message, "more_info": more_info, "status": status});
        let response = Response::json(&body).status(status);
        match status {
            401 => response.header("www-authenticate", "Basic realm=\"Twilio API\""),
            _ => response,
        }
    }
}

export_endpoint!(Standin);
