//! OpenPCDet's YAML settings: what `DATA_CONFIG` says, as the options of this recipe. Owns the names of its keys, and that a key
//! which would change what is delivered is never passed over.
#![expect(clippy::disallowed_methods, reason = "looks for the files that a file of settings names")]

use super::files::LidarFiles;
use super::options::{Augment, Axis, Item, Layout, LidarOptions, PerMode, Process, SampleGroup};
use feedline::read::read_text;
use feedline::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The key that names a file to begin with.
const BASE: &str = "_BASE_CONFIG_";

/// Files that may begin with each other.
const MAX_DEPTH: usize = 16;

/// Reads a YAML file; where a section has `_BASE_CONFIG_`, it is laid over what that file says, key by key, and lists as a
/// whole. The name of such a file is relative to the working directory, as OpenPCDet has it, or to a folder that the file lies
/// in.
///
/// # Errors
/// A file that cannot be read or is no YAML; files that begin with themselves.
pub fn read_yaml(path: &Path) -> Result<Value> {
    read_file(path, 0)
}

fn read_file(path: &Path, depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(Error::dataset(path, format!("{BASE} goes on for {MAX_DEPTH} files"), "Break the circle"));
    }
    let text = read_text(path)?;
    let value: Value = serde_saphyr::from_str(&text)
        .map_err(|e| Error::dataset(path, format!("it is no YAML: {e}"), "Correct the file"))?;
    let Value::Object(said) = value else {
        return Err(Error::dataset(path, "it is no YAML mapping", "Name a file of settings, such as pointpillar.yaml"));
    };
    let mut whole = Map::new();
    merge(&mut whole, said, path, depth)?;
    Ok(Value::Object(whole))
}

fn merge(below: &mut Map<String, Value>, mut above: Map<String, Value>, file: &Path, depth: usize) -> Result<()> {
    if let Some(base) = above.remove(BASE) {
        let Some(name) = base.as_str() else {
            return Err(Error::dataset(file, format!("{BASE} is {base}"), "Give the path of a YAML file"));
        };
        let folders = std::iter::once(Path::new("")).chain(file.ancestors().skip(1));
        let mut places = folders.map(|folder| folder.join(name));
        let Some(path) = places.find(|path| path.is_file()) else {
            let remedy = "Give its path, from the working directory or from a folder that holds both";
            return Err(Error::dataset(file, format!("{BASE} names {name}, which is not there"), remedy));
        };
        if let Value::Object(said) = read_file(&path, depth + 1)? {
            below.extend(said);
        }
    }
    for (key, value) in above {
        match value {
            Value::Object(section) => {
                let inside = below.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !inside.is_object() {
                    *inside = Value::Object(Map::new());
                }
                if let Value::Object(inside) = inside {
                    merge(inside, section, file, depth)?;
                }
            }
            other => {
                below.insert(key, other);
            }
        }
    }
    Ok(())
}

/// Locations of the files of a split, by `DATA_PATH` or `root_path`, `DATA_SPLIT` and `INFO_PATH`.
///
/// # Errors
/// A key that is missing or means nothing.
pub fn files(config: &Value, root_path: Option<&Path>, training: bool) -> Result<LidarFiles> {
    let config = Section::new("DATA_CONFIG", config)?;
    let mode = if training { "train" } else { "test" };
    let root = match root_path {
        Some(root) => root.to_path_buf(),
        None => PathBuf::from(config.text("DATA_PATH")?),
    };
    let split = config.section("DATA_SPLIT")?.text(mode)?;
    let split_dir = if split == "test" { "testing" } else { "training" };
    let info_path = config.section("INFO_PATH")?.get(mode)?;
    let info_path = match info_path {
        Value::String(name) => vec![name.clone()],
        _ => config.section("INFO_PATH")?.texts(mode)?,
    };
    Ok(LidarFiles { root, split_dir: split_dir.into(), info_path, training })
}

