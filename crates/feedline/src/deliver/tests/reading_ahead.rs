//! Prefetching threads change only the timing.

use super::*;

#[test]
fn reading_ahead_changes_nothing_but_when() {
    let bad = || Numbered { unreadable: vec![3, 8, 17, 21], ..Numbered::new(40) };
    let replacing = |num_workers, budget| LoaderOptions {
        on_bad_sample: OnBadSample::Replace,
        memory_budget_bytes: budget,
        ..options(num_workers)
    };
    let expect = epochs(&mut loader(bad(), replacing(0, 0)), 3);
    for (readers, workers, budget, near) in [
        (1, 1, 0, false),
        (1, 3, 1 << 20, false),
        (9, 2, 1 << 20, false),
        (64, 3, 100, false),
        (1, 3, 1 << 20, true),
        (9, 2, 400, true),
    ] {
        let make = || loader(Numbered { readers, slow_reads: true, near, ..bad() }, replacing(workers, budget));
        let mut loader = make();
        let batches = epochs(&mut loader, 3);
        assert!(batches == expect, "{readers} readers, {workers} workers");
        let stats = loader.stats();
        // Prefetching crosses the end of the last epoch, so there may be more.
        assert!(stats.readers == readers && (near || stats.read.items >= 120) && stats.fetch_s > 0.0, "{stats:?}");
        // From any step, and back and forth.
        let mut cursors = Vec::new();
        let mut walked = make();
        for _ in 0..expect.len() {
            cursors.push(walked.state_dict());
            while walked.next_batch().unwrap().is_none() {}
        }
        for (step, cursor) in cursors.iter().enumerate().step_by(7).chain(cursors.iter().enumerate().rev().step_by(11))
        {
            loader.load_state_dict(cursor).unwrap();
            let next = loop {
                if let Some(batch) = loader.next_batch().unwrap() {
                    break batch;
                }
            };
            assert!(next == expect[step], "step {step}");
        }
    }
}

#[test]
fn what_is_read_ahead_stays_within_its_budget() {
    // A quarter of the budget is for prefetched eight-byte samples; those in the hands of workers come on top.
    for (budget, most, near) in
        [(0, 1, false), (320, 10, false), (3200, 100, false), (320, 10, true), (3200, 100, true)]
    {
        let pipeline = Arc::new(Numbered { readers: 50, near, ..Numbered::new(1000) });
        let plan = Plan::new(1000, 1).unwrap();
        let options = LoaderOptions { memory_budget_bytes: budget, ..options(1) };
        let mut loader = Loader::new(Arc::clone(&pipeline) as Arc<dyn Pipeline>, plan, options).unwrap();
        loader.next_batch().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        while loader.next_batch().unwrap().is_some() {}
        let ever = pipeline.most_ahead.load(Ordering::SeqCst);
        assert!((most / 2..=most + 2).contains(&ever), "{ever} samples of 8 bytes with a budget of {budget}");
        let together = pipeline.together.load(Ordering::SeqCst);
        assert_eq!(together > 0, near, "{together} samples were read together");
    }
}

#[test]
fn slow_reads_are_called_off_when_nobody_wants_them() {
    for (readers, workers) in [(4, 2), (0, 2)] {
        let pipeline = Numbered { readers, stuck: Some(7), ..Numbered::new(40) };
        let plan = Plan::unshuffled(40, 1).unwrap();
        let mut loader = Loader::new(Arc::new(pipeline), plan, options(workers)).unwrap();
        assert_eq!(loader.next_batch().unwrap().unwrap().indices, [0, 1, 2, 3]);
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        if readers > 0 {
            // A seek does not wait for reads in progress.
            loader.set_epoch(1);
            assert_eq!(loader.next_batch().unwrap().unwrap().indices, [0, 1, 2, 3]);
        }
        drop(loader);
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    }
}
