//! [`Fetched`]: the answer to an outgoing call, which is read or relayed.

use std::fmt;
use std::future::poll_fn;

use serde::de::DeserializeOwned;

use crate::abi::{EXT_END, EXT_FAILED, EXT_OK};
use crate::bridge::{Bytes, FetchedHandle, Op};
use crate::error::{Error, Result};
use crate::fetch_error::FetchError;
use crate::headers::Headers;

/// The answer to a call: its head is here, its body is still to come.
///
/// `Response::relay` passes it on as it is. Dropped, the rest of its body is given up.
pub struct Fetched {
    handle: FetchedHandle,
    status: u16,
    body_length: Option<u64>,
    op: Op,
    ended: bool,
}

impl Fetched {
    /// The most that `bytes`, `text` and `json` hold in memory: 64 MiB. What may be larger is read by `chunk`.
    pub const BYTES_MAX: usize = 64 << 20;

    pub(crate) fn new(handle: Option<FetchedHandle>) -> Result<Self, FetchError> {
        let handle = handle.ok_or_else(|| FetchError::new(EXT_FAILED, String::new()))?;
        let (status, body_length) = handle.head();
        let op = handle.op();
        Ok(Self {
            handle,
            status,
            body_length,
            op,
            ended: false,
        })
    }

    pub(crate) fn into_handle(self) -> FetchedHandle {
        self.handle
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The length of the body, where the upstream has said it.
    pub fn body_length(&self) -> Option<u64> {
        self.body_length
    }

    /// The first header of that name, in any case, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.handle.header(name, 0)?).ok()
    }

    /// All headers.
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(self.handle.headers())
    }

    /// The next chunk of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// Where the body broke off, or a limit passed.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.ended {
            return Ok(None);
        }
        // The operation outlives a future that is dropped meanwhile: no chunk is lost.
        if !self.op.is_started() {
            match self.handle.start_read(&mut self.op) {
                EXT_OK => {}
                status => return Err(FetchError::new(status, String::new())),
            }
        }
        let outcome = poll_fn(|cx| self.op.poll(cx)).await;
        self.ended = outcome.status != EXT_OK;
        match outcome.status {
            EXT_OK => Ok(Some(outcome.data)),
            EXT_END => Ok(None),
            status => Err(FetchError::new(status, outcome.message)),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// As for `chunk`; where it is over [`BYTES_MAX`](Self::BYTES_MAX).
    pub async fn bytes(mut self) -> Result<Bytes, FetchError> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut whole = Vec::from(first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > Self::BYTES_MAX {
                return Err(FetchError::TooLarge(format!(
                    "over {} bytes",
                    Self::BYTES_MAX
                )));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    /// The whole body as text.
    ///
    /// # Errors
    ///
    /// As for `bytes`; a 502 where it is not UTF-8.
    pub async fn text(self) -> Result<String> {
        String::from_utf8(self.bytes().await?.into()).map_err(not_understood)
    }

    /// The whole body from JSON.
    ///
    /// # Errors
    ///
    /// As for `bytes`; a 502 where it is not such JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?).map_err(not_understood)
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

fn not_understood(cause: impl fmt::Display) -> Error {
    let message = "The upstream's answer could not be understood.";
    Error::new(502, "BAD_GATEWAY", message).cause(cause)
}
