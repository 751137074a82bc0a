//! Panics of the author's code, which must not cross the boundary: they are caught, with their message and their location.

use std::any::Any;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// What a panic said, and where.
pub(crate) struct Panic(pub(crate) String);

/// Calls code of the author's; a panic ends here.
pub(crate) fn catch_panic<R>(call: impl FnOnce() -> R) -> Result<R, Panic> {
    CATCHING.set(CATCHING.get() + 1);
    // Unwind safety: after a panic the closure's state is dropped, and not used otherwise.
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(CATCHING.get() - 1);
    result.map_err(|payload| Panic(panic_text(payload)))
}

#[cold]
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let message = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(message), _) => message,
        (_, Some(message)) => message.as_str(),
        (None, None) => "a value that is not text",
    };
    let text = match take_location() {
        Some(location) => format!("panicked at {location}: {message}"),
        None => format!("panicked: {message}"),
    };
    // A payload of the author's own type may panic when it is dropped; the second one is leaked.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    text
}

thread_local! {
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// Without a destructor: a thread's first use of one waits for the system's loader, which may be loading another library.
    static LOCATION: Cell<Option<ManuallyDrop<String>>> = const { Cell::new(None) };
}

fn take_location() -> Option<String> {
    LOCATION.take().map(ManuallyDrop::into_inner)
}

/// Records where a caught panic happened instead of printing it: the message becomes a log line of the host. Other panics, on
/// threads of the author's own, are printed as usual. The hook belongs to this library's copy of std, not to the host's.
pub(crate) fn record_panic_locations() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.try_with(Cell::get).unwrap_or(0) == 0 {
                return before(info);
            }
            drop(take_location());
            let location = info.location().map(ToString::to_string);
            LOCATION.set(location.map(ManuallyDrop::new));
        }));
    });
}
