//! Cancellation: one flag that all who work for a loader look at.
#![expect(clippy::disallowed_methods, reason = "bounds a wait, which no batch sees")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a blocked read may take to notice that it was called off.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Calls off what is under way; clones are the same stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on every read that was given this ends with [`Fault::Stopped`](crate::read::Fault::Stopped), within a few tens of milliseconds.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was called off.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps; shorter if it is called off, and then gives false.
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
