//! Data sets made of others: some samples of one, or several one after the other. Owns the numbers of the samples and whether
//! they draw anew where they stand a second time; reading and making samples is left to the pipelines within.
//!
//! A cache of files on other machines is not told the order of these: it then keeps what it read first.

use super::{Pipeline, Raw};
use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::meter::SampleContext;
use crate::plan::Request;
use crate::read::Skipped;
use crate::sample::{FieldSpec, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Some samples of a pipeline.
///
/// Sample i is sample `numbers[i]` of the whole and draws what it draws there. Where a number stands again, its sample draws
/// numbers of its own, so that a repeated sample is augmented anew.
pub struct Subset {
    whole: Arc<dyn Pipeline>,
    numbers: Vec<u64>,
    /// How often the same number stood before; empty if none stands twice.
    repeats: Vec<u32>,
    fingerprint: u64,
}

impl Subset {
    /// The samples of `whole` with these numbers, in this order.
    ///
    /// # Errors
    /// A number that `whole` does not have.
    pub fn new(whole: Arc<dyn Pipeline>, numbers: Vec<u64>) -> Result<Subset> {
        if let Some(number) = numbers.iter().find(|number| **number >= whole.len()) {
            return Err(Error::config(
                format!("there is no sample {number} among {}", whole.len()),
                "Samples are numbered from 0",
            ));
        }
        let mut times = BTreeMap::<u64, u32>::new();
        let mut repeat = |number: &u64| {
            let before = times.entry(*number).or_default();
            *before += 1;
            *before - 1
        };
        // The common order needs no counting.
        let is_rising = numbers.is_sorted_by(|one, next| one < next);
        let mut repeats: Vec<u32> = if is_rising { Vec::new() } else { numbers.iter().map(&mut repeat).collect() };
        if repeats.iter().all(|repeat| *repeat == 0) {
            repeats = Vec::new();
        }
        let facts = [hash_name("subset"), whole.fingerprint(), hash_words(&numbers)];
        Ok(Subset { whole, numbers, repeats, fingerprint: hash_words(&facts) })
    }

    /// The request for the sample in the whole.
    fn within(&self, request: &Request) -> Request {
        let at = request.index as usize;
        let repeat = self.repeats.get(at).copied().unwrap_or_default();
        Request { index: self.numbers[at], seed: seed_of(request.seed, "repeat", u64::from(repeat)), ..*request }
    }
}

impl Pipeline for Subset {
    fn len(&self) -> u64 {
        self.numbers.len() as u64
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        self.whole.fields()
    }

    fn location(&self, index: u64) -> String {
        self.whole.location(self.numbers[index as usize])
    }

    fn warnings(&self) -> Vec<String> {
        self.whole.warnings()
    }

    fn skipped(&self) -> Vec<Skipped> {
        self.whole.skipped()
    }

    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        self.whole.read(&self.within(request), raw, context).map_err(|error| numbered(error, request.index))
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        self.whole.make(&self.within(request), raw, slot, context).map_err(|error| numbered(error, request.index))
    }

    fn read_ahead(&self) -> usize {
        self.whole.read_ahead()
    }

    fn is_near(&self, one: u64, next: u64) -> bool {
        self.whole.is_near(self.numbers[one as usize], self.numbers[next as usize])
    }

    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        let within: Vec<Request> = requests.iter().map(|request| self.within(request)).collect();
        renumbered(self.whole.read_many(&within, raws, context), requests)
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        self.whole.raw_bytes(self.numbers[index as usize])
    }
}

/// Several pipelines with the same fields, one after the other.
///
/// The samples of the first draw what they draw there; those of the others draw numbers of their own, so that a pipeline that
/// stands twice is augmented anew.
pub struct Concat {
    parts: Vec<Arc<dyn Pipeline>>,
    /// The number of the first sample behind each part.
    ends: Vec<u64>,
    fingerprint: u64,
}

