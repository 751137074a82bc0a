//! Counting what is in flight in an extension, while that is retired.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::flight_count::{Closed, FlightCount};

/// What the thread that retires a build does: it destroys it when nothing is in flight any more.
fn destroys_when_idle(count: &FlightCount, is_destroyed: &AtomicBool) {
    count.retire();
    if count.flights() == 0 {
        is_destroyed.store(true, Ordering::Release);
    }
}

/// Requests come and go while the build is retired: none is inside what has been destroyed.
#[test]
fn no_request_enters_what_is_destroyed() {
    loom::model(|| {
        let count = Arc::new(FlightCount::default());
        let is_destroyed = Arc::new(AtomicBool::new(false));
        let enter = |count: Arc<FlightCount>, is_destroyed: Arc<AtomicBool>| {
            move || {
                if let Ok(counted) = count.enter(10) {
                    assert!(!is_destroyed.load(Ordering::Acquire));
                    count.leave(counted);
                }
            }
        };
        let request = thread::spawn(enter(count.clone(), is_destroyed.clone()));
        destroys_when_idle(&count, &is_destroyed);
        request.join().expect("no panic");
    });
}

/// Threads that an extension has left behind ask for more while the last request leaves: what is held is not destroyed, and
/// what is destroyed is not held. A count that is changed first and judged afterwards lets one in for another's sake.
#[test]
fn nothing_is_held_of_what_is_destroyed() {
    loom::model(|| {
        let count = Arc::new(FlightCount::default());
        let is_destroyed = Arc::new(AtomicBool::new(false));
        let hold = |count: Arc<FlightCount>, is_destroyed: Arc<AtomicBool>| {
            move || {
                if let Some(counted) = count.hold() {
                    assert!(!is_destroyed.load(Ordering::Acquire));
                    count.leave(counted);
                }
            }
        };
        let first = thread::spawn(hold(count.clone(), is_destroyed.clone()));
        let second = thread::spawn(hold(count.clone(), is_destroyed.clone()));
        destroys_when_idle(&count, &is_destroyed);
        first.join().expect("no panic");
        second.join().expect("no panic");
        assert_eq!(count.flights(), 0);
    });
}

/// Who is inside may hold on although the build is retired meanwhile.
#[test]
fn whoever_is_inside_may_hold_on() {
    loom::model(|| {
        let count = Arc::new(FlightCount::default());
        let request = count.enter(1).expect("it is open");
        let retiring = {
            let count = count.clone();
            thread::spawn(move || count.retire())
        };
        let held = count.hold().expect("a request is in flight");
        let again = count.hold_again();
        count.leave(request);
        assert!(count.flights() > 0, "it is still held");
        count.leave(held);
        count.leave(again);
        retiring.join().expect("no panic");
        assert!(count.is_retired() && count.hold().is_none());
        assert_eq!(count.enter(1).err(), Some(Closed::Retired));
    });
}

/// Two requests where one is allowed: never both.
#[test]
fn the_limit_holds_whoever_comes_at_the_same_time() {
    loom::model(|| {
        let count = Arc::new(FlightCount::default());
        let other = {
            let count = count.clone();
            thread::spawn(move || count.enter(1).is_ok())
        };
        let mine = count.enter(1).is_ok();
        assert!(other.join().expect("no panic") != mine);
        assert_eq!(count.requests(), 1);
    });
}
