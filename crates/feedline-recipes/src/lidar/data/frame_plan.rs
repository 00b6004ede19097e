//! The plan of a frame: all that can be said of it before a byte is read. Which frame it is, which objects of others are
//! pasted, how everything is moved, and the boxes that come of it. A pure function of the request, so that reading gets exactly
//! the points that are needed, and making comes to the same result.

use super::camera::Camera;
use super::database::Database;
use super::frame::{Calib, Frame};
use super::options::{Augment, Axis, LidarOptions, Process, SampleGroup};
use feedline::augment::boxes::{Bounds, Box3d, wrapped};
use feedline::augment::points::Affine;
use feedline::plan::Request;
use feedline::{Error, Result};

/// Frames that are drawn in place of one without a box, before it is given up.
const MAX_DRAWS: u64 = 32;

/// All that can be said of a frame before its points are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FramePlan {
    /// The place it fills, with the frame as its index: what all randomness is keyed by.
    pub(super) request: Request,
    pub(super) boxes: Vec<PlannedBox>,
    /// The transforms of the points, in order.
    pub(super) transforms: Vec<PointTransform>,
    pub(super) drawn: Drawn,
}

/// A box and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlannedBox {
    pub(super) bounds: Box3d,
    /// From 1; 0 for a class that does not count.
    pub(super) class: u32,
    pub(super) pasted: bool,
    /// Its number among the labels of the frame.
    pub(super) label: usize,
}

/// A transform of points.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PointTransform {
    /// Points in the boxes are removed, those of the objects come first.
    Paste(Vec<Pasted>),
    All(Affine),
    /// One after the other.
    Inside(Vec<(Bounds, Affine)>),
}

/// A pasted object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pasted {
    /// Its number in the data base.
    pub(super) object: u32,
    /// The place that its points are relative to.
    pub(super) center: [f64; 3],
    /// The box in which points of the scene are removed.
    pub(super) cleared: Box3d,
}

/// The numbers that were drawn, as OpenPCDet names them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drawn {
    pub(super) matrix: Affine,
    pub(super) flip_x: bool,
    pub(super) flip_y: bool,
    pub(super) noise_rot: f64,
    pub(super) noise_scale: f64,
    pub(super) noise_translate: [f64; 3],
}

impl Default for Drawn {
    fn default() -> Drawn {
        Drawn {
            matrix: Affine::default(),
            flip_x: false,
            flip_y: false,
            noise_rot: 0.0,
            noise_scale: 1.0,
            noise_translate: [0.0; 3],
        }
    }
}

/// Makes the plans of frames from what is known of all of them.
#[derive(Debug)]
pub(super) struct FramePlanner {
    pub(super) frames: Vec<Frame>,
    /// The labelled boxes of each frame.
    pub(super) boxes: Vec<Vec<PlannedBox>>,
    pub(super) options: LidarOptions,
    pub(super) training: bool,
    /// For each step of the augmentation that pastes.
    pub(super) databases: Vec<Option<Database>>,
    /// The random stream of each step.
    pub(super) streams: Vec<String>,
}

impl FramePlanner {
    /// Names of the random streams: of the step and how often it stands before, so that leaving one out changes no other.
    pub(super) fn streams(options: &LidarOptions) -> Vec<String> {
        let named = |(at, step): (usize, &Augment)| {
            let before = options.augment[..at].iter().filter(|other| other.name() == step.name()).count();
            format!("augment.{}.{before}", step.name())
        };
        options.augment.iter().enumerate().map(named).collect()
    }

    /// The plan of a place. In training, a frame that has no box in the end is given up for another, which depends on (seed,
    /// epoch, position) alone.
    ///
    /// # Errors
    /// Too many frames in a row without a box, and why they have none.
    pub(super) fn plan(&self, request: &Request) -> Result<FramePlan> {
        let (mut unlabelled, mut outside) = (0, 0);
        for draw in 0..MAX_DRAWS {
            let request = match draw {
                0 => *request,
                _ => request.replacement(draw - 1, self.frames.len() as u64),
            };
            let plan = self.of_frame(&request);
            if !self.training || !plan.boxes.is_empty() {
                return Ok(plan);
            }
            match self.boxes[request.index as usize].iter().any(|own| own.class > 0) {
                true => outside += 1,
                false => unlabelled += 1,
            }
        }
        Err(Error::config(
            format!(
                "of {MAX_DRAWS} frames that were drawn none has a box: {unlabelled} have no label of {:?}, {outside} none in the \
                 range {:?}",
                self.options.class_names, self.options.point_cloud_range
            ),
            "Check CLASS_NAMES and POINT_CLOUD_RANGE against the labels",
        ))
    }

