//! A source of one's own behind the lists and the loader: the batches are those from the folder.

use super::archives::storage;
use feedline::augment::{Filter, ImageOp};
use feedline::decode::{Limits, RgbImage, decode_rgb};
use feedline::deliver::{Loader, LoaderOptions, SampleContext};
use feedline::pipeline::{DecodeMode, Exif, Images, ImagesOptions, Pipeline, PixelOutput, Raw, Step, make_sample};
use feedline::plan::{Plan, Request};
use feedline::read::conformance::check;
use feedline::read::pack::{PackOptions, pack};
use feedline::read::{
    Credentials, FileList, Folder, ImageList, Object, RangeRequest, ReadError, ReadErrorKind, SampleReader, Source,
    Stop, Storage, open_file,
};
use feedline::{Batch, DType, FieldSpec, Slot};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Objects in memory, by key. Counts its reads, and fails every `fails_every`th as a server does that is busy.
#[derive(Debug, Default)]
struct Memory {
    root: &'static str,
    objects: BTreeMap<String, Vec<u8>>,
    fails_every: Option<usize>,
    reads: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Memory {
    /// The files below a folder.
    fn of_folder(root: &'static str, folder: &Path) -> Memory {
        fn add(folder: &Path, prefix: &str, objects: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() {
                    add(&entry.path(), &format!("{key}/"), objects);
                } else {
                    objects.insert(key, fs::read(entry.path()).unwrap());
                }
            }
        }
        let mut memory = Memory { root, ..Memory::default() };
        add(folder, "", &mut memory.objects);
        memory
    }

    fn read(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let failed = |kind, problem: &str| ReadError::new(kind, self.location(want.key), problem);
        if want.stop.is_stopped() {
            return Err(ReadError::stopped(self.location(want.key)));
        }
        let number = self.reads.fetch_add(1, Relaxed) + 1;
        if self.fails_every.is_some_and(|every| number.is_multiple_of(every)) {
            return Err(failed(ReadErrorKind::Busy, "it is busy"));
        }
        let content = self.objects.get(want.key);
        let content = content.ok_or_else(|| failed(ReadErrorKind::Missing, "there is no such object"))?;
        let bytes = content.get(want.range.start as usize..want.range.end as usize);
        match bytes.filter(|_| ["", "1"].contains(&want.version)) {
            Some(bytes) => {
                into.clear();
                into.extend_from_slice(bytes);
                Ok(())
            }
            None => Err(failed(ReadErrorKind::Changed, "it is another one now")),
        }
    }
}

impl Source for Memory {
    fn location(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.most_under_way.fetch_max(self.under_way.fetch_add(1, Relaxed) + 1, Relaxed);
        let result = self.read(want, into);
        self.under_way.fetch_sub(1, Relaxed);
        result
    }

    fn list(&self, prefix: &str, _: &Stop) -> Result<Vec<Object>, ReadError> {
        let object = |(key, content): (&String, &Vec<u8>)| Object {
            key: key.clone(),
            size_bytes: content.len() as u64,
            version: "1".into(),
            changed_ns: 0,
        };
        Ok(self.objects.iter().filter(|(key, _)| key.starts_with(prefix)).map(object).collect())
    }
}

