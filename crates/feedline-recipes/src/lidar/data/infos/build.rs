//! Making info files: labels, calibration and points of a data set as it is, read once. Owns the counts of points in boxes and
//! the data base of objects, and that a file is there whole or not at all.
#![expect(clippy::disallowed_methods, reason = "reads a data set's folders and owns the info files")]

use super::super::camera::Camera;
use super::super::frame::{Annos, DbObject, Frame, Image, PointCloud};
use super::super::kitti;
use super::super::options::Layout;
use super::read::read_db;
use feedline::augment::boxes::Box3d;
use feedline::decode::{NPY_HEADER_BYTES_MAX, NpyHeader, decode_points, dimensions};
use feedline::read::{Storage, read_start, read_text};
use feedline::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The file with the points of all objects of the data base.
const POINTS: &str = "gt_database/train.bin";

/// Options of making infos.
#[derive(Debug, Clone)]
pub struct InfoOptions {
    pub layout: Layout,
    pub num_threads: usize,
    /// Replaces files that are there.
    pub overwrite: bool,
}

/// The files that were made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Built {
    /// The files, relative to the root, and how many frames or objects each has.
    pub files: Vec<(String, usize)>,
    /// Splits that have no list in `ImageSets`.
    pub without_list: Vec<String>,
    /// Warnings about frames that are left out.
    pub warnings: Vec<String>,
    /// Objects of the data base by class.
    pub objects: Objects,
}

/// Number of objects of a class: easy, moderate, hard, and others.
pub type Objects = BTreeMap<String, [usize; 4]>;

/// Reads the splits of the data set in `root` that have a list in `ImageSets`, and writes an info file for each, for `trainval`
/// too, and the data base of the objects of `train`. The same files come of any number of threads. `progress` is told how many
/// frames are done, of how many.
///
/// A point is in a box if it is inside or on a side, without a margin.
///
/// # Errors
/// No list at all; a file that is missing or broken, by name; files that are there already.
pub fn build(root: &Path, options: &InfoOptions, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Built> {
    let prefix = match options.layout {
        Layout::Kitti => "kitti",
        Layout::Custom => "custom",
    };
    let splits = match options.layout {
        Layout::Kitti => &["train", "val", "test"][..],
        Layout::Custom => &["train", "val"],
    };
    let mut built = Built::default();
    let mut lists: Vec<(&str, Vec<String>)> = Vec::new();
    for split in splits {
        match ids(root, split)? {
            Some(ids) => lists.push((split, ids)),
            None => built.without_list.push((*split).into()),
        }
    }
    built.warnings = unlisted(root, options.layout, &lists)?;
    if lists.is_empty() {
        return Err(Error::dataset(
            root.join("ImageSets"),
            format!("there is none of the lists {}", splits.join(".txt, ") + ".txt"),
            "Write a list for each split, with the id of a frame a line",
        ));
    }
    let info = |split: &str| format!("{prefix}_infos_{split}.jsonl");
    let db = format!("{prefix}_dbinfos_train.jsonl");
    let mut names: Vec<String> = lists.iter().map(|(split, _)| info(split)).collect();
    let has = |split: &str| lists.iter().any(|(known, _)| *known == split);
    let with_trainval = options.layout == Layout::Kitti && has("train") && has("val");
    names.extend(with_trainval.then(|| info("trainval")));
    names.extend(has("train").then(|| [db.clone(), POINTS.into()]).into_iter().flatten());
    refuse_existing(root, &names, options.overwrite)?;

    let all: Vec<(&str, &String)> = lists.iter().flat_map(|(split, ids)| ids.iter().map(|id| (*split, id))).collect();
    let read = |&(split, id): &(&str, &String)| match options.layout {
        Layout::Kitti => kitti_frame(root, split, id),
        Layout::Custom => custom_frame(root, split, id),
    };
    let mut made = on_threads(&all, options.num_threads, progress, read)?.into_iter();
    remove_old(root, &names)?;

    let mut trainval = Vec::new();
    for (split, ids) in &lists {
        let mut frames = Vec::new();
        let (mut objects, mut points) = (Vec::new(), Vec::new());
        for (frame, of_frame) in made.by_ref().take(ids.len()) {
            for (mut object, own) in of_frame {
                object.offset_bytes = Some(points.len() as u64);
                points.extend(own.iter().flat_map(|value| value.to_le_bytes()));
                objects.push(object);
            }
            frames.push(frame);
        }
        if *split == "train" {
            let counts = &mut built.objects;
            objects.iter().for_each(|object| count(counts, object));
            publish(root, POINTS, &points)?;
            publish(root, &db, &json_lines(&objects)?)?;
            built.files.push((db.clone(), objects.len()));
        }
        publish(root, &info(split), &json_lines(&frames)?)?;
        built.files.push((info(split), frames.len()));
        if with_trainval && *split != "test" {
            trainval.extend(frames);
        }
    }
    if with_trainval {
        publish(root, &info("trainval"), &json_lines(&trainval)?)?;
        built.files.push((info("trainval"), trainval.len()));
    }
    Ok(built)
}

/// Frames whose points are there, and which none of the lists of their folder names. A folder without a list is told of by
/// [`Built::without_list`].
fn unlisted(root: &Path, layout: Layout, lists: &[(&str, Vec<String>)]) -> Result<Vec<String>> {
    let folders: &[(&str, &str, &[&str])] = match layout {
        Layout::Kitti => &[("training/velodyne", "bin", &["train", "val"]), ("testing/velodyne", "bin", &["test"])],
        Layout::Custom => &[("points", "npy", &["train", "val"])],
    };
    let mut warnings = Vec::new();
    for (folder, end, splits) in folders {
        let mut of_folder = lists.iter().filter(|(split, _)| splits.contains(split)).peekable();
        let path = root.join(folder);
        if of_folder.peek().is_none() || !path.is_dir() {
            continue;
        }
        let listed: BTreeSet<&str> = of_folder.flat_map(|(_, ids)| ids).map(String::as_str).collect();
        let failed = |e| Error::io("list the folder", &path, e);
        let (mut count, mut first) = (0u64, None::<String>);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = PathBuf::from(entry.map_err(failed)?.file_name());
            let id = name.file_stem().unwrap_or_default().to_string_lossy();
            if name.extension().is_some_and(|found| found == *end) && !listed.contains(&*id) && !id.starts_with('.') {
                count += 1;
                if first.as_deref().is_none_or(|first| *id < *first) {
                    first = Some(id.into_owned());
                }
            }
        }
        if let Some(first) = first {
            let (more, verb) = if count > 1 { (", ...", "frames are") } else { ("", "frame is") };
            let lists = splits.join(".txt, ");
            warnings
                .push(format!("{folder}: {count} {verb} left out, as none of {lists}.txt names them ({first}{more})"));
        }
    }
    Ok(warnings)
}

