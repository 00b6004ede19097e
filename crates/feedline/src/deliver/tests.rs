//! Tests of the loader with numbered samples, so that any misorder shows: workers, replaced samples, stop and resume.

use super::*;
use crate::error::Stage;
use crate::pipeline::Raw;
use crate::plan::{Request, Tail};
use crate::sample::{Array, DType, FieldSpec, Slot};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Numbered samples with a field of every kind, whose work takes unequal time; some are bad.
#[derive(Default)]
struct Numbered {
    len: u64,
    fields: Vec<FieldSpec>,
    unreadable: Vec<u64>,
    panicking: Vec<u64>,
    /// A sample, and the error of the file system for it.
    failing: Option<(u64, std::io::ErrorKind)>,
    nameless: bool,
    /// Threads that prefetch.
    readers: usize,
    /// Makes reading take unequal time.
    slow_reads: bool,
    /// Reading this sample ends only when it is cancelled.
    stuck: Option<u64>,
    /// Samples lie close together, unless their numbers add up to a multiple of three.
    near: bool,
    /// Samples that were read together with others.
    together: AtomicUsize,
    at_work: AtomicUsize,
    /// Samples read but not yet made: now, and the maximum ever.
    ahead: AtomicUsize,
    most_ahead: AtomicUsize,
}

impl Numbered {
    fn new(len: u64) -> Numbered {
        let fields = vec![
            FieldSpec::concat("points", DType::F32, [2]),
            FieldSpec::stack("image", DType::F32, [3]),
            FieldSpec::pad("boxes", DType::I32, [1], -1.0),
            FieldSpec::stack("label", DType::I64, []),
            FieldSpec::bytes("name"),
        ];
        Numbered { len, fields, ..Numbered::default() }
    }
}

impl Pipeline for Numbered {
    fn len(&self) -> u64 {
        self.len
    }
    fn fingerprint(&self) -> u64 {
        self.len
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn location(&self, index: u64) -> String {
        assert!(!self.nameless, "no name for {index}");
        format!("number {index}")
    }
    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        if self.unreadable.contains(&request.index) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("read", format!("{}.bin", request.index), gone));
        }
        if let Some((index, kind)) = self.failing
            && index == request.index
        {
            return Err(Error::io("read", format!("{index}.bin"), kind.into()));
        }
        if self.slow_reads {
            std::thread::sleep(Duration::from_micros(request.rng("read").below(500)));
        }
        if self.stuck == Some(request.index) {
            context.stop_signal().sleep(Duration::from_secs(600));
        }
        assert!(!self.panicking.contains(&(1000 + request.index)), "cannot read {}", request.index);
        self.most_ahead.fetch_max(self.ahead.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        raw.clear();
        raw.push(request.index.to_le_bytes().to_vec());
        context.count_bytes(8);
        Ok(())
    }
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        self.at_work.fetch_add(1, Ordering::SeqCst);
        self.ahead.fetch_sub(1, Ordering::SeqCst);
        context.enter(Stage::Augment);
        let mut rng = request.rng("test");
        std::thread::sleep(Duration::from_micros(rng.below(300)));
        assert!(!self.panicking.contains(&request.index), "cannot stand {}", request.index);
        let index = u64::from_le_bytes(raw[0][..].try_into().expect("eight bytes"));
        for value in slot.dense::<f32>("image") {
            *value = index as f32 + rng.unit() as f32;
        }
        slot.dense::<i64>("label")[0] = index as i64;
        let n = (index % 4) as usize;
        slot.put("points", Array::from_slice([n, 2], &vec![index as f32; n * 2]));
        slot.put("boxes", Array::from_slice([n, 1], &vec![index as i32; n]));
        slot.put("name", Array::from_slice([3], b"abc"));
        self.at_work.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
    fn read_ahead(&self) -> usize {
        self.readers
    }
    fn raw_bytes(&self, _: u64) -> u64 {
        8
    }
    fn is_near(&self, one: u64, next: u64) -> bool {
        self.near && !(one + next).is_multiple_of(3)
    }
    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        assert!(requests.array_windows().all(|[one, next]| self.is_near(one.index, next.index)));
        self.together.fetch_add(requests.len(), Ordering::SeqCst);
        // Omits the last result of every third group: it is read again, by itself.
        let answered = requests.len() - usize::from(self.slow_reads && requests.len().is_multiple_of(3));
        requests[..answered].iter().zip(raws).map(|(request, raw)| self.read(request, raw, context)).collect()
    }
}

