//! What wakes a task, from any thread: its wakers, and the completion of `post` that brings it back to its worker.
#![expect(
    unsafe_code,
    reason = "wakers and completions are counted references to a task in disguise"
)]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::task::{RawWaker, RawWakerVTable};

use super::panics::catch_panic;
use super::task::{OVER, RUNNING, TaskRef, WOKEN};
use super::thread;
use crate::abi::{EXT_OK, ext_completion, ext_result, ext_status};

impl TaskRef {
    pub(super) fn wake(&self) {
        if self.set(WOKEN) & (RUNNING | WOKEN | OVER) != 0 {
            return;
        }
        let here = self.header().worker == thread::token();
        if !here || thread::leave_woken(self.clone()).is_err() {
            self.post();
        }
    }

    /// Has the task run by its worker, soon.
    pub(super) fn post(&self) {
        let completion = self.completion(post_completed);
        // SAFETY: the completion holds a counted reference, and may be used by any thread.
        let status = unsafe { self.header().host.post(self.header().request, completion) };
        self.accepted(status, completion);
    }

    pub(super) fn completion(
        &self,
        function: unsafe extern "C" fn(*mut c_void, *const ext_result),
    ) -> ext_completion {
        ext_completion {
            function: Some(function),
            user: ManuallyDrop::new(self.clone()).0.as_ptr().cast(),
        }
    }

    /// Whether the host took the completion; takes its reference back where it did not.
    pub(super) fn accepted(&self, status: ext_status, completion: ext_completion) -> bool {
        if status != EXT_OK {
            // SAFETY: made by `completion`, and not called by a host that did not take it.
            drop(unsafe { Self::from_user(completion.user) });
        }
        status == EXT_OK
    }

    /// # Safety
    ///
    /// `user` must come from `completion`, once for each.
    pub(super) unsafe fn from_user(user: *mut c_void) -> Self {
        // SAFETY: `completion` made it from a pointer to a task, and left a counted reference to it.
        Self(unsafe { NonNull::new_unchecked(user.cast()) })
    }

    pub(super) fn raw_waker(&self) -> RawWaker {
        RawWaker::new(self.0.as_ptr().cast_const().cast(), &WAKER)
    }

    /// # Safety
    ///
    /// `data` must come from `raw_waker`; the reference counts as borrowed.
    unsafe fn from_waker(data: *const ()) -> ManuallyDrop<Self> {
        // SAFETY: `raw_waker` made it from a pointer to a task.
        ManuallyDrop::new(Self(unsafe {
            NonNull::new_unchecked(data.cast_mut().cast())
        }))
    }
}

static WAKER: RawWakerVTable =
    RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

unsafe fn waker_clone(data: *const ()) -> RawWaker {
    // SAFETY: the data of a waker of this table, as for the three below.
    let task = unsafe { TaskRef::from_waker(data) };
    ManuallyDrop::new(TaskRef::clone(&task)).raw_waker()
}

unsafe fn waker_wake(data: *const ()) {
    // SAFETY: as above; the waker is used up, and its reference with it.
    ManuallyDrop::into_inner(unsafe { TaskRef::from_waker(data) }).wake();
}

unsafe fn waker_wake_by_ref(data: *const ()) {
    // SAFETY: as above.
    unsafe { TaskRef::from_waker(data) }.wake();
}

unsafe fn waker_drop(data: *const ()) {
    // SAFETY: as above; the waker is used up, and its reference with it.
    drop(ManuallyDrop::into_inner(unsafe {
        TaskRef::from_waker(data)
    }));
}

unsafe extern "C" fn post_completed(user: *mut c_void, _: *const ext_result) {
    // SAFETY: given away by `post`; a completion is called exactly once.
    let task = unsafe { TaskRef::from_user(user) };
    // What may panic is caught within; this keeps a mistake of ours from ending the host.
    let _ = catch_panic(|| task.run());
}