/// The options by which files become batches.
///
/// # Errors
/// A key that is missing, unknown inside of a step, or means something that is not offered.
pub fn options(config: &Value, class_names: &[String]) -> Result<LidarOptions> {
    let config = Section::new("DATA_CONFIG", config)?;
    let layout = match config.text("DATASET")?.as_str() {
        "KittiDataset" => Layout::Kitti,
        "CustomDataset" => Layout::Custom,
        other => {
            return Err(config.wrong(
                "DATASET",
                format!("{other:?} is not offered"),
                "Use KittiDataset or CustomDataset",
            ));
        }
    };
    let encoding = config.section("POINT_FEATURE_ENCODING")?;
    let kind = encoding.text("encoding_type")?;
    if kind != "absolute_coordinates_encoding" {
        let problem = format!("{kind:?} is not offered");
        return Err(encoding.wrong("encoding_type", problem, "Use absolute_coordinates_encoding"));
    }
    let used = encoding.texts("used_feature_list")?;
    let place = ["x", "y", "z"].map(String::from);
    // The place comes first, whatever the order of the list.
    let others = used.into_iter().filter(|name| !place.contains(name));
    let used_features: Vec<String> = place.iter().cloned().chain(others).collect();
    let mut get_items = Vec::new();
    for item in config.texts_or("GET_ITEM_LIST", &["points"])? {
        match item.as_str() {
            // Matrices are made of the calibration, which every batch has.
            "points" | "calib_matricies" => {}
            "images" => get_items.push(Item::Images),
            "depth_maps" => get_items.push(Item::DepthMaps),
            "gt_boxes2d" => get_items.push(Item::GtBoxes2d),
            other => return Err(config.wrong("GET_ITEM_LIST", format!("{other:?} is not offered"), "Leave it out")),
        }
    }
    let mut process = Vec::new();
    for step in config.sections("DATA_PROCESSOR")? {
        process.extend(process_step(&step)?);
    }
    let options = LidarOptions {
        layout,
        class_names: class_names.to_vec(),
        point_cloud_range: config.numbers("POINT_CLOUD_RANGE")?,
        fov_points_only: layout == Layout::Kitti && config.flag_or("FOV_POINTS_ONLY", false)?,
        get_items,
        src_features: encoding.texts("src_feature_list")?,
        used_features,
        augment: augmentation(&config)?,
        process,
        late_epoch: 0,
        late_disabled: Vec::new(),
    };
    options.check()?;
    Ok(options)
}

fn augmentation(config: &Section<'_>) -> Result<Vec<Augment>> {
    let Some(said) = config.values.get("DATA_AUGMENTOR") else { return Ok(Vec::new()) };
    let (steps, disabled) = match said {
        Value::Array(_) => (config.sections("DATA_AUGMENTOR")?, Vec::new()),
        _ => {
            let augmentor = config.section("DATA_AUGMENTOR")?;
            (augmentor.sections("AUG_CONFIG_LIST")?, augmentor.texts_or("DISABLE_AUG_LIST", &[])?)
        }
    };
    let mut augment = Vec::new();
    for step in steps {
        if !disabled.contains(&step.text("NAME")?) {
            augment.push(augment_step(&step)?);
        }
    }
    Ok(augment)
}

fn augment_step(step: &Section<'_>) -> Result<Augment> {
    let name = step.text("NAME")?;
    Ok(match name.as_str() {
        "gt_sampling" => gt_sampling(step)?,
        "random_world_flip" => {
            step.only(&["ALONG_AXIS_LIST"])?;
            Augment::RandomWorldFlip { along_axis: step.axes("ALONG_AXIS_LIST")? }
        }
        "random_world_rotation" => {
            step.only(&["WORLD_ROT_ANGLE"])?;
            Augment::RandomWorldRotation { angle_rad: step.range("WORLD_ROT_ANGLE")? }
        }
        "random_world_scaling" => {
            step.only(&["WORLD_SCALE_RANGE"])?;
            Augment::RandomWorldScaling { factor: step.numbers("WORLD_SCALE_RANGE")? }
        }
        "random_world_translation" => {
            step.only(&["NOISE_TRANSLATE_STD"])?;
            let std_m = match step.get("NOISE_TRANSLATE_STD")?.as_f64() {
                Some(std) => [std; 3],
                None => step.numbers("NOISE_TRANSLATE_STD")?,
            };
            Augment::RandomWorldTranslation { std_m }
        }
        "random_local_rotation" => {
            step.only(&["LOCAL_ROT_ANGLE"])?;
            Augment::RandomLocalRotation { angle_rad: step.range("LOCAL_ROT_ANGLE")? }
        }
        "random_local_scaling" => {
            step.only(&["LOCAL_SCALE_RANGE"])?;
            Augment::RandomLocalScaling { factor: step.numbers("LOCAL_SCALE_RANGE")? }
        }
        "random_local_translation" => {
            step.only(&["ALONG_AXIS_LIST", "LOCAL_TRANSLATION_RANGE"])?;
            Augment::RandomLocalTranslation {
                along_axis: step.axes("ALONG_AXIS_LIST")?,
                offset_m: step.numbers("LOCAL_TRANSLATION_RANGE")?,
            }
        }
        _ => {
            return Err(step.wrong(
                "NAME",
                format!("{name:?} is not offered"),
                "Leave it out, or name it in DISABLE_AUG_LIST. There are gt_sampling, random_world_flip, _rotation, _scaling, \
                 _translation and random_local_rotation, _scaling, _translation",
            ));
        }
    })
}

