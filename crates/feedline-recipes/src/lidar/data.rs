//! The data of the recipe: point clouds, their boxes and their voxels, as batches of OpenPCDet's keys. Composes the stages read,
//! decode and augment; owns the fields of a sample and what its files must hold.
//!
//! Letters: N is the number of points, C of numbers a point, M of boxes, V of voxels, P of points a voxel.

use super::camera::{Camera, View};
use super::database::Database;
use super::draft::{Draft, DraftBox, Drafter, Move};
use super::options::{Augment, Axis, Grid, Item, Layout, LidarOptions, PerMode, Process};
use super::{DbObject, Frame, infos, kitti};
use feedline::augment::boxes::Box3d;
use feedline::augment::points::{picked, remove_inside, retain, sampled, shuffled};
use feedline::augment::voxels::{VoxelScratch, Voxels};
use feedline::decode::{Fault, Limits, NpyHeader, RgbImage, decode_depth_u16, decode_points, decode_rgb};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::rng::{hash_name, hash_words};
use feedline::plan::{Plan, Request};
use feedline::read::{FileList, ReadError, SampleReader, Storage, read_sample, text_in};
use feedline::{Array, DType, Error, FieldSpec, Result, Slot, Stage};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the files of a split lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LidarFiles {
    /// A folder or URL that all other names are relative to.
    pub root: PathBuf,
    /// The folder of the files in KITTI's layout: `training` or `testing`.
    pub split_dir: String,
    /// The info files of the split.
    pub info_path: Vec<String>,
    /// Whether frames are augmented, and need boxes.
    pub training: bool,
}

/// A data set of point clouds as a pipeline; see `docs/lidar.md` for its fields. A sample is a function of its files, and in
/// training of (seed, pass, sample); where a training frame has no box left another one is taken, by (seed, epoch, position).
#[derive(Debug)]
pub struct Clouds {
    drafter: Drafter,
    files: FileList,
    /// Files of a frame.
    parts: Vec<Part>,
    /// What the camera of each frame sees, where other points are left out.
    views: Vec<Option<View>>,
    /// Columns of a stored point that are delivered.
    used: Vec<usize>,
    grid: Option<Grid>,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
}

/// The files of a frame, in the order in which they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Points,
    Image,
    Depth,
}

/// Opens a split: reads its infos and looks for every file.
///
/// # Errors
/// Infos or a data base that cannot be read, a file that is not there, by frame; options that are out of range or contradict
/// each other or the data.
pub fn open(files: &LidarFiles, options: &LidarOptions, storage: &Storage) -> Result<Clouds> {
    let frames = infos::read_infos(&files.root, &files.info_path, storage)?;
    let database = |step: &Augment| match step {
        Augment::GtSampling { db_info_path, .. } if files.training => {
            infos::read_db(&files.root, db_info_path, storage).map(Some)
        }
        _ => Ok(None),
    };
    let objects = options.augment.iter().map(database).collect::<Result<Vec<_>>>()?;
    Clouds::new(frames, objects, files, options, storage)
}

