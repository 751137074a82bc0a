//! The smallest extension that does something: what one more of its kind costs.

use extension_api::prelude::*;

export_endpoint!(Small);

struct Small;

impl Endpoint for Small {
    fn new(_: Context) -> Result<Self> {
        Ok(Self)
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/", Self::hello);
    }
}

impl Small {
    async fn hello(&self, _: Request) -> Result<Response> {
        Ok(Response::text("Hello."))
    }
}