impl Concat {
    /// The samples of `parts` in their order.
    ///
    /// # Errors
    /// No part; parts whose fields differ in name, type, shape or collation.
    pub fn new(parts: Vec<Arc<dyn Pipeline>>) -> Result<Concat> {
        let Some(first) = parts.first() else {
            return Err(Error::config("there is nothing to put together", "Give one pipeline or more"));
        };
        for (at, part) in parts.iter().enumerate() {
            if part.fields() != first.fields() {
                return Err(Error::config(
                    format!(
                        "samples of unequal fields cannot be in one data set: part 0 has {}, part {at} has {}",
                        listed(first.fields()),
                        listed(part.fields())
                    ),
                    "Give both the same steps and sizes, so that the fields are equal",
                ));
            }
        }
        let mut ends = Vec::with_capacity(parts.len());
        for part in &parts {
            ends.push(ends.last().copied().unwrap_or_default() + part.len());
        }
        let facts = std::iter::once(hash_name("concat")).chain(parts.iter().map(|part| part.fingerprint()));
        let fingerprint = hash_words(&facts.collect::<Vec<_>>());
        Ok(Concat { parts, ends, fingerprint })
    }

    /// The part that holds a sample, and its number there.
    fn place(&self, index: u64) -> (usize, u64) {
        let part = self.ends.partition_point(|end| *end <= index);
        (part, index - if part == 0 { 0 } else { self.ends[part - 1] })
    }

    fn within(&self, request: &Request) -> (&dyn Pipeline, Request) {
        let (part, index) = self.place(request.index);
        (&*self.parts[part], Request { index, seed: seed_of(request.seed, "concat", part as u64), ..*request })
    }
}

impl Pipeline for Concat {
    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        self.parts[0].fields()
    }

    fn location(&self, index: u64) -> String {
        let (part, index) = self.place(index);
        self.parts[part].location(index)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for warning in self.parts.iter().flat_map(|part| part.warnings()) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    fn skipped(&self) -> Vec<Skipped> {
        let mut skipped: Vec<Skipped> = Vec::new();
        for one in self.parts.iter().flat_map(|part| part.skipped()) {
            if !skipped.contains(&one) {
                skipped.push(one);
            }
        }
        skipped
    }

    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        let (part, within) = self.within(request);
        part.read(&within, raw, context).map_err(|error| numbered(error, request.index))
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        let (part, within) = self.within(request);
        part.make(&within, raw, slot, context).map_err(|error| numbered(error, request.index))
    }

    fn read_ahead(&self) -> usize {
        self.parts.iter().map(|part| part.read_ahead()).max().unwrap_or_default()
    }

    fn is_near(&self, one: u64, next: u64) -> bool {
        let ((part, one), (other, next)) = (self.place(one), self.place(next));
        part == other && self.parts[part].is_near(one, next)
    }

    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(requests.len());
        // Samples of one part that follow one another are read together.
        let mut raws = raws;
        for run in requests.chunk_by(|one, next| self.place(one.index).0 == self.place(next.index).0) {
            let (mine, rest) = raws.split_at_mut(run.len());
            raws = rest;
            let within: Vec<Request> = run.iter().map(|request| self.within(request).1).collect();
            let part = self.within(&run[0]).0;
            let read = renumbered(part.read_many(&within, mine, context), run);
            let is_whole = read.len() == run.len();
            results.extend(read);
            if !is_whole {
                break; // what is not answered is asked for again, one by one
            }
        }
        results
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        let (part, index) = self.place(index);
        self.parts[part].raw_bytes(index)
    }
}

/// The seed of what is drawn for copy or part `number`: that of the run for the first.
fn seed_of(seed: u64, kind: &str, number: u64) -> u64 {
    if number == 0 { seed } else { hash_words(&[seed, hash_name(kind), number]) }
}

/// The error with the sample's number in the data set that the caller knows.
fn numbered(mut error: Error, number: u64) -> Error {
    if let Error::Sample { index, .. } | Error::Step { index, .. } | Error::Run { index, .. } = &mut error {
        *index = number;
    }
    error
}

fn renumbered(results: Vec<Result<()>>, requests: &[Request]) -> Vec<Result<()>> {
    let number = |(result, request): (Result<()>, &Request)| result.map_err(|error| numbered(error, request.index));
    results.into_iter().zip(requests).map(number).collect()
}

fn listed(fields: &[FieldSpec]) -> String {
    let shown = |field: &FieldSpec| format!("{} {:?} {:?}", field.name, field.dtype, field.shape);
    fields.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