impl Clouds {
    /// The frames with what is known of them, and for each step of the augmentation the objects that it may paste.
    fn new(
        mut frames: Vec<Frame>,
        objects: Vec<Option<Vec<DbObject>>>,
        files: &LidarFiles,
        options: &LidarOptions,
        storage: &Storage,
    ) -> Result<Clouds> {
        options.check()?;
        let grid = options.grid()?;
        let column = |name: &String| options.src_features.iter().position(|known| known == name);
        let used: Vec<usize> = options.used_features.iter().filter_map(column).collect();
        let names = |frame: &Frame| {
            let id = &frame.point_cloud.lidar_idx;
            let folder = files.root.join(&files.split_dir);
            [
                match options.layout {
                    Layout::Kitti => folder.join("velodyne").join(format!("{id}.bin")),
                    Layout::Custom => files.root.join("points").join(format!("{id}.npy")),
                },
                folder.join("image_2").join(format!("{id}.png")),
                folder.join("depth_2").join(format!("{id}.png")),
            ]
        };
        let mut parts = vec![Part::Points];
        parts.extend(options.get_items.contains(&Item::Images).then_some(Part::Image));
        parts.extend(options.get_items.contains(&Item::DepthMaps).then_some(Part::Depth));
        let paths: Vec<PathBuf> = frames
            .iter()
            .flat_map(|frame| {
                let names = names(frame);
                parts.iter().map(move |part| names[*part as usize].clone())
            })
            .collect();
        if paths.is_empty() {
            let listed = files.info_path.join(", ");
            return Err(Error::dataset(&files.root, format!("there is no frame in {listed}"), "Check INFO_PATH"));
        }
        let missing = |at: usize| {
            let frame = &frames[at / parts.len()];
            let id = &frame.point_cloud.lidar_idx;
            let name = &names(frame)[parts[at % parts.len()] as usize];
            let problem = format!("the infos name frame {id}, but there is no file {}", name.display());
            Error::dataset(
                &files.root,
                problem,
                "Check the root and the infos, or build them anew: feedline lidar infos",
            )
        };
        let list = FileList::of_paths(paths, storage, missing)?;
        if options.uses_ground() && files.training {
            add_ground(&mut frames, files, storage)?;
        }
        let boxes = frames.iter().map(|frame| labelled(frame, files, options)).collect::<Result<Vec<_>>>()?;
        if files.training && !boxes.iter().flatten().any(|own| own.class > 0) {
            let names: BTreeSet<&String> =
                frames.iter().flat_map(|frame| &frame.annos).flat_map(|annos| &annos.name).collect();
            return Err(Error::dataset(
                &files.root,
                format!("no frame of {} has a box of {:?}", files.info_path.join(", "), options.class_names),
                format!("The labels are {names:?}; correct CLASS_NAMES"),
            ));
        }
        let views = frames.iter().map(|frame| view(frame, files, options)).collect::<Result<Vec<_>>>()?;
        let mut databases = Vec::new();
        for (step, objects) in options.augment.iter().zip(objects) {
            databases.push(match (step, objects) {
                (Augment::GtSampling { sample_groups, removed_difficulties, .. }, Some(objects)) => {
                    Some(Database::new(&files.root, objects, sample_groups, removed_difficulties, options, storage)?)
                }
                _ => None,
            });
        }
        let mut words = vec![options.layout as u64, u64::from(files.training)];
        for (frame, boxes) in frames.iter().zip(&boxes) {
            words.extend([hash_name(&frame.point_cloud.lidar_idx), boxes.len() as u64]);
        }
        let fields = fields(files.training, options, grid, frames.iter().all(|frame| frame.annos.is_some()));
        let streams = Drafter::streams(options);
        let (training, options) = (files.training, options.clone());
        let drafter = Drafter { frames, boxes, options, training, databases, streams };
        Ok(Clouds { drafter, files: list, parts, views, used, grid, fields, fingerprint: hash_words(&words) })
    }

    /// What is known of each frame before it is read.
    pub fn frames(&self) -> &[Frame] {
        &self.drafter.frames
    }

    /// How its files become batches.
    pub fn options(&self) -> &LidarOptions {
        &self.drafter.options
    }

    /// Whether frames are augmented.
    pub fn is_training(&self) -> bool {
        self.drafter.training
    }

    /// The grid of the voxels, if there is one.
    pub fn grid(&self) -> Option<Grid> {
        self.grid
    }

    /// C, the numbers of a delivered point.
    pub fn num_point_features(&self) -> usize {
        self.used.len()
    }

    /// Frames that have no box of the classes: in training another one is taken in their place.
    pub fn frames_without_boxes(&self) -> usize {
        self.drafter.boxes.iter().filter(|boxes| boxes.iter().all(|own| own.class == 0)).count()
    }

    /// A line for each frame, in order: its id.
    pub fn sample_list(&self) -> String {
        self.frames().iter().map(|frame| format!("{}\n", frame.point_cloud.lidar_idx)).collect()
    }

