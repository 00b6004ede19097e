//! What is wrong with a ledger, as far as it is worth listing.

/// A place in the run: (epoch, global position).
pub(super) type Place = (u64, u64);

/// Samples listed of an epoch, and problems of a ledger; what is beyond is only counted.
pub(super) const LISTED: usize = 1000;

/// What is wrong with a ledger, as far as it is worth listing.
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
