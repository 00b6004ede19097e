//! Slopes against differences, and what a network that is right or wrong costs.

use super::*;
use crate::lidar::config::AnchorConfig;
use feedline::augment::voxels::Grid;
use feedline::plan::rng::SampleRng;

fn anchors() -> Anchors {
    let classes = [
        AnchorConfig { size_m: [3.9, 1.6, 1.56], bottom_m: -1.78, matched: 0.6, unmatched: 0.45 },
        AnchorConfig { size_m: [0.8, 0.6, 1.73], bottom_m: -1.78, matched: 0.5, unmatched: 0.35 },
    ];
    let grid = Grid::new([0.0, -3.2, -3.0, 6.4, 3.2, 1.0], [0.4, 0.4, 4.0], 20).unwrap();
    Anchors::new(&classes, &grid, [8, 8])
}

fn objects() -> Vec<(Box3d, usize)> {
    vec![
        (Box3d { center: [3.1, 0.3, -1.0], size: [4.1, 1.7, 1.5], heading: 0.2 }, 0),
        (Box3d { center: [5.2, -2.0, -0.9], size: [0.7, 0.7, 1.8], heading: -2.5 }, 1),
    ]
}

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = SampleRng::new(seed, 0, 0, "outputs");
    (0..count).map(|_| rng.normal() as f32).collect()
}

#[test]
fn slopes_are_differences_of_the_loss() {
    let (anchors, objects) = (anchors(), objects());
    let outputs = random(1, outputs_per_frame(&anchors));
    let mut slopes = outputs.clone();
    sample_loss(&mut slopes, &anchors, &objects);
    let mut told = 0;
    for at in 0..outputs.len() {
        let moved = |by: f32| {
            let mut outputs = outputs.clone();
            outputs[at] += by;
            sample_loss(&mut outputs, &anchors, &objects)
        };
        let step = 1.0 / 1024.0;
        let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        assert!((slope - f64::from(slopes[at])).abs() < 1e-4 + 2e-3 * slope.abs(), "{at}: {slope} {}", slopes[at]);
        told += u32::from(slope.abs() > 1e-4);
    }
    assert!(told > 30, "{told}");
}

/// Numbers that say these objects at the anchors that are theirs, and nothing elsewhere.
fn right(anchors: &Anchors, objects: &[(Box3d, usize)], logit: f32) -> Vec<f32> {
    let mut outputs = vec![0.0; outputs_per_frame(anchors)];
    for (anchor, aim) in anchors.aims(objects).into_iter().enumerate() {
        let (first, step) = place(anchors, anchor);
        outputs[first] = -logit;
        let Aim::Object(number) = aim else { continue };
        outputs[first] = logit;
        let own = &objects[number].0;
        for (at, value) in encode(own, &anchors.get(anchor)).into_iter().enumerate() {
            // Half a turn more, which the direction takes back.
            outputs[first + (1 + at) * step] = value as f32 + if at == 6 { std::f32::consts::PI } else { 0.0 };
        }
        outputs[first + (8 + direction(own.heading)) * step] = 20.0;
    }
    outputs
}

#[test]
fn what_is_right_costs_next_to_nothing_and_is_read_back() {
    let (anchors, objects) = (anchors(), objects());
    let outputs = right(&anchors, &objects, 20.0);
    assert!(sample_loss(&mut outputs.clone(), &anchors, &objects) < 1e-3);
    let found = detections(&outputs, &anchors, 0.5, 1000);
    assert!(found.len() >= 2 && found.windows(2).all(|pair| pair[0].score >= pair[1].score), "{found:?}");
    for one in &found {
        let own: [f64; 7] = objects.iter().find(|(_, class)| *class == one.class).unwrap().0.into();
        let read: [f64; 7] = one.bounds.into();
        assert!((0..7).all(|at| (own[at] - read[at]).abs() < 1e-5), "{own:?} {read:?}");
    }
    assert_eq!(detections(&outputs, &anchors, 0.5, 1).len(), 1);
    assert!(detections(&outputs, &anchors, 1.0, 10).is_empty(), "no score is 1");
    assert!(sample_loss(&mut right(&anchors, &objects, -20.0), &anchors, &objects) > 10.0);
}

#[test]
fn frames_without_objects_and_numbers_that_are_none_have_a_loss_of_their_own() {
    let anchors = anchors();
    let mut outputs = random(2, outputs_per_frame(&anchors));
    assert!(sample_loss(&mut outputs, &anchors, &[]) > 0.0);
    let scores: Vec<bool> =
        (0..anchors.per_place() * anchors.places()).map(|anchor| outputs[place(&anchors, anchor).0] > 0.0).collect();
    assert!(scores.iter().all(|is_pushed_down| *is_pushed_down));
    for value in [f32::NAN, f32::INFINITY] {
        let mut outputs = random(3, outputs_per_frame(&anchors));
        outputs.iter_mut().for_each(|output| *output = value);
        assert!(!sample_loss(&mut outputs.clone(), &anchors, &objects()).is_finite());
        assert!(detections(&outputs, &anchors, 0.1, 100).is_empty());
    }
}