    fn stored(&self) -> Option<&SampleReader> {
        self.files.stored.as_ref()
    }

    fn path(&self, frame: u64, part: usize) -> &Path {
        &self.files.entries[frame as usize * self.parts.len() + part].path
    }

    fn bad(&self, stage: Stage, draft: &Draft, part: usize, fault: Fault) -> Error {
        let index = draft.request.index;
        fault.at(stage, index, self.path(index, part).display().to_string())
    }

    /// The points of the frame's own file.
    fn decode(&self, draft: &Draft, bytes: &[u8], points: &mut Vec<f32>) -> Result<(), Fault> {
        let columns = self.options().src_features.len();
        let bytes = match self.options().layout {
            Layout::Kitti => bytes,
            Layout::Custom => npy_rows(bytes, columns)?,
        };
        match &self.views[draft.request.index as usize] {
            None => decode_points(bytes, columns, &self.used, |_| true, points),
            Some(view) => decode_points(bytes, columns, &self.used, |point| view.shows(point), points),
        }
        .map(drop)
    }

    /// Moves the points as the draft says; `objects` are the files of what is pasted.
    fn augment(
        &self,
        draft: &Draft,
        objects: &[Vec<u8>],
        points: &mut Vec<f32>,
        clock: &mut SampleContext,
    ) -> Result<()> {
        let columns = self.used.len();
        let mut objects = objects.iter();
        for step in &draft.moves {
            match step {
                Move::All(map) => map.move_points(points, columns),
                Move::Inside(moves) => {
                    moves.iter().for_each(|(bounds, map)| map.move_points_inside(bounds, points, columns));
                }
                Move::Paste(pasted) => {
                    clock.enter(Stage::Decode);
                    let mut all = Vec::with_capacity(points.len());
                    for (own, bytes) in pasted.iter().zip(&mut objects) {
                        let first = all.len();
                        let src = self.options().src_features.len();
                        decode_points(bytes, src, &self.used, |_| true, &mut all).map_err(|fault| {
                            let database = self.drafter.databases.iter().flatten().next();
                            let object = database.map(|database| &database.objects[own.object as usize]);
                            let path = object.map_or("", |object| object.path.as_str());
                            fault.at(Stage::Decode, draft.request.index, path.into())
                        })?;
                        for point in all[first..].chunks_exact_mut(columns) {
                            (0..3).for_each(|axis| point[axis] += own.center[axis] as f32);
                        }
                    }
                    clock.enter(Stage::Augment);
                    let cleared: Vec<Box3d> = pasted.iter().map(|own| own.cleared).collect();
                    remove_inside(points, columns, &cleared);
                    all.append(points);
                    *points = all;
                }
            }
        }
        Ok(())
    }

    /// The steps of every frame. Gives the voxels, if a step makes them.
    fn process(&self, draft: &Draft, points: &mut Vec<f32>, scratch: &mut VoxelScratch) -> Result<Option<Voxels>> {
        let (columns, range) = (self.used.len(), self.options().point_cloud_range.map(|value| value as f32));
        let mut voxels = None;
        for step in &self.options().process {
            match step {
                Process::MaskPointsAndBoxesOutsideRange { .. } => {
                    retain(points, columns, |[x, y, _]| {
                        (range[0]..=range[3]).contains(&x) && (range[1]..=range[4]).contains(&y)
                    });
                }
                Process::ShufflePoints { enabled } => {
                    if self.of_mode(enabled) {
                        let order = shuffled(points.len() / columns, &mut draft.request.rng("shuffle_points"));
                        *points = picked(points, columns, &order)?;
                    }
                }
                Process::SamplePoints { num_points } => {
                    if let Ok(count) = usize::try_from(self.of_mode(num_points)) {
                        let order = sampled(points, columns, count, &mut draft.request.rng("sample_points"))?;
                        *points = picked(points, columns, &order)?;
                    }
                }
                Process::TransformPointsToVoxels { max_number_of_voxels, .. } => {
                    let most = self.of_mode(max_number_of_voxels);
                    voxels = self.grid.map(|grid| grid.voxelize(points, columns, most, scratch)).transpose()?;
                }
                Process::CalculateGridSize { .. } => {}
            }
        }
        Ok(voxels)
    }

