//! Tests of Burn's `DataLoader` over a loader: passes are epochs in order, progress is counted, errors end the pass.

use super::*;
use feedline::deliver::{LoaderOptions, SampleContext};
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::{Plan, Request};
use feedline::{DType, FieldSpec, Slot};

/// 23 numbers with noise of their own; number `bad` cannot be made.
struct Numbers {
    fields: [FieldSpec; 1],
    bad: u64,
}

impl Pipeline for Numbers {
    fn len(&self) -> u64 {
        23
    }
    fn fingerprint(&self) -> u64 {
        23
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn location(&self, index: u64) -> String {
        format!("number {index}")
    }
    fn read(&self, _: &Request, _: &mut Raw, _: &mut SampleContext) -> Result<()> {
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        if request.index == self.bad {
            return Err(Error::config(format!("number {} is bad", self.bad), "Take another"));
        }
        slot.dense::<f64>("number")[0] = request.index as f64 + request.rng("noise").unit();
        Ok(())
    }
}

fn plain(rank: u64, drop_last: bool, bad: u64) -> Loader {
    let pipeline = Numbers { fields: [FieldSpec::stack("number", DType::F64, [])], bad };
    let options = LoaderOptions { batch_size: 4, rank, drop_last, num_workers: 2, ..LoaderOptions::default() };
    Loader::new(Arc::new(pipeline), Plan::new(23, 2).unwrap().with_seed(5), options).unwrap()
}

fn burn(loader: Loader) -> BurnLoader<Batch> {
    BurnLoader::new(loader, Device::flex(), |batch, _| Ok(batch))
}

fn pass(loader: &dyn DataLoader<Batch>) -> Vec<Batch> {
    loader.iter().map(|batch| batch.unwrap()).collect()
}

#[test]
fn each_pass_is_the_loaders_next_epoch() {
    for (rank, drop_last, items) in [(0, false, 12), (1, true, 12), (1, false, 12)] {
        let (mut expect, loader) = (plain(rank, drop_last, 99), burn(plain(rank, drop_last, 99)));
        for epoch in 0..3 {
            let batches: Vec<Batch> = expect.iter().map(|batch| batch.unwrap()).collect();
            assert!(batches.iter().all(|batch| batch.epoch == epoch) && batches.len() == 3);
            assert_eq!(pass(&loader), batches);
        }
        assert_eq!(loader.num_items(), items);
    }
}

#[test]
fn a_pass_left_early_is_followed_by_the_next_epoch_and_an_earlier_one_ends() {
    let (mut expect, loader) = (plain(0, false, 99), burn(plain(0, false, 99)));
    let mut left = loader.iter();
    assert!(left.next().is_some_and(|batch| batch.unwrap().epoch == 0));
    expect.set_epoch(1);
    let second: Vec<Batch> = expect.iter().map(|batch| batch.unwrap()).collect();
    assert_eq!(pass(&loader), second);
    let error = left.next().expect("an error, not silence").unwrap_err().to_string();
    assert!(error.contains("another pass"), "{error}");
    assert!(left.next().is_none());
}

#[test]
fn progress_counts_items_and_a_cursor_goes_on_in_the_middle() {
    let loader = burn(plain(1, false, 99));
    let mut first = loader.iter();
    let mut seen = vec![first.progress().items_processed];
    let kept = first.next().map(|batch| batch.unwrap().len());
    let cursor = loader.with_loader(|loader| loader.state_dict());
    assert_eq!(kept, Some(4));
    while first.next().is_some() {
        seen.push(first.progress().items_processed);
    }
    assert_eq!((seen, first.progress().items_total), (vec![0, 8, 12], 12));
    assert!(first.progress().is_completed());

    let resumed = burn(plain(1, false, 99));
    resumed.with_loader(|loader| loader.load_state_dict(&cursor)).unwrap();
    let mut rest = resumed.iter();
    assert_eq!(rest.progress().items_processed, 4);
    assert_eq!(rest.by_ref().map(|batch| batch.unwrap().step).collect::<Vec<_>>(), [1, 2]);
    assert!(rest.progress().is_completed());
}

#[test]
fn another_device_is_told_to_the_conversion_and_shares_the_epochs() {
    let convert = |batch: Batch, device: &Device| Ok((batch.epoch, device.clone()));
    let loader = BurnLoader::new(plain(0, false, 99), Device::flex(), convert);
    let moved = loader.to_device(&Device::flex().autodiff());
    assert!(loader.iter().all(|batch| batch.unwrap() == (0, Device::flex())));
    assert!(moved.iter().all(|batch| batch.unwrap() == (1, Device::flex().autodiff())));
}

#[test]
fn errors_end_the_pass_and_parts_are_refused_in_words() {
    let loader = burn(plain(0, false, plain(0, false, 99).plan().epoch(0).at(10).index));
    let outcomes: Vec<_> = loader.iter().collect();
    assert_eq!(outcomes.len(), 2);
    let error = outcomes[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("is bad"), "{error}");

    let loader = burn(plain(0, false, 99));
    assert_eq!(pass(&*loader.slice(0, 12)).len(), 3, "the whole is no part");
    let part = loader.slice(0, 6);
    assert_eq!(part.num_items(), 6);
    let outcomes: Vec<_> = part.iter().collect();
    let error = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(outcomes.len() == 1 && error.contains("0 to 6 of 12") && error.contains("num_replicas"), "{error}");
}
