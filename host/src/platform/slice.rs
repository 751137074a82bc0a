//! Slices of a worker's time: how long one thing may go on before the worker's others get their turn.

use std::pin::pin;
use std::task::Context;
use std::time::{Duration, Instant};

/// What one thing has had of a worker's time. The first steps are free: most things need no more of them, and to read the clock costs
/// about as much as a short step.
#[derive(Default)]
pub struct Slice {
    free_steps: u8,
    /// Since when it has been measured.
    since: Option<Instant>,
}

impl Slice {
    const FREE_STEPS: u8 = 4;
    const LENGTH: Duration = Duration::from_millis(1);

    /// Counts a step. Whether it is the last for now: the others are to get their turn.
    #[inline]
    pub fn is_over(&mut self) -> bool {
        if self.free_steps < Self::FREE_STEPS {
            self.free_steps += 1;
            return false;
        }
        self.is_used_up()
    }

    #[cold]
    fn is_used_up(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() >= Self::LENGTH
    }
}

/// Has the task that polls with `cx` polled again when the worker's others have had their turn, and what has come over the network
/// meanwhile has been seen. A task that only wakes itself is polled again before that, up to 60 times.
#[cold]
pub fn give_way(cx: &mut Context<'_>) {
    // Takes the waker with its first poll; what it is does not matter afterwards.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_steps_are_free_and_then_the_time_counts() {
        let mut slice = Slice::default();
        for _ in 0..Slice::FREE_STEPS {
            std::thread::sleep(Slice::LENGTH);
            assert!(!slice.is_over());
        }
        let began = Instant::now();
        while !slice.is_over() {}
        assert!(began.elapsed() >= Slice::LENGTH);
    }
}