    fn of_mode<T: Copy>(&self, value: &PerMode<T>) -> T {
        if self.drafter.training { value.train } else { value.test }
    }

    /// Writes all fields but points, voxels and pictures.
    fn write(&self, draft: &Draft, slot: &mut Slot<'_>) {
        let Draft { request, boxes, drawn, .. } = draft;
        let frame = &self.frames()[request.index as usize];
        let id = frame.point_cloud.lidar_idx.as_bytes();
        slot.put("frame_id", Array::from_slice([id.len()], id));
        slot.dense::<i64>("frame_index")[0] = request.index as i64;
        slot.dense::<u8>("use_lead_xyz")[0] = 1;
        let matrix = slot.dense::<f64>("lidar_aug_matrix");
        matrix.copy_from_slice([drawn.matrix.0.as_flattened(), &[0.0, 0.0, 0.0, 1.0]].concat().as_slice());
        for field in &self.fields {
            match field.name.as_str() {
                "image_shape" => {
                    let shape = frame.image.as_ref().map_or([0; 2], |image| image.image_shape);
                    slot.dense::<i32>("image_shape").copy_from_slice(&shape);
                }
                "flip_x" => slot.dense::<u8>("flip_x")[0] = u8::from(drawn.flip_x),
                "flip_y" => slot.dense::<u8>("flip_y")[0] = u8::from(drawn.flip_y),
                "noise_rot" => slot.dense::<f64>("noise_rot")[0] = drawn.noise_rot,
                "noise_scale" => slot.dense::<f64>("noise_scale")[0] = drawn.noise_scale,
                "noise_translate" => {
                    slot.dense::<f64>("noise_translate").copy_from_slice(&drawn.noise_translate);
                }
                "gt_boxes" => {
                    let row = |own: &DraftBox| {
                        let [x, y, z, dx, dy, dz, heading] = <[f64; 7]>::from(own.bounds).map(|value| value as f32);
                        [x, y, z, dx, dy, dz, heading, own.class as f32]
                    };
                    let rows: Vec<[f32; 8]> = boxes.iter().map(row).collect();
                    slot.put("gt_boxes", Array::from_slice([boxes.len(), 8], rows.as_flattened()));
                }
                "gt_pasted" => {
                    let pasted: Vec<u8> = boxes.iter().map(|own| u8::from(own.pasted)).collect();
                    slot.put("gt_pasted", Array::from_slice([boxes.len()], &pasted));
                }
                "gt_boxes2d" => {
                    let all = frame.annos.as_ref().map_or(&[][..], |annos| &annos.bbox);
                    let row =
                        |own: &DraftBox| all.get(own.label).copied().unwrap_or_default().map(|value| value as f32);
                    let rows: Vec<[f32; 4]> = boxes.iter().map(row).collect();
                    slot.put("gt_boxes2d", Array::from_slice([boxes.len(), 4], rows.as_flattened()));
                }
                _ => {}
            }
        }
    }