    /// True if a step is left out at this position: from `late_epoch` on. If epochs are merged into one, they are counted by
    /// the number of frames.
    fn is_off(&self, request: &Request, step: &Augment) -> bool {
        let merged = (request.position / self.frames.len() as u64).saturating_sub(u64::from(request.padded));
        self.options.late_epoch > 0
            && request.epoch + merged >= self.options.late_epoch
            && self.options.late_disabled.iter().any(|name| name == step.name())
    }

    fn of_frame(&self, request: &Request) -> FramePlan {
        let mut plan = FramePlan {
            request: *request,
            boxes: self.boxes[request.index as usize].clone(),
            transforms: Vec::new(),
            drawn: Drawn::default(),
        };
        if self.training {
            for (at, step) in self.options.augment.iter().enumerate() {
                if !self.is_off(request, step) {
                    self.augment(at, step, &mut plan);
                }
            }
            plan.boxes.iter_mut().for_each(|own| own.bounds.heading = wrapped(own.bounds.heading));
        }
        plan.boxes.retain(|own| own.class > 0);
        let masked = self
            .options
            .process
            .iter()
            .any(|step| matches!(step, Process::MaskPointsAndBoxesOutsideRange { remove_outside_boxes: true }));
        if self.training && masked {
            let range = self.options.point_cloud_range;
            plan.boxes.retain(|PlannedBox { bounds: Box3d { center, .. }, .. }| {
                (0..3).all(|axis| (range[axis]..=range[axis + 3]).contains(&center[axis]))
            });
        }
        plan
    }

    fn augment(&self, at: usize, step: &Augment, plan: &mut FramePlan) {
        let stream = &self.streams[at];
        let mut rng = plan.request.rng(stream);
        match step {
            Augment::GtSampling { sample_groups, use_road_plane, limit_whole_scene, remove_extra_width, .. } => {
                let Some(database) = &self.databases[at] else { return };
                let mut pasted = Vec::new();
                for (group, settings) in sample_groups.iter().enumerate() {
                    self.paste(database, (group, settings), stream, *limit_whole_scene, plan, &mut pasted);
                }
                if *use_road_plane {
                    self.put_on_ground(plan, &mut pasted);
                }
                for own in &mut pasted {
                    (0..3).for_each(|axis| own.cleared.size[axis] += remove_extra_width[axis]);
                }
                if !pasted.is_empty() {
                    plan.transforms.push(PointTransform::Paste(pasted));
                }
            }
            Augment::RandomWorldFlip { along_axis } => {
                for axis in along_axis {
                    if !rng.chance(0.5) {
                        continue;
                    }
                    let drawn = &mut plan.drawn;
                    let is_x = *axis == Axis::X;
                    let flag = if is_x { &mut drawn.flip_x } else { &mut drawn.flip_y };
                    *flag = !*flag;
                    plan.all(Affine::scaling(if is_x { [1.0, -1.0, 1.0] } else { [-1.0, 1.0, 1.0] }));
                    for own in &mut plan.boxes {
                        let heading = &mut own.bounds.heading;
                        *heading = -*heading - if is_x { 0.0 } else { std::f64::consts::PI };
                    }
                }
            }
            Augment::RandomWorldRotation { angle_rad: [low, high] } => {
                let angle = rng.uniform(*low, *high);
                plan.drawn.noise_rot += angle;
                plan.all(Affine::rotation(angle));
                plan.boxes.iter_mut().for_each(|own| own.bounds.heading += angle);
            }
            Augment::RandomWorldScaling { factor: [low, high] } => {
                let factor = rng.uniform(*low, *high);
                plan.drawn.noise_scale *= factor;
                plan.all(Affine::scaling([factor; 3]));
                plan.boxes.iter_mut().for_each(|own| own.bounds.size = own.bounds.size.map(|side| side * factor));
            }
            Augment::RandomWorldTranslation { std_m } => {
                let shift = std_m.map(|std| std * rng.normal());
                (0..3).for_each(|axis| plan.drawn.noise_translate[axis] += shift[axis]);
                plan.all(Affine::translation(shift));
            }
            Augment::RandomLocalRotation { angle_rad: [low, high] } => plan.each(|own| {
                let angle = rng.uniform(*low, *high);
                let turn = Affine::rotation(angle).about(own.center);
                own.heading += angle;
                turn
            }),
            Augment::RandomLocalScaling { factor: [low, high] } => plan.each(|own| {
                let factor = rng.uniform(*low, *high);
                own.size = own.size.map(|side| side * factor);
                Affine::scaling([factor; 3]).about(own.center)
            }),
            Augment::RandomLocalTranslation { along_axis, offset_m: [low, high] } => plan.each(|own| {
                let mut shift = [0.0; 3];
                for axis in along_axis {
                    shift[*axis as usize] += rng.uniform(*low, *high);
                }
                (0..3).for_each(|axis| own.center[axis] += shift[axis]);
                Affine::translation(shift)
            }),
        }
    }