/// Writes what OpenPCDet's pickles in `root` say as files of this recipe beside them; the points of objects stay where they
/// are.
///
/// # Errors
/// No pickle; one that cannot be understood; files that are there already.
pub fn from_pickles(root: &Path, options: &InfoOptions) -> Result<Built> {
    let mut built = Built::default();
    let listing = fs::read_dir(root).map_err(|e| Error::io("look into", root, e))?;
    let is_info = |name: &String| {
        name.ends_with(".pkl")
            && ["kitti_", "custom_"].iter().any(|prefix| name.starts_with(prefix))
            && name.contains("infos")
    };
    let entries = listing.collect::<std::io::Result<Vec<_>>>().map_err(|e| Error::io("look into", root, e))?;
    let mut names: Vec<String> =
        entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).filter(is_info).collect();
    names.sort();
    if names.is_empty() {
        let remedy = "Name the folder that holds kitti_infos_train.pkl; without one, leave --from-pickles out";
        return Err(Error::dataset(root, "there are no infos in pickles", remedy));
    }
    let lines: Vec<String> = names.iter().map(|name| name.replace(".pkl", ".jsonl")).collect();
    refuse_existing(root, &lines, options.overwrite)?;
    let mut made = Vec::new();
    for (name, lines) in names.iter().zip(lines.clone()) {
        let (names, storage) = (std::slice::from_ref(name), Storage::default());
        let (text, count) = if name.contains("dbinfos") {
            let objects = read_db(root, names, &storage)?;
            objects.iter().for_each(|object| count(&mut built.objects, object));
            (json_lines(&objects)?, objects.len())
        } else {
            let frames = super::read_infos(root, names, &storage)?;
            (json_lines(&frames)?, frames.len())
        };
        made.push((lines, text, count));
    }
    // All are read before one is written, and none of before stands beside the new ones.
    remove_old(root, &lines)?;
    for (name, text, count) in made {
        publish(root, &name, &text)?;
        built.files.push((name, count));
    }
    Ok(built)
}