    fn pictures(&self, draft: &Draft, raw: &Raw, slot: &mut Slot<'_>) -> Result<()> {
        for (at, (part, bytes)) in self.parts.iter().zip(raw).enumerate() {
            let bad = |fault: Fault| self.bad(Stage::Decode, draft, at, fault);
            let image = self.frames()[draft.request.index as usize].image.as_ref();
            let [height, width] = image.map_or([0; 2], |image| image.image_shape.map(|px| px as u32));
            match part {
                Part::Points => {}
                Part::Image => {
                    let mut image = RgbImage::default();
                    decode_rgb(bytes, &Limits::default(), &mut image).map_err(bad)?;
                    if [image.height_px, image.width_px] != [height, width] {
                        let found = format!("{} x {}", image.height_px, image.width_px);
                        let problem = format!("it has {found} px (height x width), the infos say {height} x {width}");
                        return Err(bad(problem.into()));
                    }
                    slot.put("images", Array::try_from_slice([image.pixels.len()], &image.pixels)?);
                }
                Part::Depth => {
                    let mut depth = vec![0u16; height as usize * width as usize];
                    decode_depth_u16(bytes, width, height, &mut depth).map_err(bad)?;
                    let bytes: Vec<u8> =
                        depth.iter().flat_map(|value| (f32::from(*value) / 256.0).to_le_bytes()).collect();
                    slot.put("depth_maps", Array::try_from_slice([bytes.len()], &bytes)?);
                }
            }
        }
        Ok(())
    }
}

/// The rows of a `.npy` file of f32 (N, columns).
fn npy_rows(bytes: &[u8], columns: usize) -> Result<&[u8], String> {
    let NpyHeader { dtype, shape, data_offset_bytes } = NpyHeader::parse(bytes)?;
    let rows = bytes.get(data_offset_bytes..).unwrap_or_default();
    let fits = matches!(shape[..], [n, c] if c == columns && n * c * 4 == rows.len());
    if dtype == DType::F32 && fits {
        return Ok(rows);
    }
    Err(format!(
        "it holds {dtype:?} {shape:?} in {} bytes, not f32 (N, {columns}); save points.astype(numpy.float32) with the features of \
         src_feature_list",
        rows.len()
    ))
}

/// Boxes of a frame's labels, `DontCare` left out.
fn labelled(frame: &Frame, files: &LidarFiles, options: &LidarOptions) -> Result<Vec<DraftBox>> {
    let wrong = |problem: String, remedy: &str| {
        let id = &frame.point_cloud.lidar_idx;
        Err(Error::dataset(&files.root, format!("frame {id} of {} {problem}", files.info_path.join(", ")), remedy))
    };
    let features = options.src_features.len();
    if frame.point_cloud.num_features != features {
        return wrong(
            format!("has points of {} features, src_feature_list names {features}", frame.point_cloud.num_features),
            "Correct POINT_FEATURE_ENCODING, or build the infos anew",
        );
    }
    let Some(annos) = &frame.annos else {
        return match files.training {
            true => wrong("has no labels, and training needs gt_boxes".into(), "Use infos of a labelled split"),
            false => Ok(Vec::new()),
        };
    };
    let names: Vec<(usize, &String)> = annos.name.iter().enumerate().filter(|(_, name)| *name != "DontCare").collect();
    if names.len() != annos.gt_boxes_lidar.len() {
        return wrong(
            format!("has {} labelled objects, but {} boxes", names.len(), annos.gt_boxes_lidar.len()),
            "Build the infos anew: feedline lidar infos",
        );
    }
    let own = |((label, name), bounds): ((usize, &String), &Box3d)| {
        let class = options.class_names.iter().position(|known| known == name).map_or(0, |at| at as u32 + 1);
        DraftBox { bounds: *bounds, class, pasted: false, label }
    };
    Ok(names.into_iter().zip(&annos.gt_boxes_lidar).map(own).collect())
}

/// What the camera sees, if other points are to be left out.
fn view(frame: &Frame, files: &LidarFiles, options: &LidarOptions) -> Result<Option<View>> {
    if options.layout == Layout::Custom || !options.fov_points_only {
        return Ok(None);
    }
    match (&frame.calib, &frame.image) {
        (Some(calib), Some(image)) => Ok(Some(Camera::new(calib).view(image.image_shape))),
        _ => Err(Error::dataset(
            &files.root,
            format!("frame {} has no calibration or image size in the infos", frame.point_cloud.lidar_idx),
            "Build the infos anew, or set FOV_POINTS_ONLY to False",
        )),
    }
}

