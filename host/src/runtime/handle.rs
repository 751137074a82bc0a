//! UNSAFE: what a handle of the ABI points at: entries that are never freed, only used again, each with a generation.
//!
//! An extension may keep a handle for as long as it likes and use it from every thread; a handle whose time is over must be
//! recognised, not followed. So an entry's memory lives as long as the process, and its generation tells whether a handle
//! still means what the entry holds. Entries belong to the worker that made them and are kept there for the next use, which
//! also makes a request cost no allocation here.
#![expect(
    unsafe_code,
    reason = "handles are addresses with a generation; see the module's text"
)]

use std::cell::{Cell, RefCell, RefMut, UnsafeCell};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::worker::Remote;

/// One reusable place. `S` may be read from every thread while the generation lasts; `L` is the worker's alone.
pub struct Entry<S: 'static, L: 'static> {
    /// Odd while in use, even while free.
    generation: AtomicU64,
    worker: Remote,
    shared: UnsafeCell<S>,
    local: RefCell<L>,
}

// SAFETY: `shared` is borrowed mutably only while no handle is out (`Free::parts` before `hand_out`, `Pool::close` after the
// owner gave the handle up) and shared otherwise; `local` is reached only through `Held::local`, which checks the thread. S is Sync.
unsafe impl<S: Send + Sync, L> Sync for Entry<S, L> {}

/// An entry in use, as a handle names it.
pub struct Held<S: 'static, L: 'static> {
    entry: &'static Entry<S, L>,
    generation: u64,
}

impl<S, L> Clone for Held<S, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, L> Copy for Held<S, L> {}

impl<S: Send + Sync, L> Held<S, L> {
    /// The two numbers of the ABI's handle.
    pub fn numbers(self) -> (u64, u64) {
        (std::ptr::from_ref(self.entry) as u64, self.generation)
    }

    /// The entry that a handle names, if its time is not over.
    ///
    /// # Safety
    /// `slot` is 0 or came from [`Held::numbers`] of the same `S` and `L`, in this process.
    pub unsafe fn from_numbers(slot: u64, generation: u64) -> Option<Self> {
        if slot == 0 || generation & 1 == 0 {
            return None;
        }
        // SAFETY: the caller's promise; entries are leaked, so the address is good for the life of the process.
        let entry = unsafe { &*(slot as usize as *const Entry<S, L>) };
        (entry.generation.load(Ordering::Acquire) == generation)
            .then_some(Self { entry, generation })
    }

    /// The part that every thread may read.
    pub fn shared(&self) -> &'static S {
        // SAFETY: written only by `Free`, before the handle exists, and in `close`, after the last use of it.
        unsafe { &*self.entry.shared.get() }
    }

    /// Changes the part that every thread may read.
    ///
    /// # Safety
    /// Nobody else has the handle yet.
    pub unsafe fn shared_mut(&self, change: impl FnOnce(&mut S)) {
        debug_assert!(self.entry.worker.is_current());
        // SAFETY: the caller's promise.
        change(unsafe { &mut *self.entry.shared.get() });
    }

    /// The worker that the entry belongs to.
    pub fn worker(&self) -> &'static Remote {
        &self.entry.worker
    }

    /// The worker's own part; `None` on any other thread, or where the handle's time is over.
    pub fn local(&self) -> Option<&'static RefCell<L>> {
        (self.entry.worker.is_current() && self.is_open()).then_some(&self.entry.local)
    }

    /// Whether both name the same use of the same entry.
    pub fn is(self, other: Self) -> bool {
        self.numbers() == other.numbers()
    }

    /// Whether the handle still means this use of the entry.
    pub fn is_open(&self) -> bool {
        self.entry.generation.load(Ordering::Acquire) == self.generation
    }
}

/// A worker's entries of one kind.
pub struct Pool<S: 'static, L: 'static> {
    free: RefCell<Vec<&'static Entry<S, L>>>,
    made: Cell<usize>,
}

impl<S, L> Default for Pool<S, L> {
    fn default() -> Self {
        Self {
            free: RefCell::default(),
            made: Cell::default(),
        }
    }
}

/// An entry that nobody has a handle of yet: to be prepared.
pub struct Free<S: 'static, L: 'static> {
    entry: &'static Entry<S, L>,
}

impl<S: Send + Sync, L> Free<S, L> {
    /// Both of its parts.
    pub fn parts(&mut self) -> (&mut S, RefMut<'_, L>) {
        // SAFETY: the entry is free: its generation is even, so no handle reaches `shared`, and this is the only way to it.
        let shared = unsafe { &mut *self.entry.shared.get() };
        (shared, self.entry.local.borrow_mut())
    }

    /// Begins the entry's use: its handle.
    pub fn hand_out(self) -> Held<S, L> {
        let generation = self.entry.generation.load(Ordering::Relaxed) + 1;
        self.entry.generation.store(generation, Ordering::Release);
        Held {
            entry: self.entry,
            generation,
        }
    }
}

impl<S: Send + Sync, L> Pool<S, L> {
    /// Takes a free entry, or makes one with `new`.
    pub fn take(&self, worker: &Remote, new: impl FnOnce() -> (S, L)) -> Free<S, L> {
        let free = self.free.borrow_mut().pop();
        let entry = free.unwrap_or_else(|| self.make(worker, new));
        Free { entry }
    }

    #[cold]
    fn make(&self, worker: &Remote, new: impl FnOnce() -> (S, L)) -> &'static Entry<S, L> {
        self.made.set(self.made.get() + 1);
        let (shared, local) = new();
        Box::leak(Box::new(Entry {
            generation: AtomicU64::new(0),
            worker: worker.clone(),
            shared: UnsafeCell::new(shared),
            local: RefCell::new(local),
        }))
    }

    /// Ends this use of the entry: its handles are over. `clear` takes out what it held; call on the entry's worker only.
    pub fn close<R>(&self, held: Held<S, L>, clear: impl FnOnce(&mut S, &mut L) -> R) -> R {
        debug_assert!(held.entry.worker.is_current() && held.is_open());
        held.entry
            .generation
            .store(held.generation + 1, Ordering::Release);
        // SAFETY: the generation is even again and the owner has given the handle up.
        let cleared = clear(
            unsafe { &mut *held.entry.shared.get() },
            &mut held.entry.local.borrow_mut(),
        );
        self.free.borrow_mut().push(held.entry);
        cleared
    }

    /// How many entries were ever made: the most that were in use at once.
    pub fn made(&self) -> usize {
        self.made.get()
    }
}
