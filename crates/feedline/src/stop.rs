//! Cancellation: one flag that all who work for a loader look at.
#![expect(clippy::disallowed_methods, reason = "bounds a wait, which no batch sees")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time after which a blocked read notices that it was cancelled.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Cancels work in progress; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on every read that was given this ends with [`ReadErrorKind::Stopped`](crate::read::ReadErrorKind::Stopped), within a few
    /// tens of milliseconds.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if it was cancelled.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps for `time`; returns false early if it is cancelled.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if self.is_stopped() {
                return false;
            }
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return true,
                left => std::thread::sleep(left.min(PATIENCE)),
            }
        }
    }
}