fn count(objects: &mut Objects, object: &DbObject) {
    let column = usize::try_from(object.difficulty).unwrap_or(3).min(3);
    objects.entry(object.name.clone()).or_default()[column] += 1;
}

/// The ids of a split's list, if there is one.
fn ids(root: &Path, split: &str) -> Result<Option<Vec<String>>> {
    let path = root.join("ImageSets").join(format!("{split}.txt"));
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ids: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(Error::dataset(path, format!("{} is listed twice", two[0]), "Remove one of the lines")),
        None if ids.is_empty() => {
            Err(Error::dataset(path, "the list is empty", "Add an id, such as 000003, for each frame"))
        }
        None => Ok(Some(ids)),
    }
}

fn refuse_existing(root: &Path, names: &[String], overwrite: bool) -> Result<()> {
    match names.iter().find(|name| root.join(name).exists()).filter(|_| !overwrite) {
        None => Ok(()),
        Some(name) => Err(Error::dataset(root.join(name), "it is there already", "Say --overwrite to make it anew")),
    }
}

/// An object and its points, x, y, z relative to the middle of its box.
type CutOut = (DbObject, Vec<f32>);

fn kitti_frame(root: &Path, split: &str, id: &str) -> Result<(Frame, Vec<CutOut>)> {
    let folder = root.join(if split == "test" { "testing" } else { "training" });
    let file = |kind: &str, end: &str| folder.join(kind).join(format!("{id}.{end}"));
    let wrong = |path: &Path, problem: String| Error::dataset(path, problem, "Correct the file, or get it again");

    let path = file("calib", "txt");
    let calib = kitti::parse_calib(&read_text(&path)?).map_err(|problem| wrong(&path, problem))?;
    let path = file("image_2", "png");
    let start = read_start(&path, 1 << 16).map_err(|e| Error::io("read", &path, e))?;
    let (width_px, height_px) = dimensions(&start).map_err(|fault| wrong(&path, fault.into()))?;
    let image_shape = [height_px as i32, width_px as i32];
    let path = file("planes", "txt");
    let road_plane = match path.is_file() {
        true => Some(kitti::parse_plane(&read_text(&path)?).map_err(|problem| wrong(&path, problem))?),
        false => None,
    };
    let path = file("velodyne", "bin");
    let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let mut points = Vec::with_capacity(bytes.len() / 4);
    decode_points(&bytes, 4, &[0, 1, 2, 3], |_| true, &mut points).map_err(|fault| wrong(&path, fault.into()))?;

    let camera = Camera::new(&calib);
    let mut cut_out = Vec::new();
    let mut annos = None;
    if split != "test" {
        let path = file("label_2", "txt");
        let mut own = kitti::parse_labels(&read_text(&path)?).map_err(|problem| wrong(&path, problem))?;
        let objects = own.name.iter().filter(|name| *name != "DontCare").count();
        own.gt_boxes_lidar = (0..objects).map(|at| kitti::to_lidar(&camera.rect_to_lidar, &own, at)).collect();
        let view = camera.view(image_shape);
        for (at, bounds) in own.gt_boxes_lidar.iter().enumerate() {
            let inside = inside(&points, bounds);
            let seen = inside.iter().filter(|point| view.shows([point[0], point[1], point[2]])).count();
            own.num_points_in_gt.push(seen as i32);
            if split == "train" {
                let object = DbObject {
                    image_idx: id.into(),
                    difficulty: own.difficulty[at],
                    bbox: own.bbox[at],
                    score: own.score[at],
                    ..object(&own.name[at], at, bounds, inside.len())
                };
                cut_out.push((object, centred(&inside, bounds)));
            }
        }
        own.num_points_in_gt.resize(own.name.len(), -1);
        annos = Some(own);
    }
    let frame = Frame {
        point_cloud: PointCloud { num_features: 4, lidar_idx: id.into() },
        image: Some(Image { image_idx: id.into(), image_shape }),
        calib: Some(calib),
        annos,
        road_plane,
    };
    Ok((frame, cut_out))
}

