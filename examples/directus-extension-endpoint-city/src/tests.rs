//! What callers get, and how often the two APIs are asked.

use extension_api::testing::{App, Call, Canned, Host};

use super::*;

fn mounted(upstream: impl Fn(&Call) -> Canned + Send + Sync + 'static) -> App {
    Host::new()
        .env("WEATHER_API", "https://weather.example/v1")
        .env("NEWS_API", "https://news.example")
        .upstream(upstream)
        .mount::<City>()
        .expect("it is mounted")
}

fn both_answer(call: &Call) -> Canned {
    match call.url.as_str() {
        "https://weather.example/v1/weather?city=New+York" => Canned::json(200, &json!({"c": 21})),
        "https://news.example/news?city=New+York" => Canned::json(200, &json!(["quiet"])),
        _ => Canned::new(404),
    }
}

#[test]
fn the_answers_of_both_are_one() {
    let answer = mounted(both_answer).request("GET", "/New%20York").send();
    assert_eq!(
        answer.json::<Value>(),
        json!({"city": "New York", "weather": {"c": 21}, "news": ["quiet"]})
    );
}

#[test]
fn what_is_known_is_not_asked_again() {
    let app = mounted(both_answer);
    let first = app.request("GET", "/New%20York").send();
    let second = app.request("GET", "/New%20York").send();
    assert_eq!((second.status, second.body), (200, first.body));
    assert_eq!(app.calls().len(), 2);
}

#[test]
fn a_failure_is_told_and_not_kept() {
    let app = mounted(|call| match call.url.contains("weather") {
        true => Canned::json(200, &json!({})),
        false => Canned::new(500),
    });
    for asked in 1..=2 {
        assert_eq!(app.request("GET", "/Rome").send().status, 502);
        assert_eq!(app.calls().len(), 2 * asked);
    }
}

#[test]
fn a_city_that_nobody_knows_is_a_404() {
    let app = mounted(both_answer);
    assert_eq!(app.request("GET", "/Atlantis").send().status, 404);
}

#[test]
fn a_time_that_is_no_number_keeps_it_from_being_served() {
    let refusal = Host::new().env("CITY_CACHE_MS", "soon").mount::<City>();
    assert_eq!(
        refusal.err().as_deref(),
        Some("CITY_CACHE_MS must be a number of milliseconds")
    );
}
