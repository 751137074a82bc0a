//! A limit of time, and the setting that it comes from: who reads that it has passed can change it.

use std::fmt;
use std::time::Duration;

use super::call::Limits;
use crate::config;

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// How long.
    pub time: Duration,
    setting: Setting,
}

/// Where a limit stands.
#[derive(Debug, Clone, Copy)]
enum Setting {
    ConnectOfCall,
    Connect,
    FirstByteOfCall,
    FirstByte,
    TotalOfCall,
    Total,
}

impl Limit {
    /// To a connection.
    pub fn connect(call: &Limits, host: &config::Fetch) -> Self {
        let own = Self::of(call.connect, Setting::ConnectOfCall);
        own.unwrap_or(Self {
            time: host.connect_timeout(),
            setting: Setting::Connect,
        })
    }

    /// To the head of the answer, and then from chunk to chunk; `None`: for ever.
    pub fn first_byte(call: &Limits, host: &config::Fetch) -> Option<Self> {
        let own = Self::of(call.first_byte, Setting::FirstByteOfCall);
        own.or(Self::of(host.first_byte_timeout(), Setting::FirstByte))
    }

    /// To the end of the answer; `None`: for ever.
    pub fn total(call: &Limits, host: &config::Fetch) -> Option<Self> {
        let own = Self::of(call.total, Setting::TotalOfCall);
        own.or(Self::of(host.total_timeout(), Setting::Total))
    }

    fn of(time: Option<Duration>, setting: Setting) -> Option<Self> {
        time.map(|time| Self { time, setting })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = match self.setting {
            Setting::ConnectOfCall => "connect_ms of the call",
            Setting::Connect => "connect_timeout_ms under [fetch]",
            Setting::FirstByteOfCall => "first_byte_ms of the call",
            Setting::FirstByte => "first_byte_timeout_ms under [fetch]",
            Setting::TotalOfCall => "total_ms of the call",
            Setting::Total => "total_timeout_ms under [fetch]",
        };
        write!(f, "within {} ms ({setting})", self.time.as_millis())
    }
}
