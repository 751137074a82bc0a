//! UNSAFE: a completion of the ABI, called exactly once, whatever happens to what it waits for.
#![expect(
    unsafe_code,
    reason = "calls a function pointer that an extension gave"
)]

use std::borrow::Cow;
use std::ffi::c_void;

use bytes::Bytes;
use extension_api::abi;

use crate::boundary::fetched;
use crate::extension::Flight;
use crate::runtime::contract_checks;
use crate::runtime::ffi_out;
use crate::runtime::worker;

/// A function of an extension's that is owed one call. Dropped uncalled, it is called with EXT_CANCELLED soon.
///
/// While it is owed, the extension is not destroyed.
pub struct Completion {
    owed: Option<abi::ext_completion>,
    flight: Option<Flight>,
}

// SAFETY: the header says that `user` travels to the request's worker, whichever thread it was given on.
unsafe impl Send for Completion {}

/// What a completion is called with.
pub struct Outcome {
    status: i32,
    data: Bytes,
    fetched: Option<fetched::Handle>,
    message: Cow<'static, str>,
}

impl Outcome {
    /// Done; there is nothing to hand over.
    pub const OK: Self = Self::failed(abi::EXT_OK);

    /// Only a status.
    pub const fn failed(status: i32) -> Self {
        Self {
            status,
            data: Bytes::new(),
            fetched: None,
            message: Cow::Borrowed(""),
        }
    }

    /// A failure that the extension's author should read about.
    pub fn failed_because(status: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            ..Self::failed(status)
        }
    }

    /// A chunk, the end, or a failure on the way.
    pub fn of_chunk(chunk: Option<Result<Bytes, i32>>) -> Self {
        match chunk {
            Some(Ok(data)) => Self { data, ..Self::OK },
            Some(Err(status)) => Self::failed(status),
            None => Self::failed(abi::EXT_END),
        }
    }

    /// The answer to a fetch.
    pub fn fetched(answer: fetched::Handle) -> Self {
        Self {
            fetched: Some(answer),
            ..Self::OK
        }
    }
}

impl Completion {
    /// Takes over what a callback was given, where the callback will return EXT_OK.
    pub fn new(completion: abi::ext_completion) -> Self {
        Self {
            owed: Some(completion),
            flight: None,
        }
    }

    /// Keeps the extension from being destroyed until it is called.
    pub fn hold(&mut self, flight: impl Into<Option<Flight>>) {
        self.flight = flight.into();
    }

    /// Gives it up uncalled, where the callback returns a failure after all.
    pub fn forget(mut self) {
        self.owed = None;
    }

    /// Calls it, on the worker's loop.
    pub fn call(mut self, outcome: Outcome) {
        let Some(completion) = self.owed.take() else {
            return;
        };
        let mut outcome = Some(outcome);
        if let Some(flight) = &self.flight {
            worker::with_current(|worker| {
                let _inside = worker.enter(flight.context());
                if let Some(outcome) = outcome.take() {
                    invoke(completion, outcome);
                }
            });
        }
        // Held by nothing, or called when the thread ends.
        if let Some(outcome) = outcome {
            invoke(completion, outcome);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let Some(completion) = self.owed.take() else {
            return;
        };
        let again = Self {
            owed: Some(completion),
            flight: self.flight.take(),
        };
        let cancelled = Outcome::failed(abi::EXT_CANCELLED);
        match worker::current() {
            Some(worker) => worker.complete(again, cancelled),
            // The worker has ended, and with it everything else that could call this.
            None => again.call(cancelled),
        }
    }
}

fn invoke(completion: abi::ext_completion, outcome: Outcome) {
    let Outcome {
        status,
        data,
        fetched,
        message,
    } = outcome;
    let result = abi::ext_result {
        struct_size: size_of::<abi::ext_result>() as u32,
        status,
        data: give(data),
        fetched: fetched.map_or(abi::ext_fetched::default(), fetched::Handle::to_abi),
        message: ffi_out::text(&message),
    };
    let Some(function) = completion.function else {
        return;
    };
    // SAFETY: the extension gave `function` and `user` for exactly this call, and `Completion` makes it once. `result` outlives it.
    unsafe { function(completion.user, &raw const result) };
}

/// Hands bytes to an extension without copying them.
pub fn give(data: Bytes) -> abi::ext_buffer {
    if data.is_empty() {
        return ffi_out::EMPTY_BUFFER;
    }
    let (ptr, len) = (data.as_ptr(), data.len());
    let owner = Box::into_raw(Box::new(data)).cast::<c_void>();
    contract_checks::given(owner as usize);
    abi::ext_buffer {
        ptr,
        len,
        owner,
        release: Some(release),
    }
}

unsafe extern "C" fn release(owner: *mut c_void, _ptr: *const u8, _len: usize) {
    if !contract_checks::released(owner as usize) {
        return;
    }
    // SAFETY: `owner` came from `give`, and the receiver releases once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// Takes bytes over from an extension without copying them; they are released when the last use of them ends.
///
/// # Safety
/// The buffer was given by the rules of the header: its memory stays unchanged until it is released.
pub unsafe fn take(buffer: abi::ext_buffer) -> Bytes {
    struct Given(abi::ext_buffer);
    // SAFETY: a given buffer may be read and released on every thread (header).
    unsafe impl Send for Given {}
    // SAFETY: as above; it is only read.
    unsafe impl Sync for Given {}
    impl AsRef<[u8]> for Given {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the caller's promise: unchanged and alive until it is released, in `drop`.
            unsafe { std::slice::from_raw_parts(self.0.ptr, self.0.len) }
        }
    }
    impl Drop for Given {
        fn drop(&mut self) {
            if let Some(release) = self.0.release {
                // SAFETY: released once, here.
                unsafe { release(self.0.owner, self.0.ptr, self.0.len) };
            }
        }
    }
    let given = Given(buffer);
    if buffer.len == 0 || buffer.ptr.is_null() {
        return Bytes::new();
    }
    if buffer.release.is_none() {
        // SAFETY: without a release function the bytes are constant for the life of the process (header).
        return Bytes::from_static(unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.len) });
    }
    Bytes::from_owner(given)
}
