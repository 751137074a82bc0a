//! A message, as Twilio's API shows it.

use std::hash::{BuildHasher, RandomState};

use extension_api::Form;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::Fault;

/// The longest text that Twilio takes, in characters.
const BODY_CHARACTERS_MAX: usize = 1600;

/// A message that was taken, as the fields that Twilio shows of it.
pub(super) struct Message(Value);

impl Message {
    /// Takes a message from the fields of a form.
    pub(super) fn from_form(account: &str, form: &Form) -> Result<Self, Fault> {
        let field = |name: &str| form.get(name).filter(|value| !value.is_empty());
        let (from, service) = (field("From"), field("MessagingServiceSid"));
        let media = form.pairs().filter(|(name, _)| name == "MediaUrl").count();
        let body = field("Body").unwrap_or_default();

        let Some(to) = field("To") else {
            return Err(Fault::bad_request(
                21604,
                "A 'To' phone number is required.",
            ));
        };
        if !is_address(&to) {
            return Err(Fault::bad_request(
                21211,
                format!("Invalid 'To' Phone Number: {to}"),
            ));
        }
        if from.is_none() && service.is_none() {
            return Err(Fault::bad_request(
                21603,
                "A 'From' phone number is required.",
            ));
        }
        if body.is_empty() && media == 0 && field("ContentSid").is_none() {
            return Err(Fault::bad_request(21602, "Message body is required."));
        }
        if body.chars().count() > BODY_CHARACTERS_MAX {
            let message = "The concatenated message body exceeds the 1600 character limit";
            return Err(Fault::bad_request(21617, message));
        }

        let sid = new_sid(if media == 0 { "SM" } else { "MM" });
        let uri = format!("/2010-04-01/Accounts/{account}/Messages/{sid}");
        let status = match (field("SendAt"), &service) {
            (Some(_), _) => "scheduled",
            (None, Some(_)) => "accepted",
            (None, None) => "queued",
        };
        let now = now();
        Ok(Self(json!({
            "account_sid": account,
            "api_version": "2010-04-01",
            "body": body,
            "date_created": now,
            "date_sent": null,
            "date_updated": now,
            "direction": "outbound-api",
            "error_code": null,
            "error_message": null,
            "from": from,
            "messaging_service_sid": service,
            "num_media": media.to_string(),
            // With a messaging service, there is no sender yet that would cut it.
            "num_segments": if service.is_some() { 0 } else { segments(&body) }.to_string(),
            "price": null,
            "price_unit": null,
            "sid": sid,
            "status": status,
            "subresource_uris": {"media": format!("{uri}/Media.json")},
            "to": to,
            "uri": format!("{uri}.json"),
        })))
    }

    /// Changes what can be changed: the body can be emptied, a message that is not yet sent can be cancelled.
    pub(super) fn update(&mut self, form: &Form) -> Result<(), Fault> {
        let (body, status) = (form.get("Body"), form.get("Status"));
        if body.as_ref().is_some_and(|body| !body.is_empty()) {
            return Err(Fault::bad_request(
                20001,
                "Body can only be redacted, by an empty value.",
            ));
        }
        match status.as_deref() {
            None => {}
            Some("canceled")
                if ["queued", "accepted", "scheduled"].contains(&self.text("status")) =>
            {
                self.0["status"] = "canceled".into();
            }
            Some(_) => {
                return Err(Fault::bad_request(
                    20001,
                    "Message cannot be brought into this status.",
                ));
            }
        }
        if body.is_some() {
            self.0["body"] = "".into();
        }
        self.0["date_updated"] = now().into();
        Ok(())
    }

    pub(super) fn json(&self) -> &Value {
        &self.0
    }

    pub(super) fn sid(&self) -> &str {
        self.text("sid")
    }

    /// A field that is text; empty where it is not.
    pub(super) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }
}

/// Whether it is a number in E.164 form, or a channel's address that ends in one: `whatsapp:+15558675310`.
fn is_address(to: &str) -> bool {
    let number = to.rsplit(':').next().unwrap_or_default();
    let digits = number.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// How many short messages it takes: 160 characters each, 153 where there are several; 70 and 67 beyond plain text.
fn segments(body: &str) -> usize {
    let (length, one, several) = match body.is_ascii() {
        true => (body.len(), 160, 153),
        false => (body.encode_utf16().count(), 70, 67),
    };
    if length <= one {
        1
    } else {
        length.div_ceil(several)
    }
}

/// A prefix and 32 hexadecimal digits that have not been seen before.
fn new_sid(prefix: &str) -> String {
    let random = || RandomState::new().hash_one(0);
    format!("{prefix}{:016x}{:016x}", random(), random())
}

fn now() -> String {
    OffsetDateTime::now_utc()
        .format(&Rfc2822)
        .expect("today has a date in RFC 2822")
}