    /// Draws objects of a group and keeps those that touch neither a box that is there nor another one drawn with them.
    fn paste(
        &self,
        database: &Database,
        (group, settings): (usize, &SampleGroup),
        stream: &str,
        limit_whole_scene: bool,
        plan: &mut FramePlan,
        pasted: &mut Vec<Pasted>,
    ) {
        let class = self.options.class_names.iter().position(|name| *name == settings.name);
        let frame = &self.frames[plan.request.index as usize];
        let mut count = settings.count;
        if limit_whole_scene {
            let names = frame.annos.iter().flat_map(|annos| &annos.name);
            count = count.saturating_sub(names.filter(|name| **name == settings.name).count() as u64);
        }
        let mut rng = plan.request.rng(&format!("{stream}.{}", settings.name));
        let objects = database.drawn(group, count, &mut rng);
        let candidate = |object: u32| &database.objects[object as usize].box3d_lidar;
        let fits = |&object: &u32| {
            let bounds = candidate(object);
            !plan.boxes.iter().any(|own| own.bounds.overlaps_xy(bounds))
                && !objects.iter().any(|&other| other != object && candidate(other).overlaps_xy(bounds))
        };
        let objects: Vec<u32> = objects.iter().copied().filter(fits).collect();
        for object in objects {
            let bounds = *candidate(object);
            let class = class.map_or(0, |class| class as u32 + 1);
            plan.boxes.push(PlannedBox { bounds, class, pasted: true, label: usize::MAX });
            pasted.push(Pasted { object, center: bounds.center, cleared: bounds });
        }
    }

    /// Lowers or lifts pasted objects to the ground, which is known in camera coordinates.
    fn put_on_ground(&self, plan: &mut FramePlan, pasted: &mut [Pasted]) {
        let frame = &self.frames[plan.request.index as usize];
        let (Some(plane), Some(calib)) = (frame.road_plane, &frame.calib) else { return };
        let first = plan.boxes.len() - pasted.len();
        for (own, pasted) in plan.boxes[first..].iter_mut().zip(pasted) {
            let lift = lift_to_ground(&own.bounds, plane, calib);
            own.bounds.center[2] += lift;
            pasted.center[2] += lift;
            pasted.cleared.center[2] += lift;
        }
    }
}

/// Gives the lift in metres by which a box stands on the ground.
fn lift_to_ground(bounds: &Box3d, [a, b, c, d]: [f64; 4], calib: &Calib) -> f64 {
    let camera = Camera::new(calib);
    let [x, _, z] = camera.lidar_to_rect.place(bounds.center);
    let ground = camera.rect_to_lidar.place([x, (-d - a * x - c * z) / b, z]);
    ground[2] - (bounds.center[2] - bounds.size[2] / 2.0)
}

impl FramePlan {
    /// Moves everything: points, and the middles of the boxes.
    fn all(&mut self, map: Affine) {
        self.drawn.matrix = self.drawn.matrix.then(&map);
        self.boxes.iter_mut().for_each(|own| own.bounds.center = map.place(own.bounds.center));
        // One map of many points costs less than two, and rounds once.
        match self.transforms.last_mut() {
            Some(PointTransform::All(before)) => *before = before.then(&map),
            _ => self.transforms.push(PointTransform::All(map)),
        }
    }

    /// Moves each box, and the points in it.
    fn each(&mut self, mut change: impl FnMut(&mut Box3d) -> Affine) {
        let transforms = self.boxes.iter_mut().map(|own| (own.bounds.bounds(), change(&mut own.bounds))).collect();
        self.transforms.push(PointTransform::Inside(transforms));
    }

    /// The objects that are pasted, in the order in which their points are read.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Pasted> {
        self.transforms.iter().flat_map(|step| match step {
            PointTransform::Paste(pasted) => pasted.as_slice(),
            _ => &[],
        })
    }
}
