//! A data set of clouds as a pipeline: what a frame is read from, and how it becomes a sample. Owns what its files must hold.

use super::camera::CameraView;
use super::database::Database;
use super::fields::fields;
use super::files::{LidarFiles, add_ground, labelled, view};
use super::frame::{DbObject, Frame};
use super::frame_plan::{FramePlan, FramePlanner, PlannedBox, PointTransform};
use super::infos;
use super::options::{Augment, Grid, Item, Layout, LidarOptions, PerMode, Process};
use feedline::augment::boxes::Box3d;
use feedline::augment::points::{picked, remove_inside, retain, sampled, shuffled};
use feedline::augment::voxels::{VoxelScratch, Voxels};
use feedline::decode::{Fault, Limits, NpyHeader, RgbImage, decode_depth_u16, decode_points, decode_rgb};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::rng::{hash_name, hash_words};
use feedline::plan::{Plan, Request};
use feedline::read::{FileList, ReadError, SampleReader, Storage, read_sample};
use feedline::{Array, DType, Error, FieldSpec, Result, Slot, Stage};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A data set of point clouds as a pipeline; see `docs/lidar.md` for its fields. A sample is a function of its files, and in
/// training of (seed, pass, sample); where a training frame has no box left another one is taken, by (seed, epoch, position).
#[derive(Debug)]
pub struct Clouds {
    planner: FramePlanner,
    files: FileList,
    /// Files of a frame.
    parts: Vec<Part>,
    /// The camera's view of each frame, where points outside it are left out.
    views: Vec<Option<CameraView>>,
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
        let streams = FramePlanner::streams(options);
        let (training, options) = (files.training, options.clone());
        let planner = FramePlanner { frames, boxes, options, training, databases, streams };
        Ok(Clouds { planner, files: list, parts, views, used, grid, fields, fingerprint: hash_words(&words) })
    }

    /// The infos of each frame.
    pub fn frames(&self) -> &[Frame] {
        &self.planner.frames
    }

    /// The options by which files become batches.
    pub fn options(&self) -> &LidarOptions {
        &self.planner.options
    }

    /// True if frames are augmented.
    pub fn is_training(&self) -> bool {
        self.planner.training
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
        self.planner.boxes.iter().filter(|boxes| boxes.iter().all(|own| own.class == 0)).count()
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

    fn bad(&self, stage: Stage, plan: &FramePlan, part: usize, fault: Fault) -> Error {
        let index = plan.request.index;
        fault.at(stage, index, self.path(index, part).display().to_string())
    }

    /// The points of the frame's own file.
    fn decode(&self, plan: &FramePlan, bytes: &[u8], points: &mut Vec<f32>) -> Result<(), Fault> {
        let columns = self.options().src_features.len();
        let bytes = match self.options().layout {
            Layout::Kitti => bytes,
            Layout::Custom => npy_rows(bytes, columns)?,
        };
        match &self.views[plan.request.index as usize] {
            None => decode_points(bytes, columns, &self.used, |_| true, points),
            Some(view) => decode_points(bytes, columns, &self.used, |point| view.shows(point), points),
        }
        .map(drop)
    }

    /// Moves the points as the plan says; `objects` are the files of what is pasted.
    fn augment(
        &self,
        plan: &FramePlan,
        objects: &[Vec<u8>],
        points: &mut Vec<f32>,
        clock: &mut SampleContext,
    ) -> Result<()> {
        let columns = self.used.len();
        let mut objects = objects.iter();
        for step in &plan.transforms {
            match step {
                PointTransform::All(map) => map.move_points(points, columns),
                PointTransform::Inside(transforms) => {
                    transforms.iter().for_each(|(bounds, map)| map.move_points_inside(bounds, points, columns));
                }
                PointTransform::Paste(pasted) => {
                    clock.enter(Stage::Decode);
                    let mut all = Vec::with_capacity(points.len());
                    for (own, bytes) in pasted.iter().zip(&mut objects) {
                        let first = all.len();
                        let src = self.options().src_features.len();
                        decode_points(bytes, src, &self.used, |_| true, &mut all).map_err(|fault| {
                            let database = self.planner.databases.iter().flatten().next();
                            let object = database.map(|database| &database.objects[own.object as usize]);
                            let path = object.map_or("", |object| object.path.as_str());
                            fault.at(Stage::Decode, plan.request.index, path.into())
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
    fn process(&self, plan: &FramePlan, points: &mut Vec<f32>, scratch: &mut VoxelScratch) -> Result<Option<Voxels>> {
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
                        let order = shuffled(points.len() / columns, &mut plan.request.rng("shuffle_points"));
                        *points = picked(points, columns, &order)?;
                    }
                }
                Process::SamplePoints { num_points } => {
                    if let Ok(count) = usize::try_from(self.of_mode(num_points)) {
                        let order = sampled(points, columns, count, &mut plan.request.rng("sample_points"))?;
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
        if self.planner.training { value.train } else { value.test }
    }

    /// Writes all fields but points, voxels and pictures.
    fn write(&self, plan: &FramePlan, slot: &mut Slot<'_>) {
        let FramePlan { request, boxes, drawn, .. } = plan;
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
                    let row = |own: &PlannedBox| {
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
                        |own: &PlannedBox| all.get(own.label).copied().unwrap_or_default().map(|value| value as f32);
                    let rows: Vec<[f32; 4]> = boxes.iter().map(row).collect();
                    slot.put("gt_boxes2d", Array::from_slice([boxes.len(), 4], rows.as_flattened()));
                }
                _ => {}
            }
        }
    }

    fn pictures(&self, plan: &FramePlan, raw: &Raw, slot: &mut Slot<'_>) -> Result<()> {
        for (at, (part, bytes)) in self.parts.iter().zip(raw).enumerate() {
            let bad = |fault: Fault| self.bad(Stage::Decode, plan, at, fault);
            let image = self.frames()[plan.request.index as usize].image.as_ref();
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

/// Working memory that a thread keeps from sample to sample.
#[derive(Default)]
struct CloudScratch {
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
        let plan = self.planner.plan(request)?;
        let count = self.parts.len();
        let objects: Vec<usize> = plan.objects().map(|own| own.object as usize).collect();
        raw.resize_with(count + objects.len(), Vec::new);
        let (own, others) = raw.split_at_mut(count);
        let first = plan.request.index * count as u64;
        match self.stored() {
            Some(stored) => {
                stored.reached(request.epoch, request.position);
                let files: Vec<u64> = (first..first + count as u64).collect();
                let results = stored.read_many(&files, clock.stop_signal(), own);
                results.into_iter().try_for_each(|result| result.map_err(ReadError::into_error))?;
            }
            None => {
                for (part, (file, bytes)) in (first..).zip(own).enumerate() {
                    read_sample(None, file, self.path(plan.request.index, part), clock.stop_signal(), bytes)?;
                }
            }
        }
        if let Some(database) = self.planner.databases.iter().flatten().next() {
            database.pieces.read_many(&objects, clock.stop_signal(), others)?;
        }
        clock.count_bytes(raw.iter().map(Vec::len).sum());
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<CloudScratch> = RefCell::default();
        }
        clock.enter(Stage::Decode);
        let plan = self.planner.plan(request)?;
        clock.reserve(2 * raw.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
        self.write(&plan, slot);
        self.pictures(&plan, raw, slot)?;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.points.capacity() > MAX_KEPT_FLOATS {
                *scratch = CloudScratch::default();
            }
            let CloudScratch { points, voxels } = scratch;
            points.clear();
            self.decode(&plan, &raw[0], points).map_err(|problem| self.bad(Stage::Decode, &plan, 0, problem))?;
            clock.count_bytes(size_of_val(points.as_slice()));
            clock.enter(Stage::Augment);
            self.augment(&plan, &raw[self.parts.len()..], points, clock)?;
            if let Some(Voxels { points, coords, num_points }) = self.process(&plan, points, voxels)? {
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
