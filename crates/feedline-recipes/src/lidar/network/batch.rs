//! The network's inputs from a batch: the fields by name, checked, and the features of each point. Owns these features; the
//! network's layers belong to `model`.

use super::forward::Inputs;
use feedline::augment::boxes::Box3d;
use feedline::augment::voxels::Grid;
use feedline::{Array, Batch, BatchField, DType, Error, Result};

/// Numbers of a point as the network sees it that are computed from others: its place relative to the mean of its pillar and
/// to the middle of it.
pub(super) const COMPUTED: usize = 6;

/// The objects of a frame, with their classes from 0.
pub(super) type Objects = Vec<(Box3d, usize)>;

/// The network's inputs for the leading `samples` of `batch`: for each point its `columns` numbers, with x, y, z scaled to
/// -1..1 over the range, and then [`COMPUTED`] more in units of a pillar, as in PointPillars' encoder.
pub(super) fn inputs(batch: &Batch, samples: usize, grid: &Grid, columns: usize) -> Result<Inputs> {
    let most = grid.max_points_per_voxel;
    let (voxels, offsets) = joined(batch, "voxels", DType::F32, &[most, columns])?;
    let (coords, _) = joined(batch, "voxel_coords", DType::I32, &[4])?;
    let (counts, _) = joined(batch, "voxel_num_points", DType::I32, &[])?;
    let pillars = offsets.as_slice::<i64>()[samples] as usize;
    let [nx, ny, _] = grid.size;
    let mut inputs = Inputs {
        samples,
        pillars,
        points: vec![0.0; (columns + COMPUTED) * pillars * most],
        mask: vec![0.0; pillars * most],
        pillar_at: vec![pillars as i64; samples * ny * nx],
    };
    let side = grid.voxel_size.map(|side| side as f32);
    let half: [f32; 3] = std::array::from_fn(|axis| ((grid.range[axis + 3] - grid.range[axis]) / 2.0) as f32);
    let middle: [f32; 3] = std::array::from_fn(|axis| ((grid.range[axis + 3] + grid.range[axis]) / 2.0) as f32);
    let rows = pillars * most;
    let numbers = voxels.as_slice::<f32>().chunks_exact(most * columns);
    let places = coords.as_slice::<i32>().chunks_exact(4);
    for (pillar, ((points, place), count)) in
        numbers.zip(places).zip(counts.as_slice::<i32>()).take(pillars).enumerate()
    {
        let [sample, _, y, x] = [place[0], place[1], place[2], place[3]].map(|value| value as usize);
        let count = *count as usize;
        if sample >= samples || y >= ny || x >= nx || !(1..=most).contains(&count) {
            return Err(misfit(format!("voxel {pillar} with {count} points is at {place:?} (sample, z, y, x)")));
        }
        inputs.pillar_at[(sample * ny + y) * nx + x] = pillar as i64;
        let points = &points[..count * columns];
        let own: [f32; 3] = std::array::from_fn(|axis| {
            let at = if axis == 0 { x } else { y } as f32;
            if axis == 2 { middle[2] } else { (at + 0.5) * side[axis] + grid.range[axis] as f32 }
        });
        let mean: [f32; 3] =
            std::array::from_fn(|axis| points.iter().skip(axis).step_by(columns).sum::<f32>() / count as f32);
        for (at, point) in points.chunks_exact(columns).enumerate() {
            let row = pillar * most + at;
            inputs.mask[row] = 1.0;
            for (column, value) in point.iter().enumerate() {
                inputs.points[column * rows + row] =
                    if column < 3 { (value - middle[column]) / half[column] } else { *value };
            }
            for axis in 0..3 {
                inputs.points[(columns + axis) * rows + row] = (point[axis] - mean[axis]) / side[axis];
                inputs.points[(columns + 3 + axis) * rows + row] = (point[axis] - own[axis]) / side[axis];
            }
        }
    }
    Ok(inputs)
}

/// The objects of the leading `samples` of `batch`, of `classes` classes.
pub(super) fn objects(batch: &Batch, samples: usize, classes: usize) -> Result<Vec<Objects>> {
    let Some(BatchField::Pad { values, counts }) = batch.field("gt_boxes") else {
        return Err(misfit("there is no field \"gt_boxes\" of padded rows".into()));
    };
    if values.dtype() != DType::F32 || values.shape().len() != 3 || values.shape()[2] != 8 {
        return Err(misfit(format!("field \"gt_boxes\" is {:?} {:?}", values.dtype(), values.shape())));
    }
    let rows = values.as_slice::<f32>().chunks_exact(values.shape()[1].max(1) * 8);
    // No row at all is no chunk at all.
    let rows = rows.map(Some).chain(std::iter::repeat(None));
    let counts = counts.as_slice::<i64>();
    rows.zip(counts)
        .take(samples)
        .map(|(rows, count)| {
            let rows = rows.unwrap_or_default().chunks_exact(8).take(*count as usize);
            rows.map(|row| {
                let own: [f64; 7] = std::array::from_fn(|at| f64::from(row[at]));
                let class = row[7];
                if !(class >= 1.0 && class <= classes as f32 && class.fract() == 0.0) {
                    return Err(misfit(format!("a box has class {class}, but there are {classes} classes")));
                }
                if own.iter().any(|value| !value.is_finite()) || own[3..6].iter().any(|side| *side <= 0.0) {
                    return Err(misfit(format!("a box is {own:?} (x, y, z, dx, dy, dz, heading)")));
                }
                Ok((Box3d::from(own), class as usize - 1))
            })
            .collect()
        })
        .collect()
}

/// A field of joined rows and where each sample's begin.
fn joined<'b>(batch: &'b Batch, name: &str, dtype: DType, row: &[usize]) -> Result<(&'b Array, &'b Array)> {
    match batch.field(name) {
        Some(BatchField::Concat { values, offsets }) if values.dtype() == dtype && &values.shape()[1..] == row => {
            Ok((values, offsets))
        }
        Some(BatchField::Concat { values, .. }) => Err(misfit(format!(
            "field {name:?} is {:?} {:?}, not {dtype:?} [V, {row:?}]",
            values.dtype(),
            values.shape()
        ))),
        _ => Err(misfit(format!("there is no field {name:?} of joined rows"))),
    }
}

fn misfit(problem: String) -> Error {
    Error::train(problem, "Use the lidar pipeline with the classes, range and voxels of the network")
}
