//! What it costs to say who asks, for a token that is known: a static token and a JWT of the store, both below 2 µs, and
//! for comparison ADMIN_TOKEN and no token at all. `cargo bench -p extension-host --bench identity`

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use actix_http::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use criterion::{Criterion, criterion_group, criterion_main};
use extension_host::config::Config;
use extension_host::config::values::Secret;
use extension_host::http::facts::RequestFacts;
use extension_host::identity::local_users::known;
use extension_host::identity::{Authority, Identified};

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(USER_AGENT, HeaderValue::from_static("curl/8.0"));
    headers
}

fn identify(authority: &Authority, headers: &HeaderMap) -> Identified {
    let peer = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let query = Some("b=c");
    let facts = RequestFacts::of(headers, query, false);
    authority.identify(headers, &facts, query, peer, SystemTime::now, None)
}

/// Asks until the answer is there without waiting, as it is for every request but the first.
fn prepare(runtime: &actix_rt::Runtime, authority: &Authority, headers: &HeaderMap) {
    runtime.block_on(async {
        if let Identified::Pending(answer) = identify(authority, headers) {
            answer.await.expect("a user");
        }
    });
    assert!(matches!(
        identify(authority, headers),
        Identified::Now(Ok(_))
    ));
}

fn cached(criterion: &mut Criterion) {
    let folder = std::env::temp_dir().join(format!("identity-bench-{}", std::process::id()));
    let mut config = Config::default();
    config.database.path = folder.join("store.db");
    config.auth.secret = Secret::new("a secret");
    config.auth.admin_token = Secret::new("an-administrator");
    config.auth.admin_password = Secret::new("a password");
    let authority = Authority::open(&config, true).expect("a store");
    let store = authority.store().expect("a store");
    let (user, token) = store
        .block_on(|db| async move {
            let (_, token) = db.create_token("admin@example.com", "bench", None).await?;
            Ok((db.user("admin@example.com").await?, token))
        })
        .expect("a token");
    let ttl = Duration::from_secs(3_600);
    let jwt = authority.jwt().sign(&known(&user), SystemTime::now(), ttl);
    let runtime = actix_rt::Runtime::new().expect("a runtime");
    for (name, token) in [
        ("static token", token.as_str()),
        ("JWT", jwt.as_deref().expect("a token")),
        ("ADMIN_TOKEN", "an-administrator"),
    ] {
        let headers = headers(token);
        prepare(&runtime, &authority, &headers);
        criterion.bench_function(&format!("cached/{name}"), |bench| {
            bench.iter(|| black_box(identify(&authority, black_box(&headers))));
        });
    }
    let anonymous = HeaderMap::new();
    criterion.bench_function("anonymous", |bench| {
        bench.iter(|| black_box(identify(&authority, black_box(&anonymous))));
    });
    // An error leaves a folder in the system's temporary one.
    let _ = std::fs::remove_dir_all(folder);
}

criterion_group!(benches, cached);
criterion_main!(benches);
