//! A proxy compiled into an actix-web server: what a relaying extension is compared with. It passes on the end-to-end
//! headers and the body, adds Basic auth, and streams the answer.

use std::time::Duration;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use awc::{Client, Connector};
use base64::Engine as _;

struct Target {
    client: Client,
    upstream: String,
    authorization: HeaderValue,
}

fn main() -> std::io::Result<()> {
    let port = extension_host_bench::argument(1).unwrap_or(8001);
    let upstream = std::env::args()
        .nth(2)
        .unwrap_or("http://127.0.0.1:9000".to_owned());
    actix_web::rt::System::new().block_on(
        HttpServer::new(move || {
            let secret = base64::engine::general_purpose::STANDARD.encode("AC0:secret");
            let target = Target {
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
                upstream: upstream.clone(),
                authorization: HeaderValue::from_str(&format!("Basic {secret}"))
                    .expect("base64 may stand in a header"),
            };
            App::new()
                .app_data(Data::new(target))
                .route("/relay/{path:.*}", web::to(relay))
        })
        .workers(1)
        .max_connections(25_000)
        .bind(("127.0.0.1", port))?
        .run(),
    )
}

async fn relay(target: Data<Target>, request: HttpRequest, body: Payload) -> HttpResponse {
    let url = request
        .uri()
        .path_and_query()
        .map_or("", |url| &url.as_str()["/relay".len()..]);
    let mut call = target
        .client
        .request(
            request.method().clone(),
            format!("{}{url}", target.upstream),
        )
        .no_decompress();
    for (name, value) in request.headers() {
        if !is_hop_by_hop(name) && *name != header::HOST && *name != header::CONTENT_LENGTH {
            call.headers_mut().append(name.clone(), value.clone());
        }
    }
    call.headers_mut()
        .insert(header::AUTHORIZATION, target.authorization.clone());
    let sent = if has_body(request.headers()) {
        call.send_stream(body)
    } else {
        call.send()
    };
    let answer = match sent.await {
        Ok(answer) => answer,
        Err(_) => return HttpResponse::BadGateway().finish(),
    };
    let mut response = HttpResponse::build(answer.status());
    for (name, value) in answer.headers() {
        if !is_hop_by_hop(name) && *name != header::CONTENT_LENGTH {
            response.append_header((name.clone(), value.clone()));
        }
    }
    let length = answer
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = length {
        response.no_chunking(length);
    }
    response.streaming(answer)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::TE
            | header::TRAILER
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || name.as_str() == "keep-alive"
}
