//! The client's claim on a request.

use super::state::Handle;
use crate::runtime::worker::current;

/// The client's claim on a request. Dropped early, the client has left.
pub struct ClientSide(Handle);

impl ClientSide {
    pub(super) fn of(request: Handle) -> Self {
        Self(request)
    }

    /// The request.
    pub fn handle(&self) -> Handle {
        self.0
    }
}

impl Drop for ClientSide {
    fn drop(&mut self) {
        // Dropped only by the connection, which lives and dies on the worker.
        if let Some(worker) = current() {
            self.0.client_ended(worker);
        }
    }
}
