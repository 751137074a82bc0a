//! The handlers of `src/bin/plain.rs` and `src/bin/proxy.rs`, as an extension.

use extension_api::prelude::*;
use serde::Serialize;

export_endpoint!(Bench, Relay);

struct Bench {
    ctx: Context,
}

impl Endpoint for Bench {
    const ID: &'static str = "bench";

    fn new(ctx: Context) -> Result<Self> {
        Ok(Self { ctx })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/json", Self::json);
        router.get("/await", Self::wait);
        router.get("/stream", Self::stream);
        router.post("/echo", Self::echo);
    }
}

#[derive(Serialize)]
struct Greeting {
    message: &'static str,
    id: u32,
}

const GREETING: Greeting = Greeting {
    message: "Hello, world!",
    id: 42,
};

impl Bench {
    async fn json(&self, _: Request) -> Result<Response> {
        Ok(Response::json(&GREETING))
    }

    async fn wait(&self, _: Request) -> Result<Response> {
        self.ctx.sleep(extension_host_bench::WAIT).await?;
        Ok(Response::json(&GREETING))
    }

    async fn stream(&self, _: Request) -> Result<Response> {
        Ok(Response::stream(async move |mut out| {
            for _ in 0..4 {
                out.write(extension_host_bench::CHUNK).await?;
            }
            Ok(())
        }))
    }

    async fn echo(&self, req: Request) -> Result<Response> {
        Ok(Response::stream(async move |mut out| {
            while let Some(chunk) = req.chunk().await? {
                out.write(chunk).await?;
            }
            Ok(())
        }))
    }
}

/// What a proxy of an API is: the request goes on with Basic auth, the answer comes back as it is.
struct Relay {
    upstream: Base,
    authorization: &'static str,
}

impl Endpoint for Relay {
    const ID: &'static str = "relay";

    fn new(ctx: Context) -> Result<Self> {
        Ok(Self {
            upstream: ctx.base(ctx.env("BENCH_UPSTREAM")?)?,
            // "AC0:secret"
            authorization: "Basic QUMwOnNlY3JldA==",
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.any("/*", Self::relay);
    }
}

impl Relay {
    async fn relay(&self, req: Request) -> Result<Response> {
        let call = req.forward(&self.upstream);
        let answer = call
            .header("authorization", self.authorization)
            .send()
            .await?;
        Ok(Response::relay(answer))
    }
}