fn options(num_workers: usize) -> LoaderOptions {
    LoaderOptions { batch_size: 4, num_workers, ..LoaderOptions::default() }
}

fn loader(pipeline: Numbered, options: LoaderOptions) -> Loader {
    let plan = Plan::new(pipeline.len, 1).unwrap().with_seed(5);
    Loader::new(Arc::new(pipeline), plan, options).unwrap()
}

fn epochs(loader: &mut Loader, n: usize) -> Vec<Batch> {
    (0..n).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

#[test]
fn any_number_of_workers_delivers_the_same_bytes() {
    let expect = epochs(&mut loader(Numbered::new(30), options(0)), 3);
    assert_eq!(expect.len(), 3 * 8);
    assert_eq!(expect[7].len(), 2, "the last batch of an epoch is short");
    assert_ne!(expect[0].indices, expect[8].indices, "epochs differ");
    for workers in [1, 2, 7] {
        assert_eq!(epochs(&mut loader(Numbered::new(30), options(workers)), 3), expect, "{workers} workers");
    }
    let tight = LoaderOptions { memory_budget_bytes: 1, ..options(3) };
    assert_eq!(epochs(&mut loader(Numbered::new(30), tight), 3), expect, "smallest budget");
}

#[test]
fn a_run_resumed_at_any_step_goes_on_the_same() {
    let whole = epochs(&mut loader(Numbered::new(22), options(0)), 2);
    for workers in [0, 2] {
        for cut in 0..=whole.len() {
            let mut first = loader(Numbered::new(22), options(2));
            let mut seen = Vec::new();
            while seen.len() < cut {
                seen.extend(first.next_batch().unwrap());
            }
            let json = serde_json::to_string(&first.state_dict()).unwrap();
            drop(first);
            let mut second = loader(Numbered::new(22), options(workers));
            second.load_state_dict(&serde_json::from_str(&json).unwrap()).unwrap();
            while seen.len() < whole.len() {
                let before = second.state_dict();
                second.load_state_dict(&before).unwrap(); // a second and third resume on the way
                seen.extend(second.next_batch().unwrap());
            }
            assert_eq!(seen, whole, "cut at {cut}, {workers} workers");
        }
    }
}

/// Nothing is made before the gate opens.
struct Gated(Numbered, Mutex<bool>, std::sync::Condvar);

impl Pipeline for Gated {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }
    fn fields(&self) -> &[FieldSpec] {
        self.0.fields()
    }
    fn location(&self, index: u64) -> String {
        self.0.location(index)
    }
    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        drop(self.2.wait_while(self.1.lock().unwrap(), |open| !*open).unwrap());
        self.0.read(request, raw, context)
    }
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        self.0.make(request, raw, slot, context)
    }
}

#[test]
fn whoever_waits_with_a_limit_misses_nothing() {
    let expect = epochs(&mut loader(Numbered::new(20), options(0)), 1);
    let gated = Arc::new(Gated(Numbered::new(20), Mutex::new(false), std::sync::Condvar::new()));
    let plan = Plan::new(20, 1).unwrap().with_seed(5);
    let mut loader = Loader::new(gated.clone(), plan, options(2)).unwrap();
    loader.begin_pass();
    for _ in 0..3 {
        assert!(loader.poll_batch(Some(Duration::from_millis(2))).unwrap().is_pending());
    }
    assert_eq!(loader.state_dict().position, 0);
    *gated.1.lock().unwrap() = true;
    gated.2.notify_all();
    let mut batches = Vec::new();
    loop {
        match loader.poll_batch(Some(Duration::from_micros(100))).unwrap() {
            Poll::Pending => {}
            Poll::Ready(Some(batch)) => batches.push(batch),
            Poll::Ready(None) => break,
        }
    }
    assert_eq!(batches, expect);
}

/// Its first sample drops its loader, if it was given that.
struct Dropping(Numbered, Mutex<Option<Loader>>, std::sync::Condvar, std::sync::mpsc::Sender<()>);

impl Pipeline for Dropping {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn fingerprint(&self) -> u64 {
        self.0.fingerprint()
    }
    fn fields(&self) -> &[FieldSpec] {
        self.0.fields()
    }
    fn location(&self, index: u64) -> String {
        self.0.location(index)
    }
    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        if request.position == 0 {
            let given = self.1.lock().unwrap();
            let loader = self.2.wait_while(given, |loader| loader.is_none()).unwrap().take();
            drop(loader);
            self.3.send(()).unwrap();
        }
        self.0.read(request, raw, context)
    }
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        self.0.make(request, raw, slot, context)
    }
}

