//! The memory of batches and of samples in progress, and the cost of many small samples.

use super::*;

#[test]
fn a_batch_that_no_memory_holds_is_an_error_with_its_bytes() {
    for (shape, batch_size) in [(vec![1 << 55], 4), (vec![1 << 40, 1 << 40], 4), (vec![1 << 50], u64::MAX)] {
        for num_workers in [0, 2] {
            let fields = vec![FieldSpec::stack("x", DType::I64, shape.clone())];
            let plan = Plan::new(10_000, 1).unwrap();
            let options = LoaderOptions { batch_size, ..options(num_workers) };
            let mut loader = Loader::new(Arc::new(Tiny(fields)), plan, options).unwrap();
            for _ in 0..2 {
                let error = loader.next_batch().unwrap_err();
                let text = error.to_string();
                assert!(matches!(error, Error::Memory { bytes, .. } if bytes >= 1 << 53), "{text}");
                assert!(text.contains("field \"x\"") && text.contains("Lower the batch size"), "{text}");
                assert_eq!(loader.position(), 0);
            }
        }
    }
}

#[test]
fn batch_memory_is_used_again_and_survives_the_loader() {
    let mut loader = loader(Numbered::new(400), LoaderOptions { memory_budget_bytes: 1, ..options(2) });
    let mut places = std::collections::HashSet::new();
    for _ in 0..60 {
        let batch = loader.next_batch().unwrap().unwrap();
        places.insert(batch.stacked("image").unwrap().as_bytes().as_ptr() as usize);
    }
    assert!(places.len() <= 8, "{} different buffers for 60 batches", places.len());
    let kept = loader.next_batch().unwrap().unwrap();
    let copy = kept.clone();
    drop(loader);
    assert_eq!(kept, copy);
}

/// Samples that reserve memory and record how much is held at once.
struct Hungry {
    needs: Vec<u64>,
    held: AtomicUsize,
    most: AtomicUsize,
    fields: Vec<FieldSpec>,
}

impl Pipeline for Hungry {
    fn len(&self) -> u64 {
        self.needs.len() as u64
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        context.enter(Stage::Decode);
        let need = self.needs[request.index as usize];
        context.reserve(need);
        let held = self.held.fetch_add(need as usize, Ordering::SeqCst) + need as usize;
        self.most.fetch_max(held, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(200));
        self.held.fetch_sub(need as usize, Ordering::SeqCst);
        assert!(need != 13, "dies with its reservation");
        slot.dense::<i64>("x")[0] = request.index as i64;
        Ok(())
    }
}

#[test]
fn samples_under_way_stay_within_the_memory_budget() {
    // Batches of 64 bytes: four of them fit in three quarters of the budget, and 144 bytes are left for samples.
    let options = |workers| LoaderOptions { memory_budget_bytes: 400, batch_size: 8, ..options(workers) };
    let run = |needs: &[u64], workers| {
        let fields = vec![FieldSpec::stack("x", DType::I64, [])];
        let hungry = Hungry { needs: needs.to_vec(), held: 0.into(), most: 0.into(), fields };
        let hungry = Arc::new(hungry);
        let plan = Plan::new(hungry.len(), 1).unwrap();
        let mut loader = Loader::new(hungry.clone(), plan, options(workers)).unwrap();
        let batches: Vec<_> = loader.iter().collect();
        drop(loader);
        (batches, hungry.most.load(Ordering::SeqCst))
    };
    let mut needs = vec![30; 60];
    needs[17] = 140;
    let (batches, most) = run(&needs, 6);
    assert_eq!(batches.len(), 8);
    assert!((60..=144).contains(&most), "{most}: several at once, but never more than the budget");
    // A sample that needs more than the budget runs alone, and nothing waits for ever.
    needs[40] = 100_000;
    assert_eq!(run(&needs, 6).1, 100_000);
    // A sample that fails releases its memory, too.
    needs[20] = 13;
    let (batches, _) = run(&needs, 3);
    assert!(batches.iter().any(|batch| batch.is_err()));
}

/// Samples that cost next to nothing.
struct Tiny(Vec<FieldSpec>);

impl Pipeline for Tiny {
    fn len(&self) -> u64 {
        10_000
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn read(&self, _: &Request, _: &mut Raw, context: &mut SampleContext) -> Result<()> {
        context.count_bytes(8);
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        context.enter(Stage::Augment);
        slot.dense::<i64>("x")[0] = request.index as i64;
        Ok(())
    }
}

#[test]
fn tiny_samples_are_taken_many_at_once_and_all_counted() {
    let run = |workers, trace| {
        let tiny = Arc::new(Tiny(vec![FieldSpec::stack("x", DType::I64, [])]));
        let plan = Plan::new(10_000, 1).unwrap();
        let options = LoaderOptions { batch_size: 300, end_epoch: Some(1), trace, ..options(workers) };
        let mut loader = Loader::new(tiny, plan, options).unwrap();
        let batches: Vec<Batch> = loader.iter().map(|batch| batch.unwrap()).collect();
        (batches, loader.stats(), loader.take_trace())
    };
    let (expect, _, none) = run(0, false);
    assert!(none.is_empty());
    for workers in [1, 3] {
        let (batches, stats, spans) = run(workers, true);
        assert!(batches == expect);
        assert_eq!((stats.read.items, stats.read.bytes, stats.augment.items), (10_000, 80_000, 10_000));
        assert_eq!(stats.collate.items, 34);
        assert!(stats.augment.busy_s > 0.0);
        assert!(spans.iter().all(|span| span.worker < workers || span.stage == Stage::Deliver));
        let collated = spans.iter().filter(|span| span.stage == Stage::Collate).count();
        assert_eq!(collated, 34);
        let mut json = Vec::new();
        bench::write_chrome_trace(&spans, &mut json).unwrap();
        let events: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
        assert_eq!(events.len(), spans.len());
        assert!(events.iter().all(|event| event["ph"] == "X" && event["dur"].as_f64() >= Some(0.0)));
    }
}
