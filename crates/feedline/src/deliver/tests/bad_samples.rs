//! Bad samples and other failures: which end a run, and which are replaced.

use super::*;

#[test]
fn a_bad_sample_stops_the_run_and_is_named() {
    for workers in [0, 3] {
        let bad = Numbered { unreadable: vec![9], ..Numbered::new(16) };
        let mut loader = loader(bad, options(workers));
        let mut before = loader.state_dict();
        let error = loop {
            match loader.next_batch() {
                Ok(_) => before = loader.state_dict(),
                Err(error) => break error.to_string(),
            }
        };
        for part in ["read", "sample 9", "number 9", "9.bin"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(loader.state_dict(), before, "the cursor stays before the failed batch");
        let alone = Request { seed: 5, epoch: 0, pass: 0, position: 0, index: 9, padded: false };
        let bad = Numbered { unreadable: vec![9], ..Numbered::new(16) };
        assert_eq!(one_sample(&bad, &alone).unwrap_err().to_string(), error, "alone it fails with the same words");
        assert!(loader.next_batch().is_err(), "asking again meets it again");
    }
}

#[test]
fn a_panic_in_a_pipeline_is_an_error_like_any_other() {
    for workers in [0, 2] {
        let mut loader = loader(Numbered { panicking: vec![3], ..Numbered::new(8) }, options(workers));
        let error = loader.iter().find_map(Result::err).unwrap().to_string();
        for part in ["augment", "sample 3", "cannot stand 3", "bug"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn a_worker_that_dies_is_an_error_and_no_hang() {
    // The name is requested while an error is being formatted, where nothing catches a panic.
    let broken = Numbered { unreadable: vec![3], nameless: true, ..Numbered::new(8) };
    let error = loader(broken, options(1)).iter().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("worker thread of the loader died"), "{error}");
}

#[test]
fn what_is_no_fault_of_a_sample_ends_the_run_and_replaces_nothing() {
    use std::io::ErrorKind as Kind;
    let replace = |workers| LoaderOptions { on_bad_sample: OnBadSample::Replace, ..options(workers) };
    for (workers, readers) in [(0, 0), (2, 0), (2, 3)] {
        let with = |kind| Numbered { failing: Some((3, kind)), readers, ..Numbered::new(8) };
        for kind in [Kind::NotFound, Kind::NotADirectory, Kind::InvalidData, Kind::UnexpectedEof] {
            let replaced = epochs(&mut loader(with(kind), replace(workers)), 1).iter().map(|b| b.replaced.len()).sum();
            assert!((1..=2usize).contains(&replaced), "{kind}: {replaced}");
        }
        for kind in [Kind::PermissionDenied, Kind::TimedOut, Kind::OutOfMemory, Kind::StorageFull, Kind::Other] {
            let error = loader(with(kind), replace(workers)).iter().find_map(Result::err).unwrap();
            let Error::Run { stage: Stage::Read, index: 3, source, .. } = &error else { panic!("{error:?}") };
            assert!(matches!(&**source, Error::Io { source, .. } if source.kind() == kind), "{source:?}");
            for part in ["failed to read sample 3 (number 3)", "3.bin"] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        // A bug can occur in any sample, so the sample in which it occurred is not to blame.
        for panicking in [vec![3], vec![1003]] {
            let mut loader = loader(Numbered { panicking, readers, ..Numbered::new(8) }, replace(workers));
            let error = loader.iter().find_map(Result::err).unwrap();
            let Error::Run { index: 3, source, .. } = &error else { panic!("{error:?}") };
            assert!(matches!(**source, Error::Bug { .. }) && error.to_string().contains("a bug"), "{error}");
        }
    }
}

#[test]
fn replaced_samples_are_the_same_on_every_run_and_counted() {
    let replace =
        |workers, max| LoaderOptions { on_bad_sample: OnBadSample::Replace, max_bad_samples: max, ..options(workers) };
    let bad = || Numbered { unreadable: vec![1, 2, 3, 4, 5, 6], ..Numbered::new(20) };
    let expect = epochs(&mut loader(bad(), replace(0, 100)), 2);
    let replaced: Vec<&Replaced> = expect.iter().flat_map(|b| &b.replaced).collect();
    assert!(replaced.len() >= 12, "six bad samples, two epochs, and replacements may be bad too");
    assert!(expect.iter().flat_map(|b| &b.indices).all(|i| !(1..=6).contains(i)));
    for workers in [1, 5] {
        let mut parallel = loader(bad(), replace(workers, 100));
        assert_eq!(epochs(&mut parallel, 2), expect, "{workers} workers");
        assert_eq!(parallel.state_dict().bad_samples, replaced.len() as u64);
    }
    for workers in [0, 2] {
        let mut limited = loader(bad(), replace(workers, 3));
        let mut before = limited.state_dict();
        let error = loop {
            match limited.next_batch() {
                Ok(_) => before = limited.state_dict(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("more than the 3 allowed") && error.contains("number"), "{error}");
        assert_eq!(limited.state_dict(), before, "the cursor stays before the batch that was not delivered");
        assert_eq!(limited.next_batch().unwrap_err().to_string(), error, "asking again meets the same batch");
    }
    let all_bad = Numbered { unreadable: (0..20).collect(), ..Numbered::new(20) };
    assert!(loader(all_bad, replace(2, 10_000)).iter().next().unwrap().is_err(), "gives up in the end");
}
