//! The problems of a ledger, up to a limit.

/// A position in the run: (epoch, global position).
pub(super) type Place = (u64, u64);

/// Maximum number of samples listed per epoch, and of problems listed; any others are only counted.
pub(super) const LISTED: usize = 1000;

/// The problems of a ledger; the first [`LISTED`] are kept, the others counted.
#[derive(Default)]
pub(super) struct Problems {
    listed: Vec<String>,
    more: usize,
}

impl Problems {
    pub(super) fn add(&mut self, problem: String) {
        if self.listed.len() < LISTED {
            self.listed.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_list(mut self) -> Vec<String> {
        if self.more > 0 {
            self.listed.push(format!("and {} problems more", self.more));
        }
        self.listed
    }
}
