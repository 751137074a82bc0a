//! A page of the list of messages, as Twilio's API shows it.

use extension_api::{Form, Request};
use serde_json::{Value, json};

use super::Fault;
use super::message::Message;

const SIZE: usize = 50;
const SIZE_MAX: usize = 1000;

/// Which messages are asked for.
pub(super) struct Page {
    number: usize,
    size: usize,
    /// Where it begins: after this message, where that is still there.
    after: Option<String>,
    to: Option<String>,
    from: Option<String>,
}

impl Page {
    pub(super) fn from_query(req: &Request) -> Result<Self, Fault> {
        let query = Form::from_encoded(req.query());
        let text = |name: &str| {
            query
                .get(name)
                .filter(|value| !value.is_empty())
                .map(String::from)
        };
        let number = |name: &str, default: usize| match text(name) {
            None => Ok(default),
            Some(value) => value.parse::<usize>().map_err(|_| {
                Fault::bad_request(20001, format!("Invalid {name} parameter: {value}"))
            }),
        };
        Ok(Self {
            number: number("Page", 0)?,
            size: number("PageSize", SIZE)?.clamp(1, SIZE_MAX),
            after: text("PageToken").and_then(|token| token.strip_prefix("PA").map(str::to_owned)),
            to: text("To"),
            from: text("From"),
        })
    }

    /// Fills the page: the latest message comes first.
    pub(super) fn of(&self, messages: &[Message], path: &str) -> Value {
        let asked_for = |message: &&Message| {
            let is = |field, wanted: &Option<String>| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| message.text(field) == wanted)
            };
            is("to", &self.to) && is("from", &self.from)
        };
        let all: Vec<_> = messages.iter().rev().filter(asked_for).collect();
        let after = self
            .after
            .as_ref()
            .and_then(|sid| all.iter().position(|message| message.sid() == sid));
        let start = after
            .map_or_else(|| self.number.saturating_mul(self.size), |at| at + 1)
            .min(all.len());
        let end = start.saturating_add(self.size).min(all.len());
        let shown = &all[start..end];

        let next = shown.last().filter(|_| end < all.len());
        let next = next.map(|last| self.uri(path, self.number + 1, Some(last.sid())));
        let previous_last = start.checked_sub(self.size + 1).map(|at| all[at].sid());
        let previous = (self.number > 0).then(|| self.uri(path, self.number - 1, previous_last));
        let first = self.number.saturating_mul(self.size);
        json!({
            "end": (first + shown.len()).saturating_sub(1),
            "first_page_uri": self.uri(path, 0, None),
            "messages": shown.iter().map(|message| message.json()).collect::<Vec<_>>(),
            "next_page_uri": next,
            "page": self.number,
            "page_size": self.size,
            "previous_page_uri": previous,
            "start": first,
            "uri": self.uri(path, self.number, self.after.as_deref()),
        })
    }

    fn uri(&self, path: &str, number: usize, after: Option<&str>) -> String {
        let mut query = Form::new();
        for (name, value) in [("To", &self.to), ("From", &self.from)] {
            if let Some(value) = value {
                query = query.field(name, value);
            }
        }
        query = query
            .field("PageSize", &self.size.to_string())
            .field("Page", &number.to_string());
        if let Some(sid) = after {
            query = query.field("PageToken", &format!("PA{sid}"));
        }
        format!("{path}?{query}")
    }
}
