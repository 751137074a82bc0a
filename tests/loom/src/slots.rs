//! A slot's generation, decision and readers.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::slot_state::{NotAdvanced, SlotState};

const UNDECIDED: u8 = 0;
const ANSWERED: u8 = 1;
const OVER: u8 = 3;

/// Two threads answer one request: exactly one of them does.
#[test]
fn of_two_answers_one_counts() {
    loom::model(|| {
        let slot = Arc::new(SlotState::new());
        let generation = slot.open();
        let answer = |slot: Arc<SlotState>| move || slot.advance(generation, UNDECIDED, ANSWERED);
        let other = thread::spawn(answer(slot.clone()));
        let mine = answer(slot)();
        let other = other.join().expect("no panic");
        assert!(mine.is_ok() != other.is_ok(), "{mine:?} {other:?}");
    });
}

/// A thread answers a request while its worker ends that and begins the next one in the same slot: the next one is never
/// decided by it.
#[test]
fn an_answer_never_meets_the_next_request_in_the_slot() {
    loom::model(|| {
        let slot = Arc::new(SlotState::new());
        let first = slot.open();
        let other = {
            let slot = slot.clone();
            thread::spawn(move || slot.advance(first, UNDECIDED, ANSWERED))
        };
        // The client leaves: the worker decides where nobody has, frees the slot and uses it again.
        let left = slot.advance(first, UNDECIDED, OVER);
        assert!(slot.close(), "nobody reads");
        let second = slot.open();
        assert_eq!(slot.stage(second), Some(UNDECIDED));
        let answered = other.join().expect("no panic");
        assert_eq!(slot.stage(second), Some(UNDECIDED), "{answered:?}");
        assert_eq!(
            answered.is_ok(),
            left == Err(NotAdvanced::AtStage(ANSWERED))
        );
    });
}

/// A thread reads what a slot holds while the worker frees it: what is read is not changed meanwhile.
#[test]
fn what_is_read_is_not_used_again_meanwhile() {
    struct Slot {
        state: SlotState,
        content: UnsafeCell<u64>,
    }
    // SAFETY: what the model is about: loom fails where the content is changed while it is read.
    #[expect(unsafe_code, reason = "loom's cell stands for the slot's content")]
    unsafe impl Sync for Slot {}
    let write = |slot: &Slot, value| {
        // SAFETY: loom watches over it.
        #[expect(unsafe_code, reason = "loom's cell stands for the slot's content")]
        slot.content.with_mut(|content| unsafe { *content = value });
    };
    loom::model(move || {
        let slot = Arc::new(Slot {
            state: SlotState::new(),
            content: UnsafeCell::new(0),
        });
        write(&slot, 1);
        let first = slot.state.open();
        let reader = {
            let slot = slot.clone();
            thread::spawn(move || {
                let begins = slot.state.begin_read(first);
                if begins {
                    // SAFETY: loom watches over it.
                    #[expect(unsafe_code, reason = "loom's cell stands for the slot's content")]
                    let read = slot.content.with(|content| unsafe { *content });
                    assert_eq!(read, 1, "the request that was asked for");
                    slot.state.end_read();
                }
            })
        };
        let is_free = slot.state.close();
        if is_free || !slot.state.is_read() {
            write(&slot, 2);
            let second = slot.state.open();
            assert!(!slot.state.begin_read(first), "{second}");
        }
        reader.join().expect("no panic");
        // Whoever was reading has ended: the slot can be used at the latest now.
        assert!(!slot.state.is_read());
    });
}

/// Readers, a decision and the end of the use at the same time: no step undoes another.
#[test]
fn reading_deciding_and_closing_do_not_undo_each_other() {
    loom::model(|| {
        let slot = Arc::new(SlotState::new());
        let decided = Arc::new(AtomicUsize::new(0));
        let generation = slot.open();
        let reader = {
            let slot = slot.clone();
            thread::spawn(move || {
                if slot.begin_read(generation) {
                    slot.end_read();
                }
            })
        };
        let decider = {
            let (slot, decided) = (slot.clone(), decided.clone());
            thread::spawn(move || {
                if slot.advance(generation, UNDECIDED, ANSWERED).is_ok() {
                    decided.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        if slot.advance(generation, UNDECIDED, OVER).is_ok() {
            decided.fetch_add(1, Ordering::Relaxed);
        }
        slot.close();
        reader.join().expect("no panic");
        decider.join().expect("no panic");
        assert_eq!(decided.load(Ordering::Relaxed), 1);
        assert!(!slot.is(generation) && !slot.is_read());
        assert_eq!(slot.stage(slot.open()), Some(UNDECIDED));
    });
}