fn gt_sampling(step: &Section<'_>) -> Result<Augment> {
    step.only(&[
        "USE_ROAD_PLANE",
        "DB_INFO_PATH",
        "PREPARE",
        "SAMPLE_GROUPS",
        "NUM_POINT_FEATURES",
        "DATABASE_WITH_FAKELIDAR",
        "REMOVE_EXTRA_WIDTH",
        "LIMIT_WHOLE_SCENE",
        // The original's options for keeping objects in memory.
        "USE_SHARED_MEMORY",
        "DB_DATA_PATH",
        "BACKUP_DB_INFO",
    ])?;
    if step.flag_or("DATABASE_WITH_FAKELIDAR", false)? {
        return Err(step.wrong("DATABASE_WITH_FAKELIDAR", "it is not offered".into(), "Set it to False"));
    }
    let (mut least, mut removed_difficulties) = (Vec::new(), Vec::new());
    if step.values.contains_key("PREPARE") {
        let prepare = step.section("PREPARE")?;
        prepare.only(&["filter_by_min_points", "filter_by_difficulty"])?;
        if prepare.values.contains_key("filter_by_min_points") {
            least = prepare.counts("filter_by_min_points")?;
        }
        if let Some(values) = prepare.values.get("filter_by_difficulty") {
            let values = values.as_array().map(|values| {
                values.iter().map(|value| i32::try_from(value.as_i64()?).ok()).collect::<Option<Vec<_>>>()
            });
            let Some(Some(values)) = values else {
                let problem = "it is no list of whole numbers".to_string();
                return Err(prepare.wrong("filter_by_difficulty", problem, "Write [-1]"));
            };
            removed_difficulties = values;
        }
    }
    let group = |(name, count): (String, u64)| {
        let min_points = least.iter().find(|(known, _)| *known == name).map_or(0, |(_, least)| *least);
        SampleGroup { name, count, min_points }
    };
    Ok(Augment::GtSampling {
        db_info_path: step.texts("DB_INFO_PATH")?,
        sample_groups: step.counts("SAMPLE_GROUPS")?.into_iter().map(group).collect(),
        removed_difficulties,
        use_road_plane: step.flag_or("USE_ROAD_PLANE", false)?,
        limit_whole_scene: step.flag_or("LIMIT_WHOLE_SCENE", false)?,
        remove_extra_width: match step.values.contains_key("REMOVE_EXTRA_WIDTH") {
            true => step.numbers("REMOVE_EXTRA_WIDTH")?,
            false => [0.0; 3],
        },
    })
}

fn process_step(step: &Section<'_>) -> Result<Option<Process>> {
    let name = step.text("NAME")?;
    Ok(Some(match name.as_str() {
        "mask_points_and_boxes_outside_range" => {
            step.only(&["REMOVE_OUTSIDE_BOXES"])?;
            Process::MaskPointsAndBoxesOutsideRange {
                remove_outside_boxes: step.flag_or("REMOVE_OUTSIDE_BOXES", false)?,
            }
        }
        "shuffle_points" => {
            step.only(&["SHUFFLE_ENABLED"])?;
            Process::ShufflePoints { enabled: step.per_mode("SHUFFLE_ENABLED", Value::as_bool, "True or False")? }
        }
        "sample_points" => {
            step.only(&["NUM_POINTS"])?;
            Process::SamplePoints { num_points: step.per_mode("NUM_POINTS", Value::as_i64, "a whole number")? }
        }
        "transform_points_to_voxels" => {
            step.only(&["VOXEL_SIZE", "MAX_POINTS_PER_VOXEL", "MAX_NUMBER_OF_VOXELS"])?;
            let count = |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok());
            let Some(max_points_per_voxel) = count(step.get("MAX_POINTS_PER_VOXEL")?) else {
                let problem = "it is no whole number".to_string();
                return Err(step.wrong("MAX_POINTS_PER_VOXEL", problem, "Write how many points a voxel may hold"));
            };
            Process::TransformPointsToVoxels {
                voxel_size: step.numbers("VOXEL_SIZE")?,
                max_points_per_voxel,
                max_number_of_voxels: step.per_mode("MAX_NUMBER_OF_VOXELS", count, "a whole number")?,
            }
        }
        "calculate_grid_size" | "transform_points_to_voxels_placeholder" => {
            step.only(&["VOXEL_SIZE"])?;
            Process::CalculateGridSize { voxel_size: step.numbers("VOXEL_SIZE")? }
        }
        _ => {
            return Err(step.wrong(
                "NAME",
                format!("{name:?} is not offered"),
                "There are mask_points_and_boxes_outside_range, shuffle_points, sample_points, transform_points_to_voxels and \
                 calculate_grid_size",
            ));
        }
    }))
}

