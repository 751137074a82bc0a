//! The handlers of `extensions/handlers.rs`, compiled into an actix-web server: what an extension route is compared with.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::web::{self, Bytes, Payload};
use actix_web::{App, HttpResponse, HttpServer};
use serde::Serialize;

fn main() -> std::io::Result<()> {
    let port = extension_host_bench::argument(1).unwrap_or(8000);
    actix_web::rt::System::new().block_on(
        HttpServer::new(|| {
            App::new()
                .route("/bench/json", web::get().to(json))
                .route("/bench/await", web::get().to(wait))
                .route("/bench/stream", web::get().to(stream))
                .route("/bench/echo", web::post().to(echo))
        })
        .workers(1)
        .max_connections(25_000)
        .keep_alive(extension_host_bench::KEEP_ALIVE)
        .tcp_nodelay(true)
        .bind(("127.0.0.1", port))?
        .run(),
    )
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

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json; charset=utf-8")
        .json(GREETING)
}

async fn wait() -> HttpResponse {
    actix_web::rt::time::sleep(extension_host_bench::WAIT).await;
    json().await
}

async fn stream() -> HttpResponse {
    HttpResponse::Ok().streaming(Chunks(4))
}

struct Chunks(usize);

impl futures_core::Stream for Chunks {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Bytes::from_static(extension_host_bench::CHUNK))))
    }
}

async fn echo(payload: Payload) -> HttpResponse {
    HttpResponse::Ok().streaming(Echo(payload))
}

struct Echo(Payload);

impl futures_core::Stream for Echo {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0)
            .poll_next(cx)
            .map_err(std::io::Error::other)
    }
}