/// A folder {train,test}/{a,b}/*.{jpg,png} of pictures that can be decoded.
fn pictures() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/images");
    let mut paths: Vec<PathBuf> = ["jpeg", "png"]
        .iter()
        .flat_map(|kind| fs::read_dir(testdata.join(kind)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg" || extension == "png"))
        .filter(|path| decode_rgb(&fs::read(path).unwrap(), &Limits::default(), &mut RgbImage::default()).is_ok())
        .collect();
    paths.sort();
    assert!(paths.len() > 20);
    for (at, path) in paths.iter().enumerate() {
        let folder = dir.path().join(["train", "train", "test"][at % 3]).join(["a", "b"][at / 3 % 2]);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(path, folder.join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn with(source: Memory, storage: Storage) -> (Arc<Memory>, Storage) {
    let source = Arc::new(source);
    (Arc::clone(&source), Storage { source: Some(source), ..storage })
}

fn loader(list: ImageList, num_workers: usize) -> Loader {
    let plan = Plan::new(list.entries.len() as u64, 1).unwrap().with_seed(5);
    let resize = ImageOp::Resize { size_px: [24, 32], filter: Filter::Bilinear };
    let options = ImagesOptions {
        steps: vec![Step::Op(resize), Step::Op(ImageOp::HorizontalFlip { p: 0.5 })],
        size_px: Some([24, 32]),
        numbers: PixelOutput::Bytes,
        limits: Limits::default(),
        decode: DecodeMode::Fused,
        exif: Exif::Ignore,
        cache: None,
        labels: None,
    };
    let images = Arc::new(Images::new(list, options).unwrap());
    Loader::new(images, plan, LoaderOptions { batch_size: 4, num_workers, end_epoch: Some(2), ..Default::default() })
        .unwrap()
}

fn rest(loader: &mut Loader) -> Vec<Batch> {
    let mut batches = Vec::new();
    for _ in 0..2 {
        while let Some(batch) = loader.next_batch().unwrap() {
            batches.push(batch);
        }
    }
    batches
}

fn train(path: &Path, storage: &Storage) -> ImageList {
    ImageList::train(Folder::open(path, storage).unwrap()).unwrap()
}

#[test]
fn batches_from_a_source_of_ones_own_are_those_from_the_folder() {
    let (dir, out) = (pictures(), tempfile::tempdir().unwrap());
    let list = train(dir.path(), &Storage::default());
    let expect = rest(&mut loader(list.clone(), 0));
    assert!(expect.len() > 6);
    let packed = out.path().join("packed");
    pack(
        dir.path(),
        &Storage::default(),
        &packed,
        PackOptions { shard_bytes: 60_000, threads: 1, progress: &|_, _| () },
    )
    .unwrap();
    let url = Path::new("memory://pets");
    for (name, folder) in [("files", dir.path()), ("archives", &packed)] {
        let limited = Storage { requests_in_flight: 3, ..storage(&out.path().join(name)) };
        let memory = Memory { fails_every: Some(7), ..Memory::of_folder("memory://pets/", folder) };
        let (memory, storage) = with(memory, limited);
        let own = train(url, &storage);
        assert_eq!(own.fingerprint(), list.fingerprint());
        for workers in [0, 1, 3] {
            assert_eq!(rest(&mut loader(own.clone(), workers)), expect, "{name}, {workers} workers");
        }
        assert!((1..=3).contains(&memory.most_under_way.load(Relaxed)), "the limit is around it");
        // A run that begins in one place goes on in the other.
        for (first, second) in [(&own, &own), (&own, &list), (&list, &own)] {
            let mut begun = loader(first.clone(), 2);
            let mut batches: Vec<Batch> = (0..3).map(|_| begun.next_batch().unwrap().unwrap()).collect();
            let mut resumed = loader(second.clone(), 1);
            resumed.load_state_dict(&begun.state_dict()).unwrap();
            batches.extend(rest(&mut resumed));
            assert_eq!(batches, expect, "{name}");
        }
    }
    // With a cache a later pass asks for nothing.
    let cache_dir = out.path().join("cache");
    let cached = Storage { cache_dir, cache_bytes: 1 << 30, ..storage(&out.path().join("cached")) };
    let (memory, storage) = with(Memory::of_folder("memory://pets/", dir.path()), cached);
    let own = train(url, &storage);
    assert_eq!(rest(&mut loader(own.clone(), 2)), expect);
    let before = memory.reads.load(Relaxed);
    assert_eq!(rest(&mut loader(own, 2)), expect);
    assert_eq!(memory.reads.load(Relaxed), before);
}

#[test]
fn lists_files_and_folders_in_a_source_of_ones_own_are_found() {
    let (dir, out) = (pictures(), tempfile::tempdir().unwrap());
    let (memory, storage) = with(Memory::of_folder("memory://pets/", dir.path()), storage(out.path()));
    check(&*memory, &memory.objects.clone().into_iter().collect::<Vec<_>>()).unwrap();
    // A folder of it conforms as the whole does, and is no other place.
    let below = |prefix: &str| -> Vec<(String, Vec<u8>)> {
        let objects = memory.objects.iter();
        objects.filter_map(|(key, bytes)| Some((key.strip_prefix(prefix)?.to_owned(), bytes.clone()))).collect()
    };
    for (url, prefix) in [("memory://pets", ""), ("memory://pets/", ""), ("memory://pets/train/", "train/")] {
        check(&*storage.open(url).unwrap(), &below(prefix)).unwrap();
    }
    let folder = ImageList::from_folder(Folder::open(Path::new("memory://pets/train"), &storage).unwrap(), "x", None);
    assert_eq!(folder.unwrap().fingerprint(), train(Path::new("memory://pets/"), &storage).fingerprint());
    let keys: Vec<&String> = memory.objects.keys().filter(|key| key.starts_with("train/")).collect();
    let urls: Vec<PathBuf> = keys.iter().map(|key| format!("memory://pets/{key}").into()).collect();
    let lines: String = urls.iter().map(|url| format!("0;{}\n", url.display())).collect();
    let file = out.path().join("list.txt");
    fs::write(&file, lines).unwrap();
    let list = ImageList::from_list(&file, "x", &["all".into()], &storage).unwrap();
    assert_eq!(list.entries.len(), keys.len());
    let missing = |at| feedline::Error::config(format!("{at} is missing"), "");
    let files = FileList::of_paths(urls.clone(), &storage, missing).unwrap();
    assert_eq!(files.read_whole(1).unwrap(), memory.objects[keys[1]]);
    let (path, file) = open_file(&urls[0], &storage).unwrap().unwrap();
    assert_eq!((path, file.read_whole().unwrap()), (urls[0].clone(), memory.objects[keys[0]].clone()));
    // The listing is not kept: what such a source holds may change with the program.
    let other =
        Memory { objects: [("train/a/1.jpg".into(), vec![1])].into(), root: "memory://pets/", ..Memory::default() };
    let (_, storage) = with(other, storage);
    assert_eq!(train(Path::new("memory://pets"), &storage).names(), ["1.jpg"]);
}

#[test]
fn settings_and_places_that_a_source_of_ones_own_cannot_take_are_refused() {
    let dir = pictures();
    let (_, storage) = with(Memory::of_folder("memory://pets/", dir.path()), Storage::default());
    let credentials =
        Credentials { access_key_id: "key".into(), secret_access_key: "secret".into(), session_token: None };
    for (key, storage) in [
        ("endpoint", Storage { endpoint: "http://host".into(), ..storage.clone() }),
        ("region", Storage { region: "eu".into(), ..storage.clone() }),
        ("anonymous", Storage { anonymous: true, ..storage.clone() }),
        ("credentials", Storage { credentials: Some(credentials), ..storage.clone() }),
    ] {
        let error = storage.open("memory://pets").unwrap_err().to_string();
        assert!(error.contains(&format!("storage.{key} is set together with a source of your own")), "{error}");
    }
    for url in ["s3://bucket/pets", "memory://pet", "memory://pets2"] {
        let error = Folder::open(Path::new(url), &storage).unwrap_err().to_string();
        assert!(error.contains(url) && error.contains("your own source, which is at memory://pets/"), "{error}");
    }
    for root in ["memory://pets", "memory://", "pets/", "/data/"] {
        let (_, storage) = with(Memory { root, ..Memory::default() }, Storage::default());
        let error = storage.open(root).unwrap_err().to_string();
        assert!(error.contains(&format!("{root:?}")) && error.contains("memory://pets/"), "{error}");
    }
    let (_, secret) = with(Memory { root: "https://me:hidden@host/", ..Memory::default() }, Storage::default());
    let error = secret.open("https://host/x").unwrap_err().to_string();
    assert!(error.contains("no credentials") && !error.contains("hidden"), "{error}");
    // Files of this machine are none of its places, and are read as without it.
    assert_eq!(train(dir.path(), &storage).classes, ["a", "b"]);
    let url = PathBuf::from(format!("file://{}", dir.path().display()));
    assert_eq!(train(&url, &storage).classes, ["a", "b"]);
}

/// Number and bytes of each sample, through `sample_reader` alone.
struct Whole {
    list: ImageList,
    fields: Vec<FieldSpec>,
}

impl Pipeline for Whole {
    fn len(&self) -> u64 {
        self.list.entries.len() as u64
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn sample_reader(&self) -> Option<&SampleReader> {
        self.list.stored.as_ref()
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> feedline::Result<()> {
        slot.dense::<i64>("index")[0] = request.index as i64;
        slot.dense::<i64>("sum")[0] = raw[0].iter().map(|byte| i64::from(*byte)).sum();
        Ok(())
    }
}

#[test]
fn a_pipeline_that_names_its_reader_needs_no_read() {
    let dir = pictures();
    let sums: Vec<i64> = train(dir.path(), &Storage::default())
        .entries
        .iter()
        .map(|entry| fs::read(&entry.path).unwrap().iter().map(|byte| i64::from(*byte)).sum())
        .collect();
    for requests_in_flight in [1, 8] {
        let storage = Storage { requests_in_flight, ..storage(dir.path()) };
        let (_, storage) = with(Memory::of_folder("memory://whole/", dir.path()), storage);
        let fields = ["index", "sum"].map(|name| FieldSpec::stack(name, DType::I64, [])).to_vec();
        let data = Arc::new(Whole { list: train(Path::new("memory://whole/"), &storage), fields });
        // Made one by one, and read ahead.
        let sample = make_sample(
            &*data,
            &Plan::unshuffled(data.len(), 1).unwrap().epoch(0).rank(0).nth(3).unwrap(),
            &mut SampleContext::default(),
        );
        assert_eq!(sample.unwrap().fields[1].as_slice::<i64>(), [sums[3]]);
        for num_workers in [0, 3] {
            let plan = Plan::new(data.len(), 1).unwrap().with_seed(5);
            let options = LoaderOptions { batch_size: 4, num_workers, end_epoch: Some(2), ..Default::default() };
            let mut loader = Loader::new(data.clone(), plan, options).unwrap();
            let batches = rest(&mut loader);
            assert!(batches.len() > 8);
            for batch in batches {
                let [indices, read] =
                    ["index", "sum"].map(|name| batch.stacked(name).unwrap().as_slice::<i64>().to_vec());
                let expect: Vec<i64> = indices.iter().map(|index| sums[*index as usize]).collect();
                assert_eq!(read, expect, "{requests_in_flight} requests, {num_workers} workers");
            }
        }
    }
}