/// A mapping of the settings, and how it is called.
struct Section<'v> {
    name: String,
    values: &'v Map<String, Value>,
}

impl<'v> Section<'v> {
    fn new(name: &str, value: &'v Value) -> Result<Section<'v>> {
        match value {
            Value::Object(values) => {
                let step = values.get("NAME").and_then(Value::as_str);
                Ok(Section { name: step.map_or(name.into(), |step| format!("{name} {step}")), values })
            }
            _ => Err(Error::config(format!("{name} is {value}, not a mapping"), "Write keys and values")),
        }
    }

    fn wrong(&self, key: &str, problem: String, remedy: &str) -> Error {
        Error::config(format!("{}: {key}: {problem}", self.name), remedy)
    }

    fn get(&self, key: &str) -> Result<&'v Value> {
        self.values
            .get(key)
            .ok_or_else(|| self.wrong(key, "it is missing".into(), "Add it, as kitti_dataset.yaml has it"))
    }

    /// Checks that a step has no other keys than these.
    fn only(&self, known: &[&str]) -> Result<()> {
        match self.values.keys().find(|key| *key != "NAME" && !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                Err(self.wrong(key, "the key is unknown".into(), &format!("Known there: {}", known.join(", "))))
            }
        }
    }

    fn section(&self, key: &str) -> Result<Section<'v>> {
        Section::new(&format!("{}.{key}", self.name), self.get(key)?)
    }

    fn sections(&self, key: &str) -> Result<Vec<Section<'v>>> {
        match self.get(key)? {
            Value::Array(values) => values.iter().map(|value| Section::new(key, value)).collect(),
            other => Err(self.wrong(key, format!("it is {other}"), "Write a list of steps with a NAME each")),
        }
    }

    fn text(&self, key: &str) -> Result<String> {
        match self.get(key)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong(key, format!("it is {other}, not a text"), "Write a name")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let values = self.get(key)?.as_array();
        let texts = values.and_then(|values| values.iter().map(|value| value.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.wrong(key, "it is no list of names".into(), "Write [one, another]"))
    }

    fn texts_or(&self, key: &str, default: &[&str]) -> Result<Vec<String>> {
        match self.values.contains_key(key) {
            true => self.texts(key),
            false => Ok(default.iter().map(|name| name.to_string()).collect()),
        }
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, format!("it is {other}"), "Write True or False")),
        }
    }

    fn numbers<const N: usize>(&self, key: &str) -> Result<[f64; N]> {
        let values = self.get(key)?.as_array();
        let numbers = values.and_then(|values| values.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
        let numbers = numbers.and_then(|numbers| <[f64; N]>::try_from(numbers).ok());
        numbers.ok_or_else(|| self.wrong(key, format!("it is no list of {N} numbers"), "Correct it"))
    }

    /// Two numbers, or one that stands for both its signs.
    fn range(&self, key: &str) -> Result<[f64; 2]> {
        match self.get(key)?.as_f64() {
            Some(most) => Ok([-most, most]),
            None => self.numbers(key),
        }
    }

    fn axes(&self, key: &str) -> Result<Vec<Axis>> {
        let axis = |name: String| match name.as_str() {
            "x" => Ok(Axis::X),
            "y" => Ok(Axis::Y),
            "z" => Ok(Axis::Z),
            other => Err(self.wrong(key, format!("{other:?} is no axis"), "Use x, y, z")),
        };
        self.texts(key)?.into_iter().map(axis).collect()
    }

    /// `Car:5` as a name and a number.
    fn counts(&self, key: &str) -> Result<Vec<(String, u64)>> {
        let count = |text: String| {
            let parts = text.rsplit_once(':').and_then(|(name, count)| Some((name.into(), count.trim().parse().ok()?)));
            parts.ok_or_else(|| self.wrong(key, format!("{text:?} is no class with a number"), "Write 'Car:5'"))
        };
        self.texts(key)?.into_iter().map(count).collect()
    }

    fn per_mode<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>, what: &str) -> Result<PerMode<T>> {
        let modes = self.section(key)?;
        let of = |mode: &str| {
            let value = modes.get(mode)?;
            read(value).ok_or_else(|| modes.wrong(mode, format!("it is {value}"), &format!("Write {what}")))
        };
        Ok(PerMode { train: of("train")?, test: of("test")? })
    }
}
