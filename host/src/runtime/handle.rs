//! UNSAFE: what a handle of the ABI points at: slots that are never freed, only used again, each use with a generation.
//!
//! An extension may keep a handle for as long as it likes and use it from every thread; a handle whose time is over must be
//! recognised, not followed. So a slot's memory lives as long as the process, and its [state](SlotState) tells whether a handle
//! still means what the slot holds. Slots belong to the worker that made them and are kept there for the next use, which also
//! makes a request cost no allocation here.
//!
//! A slot holds two parts. The *shared* part is read by every thread, through a [`Reading`] that keeps the slot from being used
//! again; the *local* part is the worker's alone.
#![expect(
    unsafe_code,
    reason = "handles are addresses with a generation; see the module's text"
)]

use std::cell::{Cell, RefCell, RefMut, UnsafeCell};
use std::hint::cold_path;
use std::marker::PhantomData;
use std::ops::Deref;

use super::slot_state::{NotAdvanced, SlotState, Stage};
use super::worker::{Remote, Worker};

/// What a slot's shared part does when a use of the slot is over.
pub trait Recycle<L>: Send + Sync + 'static {
    /// Takes out what the use has left in both parts: called when nobody reads it any more.
    fn recycle(&mut self, local: &mut L);
}

/// One reusable slot.
pub struct Slot<S: 'static, L: 'static> {
    state: SlotState,
    worker: Remote,
    /// Readings on the slot's own worker, which need no atomic step.
    own_readings: Cell<u32>,
    shared: UnsafeCell<S>,
    local: RefCell<L>,
}

// SAFETY: `shared` is borrowed mutably only while nobody can read it: in `Free::parts`, before there is a handle, and in
// `SlotPool::recycle`, when the use is over and no `Reading` is left. `local` and `own_readings` are reached only on the slot's
// worker: by `SlotRef::local` and `Reading`, which check the thread, and by `SlotPool` and `Free`, which never leave it.
unsafe impl<S: Send + Sync, L> Sync for Slot<S, L> {}

/// A use of a slot, as a handle names it.
pub struct SlotRef<S: 'static, L: 'static> {
    slot: &'static Slot<S, L>,
    generation: u64,
}

impl<S, L> Clone for SlotRef<S, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, L> Copy for SlotRef<S, L> {}

impl<S: Recycle<L>, L> SlotRef<S, L> {
    /// The two numbers of the ABI's handle.
    pub fn numbers(self) -> (u64, u64) {
        (std::ptr::from_ref(self.slot) as u64, self.generation)
    }

    /// The use that a handle names, if it is not over.
    ///
    /// # Safety
    /// `slot` is 0 or came from [`SlotRef::numbers`] of the same `S` and `L`, in this process.
    pub unsafe fn from_numbers(slot: u64, generation: u64) -> Option<Self> {
        // An even generation is of a slot that is free: see `SlotState::open`.
        if slot == 0 || generation & 1 == 0 {
            return None;
        }
        // SAFETY: the caller's promise; slots are leaked, so the address is good for the life of the process.
        let slot = unsafe { &*(slot as usize as *const Slot<S, L>) };
        slot.state
            .is(generation)
            .then_some(Self { slot, generation })
    }

    /// Reads the shared part; `None`: the use is over. While the [`Reading`] lives the slot is not used again, so it must not
    /// be kept.
    #[inline]
    pub fn read(&self) -> Option<Reading<S, L>> {
        let is_own = self.slot.worker.is_current();
        if is_own {
            if !self.slot.state.is(self.generation) {
                return None;
            }
            let readings = &self.slot.own_readings;
            readings.set(readings.get() + 1);
        } else {
            cold_path();
            if !self.slot.state.begin_read(self.generation) {
                return None;
            }
        }
        Some(Reading {
            slot: self.slot,
            is_own,
            stays_on_its_thread: PhantomData,
        })
    }

    /// The worker that the slot belongs to.
    pub fn worker(&self) -> &'static Remote {
        &self.slot.worker
    }

    /// The worker's own part; `None` on any other thread, or where the use is over.
    #[inline]
    pub fn local(&self) -> Option<&'static RefCell<L>> {
        (self.slot.worker.is_current() && self.is_open()).then_some(&self.slot.local)
    }

    /// Whether both name the same use of the same slot.
    pub fn is(self, other: Self) -> bool {
        self.numbers() == other.numbers()
    }

    /// Whether the use is not over.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.slot.state.is(self.generation)
    }

    /// How far the use has come; `None`: it is over.
    #[inline]
    pub fn stage(&self) -> Option<Stage> {
        self.slot.state.stage(self.generation)
    }

    /// Brings the use from one stage to another, in one step that nothing else can come between.
    ///
    /// # Errors
    /// Where it is at another stage, or over.
    #[inline]
    pub fn advance(&self, from: Stage, to: Stage) -> Result<(), NotAdvanced> {
        self.slot.state.advance(self.generation, from, to)
    }

    /// The slot and the generation, to be put together again by [`Slot::held`].
    pub fn parts(self) -> (&'static Slot<S, L>, u64) {
        (self.slot, self.generation)
    }
}

impl<S, L> Slot<S, L> {
    /// A use of the slot: one that [`SlotRef::parts`] took apart.
    pub fn held(&'static self, generation: u64) -> SlotRef<S, L> {
        SlotRef {
            slot: self,
            generation,
        }
    }
}

