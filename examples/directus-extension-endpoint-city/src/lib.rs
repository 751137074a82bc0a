//! `GET /city/:name`: the weather and the news of a city, from two APIs that are asked at once; kept for a while.
#![forbid(unsafe_code)]

mod cache;

use std::sync::Arc;
use std::time::{Duration, Instant};

use extension_api::prelude::*;
use futures::future::try_join;
use serde_json::{Value, json};

use cache::Cache;

/// The whole answer waits for the slower of the two.
const TIMEOUT: Duration = Duration::from_secs(3);

struct City {
    ctx: Context,
    weather: Base,
    news: Base,
    cache: Cache<Arc<Value>>,
}

impl Endpoint for City {
    const ID: &'static str = "city";

    fn new(ctx: Context) -> Result<Self> {
        let keep_ms = ctx.env_or("CITY_CACHE_MS", "60000")?.parse();
        let keep_ms = keep_ms
            .map_err(|_| Error::internal("CITY_CACHE_MS must be a number of milliseconds"))?;
        Ok(Self {
            weather: ctx.base(ctx.env("WEATHER_API")?)?,
            news: ctx.base(ctx.env("NEWS_API")?)?,
            cache: Cache::new(Duration::from_millis(keep_ms)),
            ctx,
        })
    }

    fn routes(router: &mut Router<Self>) {
        router.get("/:name", Self::show);
    }
}

impl City {
    async fn show(&self, req: Request) -> Result<Response> {
        let name = req.param("name").into_owned();
        if let Some(known) = self.cache.get(&name, Instant::now()) {
            return Ok(Response::json(&*known));
        }
        let query = Form::new().field("city", &name);
        let (weather, news) = try_join(
            self.ask(&self.weather, format!("/weather?{query}")),
            self.ask(&self.news, format!("/news?{query}")),
        )
        .await?;
        let city = Arc::new(json!({"city": name, "weather": weather, "news": news}));
        self.cache.put(name, city.clone(), Instant::now());
        Ok(Response::json(&*city))
    }

    async fn ask(&self, api: &Base, target: String) -> Result<Value> {
        let answer = self.ctx.fetch(api, target).timeout(TIMEOUT).send().await?;
        match answer.status() {
            200 => answer.json().await,
            404 => Err(Error::not_found("There is no such city.")),
            other => Err(
                Error::new(502, "BAD_GATEWAY", "The upstream did not answer well.")
                    .cause(format_args!("status {other}")),
            ),
        }
    }
}

export_endpoint!(City);

#[cfg(test)]
mod tests;
