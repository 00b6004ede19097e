//! Tests of parts of data sets and of several together: numbers, draws, errors, what is read at once, and the loader over them.

use super::*;
use crate::deliver::{Loader, LoaderOptions};
use crate::error::Stage;
use crate::pipeline::make_sample;
use crate::plan::Plan;
use crate::sample::{Batch, DType};
use std::sync::Mutex;

/// Samples `first`, `first + 1`, ...; each delivers its number and what it draws. Number 13 is bad.
struct Numbers {
    first: u64,
    len: u64,
    fields: [FieldSpec; 2],
    /// The groups that were read together, by their numbers.
    groups: Mutex<Vec<Vec<u64>>>,
    /// `read_many` answers for this many samples.
    answered: usize,
}

fn numbers(first: u64, len: u64) -> Arc<Numbers> {
    let fields = [FieldSpec::stack("number", DType::I64, []), FieldSpec::stack("drawn", DType::I64, [])];
    Arc::new(Numbers { first, len, fields, groups: Mutex::default(), answered: usize::MAX })
}

impl Pipeline for Numbers {
    fn len(&self) -> u64 {
        self.len
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn location(&self, index: u64) -> String {
        format!("number {}", self.first + index)
    }
    fn warnings(&self) -> Vec<String> {
        vec!["some were left out".into()]
    }
    fn read(&self, request: &Request, raw: &mut Raw, _: &mut SampleContext) -> Result<()> {
        raw.clear();
        raw.push((self.first + request.index).to_le_bytes().to_vec());
        Ok(())
    }
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        let number = u64::from_le_bytes(raw[0][..].try_into().expect("eight bytes"));
        assert_eq!(number, self.first + request.index, "the bytes are of this sample");
        if number == 13 {
            let location = self.location(request.index);
            return Err(Error::Sample { stage: Stage::Decode, index: request.index, location, problem: "bad".into() });
        }
        slot.dense::<i64>("number")[0] = number as i64;
        slot.dense::<i64>("drawn")[0] = request.rng("test").next_u64() as i64;
        Ok(())
    }
    fn read_ahead(&self) -> usize {
        2
    }
    fn is_near(&self, one: u64, next: u64) -> bool {
        next == one + 1
    }
    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        let group = requests.iter().map(|request| self.first + request.index).collect();
        self.groups.lock().unwrap().push(group);
        let answered = requests.iter().zip(raws).take(self.answered);
        answered.map(|(request, raw)| self.read(request, raw, context)).collect()
    }
    fn raw_bytes(&self, index: u64) -> u64 {
        self.first + index
    }
}

fn request(index: u64, epoch: u64) -> Request {
    Request { seed: 7, epoch, pass: epoch, position: 3, index, padded: false }
}

/// The number and the draw of a sample.
fn made(pipeline: &dyn Pipeline, index: u64, epoch: u64) -> [i64; 2] {
    let sample = make_sample(pipeline, &request(index, epoch), &mut SampleContext::default()).unwrap();
    [0, 1].map(|field| sample.fields[field].as_slice::<i64>()[0])
}

fn subset(of: Arc<dyn Pipeline>, numbers: &[u64]) -> Arc<Subset> {
    Arc::new(Subset::new(of, numbers.to_vec()).unwrap())
}

fn concat(parts: [Arc<Numbers>; 2]) -> Arc<Concat> {
    Arc::new(Concat::new(parts.into_iter().map(|part| part as Arc<dyn Pipeline>).collect()).unwrap())
}

#[test]
fn a_sample_of_a_subset_is_that_of_the_whole_and_a_repeated_one_draws_anew() {
    let whole = numbers(0, 10);
    let part = subset(whole.clone(), &[4, 1, 4, 9, 4]);
    for (index, number) in [(0, 4), (1, 1), (3, 9)] {
        for epoch in [0, 5] {
            assert_eq!(made(&*part, index, epoch), made(&*whole, number, epoch));
        }
    }
    let drawn = [0, 2, 4].map(|index| made(&*part, index, 0));
    assert!(drawn.iter().all(|[number, _]| *number == 4), "{drawn:?}");
    assert!(drawn[0][1] != drawn[1][1] && drawn[1][1] != drawn[2][1] && drawn[0][1] != drawn[2][1], "{drawn:?}");
    assert_eq!((part.len(), part.location(3), part.raw_bytes(3)), (5, "number 9".to_owned(), 9));
    assert_eq!((part.warnings(), part.read_ahead()), (whole.warnings(), 2));
    let wrong = Subset::new(whole, vec![0, 10]).err().unwrap();
    assert!(wrong.to_string().contains("there is no sample 10 among 10"), "{wrong}");
}