/// Reads the ground of those frames whose infos do not tell it.
fn add_ground(frames: &mut [Frame], files: &LidarFiles, storage: &Storage) -> Result<()> {
    let unknown: Vec<usize> = (0..frames.len()).filter(|at| frames[*at].road_plane.is_none()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let name = |at: usize| {
        let id = &frames[unknown[at]].point_cloud.lidar_idx;
        files.root.join(&files.split_dir).join("planes").join(format!("{id}.txt"))
    };
    let paths: Vec<PathBuf> = (0..unknown.len()).map(name).collect();
    let missing = |at: usize| {
        let problem = format!("there is no file {}, and USE_ROAD_PLANE needs the ground", name(at).display());
        Error::dataset(&files.root, problem, "Get the planes, or set USE_ROAD_PLANE to False")
    };
    let list = FileList::of_paths(paths.clone(), storage, missing)?;
    for (at, frame) in unknown.iter().enumerate() {
        let bytes = list.read_whole(at)?;
        let plane = text_in(bytes).and_then(|text| kitti::parse_plane(&text));
        let plane = plane.map_err(|problem| Error::dataset(&paths[at], problem, "Get the file again"))?;
        frames[*frame].road_plane = Some(plane);
    }
    Ok(())
}

/// The fields of a sample.
fn fields(training: bool, options: &LidarOptions, grid: Option<Grid>, labelled: bool) -> Vec<FieldSpec> {
    let columns = options.used_features.len();
    let mut fields = vec![FieldSpec::concat_numbered("points", DType::F32, 1 + columns)];
    let makes_voxels = options.process.iter().any(|step| matches!(step, Process::TransformPointsToVoxels { .. }));
    if let Some(grid) = grid.filter(|_| makes_voxels) {
        fields.extend([
            FieldSpec::concat("voxels", DType::F32, [grid.max_points_per_voxel, columns]),
            FieldSpec::concat_numbered("voxel_coords", DType::I32, 4),
            FieldSpec::concat("voxel_num_points", DType::I32, []),
        ]);
    }
    if labelled {
        fields.push(FieldSpec::pad("gt_boxes", DType::F32, [8], 0.0));
    }
    let has = |is: fn(&Augment) -> bool| training && options.augment.iter().any(is);
    let flips = |axis: Axis| {
        let flips =
            |step: &Augment| matches!(step, Augment::RandomWorldFlip { along_axis } if along_axis.contains(&axis));
        training && options.augment.iter().any(flips)
    };
    fields.extend(
        has(|step| matches!(step, Augment::GtSampling { .. })).then(|| FieldSpec::pad("gt_pasted", DType::U8, [], 0.0)),
    );
    fields.extend([FieldSpec::bytes("frame_id"), FieldSpec::stack("frame_index", DType::I64, [])]);
    fields.extend((options.layout == Layout::Kitti).then(|| FieldSpec::stack("image_shape", DType::I32, [2])));
    fields.push(FieldSpec::stack("use_lead_xyz", DType::U8, []));
    fields.push(FieldSpec::stack("lidar_aug_matrix", DType::F64, [4, 4]));
    fields.extend(flips(Axis::X).then(|| FieldSpec::stack("flip_x", DType::U8, [])));
    fields.extend(flips(Axis::Y).then(|| FieldSpec::stack("flip_y", DType::U8, [])));
    for (name, is, shape) in [
        ("noise_rot", has(|step| matches!(step, Augment::RandomWorldRotation { .. })), vec![]),
        ("noise_scale", has(|step| matches!(step, Augment::RandomWorldScaling { .. })), vec![]),
        ("noise_translate", has(|step| matches!(step, Augment::RandomWorldTranslation { .. })), vec![3]),
    ] {
        fields.extend(is.then(|| FieldSpec::stack(name, DType::F64, shape)));
    }
    for item in &options.get_items {
        fields.push(match item {
            Item::GtBoxes2d => FieldSpec::pad("gt_boxes2d", DType::F32, [4], 0.0),
            Item::Images => FieldSpec::bytes("images"),
            Item::DepthMaps => FieldSpec::bytes("depth_maps"),
        });
    }
    fields
}

/// What a thread keeps from sample to sample.
#[derive(Default)]
struct Scratch {
    points: Vec<f32>,
    voxels: VoxelScratch,
}

/// Working memory that a thread keeps from sample to sample; a rare giant's is given back.
const MAX_KEPT_FLOATS: usize = 4 << 20;

impl Pipeline for Clouds {
    fn len(&self) -> u64 {
        self.frames().len() as u64
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    /// Of its points.
    fn location(&self, index: u64) -> String {
        self.path(index, 0).display().to_string()
    }

    fn warnings(&self) -> Vec<String> {
        let (none, all) = (self.frames_without_boxes(), self.frames().len());
        let mut warnings = self.files.warnings.clone();
        if self.is_training() && none > 0 {
            let names = self.options().class_names.join(", ");
            warnings.push(format!(
                "{none} of {all} training frames have no box of {names}: others are taken in their place"
            ));
        }
        warnings
    }

    fn read_ahead(&self) -> usize {
        self.stored().map_or(0, SampleReader::requests_in_flight)
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        let first = index as usize * self.parts.len();
        self.files.entries[first..first + self.parts.len()].iter().map(|file| file.size_bytes).sum()
    }

    fn follow(&self, plan: &Plan) -> Result<()> {
        self.stored().map_or(Ok(()), |stored| stored.follow_parts(plan, self.parts.len() as u64))
    }

    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut SampleContext) -> Result<()> {
        let draft = self.drafter.draft(request)?;
        let count = self.parts.len();
        let objects: Vec<usize> = draft.objects().map(|own| own.object as usize).collect();
        raw.resize_with(count + objects.len(), Vec::new);
        let (own, others) = raw.split_at_mut(count);
        let first = draft.request.index * count as u64;
        match self.stored() {
            Some(stored) => {
                stored.reached(request.epoch, request.position);
                let files: Vec<u64> = (first..first + count as u64).collect();
                let results = stored.read_many(&files, clock.stop_signal(), own);
                results.into_iter().try_for_each(|result| result.map_err(ReadError::into_error))?;
            }
            None => {
                for (part, (file, bytes)) in (first..).zip(own).enumerate() {
                    read_sample(None, file, self.path(draft.request.index, part), clock.stop_signal(), bytes)?;
                }
            }
        }
        if let Some(database) = self.drafter.databases.iter().flatten().next() {
            database.pieces.read_many(&objects, clock.stop_signal(), others)?;
        }
        clock.count_bytes(raw.iter().map(Vec::len).sum());
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        clock.enter(Stage::Decode);
        let draft = self.drafter.draft(request)?;
        clock.reserve(2 * raw.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
        self.write(&draft, slot);
        self.pictures(&draft, raw, slot)?;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.points.capacity() > MAX_KEPT_FLOATS {
                *scratch = Scratch::default();
            }
            let Scratch { points, voxels } = scratch;
            points.clear();
            self.decode(&draft, &raw[0], points).map_err(|problem| self.bad(Stage::Decode, &draft, 0, problem))?;
            clock.count_bytes(size_of_val(points.as_slice()));
            clock.enter(Stage::Augment);
            self.augment(&draft, &raw[self.parts.len()..], points, clock)?;
            if let Some(Voxels { points, coords, num_points }) = self.process(&draft, points, voxels)? {
                clock.count_bytes(points.as_bytes().len());
                slot.put("voxels", points);
                slot.put("voxel_coords", coords);
                slot.put("voxel_num_points", num_points);
            }
            let columns = self.used.len();
            let mut rows = Array::try_zeros(DType::F32, [points.len() / columns, 1 + columns])?;
            let out = rows.as_mut_slice::<f32>().chunks_exact_mut(1 + columns);
            out.zip(points.chunks_exact(columns)).for_each(|(row, point)| row[1..].copy_from_slice(point));
            slot.put("points", rows);
            Ok(())
        })
    }
}