fn custom_frame(root: &Path, split: &str, id: &str) -> Result<(Frame, Vec<CutOut>)> {
    let wrong = |path: &Path, problem: String| Error::dataset(path, problem, "Correct the file, or get it again");
    let path = root.join("labels").join(format!("{id}.txt"));
    let annos: Annos = kitti::parse_custom_labels(&read_text(&path)?).map_err(|problem| wrong(&path, problem))?;
    let path = root.join("points").join(format!("{id}.npy"));
    let mut cut_out = Vec::new();
    let start = read_start(&path, NPY_HEADER_BYTES_MAX).map_err(|e| Error::io("read", &path, e))?;
    let header = NpyHeader::parse(&start).map_err(|problem| wrong(&path, problem))?;
    let num_features = match header.shape[..] {
        [_, features] if features >= 3 && header.dtype == feedline::DType::F32 => features,
        _ => {
            let problem = format!("it holds {:?} {:?}, not f32 (N, 3 or more)", header.dtype, header.shape);
            return Err(wrong(&path, problem));
        }
    };
    if split == "train" {
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let (mut points, all) = (Vec::new(), (0..num_features).collect::<Vec<_>>());
        decode_points(&bytes[header.data_offset_bytes..], num_features, &all, |_| true, &mut points)
            .map_err(|fault| wrong(&path, fault.into()))?;
        for (at, (name, bounds)) in annos.name.iter().zip(&annos.gt_boxes_lidar).enumerate() {
            let inside: Vec<&[f32]> =
                points.chunks_exact(num_features).filter(|point| is_inside(point, bounds)).collect();
            let own = inside.iter().flat_map(|point| {
                point.iter().enumerate().map(|(axis, value)| value - bounds.center.get(axis).map_or(0.0, |c| *c as f32))
            });
            let object = DbObject { image_idx: id.into(), ..object(name, at, bounds, inside.len()) };
            cut_out.push((object, own.collect()));
        }
    }
    let point_cloud = PointCloud { num_features, lidar_idx: id.into() };
    Ok((Frame { point_cloud, image: None, calib: None, annos: Some(annos), road_plane: None }, cut_out))
}

fn object(name: &str, at: usize, bounds: &Box3d, points: usize) -> DbObject {
    DbObject {
        name: name.into(),
        path: POINTS.into(),
        offset_bytes: None,
        image_idx: String::new(),
        gt_idx: at as i64,
        box3d_lidar: *bounds,
        num_points_in_gt: points as u64,
        difficulty: 0,
        bbox: [0.0; 4],
        score: -1.0,
    }
}

fn is_inside(point: &[f32], bounds: &Box3d) -> bool {
    bounds.bounds().contains([point[0], point[1], point[2]])
}

fn inside<'p>(points: &'p [f32], bounds: &Box3d) -> Vec<&'p [f32; 4]> {
    let bounds = bounds.bounds();
    points.as_chunks::<4>().0.iter().filter(|point| bounds.contains([point[0], point[1], point[2]])).collect()
}

fn centred(points: &[&[f32; 4]], bounds: &Box3d) -> Vec<f32> {
    let [x, y, z] = bounds.center.map(|value| value as f32);
    points.iter().flat_map(|point| [point[0] - x, point[1] - y, point[2] - z, point[3]]).collect()
}

/// `work` on each item, on several threads; the results in the order of the items.
fn on_threads<T: Sync, R: Send>(
    items: &[T],
    num_threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let results: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::default()).collect();
    let (next, done, failed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..num_threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while !failed.load(Relaxed) {
                    let at = next.fetch_add(1, Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    if result.is_err() {
                        failed.store(true, Relaxed);
                    }
                    *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    progress(done.fetch_add(1, Relaxed) + 1, items.len() as u64);
                }
            });
        }
    });
    // Items are taken in order, so those that nobody began come behind the error.
    results.into_iter().map_while(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

fn json_lines<T: Serialize>(values: &[T]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value)
            .map_err(|e| Error::config(format!("an info cannot be written: {e}"), "Please report this"))?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Removes the old files before the first new one is there, the points last: whatever a kill leaves, no file of two times
/// passes for one of the others', and what is missing is an error of the reader.
fn remove_old(root: &Path, names: &[String]) -> Result<()> {
    for name in names {
        let path = root.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("replace", path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Writes a file beside its place and renames it.
fn publish(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = root.join(name);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    let beside: PathBuf =
        folder.join(format!(".{}.{}", path.file_name().unwrap_or_default().display(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    write().map_err(|e| {
        // It is ours, and of no use.
        let _ = fs::remove_file(&beside);
        Error::io("write", &path, e)
    })
}