#[test]
fn a_loader_may_be_dropped_by_a_worker_of_its_own() {
    let (sender, dropped) = std::sync::mpsc::channel();
    let pipeline = Arc::new(Dropping(Numbered::new(40), Mutex::new(None), std::sync::Condvar::new(), sender));
    let plan = Plan::new(40, 1).unwrap();
    let mut loader = Loader::new(pipeline.clone(), plan, options(3)).unwrap();
    assert!(loader.poll_batch(Some(Duration::ZERO)).unwrap().is_pending());
    *pipeline.1.lock().unwrap() = Some(loader);
    pipeline.2.notify_all();
    // A worker that joins itself would panic, and nothing would arrive here.
    dropped.recv_timeout(Duration::from_secs(60)).unwrap();
    // The threads, which nobody joins, end by themselves.
    let ended = (0..60_000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        Arc::strong_count(&pipeline) == 1
    });
    assert!(ended);
}

#[test]
fn what_was_made_ahead_stays_when_the_next_epoch_is_set() {
    let pipeline = Arc::new(Numbered::new(12));
    let plan = Plan::new(12, 1).unwrap().with_seed(5);
    let expect = epochs(&mut loader(Numbered::new(12), options(0)), 3);
    let options = LoaderOptions { end_epoch: Some(2), ..options(2) };
    let mut loader = Loader::new(pipeline, plan, options).unwrap();
    for epoch in 0..2 {
        loader.set_epoch(epoch);
        // The last batch was taken and nothing more requested, as by programs that know the number of batches.
        let batches: Vec<Batch> = (0..3).map(|_| loader.next_batch().unwrap().unwrap()).collect();
        assert_eq!(batches, expect[epoch as usize * 3..][..3]);
        loader.begin_pass();
    }
    let read = loader.stats().read.items;
    assert_eq!(read, 24, "each sample was made once");
    loader.set_epoch(1);
    assert_eq!(loader.next_batch().unwrap().unwrap(), expect[3]);
}

#[test]
fn ranks_share_the_work_and_padding_is_marked() {
    let dealt = |tail| -> Vec<Batch> {
        (0..3)
            .flat_map(|rank| {
                let plan = Plan::new(10, 3).unwrap().with_tail(tail);
                let options = LoaderOptions { rank, ..options(2) };
                epochs(&mut Loader::new(Arc::new(Numbered::new(10)), plan, options).unwrap(), 1)
            })
            .collect()
    };
    let real = |batches: &[Batch]| {
        let mut seen: Vec<u64> = batches.iter().flat_map(|b| b.indices[..b.valid].to_vec()).collect();
        seen.sort_unstable();
        seen
    };
    for tail in [Tail::Pad, Tail::Exact] {
        assert_eq!(real(&dealt(tail)), (0..10).collect::<Vec<_>>(), "{tail:?}");
    }
    assert_eq!(dealt(Tail::Pad).iter().map(Batch::len).sum::<usize>(), 12);
    assert_eq!(dealt(Tail::Exact).iter().map(Batch::len).sum::<usize>(), 10);
}

#[test]
fn the_loader_counts_its_epochs_and_speaks_up_once() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Sink for Heard {
        fn emit(&self, event: &Event) -> Result<()> {
            self.0.lock().unwrap().push(format!("{event:?}"));
            Ok(())
        }
    }
    let heard = Arc::new(Heard::default());
    let mut loader = loader(Numbered::new(12), LoaderOptions { sink: heard.clone(), ..options(1) });
    let first = epochs(&mut loader, 1);
    let cut_short: Vec<Batch> = loader.iter().take(1).map(|b| b.unwrap()).collect();
    assert_eq!((cut_short[0].epoch, loader.epoch()), (1, 1));
    assert_eq!(epochs(&mut loader, 1)[0].epoch, 2, "a pass left early is over");
    assert!(heard.0.lock().unwrap().is_empty());
    loader.set_epoch(0);
    assert_eq!(epochs(&mut loader, 1), first);
    for _ in 0..2 {
        loader.set_epoch(0);
        epochs(&mut loader, 1);
    }
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].contains("second time"));
}

