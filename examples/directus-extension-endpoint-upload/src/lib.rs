//! `PUT /upload/:name`: a file of a signed-in caller goes on to a storage server as it arrives. It is never whole in memory,
//! however large it is; where the storage reads slowly, the caller is slowed down.
#![forbid(unsafe_code)]

use extension_api::prelude::*;
use serde_json::json;

/// What goes on of what the caller says about the file. Any other header could have the storage do more than store it.
const HEADERS: [&str; 2] = ["content-type", "content-length"];

struct Upload {
    storage: Base,
    authorization: String,
}

impl Endpoint for Upload {
    const ID: &'static str = "upload";

    fn new(ctx: Context) -> Result<Self> {
        Ok(Self {
            storage: ctx.base(ctx.env("STORAGE_URL")?)?,
            authorization: format!("Bearer {}", ctx.env("STORAGE_TOKEN")?),
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.put("/:name", Self::store);
    }
}

impl Upload {
    async fn store(&self, req: Request) -> Result<Response> {
        if req.accountability().user().is_none() {
            return Err(Error::forbidden("Only signed-in users may upload."));
        }
        // `forward` sends path and query on as they are: only what is a plain file name may be in them.
        let name = &req.url()[1..];
        if !is_file_name(name) {
            return Err(Error::bad_request(
                "A file's name is made of letters, digits, '-', '_' and '.'.",
            ));
        }
        let mut call = req.forward(&self.storage);
        for header in req.headers().iter() {
            if !HEADERS.contains(&header.name()) {
                call = call.remove_header(header.name());
            }
        }
        let call = call.header("authorization", &self.authorization);
        let answer = call.send().await?;
        match answer.status() {
            200..=299 => Ok(Response::json(&json!({"stored": name})).status(201)),
            other => Err(
                Error::new(502, "BAD_GATEWAY", "The storage refused the file.")
                    .cause(format_args!("status {other}")),
            ),
        }
    }
}

fn is_file_name(name: &str) -> bool {
    !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

export_endpoint!(Upload);

#[cfg(test)]
mod tests;
