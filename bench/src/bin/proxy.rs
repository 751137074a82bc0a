//! A proxy compiled into an actix-web server: what a relaying extension is compared with. It passes on the end-to-end
//! headers and the body, adds Basic auth, and streams the answer.
//!
//! It is written to be cheap with what actix-web and awc offer: a prefix instead of a pattern (which would be a regular
//! expression, matched for each request), header maps that are handed on instead of being copied, a URL put together from
//! parts. Like the host it waits 30 s at most for the head of an answer.

use std::mem;
use std::rc::Rc;
use std::time::Duration;

use actix_web::body::{BodyStream, BoxBody, SizedStream};
use actix_web::dev::{ServiceRequest, ServiceResponse, fn_service};
use actix_web::http::Uri;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;
use actix_web::{App, Error, HttpMessage as _, HttpResponse, HttpServer, error, web};
use awc::{Client, Connector};
use base64::Engine as _;

const MOUNTED_AT: &str = "/relay";

struct Target {
    client: Client,
    upstream: Uri,
    authorization: HeaderValue,
}

fn main() -> std::io::Result<()> {
    let port = extension_host_bench::argument(1).unwrap_or(8001);
    let upstream: Uri = std::env::args()
        .nth(2)
        .unwrap_or("http://127.0.0.1:9000".to_owned())
        .parse()
        .map_err(std::io::Error::other)?;
    actix_web::rt::System::new().block_on(
        HttpServer::new(move || {
            let target = Rc::new(target(upstream.clone()));
            let relay = move |request| relay(target.clone(), request);
            App::new().service(web::scope(MOUNTED_AT).default_service(fn_service(relay)))
        })
        .workers(1)
        .max_connections(25_000)
        .keep_alive(extension_host_bench::KEEP_ALIVE)
        .tcp_nodelay(true)
        .bind(("127.0.0.1", port))?
        .run(),
    )
}

fn target(upstream: Uri) -> Target {
    let secret = base64::engine::general_purpose::STANDARD.encode("AC0:secret");
    Target {
        client: Client::builder()
            .connector(
                Connector::new()
                    .limit(1_000)
                    .conn_lifetime(Duration::from_secs(600)),
            )
            .no_default_headers()
            .disable_redirects()
            .timeout(Duration::from_secs(30))
            .finish(),
        upstream,
        authorization: HeaderValue::from_str(&format!("Basic {secret}"))
            .expect("base64 may stand in a header"),
    }
}

async fn relay(target: Rc<Target>, mut request: ServiceRequest) -> Result<ServiceResponse, Error> {
    let mut headers = mem::take(request.headers_mut());
    let length = content_length(&headers);
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    headers.retain(|name, _| is_end_to_end(name) && *name != header::HOST);
    headers.insert(header::AUTHORIZATION, target.authorization.clone());

    let mut call = target
        .client
        .request(request.method().clone(), url(&target, request.uri())?)
        .no_decompress();
    *call.headers_mut() = headers;
    let sent = match length {
        Some(length) => call.send_body(SizedStream::new(length, request.take_payload())),
        None if is_chunked => call.send_stream(request.take_payload()),
        None => call.send(),
    };
    let answer = sent.await.map_err(error::ErrorBadGateway)?;

    let mut headers = HeaderMap::new();
    let answer = answer.map_body(|head, body| {
        headers = mem::take(&mut head.headers);
        body
    });
    let length = content_length(&headers);
    headers.retain(|name, _| is_end_to_end(name));
    let status = answer.status();
    let body = match length {
        Some(length) => BoxBody::new(SizedStream::new(length, answer)),
        None => BoxBody::new(BodyStream::new(answer)),
    };
    let mut response = HttpResponse::with_body(status, body);
    *response.headers_mut() = headers;
    Ok(request.into_response(response))
}

/// The upstream's scheme and authority, with what follows the mount in the path.
fn url(target: &Target, asked: &Uri) -> Result<Uri, Error> {
    let rest = asked
        .path_and_query()
        .map_or("/", |asked| &asked.as_str()[MOUNTED_AT.len()..]);
    let mut parts = target.upstream.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).map_err(error::ErrorBadRequest)?);
    Uri::from_parts(parts).map_err(error::ErrorBadRequest)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The length is the connection's too: who sends the body says how long it is.
fn is_end_to_end(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::CONNECTION
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::TE
            | header::TRAILER
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) && name.as_str() != "keep-alive"
}
