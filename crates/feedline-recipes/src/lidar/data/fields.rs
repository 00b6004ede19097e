//! The fields of a sample, as its options have them.

use super::options::{Augment, Axis, Grid, Item, Layout, LidarOptions, Process};
use feedline::{DType, FieldSpec};

/// The fields of a sample.
pub(super) fn fields(training: bool, options: &LidarOptions, grid: Option<Grid>, labelled: bool) -> Vec<FieldSpec> {
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