/// The shared part of a slot, being read.
pub struct Reading<S: 'static, L: 'static> {
    slot: &'static Slot<S, L>,
    is_own: bool,
    /// Its drop must run on the thread that began to read.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl<S, L> Deref for Reading<S, L> {
    type Target = S;

    #[inline]
    fn deref(&self) -> &S {
        // SAFETY: the slot is not recycled while this lives, and only that would change it: see `Slot`'s Sync.
        unsafe { &*self.slot.shared.get() }
    }
}

impl<S, L> Drop for Reading<S, L> {
    #[inline]
    fn drop(&mut self) {
        if self.is_own {
            let readings = &self.slot.own_readings;
            readings.set(readings.get() - 1);
        } else {
            cold_path();
            self.slot.state.end_read();
        }
    }
}

/// A worker's slots of one kind.
pub struct SlotPool<S: 'static, L: 'static> {
    free: RefCell<Vec<&'static Slot<S, L>>>,
    /// Their uses are over, but somebody was still reading.
    being_read: RefCell<Vec<&'static Slot<S, L>>>,
    made: Cell<usize>,
    /// The local parts of its slots are its worker's.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl<S, L> Default for SlotPool<S, L> {
    fn default() -> Self {
        Self {
            free: RefCell::default(),
            being_read: RefCell::default(),
            made: Cell::default(),
            stays_on_its_thread: PhantomData,
        }
    }
}

/// A slot that nobody has a handle of yet: to be prepared.
pub struct Free<S: 'static, L: 'static> {
    slot: &'static Slot<S, L>,
    /// The local part is the worker's.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl<S: Recycle<L>, L> Free<S, L> {
    /// Both of its parts.
    pub fn parts(&mut self) -> (&mut S, RefMut<'_, L>) {
        // SAFETY: the slot is free: no handle of it is good, nobody reads it, and this is the only way to it.
        let shared = unsafe { &mut *self.slot.shared.get() };
        (shared, self.slot.local.borrow_mut())
    }

    /// Begins the slot's use, at stage 0: its handle.
    #[inline]
    pub fn hand_out(self) -> SlotRef<S, L> {
        SlotRef {
            slot: self.slot,
            generation: self.slot.state.open(),
        }
    }
}

impl<S: Recycle<L>, L> SlotPool<S, L> {
    /// Takes a free slot, or makes one with `new`. A [`Worker`] cannot be named but on its own thread.
    pub fn take(&self, worker: &Worker, new: impl FnOnce() -> (S, L)) -> Free<S, L> {
        let free = self.free.borrow_mut().pop();
        Free {
            slot: free.unwrap_or_else(|| self.make(worker, new)),
            stays_on_its_thread: PhantomData,
        }
    }

    #[cold]
    fn make(&self, worker: &Worker, new: impl FnOnce() -> (S, L)) -> &'static Slot<S, L> {
        self.made.set(self.made.get() + 1);
        let (shared, local) = new();
        Box::leak(Box::new(Slot {
            state: SlotState::new(),
            worker: worker.remote.clone(),
            own_readings: Cell::new(0),
            shared: UnsafeCell::new(shared),
            local: RefCell::new(local),
        }))
    }

    /// Ends this use of the slot: its handles are over. Call on the slot's worker; elsewhere, and for a use that is over,
    /// it does nothing.
    #[inline]
    pub fn close(&self, held: SlotRef<S, L>) {
        self.close_with(held, |_| (), |_| ());
    }

    /// As [`close`](Self::close), and gives what `take` takes out of the shared part; where somebody still reads that, what
    /// `copy` copies.
    pub fn close_with<R>(
        &self,
        held: SlotRef<S, L>,
        take: impl FnOnce(&mut S) -> R,
        copy: impl FnOnce(&S) -> R,
    ) -> Option<R> {
        held.local()?;
        let slot = held.slot;
        let is_free = slot.state.close() && slot.own_readings.get() == 0;
        let taken = if is_free {
            // SAFETY: as in `recycle`.
            let taken = take(unsafe { &mut *slot.shared.get() });
            self.recycle(slot);
            taken
        } else {
            cold_path();
            // SAFETY: it is only read until it is recycled, which happens on this thread and later.
            let copied = copy(unsafe { &*slot.shared.get() });
            self.being_read.borrow_mut().push(slot);
            copied
        };
        if !self.being_read.borrow().is_empty() {
            cold_path();
            self.recycle_read();
        }
        Some(taken)
    }

    fn recycle(&self, slot: &'static Slot<S, L>) {
        // SAFETY: the use is over, so that no new `Reading` can begin, and none is left: both counts are 0. The slot is in no
        // other list, so that nobody else prepares it.
        let shared = unsafe { &mut *slot.shared.get() };
        shared.recycle(&mut slot.local.borrow_mut());
        self.free.borrow_mut().push(slot);
    }

    /// Recycles those that nobody reads any more.
    #[cold]
    fn recycle_read(&self) {
        let is_over =
            |slot: &mut &'static Slot<S, L>| slot.own_readings.get() == 0 && !slot.state.is_read();
        let over: Vec<_> = self
            .being_read
            .borrow_mut()
            .extract_if(.., is_over)
            .collect();
        for slot in over {
            self.recycle(slot);
        }
    }

    /// How many slots were ever made: the most that were in use at once.
    pub fn made(&self) -> usize {
        self.made.get()
    }
}
