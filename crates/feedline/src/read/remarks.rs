//! Reports what was left out where samples were expected: counted by kind, the first few named. Owns the counting and
//! the words; the caller decides what is left out.

use std::collections::BTreeMap;
use std::fmt::Display;

/// Number of names reported for each kind.
const NAMED: usize = 3;

/// Number of kinds reported one by one.
const KINDS: usize = 8;

/// Findings beside samples. Except for the names, they do not depend on the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Counts of things that are no sample, by kind: `*.webp`.
    left_out: BTreeMap<String, Found>,
    /// Counts of strange things, by words: `archives without an end mark`.
    strange: BTreeMap<String, Found>,
}

/// What was left out of a list of samples, in numbers and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// How many things of each kind (`*.webp`, `hidden folders`), and the names of the first three.
    pub kinds: BTreeMap<String, (u64, Vec<String>)>,
    /// The same for a person, with what to do about it.
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    count: u64,
    first: Vec<String>,
}

impl Remarks {
    /// Counts a thing that is no sample.
    pub(super) fn leave_out(&mut self, kind: &str, name: impl Display) {
        count(&mut self.left_out, kind, name);
    }

    /// Counts a file that is no sample, by its extension.
    pub(super) fn leave_out_file(&mut self, name: &str) {
        let file = name.rsplit('/').next().unwrap_or(name);
        match file.rsplit_once('.').filter(|(stem, end)| !stem.is_empty() && (1..=12).contains(&end.len())) {
            Some((_, end)) => self.leave_out(&clean(format!("*.{}", end.to_ascii_lowercase())), name),
            None => self.leave_out("without an extension", name),
        }
    }

    /// Counts a strange thing that stops nothing.
    pub(super) fn note(&mut self, words: &str, name: impl Display) {
        count(&mut self.strange, words, name);
    }

    /// True if there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.left_out.is_empty() && self.strange.is_empty()
    }

    /// Number of things that were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out.values().map(|found| found.count).sum()
    }

    /// Adds the findings of another place, with `folder` in front of each name.
    pub(super) fn append(&mut self, other: &Remarks, folder: &str) {
        for (into, from) in [(&mut self.left_out, &other.left_out), (&mut self.strange, &other.strange)] {
            for (kind, found) in from {
                let into = into.entry(kind.clone()).or_default();
                into.count = into.count.saturating_add(found.count);
                let room = NAMED.saturating_sub(into.first.len());
                into.first.extend(found.first.iter().take(room).map(|name| format!("{folder}{name}")));
            }
        }
    }

    /// One or two sentences for each finding. `place` is the place they are about, `remedy` advises on what was left
    /// out.
    pub fn words(&self, place: impl Display, remedy: &str) -> Vec<String> {
        let skipped = self.skipped(&place, remedy).map(|skipped| skipped.message);
        skipped.into_iter().chain(self.strange(&place)).collect()
    }

    /// What was left out; `None` if nothing was. The arguments are those of [`Remarks::words`].
    pub(super) fn skipped(&self, place: impl Display, remedy: &str) -> Option<Skipped> {
        let (total, things) = (self.left_out(), if self.left_out() == 1 { "file" } else { "files" });
        let has_folders = self.left_out.keys().any(|kind| kind.ends_with("folders"));
        let things = if has_folders { "files and folders" } else { things };
        (total > 0).then(|| Skipped {
            kinds: self
                .left_out
                .iter()
                .map(|(kind, found)| (kind.clone(), (found.count, found.first.clone())))
                .collect(),
            message: format!("{place}: {total} {things} skipped: {}. {remedy}", self.kinds()),
        })
    }

    /// The kinds of what was left out, each counted and with its first names.
    pub(super) fn kinds(&self) -> String {
        let kinds = self.left_out.iter().take(KINDS).map(|(kind, found)| format!("{} {kind} ({found})", found.count));
        let more = self.left_out.len().saturating_sub(KINDS);
        let more = (more > 0).then(|| format!("{more} more kinds"));
        kinds.chain(more).collect::<Vec<_>>().join(", ")
    }

    /// As [`Remarks::words`], only the strange things.
    pub(super) fn strange(&self, place: impl Display) -> Vec<String> {
        self.strange.iter().map(|(what, found)| format!("{place}: {what}: {} ({found})", found.count)).collect()
    }

    /// One line for each finding: a letter, a number, the kind, and the first names, separated by tabs.
    pub(super) fn to_lines(&self) -> String {
        let mut text = String::new();
        for (mark, found) in [('-', &self.left_out), ('!', &self.strange)] {
            for (kind, Found { count, first }) in found {
                text.push_str(&format!("{mark}\t{count}\t{kind}\t{}\n", first.join("\t")));
            }
        }
        text
    }

    /// Adds a line of [`Remarks::to_lines`]; false if it is not one.
    pub(super) fn take_line(&mut self, line: &str) -> bool {
        let mut parts = line.split('\t');
        let found = match parts.next() {
            Some("-") => &mut self.left_out,
            Some("!") => &mut self.strange,
            _ => return false,
        };
        let (Some(Ok(count)), Some(kind)) = (parts.next().map(str::parse), parts.next()) else { return false };
        found.insert(kind.into(), Found { count, first: parts.take(NAMED).map(str::to_owned).collect() });
        true
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = if self.count > self.first.len() as u64 { ", ..." } else { "" };
        write!(f, "{}{more}", self.first.join(", "))
    }
}

fn count(into: &mut BTreeMap<String, Found>, kind: &str, name: impl Display) {
    if let Some(found) = into.get_mut(kind) {
        found.count += 1;
        if found.first.len() < NAMED {
            found.first.push(clean(name));
        }
    } else {
        into.insert(kind.into(), Found { count: 1, first: vec![clean(name)] });
    }
}

/// A name without line breaks and other control characters.
fn clean(name: impl Display) -> String {
    name.to_string().replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_by_its_kind_and_the_first_are_named() {
        let mut remarks = Remarks::default();
        assert!(remarks.is_empty() && remarks.words("x", "").is_empty());
        for at in 0..5 {
            remarks.leave_out_file(&format!("a/{at}.WEBP"));
        }
        ["b/readme", "b/.x", "b/x.y\tz"].iter().for_each(|name| remarks.leave_out_file(name));
        remarks.note("archives without an end mark", "0.tar");
        let mut other = Remarks::default();
        other.leave_out_file("6.webp");
        other.note("archives without an end mark", "1.tar");
        remarks.append(&other, "train/");
        assert_eq!(remarks.left_out(), 9);
        let expect = [
            "D: 9 files skipped: 6 *.webp (a/0.WEBP, a/1.WEBP, a/2.WEBP, ...), 1 *.y?z (b/x.y?z), \
             2 without an extension (b/readme, b/.x). Convert them",
            "D: archives without an end mark: 2 (0.tar, train/1.tar)",
        ];
        assert_eq!(remarks.words("D", "Convert them"), expect);
        let mut read = Remarks::default();
        assert!(remarks.to_lines().lines().all(|line| read.take_line(line)));
        assert_eq!(read, remarks);
        for line in ["", "-", "!\tx\ty", "5\t6", "-\t5"] {
            assert!(!Remarks::default().take_line(line), "{line}");
        }
    }
}