#[test]
fn samples_follow_one_another_and_a_part_that_stands_twice_draws_anew() {
    let (one, other) = (numbers(0, 4), numbers(100, 3));
    let both = concat([one.clone(), other]);
    let numbers_of = |pipeline: &dyn Pipeline| (0..pipeline.len()).map(|i| made(pipeline, i, 1)[0]).collect::<Vec<_>>();
    assert_eq!(numbers_of(&*both), [0, 1, 2, 3, 100, 101, 102]);
    assert_eq!(
        (0..4).map(|i| made(&*both, i, 1)).collect::<Vec<_>>(),
        (0..4).map(|i| made(&*one, i, 1)).collect::<Vec<_>>()
    );
    assert_eq!((both.location(4), both.raw_bytes(5)), ("number 100".to_owned(), 101));
    assert_eq!(both.warnings(), one.warnings(), "what both say is said once");
    let twice = concat([one.clone(), one]);
    for index in 0..4 {
        let ([number, drawn], [again, anew]) = (made(&*twice, index, 0), made(&*twice, index + 4, 0));
        assert!(number == again && drawn != anew);
    }
}

#[test]
fn errors_have_the_number_that_the_caller_knows_and_the_place_of_the_sample() {
    let part = subset(concat([numbers(0, 4), numbers(10, 5)]), &[8, 7, 6]);
    let error = make_sample(&*part, &request(1, 0), &mut SampleContext::default()).unwrap_err();
    assert_eq!(error.to_string(), "failed to decode sample 1 (number 13): bad");
}

#[test]
fn parts_of_unequal_fields_and_none_are_refused() {
    let mut other = Arc::into_inner(numbers(0, 3)).unwrap();
    other.fields[1] = FieldSpec::stack("drawn", DType::F32, [2]);
    let wrong = Concat::new(vec![numbers(0, 3), Arc::new(other)]).err().unwrap().to_string();
    assert!(
        wrong.contains("part 0 has number I64 [], drawn I64 [], part 1 has number I64 [], drawn F32 [2]"),
        "{wrong}"
    );
    assert!(Concat::new(Vec::new()).is_err());
}

#[test]
fn neighbours_are_read_together_within_one_part_and_answers_stay_with_their_samples() {
    let (one, other) = (numbers(0, 4), numbers(100, 4));
    let part = subset(concat([one.clone(), other.clone()]), &[2, 3, 4, 5, 0]);
    assert_eq!([(0, 1), (1, 2), (2, 3), (3, 4)].map(|(one, next)| part.is_near(one, next)), [true, false, true, false]);
    let requests = [0, 1, 2, 3].map(|index| request(index, 0));
    let mut raws = vec![Raw::new(); 4];
    let results = part.read_many(&requests, &mut raws, &mut SampleContext::default());
    assert!(results.len() == 4 && results.iter().all(Result::is_ok));
    let read: Vec<u64> = raws.iter().map(|raw| u64::from_le_bytes(raw[0][..].try_into().unwrap())).collect();
    assert_eq!(read, [2, 3, 100, 101]);
    assert_eq!(*one.groups.lock().unwrap(), [[2, 3]]);
    assert_eq!(*other.groups.lock().unwrap(), [[100, 101]]);
    // A part that answers for fewer: nobody else's answer takes the place.
    let mut short = Arc::into_inner(numbers(0, 4)).unwrap();
    short.answered = 1;
    let both = concat([Arc::new(short), numbers(100, 4)]);
    let requests = [2, 3, 4].map(|index| request(index, 0));
    assert_eq!(both.read_many(&requests, &mut vec![Raw::new(); 3], &mut SampleContext::default()).len(), 1);
}

#[test]
fn the_loader_delivers_parts_as_the_plain_code_makes_them_with_any_workers() {
    let part = subset(concat([numbers(0, 12), numbers(50, 9)]), &[20, 3, 4, 5, 12, 13, 3, 0, 19]);
    let batches = |num_workers| -> Vec<Batch> {
        let options = LoaderOptions { batch_size: 2, num_workers, ..LoaderOptions::default() };
        let mut loader = Loader::new(part.clone(), Plan::new(9, 1).unwrap().with_seed(7), options).unwrap();
        (0..2).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
    };
    let serial = batches(0);
    for batch in &serial {
        let [numbers, drawn] = ["number", "drawn"].map(|name| batch.stacked(name).unwrap().as_slice::<i64>());
        for (at, index) in batch.indices.iter().enumerate() {
            assert_eq!([numbers[at], drawn[at]], made(&*part, *index, batch.epoch));
        }
    }
    assert_eq!(batches(3), serial);
}

#[test]
fn fingerprints_tell_parts_from_the_whole_and_from_one_another() {
    let whole = numbers(0, 6);
    let prints = [
        whole.fingerprint(),
        subset(whole.clone(), &[0, 1, 2, 3, 4, 5]).fingerprint(),
        subset(whole.clone(), &[0, 1]).fingerprint(),
        subset(whole.clone(), &[1, 0]).fingerprint(),
        subset(numbers(9, 6), &[0, 1]).fingerprint(),
        concat([whole.clone(), numbers(9, 6)]).fingerprint(),
        concat([numbers(9, 6), whole.clone()]).fingerprint(),
        concat([whole.clone(), whole.clone()]).fingerprint(),
    ];
    assert_eq!(prints.iter().collect::<std::collections::BTreeSet<_>>().len(), prints.len());
    assert_eq!(subset(whole, &[0, 1]).fingerprint(), prints[2]);
}