#[test]
fn leaving_at_any_moment_stops_all_work() {
    for taken in [0, 1, 3] {
        let pipeline = Arc::new(Numbered::new(400));
        let plan = Plan::new(400, 1).unwrap();
        let mut loader = Loader::new(pipeline.clone(), plan, options(4)).unwrap();
        for _ in 0..taken {
            loader.next_batch().unwrap();
        }
        drop(loader);
        assert_eq!(pipeline.at_work.load(Ordering::SeqCst), 0);
        assert_eq!(Arc::strong_count(&pipeline), 1, "no thread holds the data any more");
    }
}

#[test]
fn impossible_loaders_are_refused() {
    let make = |plan, options| Loader::new(Arc::new(Numbered::new(10)), plan, options).err().map(|e| e.to_string());
    let plan = Plan::new(10, 1).unwrap();
    let error = make(plan.clone(), LoaderOptions { batch_size: 0, ..options(1) }).unwrap();
    assert!(error.contains("batch_size should be a positive integer value, but got batch_size=0"));
    assert!(make(Plan::new(11, 1).unwrap(), options(1)).unwrap().contains("11"));
    assert!(make(plan.clone(), LoaderOptions { rank: 1, ..options(1) }).unwrap().contains("Invalid rank"));
    let small = LoaderOptions { batch_size: 11, drop_last: true, split: "train".into(), ..options(1) };
    let error = make(plan, small).unwrap();
    for part in ["train", "10 samples", "batch of 11", "数据集过小，无法继续进行训练，请扩充数据集。"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_counters_add_up() {
    let mut loader = loader(Numbered::new(40), options(2));
    epochs(&mut loader, 1);
    let stats = loader.stats();
    // The next epoch is being prefetched, so there may be more items than were delivered.
    assert!(stats.read.items >= 40 && stats.augment.items >= 40 && stats.collate.items >= 10, "{stats:?}");
    assert_eq!(stats.read.bytes, stats.read.items * 8);
    assert!(stats.augment.busy_s > 0.0 && stats.wait_s > 0.0);
}

#[test]
fn the_verdict_names_the_stage_and_the_workers_that_would_hide_it() {
    let count = |items, busy_s| StageCount { items, bytes: 0, busy_s };
    let stats = StatsSnapshot {
        read: count(1000, 1.0),
        decode: count(1000, 6.0),
        augment: count(1000, 2.0),
        collate: count(10, 1.0),
        wait_s: 6.0,
        ..StatsSnapshot::default()
    };
    // 10 s, of which the consumer computes 4: ten seconds of work must be done in four.
    let text = stats.verdict(10.0, 1);
    for part in ["decode 60 %", "100 samples/s", "waits 60 %", "mostly for decode", "3 workers would hide it"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    // Four workers had the time for it, and the consumer waited all the same.
    let text = stats.verdict(10.0, 4);
    assert!(
        text.contains("waits 60 %") && text.contains("do not get the cores") && !text.contains("would hide"),
        "{text}"
    );
    let text = StatsSnapshot { wait_s: 9.9, ..stats }.verdict(10.0, 1);
    assert!(text.contains("the limit is decode: 100 samples/s with 1 worker"), "{text}");
    let text = StatsSnapshot { wait_s: 0.01, ..stats }.verdict(20.0, 2);
    assert!(text.contains("room for 200 samples/s"), "{text}");
    assert!(StatsSnapshot::default().verdict(1.0, 2).contains("nothing was delivered"));

    // 4 readers that are always busy, 8 s of reading for each second of work; 1 MB a sample.
    let read = StageCount { bytes: 1_000_000_000, ..count(1000, 40.0) };
    let slow = StatsSnapshot { read, fetch_s: 8.0, readers: 4, wait_s: 9.9, ..stats };
    let text = slow.verdict(10.0, 1);
    for part in ["limit is the network", "80 %", "100.0 MB/s", "4 of 4", "1000.0 KB and 40.0 ms", "111.1 MB/s", "cache"]
    {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let text = StatsSnapshot { readers: 64, ..slow }.verdict(10.0, 1);
    assert!(text.contains("More may be under way") && text.contains("memory_budget_bytes"), "{text}");
    // Bytes that arrive in time are no bottleneck.
    let text = StatsSnapshot { fetch_s: 0.5, ..slow }.verdict(10.0, 1);
    assert!(text.contains("the limit is decode") && !text.contains("read"), "{text}");
}

mod bad_samples;
mod memory;
mod reading_ahead;
