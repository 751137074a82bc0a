//! Whether a slot is in use, by which generation, how far that has come, and who reads of it: one atomic number.
//!
//! One number, because these are decided together: whoever answers a request must not do so to the next request, which uses the
//! slot by then; and a slot that is being read must not be used again. The model in `tests/loom` tries every order of the steps.

use super::sync::{AtomicU64, Ordering};

/// How far the use of a slot has come. What the numbers mean is the affair of whoever uses the slot.
pub type Stage = u8;

/// The lowest bits: the stage.
const STAGE_BITS: u32 = 3;
const STAGE_MASK: u64 = (1 << STAGE_BITS) - 1;
/// Then the threads, other than the slot's worker, that are reading. There are never so many threads.
const READER_BITS: u32 = 13;
const READER: u64 = 1 << STAGE_BITS;
const READERS_MASK: u64 = ((1 << READER_BITS) - 1) << STAGE_BITS;
/// The rest: the generation. At 100,000 uses a second of one slot it comes round after 44 years.
const GENERATION_SHIFT: u32 = STAGE_BITS + READER_BITS;

/// See the module's text.
pub struct SlotState(AtomicU64);

/// Why a step was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdvanced {
    /// The slot is not used by that generation any more.
    Over,
    /// Its use has come to another stage.
    AtStage(Stage),
}

fn generation_of(state: u64) -> u64 {
    state >> GENERATION_SHIFT
}

fn stage_of(state: u64) -> Stage {
    (state & STAGE_MASK) as Stage
}

fn has_readers(state: u64) -> bool {
    state & READERS_MASK != 0
}

impl SlotState {
    /// A slot that has never been used.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins a use, at stage 0, and tells its generation, which is odd. Only the slot's worker calls this, for a slot that is
    /// free and that nobody reads.
    #[inline]
    pub fn open(&self) -> u64 {
        // A plain step will do: nobody else writes a free slot, since whoever tries finds another generation.
        let generation = generation_of(self.0.load(Ordering::Relaxed)) + 1;
        self.0
            .store(generation << GENERATION_SHIFT, Ordering::Release);
        generation
    }

    /// Ends the use. Only the slot's worker calls this, once for each use. Tells whether the slot is free at once; else it is
    /// when [`is_read`](Self::is_read) says that nobody reads it any more.
    #[inline]
    pub fn close(&self) -> bool {
        let mut state = self.0.load(Ordering::Relaxed);
        loop {
            let closed = ((generation_of(state) + 1) << GENERATION_SHIFT) | (state & READERS_MASK);
            match self
                .0
                .compare_exchange_weak(state, closed, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return !has_readers(state),
                Err(now) => state = now,
            }
        }
    }

    /// Whether a thread other than the slot's worker is reading.
    pub fn is_read(&self) -> bool {
        has_readers(self.0.load(Ordering::Acquire))
    }

    /// Whether the slot is used by that generation.
    #[inline]
    pub fn is(&self, generation: u64) -> bool {
        generation_of(self.0.load(Ordering::Acquire)) == generation
    }

    /// How far that generation's use has come; `None`: it is over.
    #[inline]
    pub fn stage(&self, generation: u64) -> Option<Stage> {
        let state = self.0.load(Ordering::Acquire);
        (generation_of(state) == generation).then(|| stage_of(state))
    }

    /// Brings that generation's use from one stage to another.
    ///
    /// # Errors
    /// Where it is at another stage, or over.
    #[inline]
    pub fn advance(&self, generation: u64, from: Stage, to: Stage) -> Result<(), NotAdvanced> {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            if generation_of(state) != generation {
                return Err(NotAdvanced::Over);
            }
            if stage_of(state) != from {
                return Err(NotAdvanced::AtStage(stage_of(state)));
            }
            let advanced = (state & !STAGE_MASK) | u64::from(to);
            match self
                .0
                .compare_exchange_weak(state, advanced, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(now) => state = now,
            }
        }
    }

    /// Begins to read on a thread that is not the slot's worker: until [`end_read`](Self::end_read) the slot is not used again.
    /// False: that generation's use is over.
    pub fn begin_read(&self, generation: u64) -> bool {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            if generation_of(state) != generation || state & READERS_MASK == READERS_MASK {
                return false;
            }
            match self.0.compare_exchange_weak(
                state,
                state + READER,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Ends what [`begin_read`](Self::begin_read) began.
    pub fn end_read(&self) {
        self.0.fetch_sub(READER, Ordering::Release);
    }
}

impl Default for SlotState {
    fn default() -> Self {
        Self::new()
    }
}
