//! Tests of the figures: overlaps against counted places, suppression against every pair, and cases worked out by hand. That
//! whole data sets get the figures of KITTI's definition is tested in Python, against a second implementation.

use super::super::data::frame::{self, Annos, Frame};
use super::super::data::predictions;
use super::*;
use feedline::augment::boxes::Box3d;
use feedline::plan::rng::SampleRng;
use std::f64::consts::{FRAC_PI_2, PI};

fn drawn(rng: &mut SampleRng) -> Box3d {
    let center = [rng.uniform(-2.0, 2.0), rng.uniform(-2.0, 2.0), rng.uniform(-0.5, 0.5)];
    let size = [rng.uniform(0.5, 4.0), rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0)];
    Box3d { center, size, heading: rng.uniform(-7.0, 7.0) }
}

/// Intersection over union by the places of a fine grid.
fn counted(one: &Box3d, other: &Box3d) -> f64 {
    let (mut both, mut either) = (0, 0);
    for at in 0..400 * 400 {
        let point = [at % 400, at / 400].map(|step| (step as f32 + 0.5) / 400.0 * 10.0 - 5.0);
        let [a, b] = [one, other].map(|own| own.bounds().contains([point[0], point[1], own.center[2] as f32]));
        both += usize::from(a && b);
        either += usize::from(a || b);
    }
    both as f64 / f64::from(either.max(1) as u32)
}

#[test]
fn overlaps_are_the_counted_ones() {
    let mut rng = SampleRng::new(1, 0, 0, "iou");
    let mut apart = 0;
    for _ in 0..60 {
        let (one, other) = (drawn(&mut rng), drawn(&mut rng));
        let iou = iou_bev(&one, &other);
        assert!((iou - counted(&one, &other)).abs() < 0.02, "{iou} {one:?} {other:?}");
        assert!((iou - iou_bev(&other, &one)).abs() < 1e-12);
        // Turned and moved together, they overlap as before.
        let (turn, away) = (rng.uniform(-4.0, 4.0), [rng.uniform(-50.0, 50.0), rng.uniform(-50.0, 50.0)]);
        let [a, b] = [one, other].map(|own| {
            let (sin, cos) = turn.sin_cos();
            let [x, y, z] = own.center;
            let center = [x * cos - y * sin + away[0], x * sin + y * cos + away[1], z + 3.0];
            Box3d { center, heading: own.heading + turn, ..own }
        });
        assert!((iou - iou_bev(&a, &b)).abs() < 1e-9 && (iou_3d(&one, &other) - iou_3d(&a, &b)).abs() < 1e-9);
        assert!((0.0..=1.0).contains(&iou_3d(&one, &other)) && iou_3d(&one, &other) <= iou + 1e-12 || iou > 0.0);
        apart += usize::from(iou == 0.0);
    }
    assert!((3..40).contains(&apart), "{apart}");
}

#[test]
fn overlaps_of_simple_boxes() {
    let square = Box3d { center: [3.0, 4.0, 0.0], size: [2.0, 2.0, 2.0], heading: 0.3 };
    let near = |value: f64, expect: f64| assert!((value - expect).abs() < 1e-12, "{value}, not {expect}");
    near(iou_bev(&square, &square), 1.0);
    near(iou_3d(&square, &square), 1.0);
    near(iou_bev(&square, &Box3d { heading: 0.3 + FRAC_PI_2, ..square }), 1.0);
    let flat = Box3d { heading: 0.0, ..square };
    // A third in each direction.
    near(iou_bev(&flat, &Box3d { center: [4.0, 4.0, 0.0], ..flat }), 1.0 / 3.0);
    near(iou_3d(&flat, &Box3d { center: [3.0, 4.0, 1.0], ..flat }), 1.0 / 3.0);
    near(iou_3d(&flat, &Box3d { center: [3.0, 4.0, 2.0], ..flat }), 0.0);
    near(iou_bev(&flat, &Box3d { center: [5.0, 4.0, 0.0], ..flat }), 0.0);
    // A regular octagon, which two squares turned by an eighth have in common.
    let octagon = 8.0 * (PI / 8.0).tan();
    near(iou_bev(&flat, &Box3d { heading: PI / 4.0, ..flat }), octagon / (8.0 - octagon));
    let nothing = Box3d { size: [0.0; 3], ..flat };
    near(iou_bev(&nothing, &nothing), 0.0);
    near(iou_3d(&flat, &nothing), 0.0);
}

#[test]
fn of_boxes_that_overlap_the_best_is_kept() {
    let mut rng = SampleRng::new(3, 0, 0, "nms");
    for _ in 0..20 {
        let boxes: Vec<Box3d> = (0..60).map(|_| drawn(&mut rng)).collect();
        // Some are equal.
        let scores: Vec<f32> = (0..60).map(|_| rng.below(12) as f32 / 12.0).collect();
        let kept = nms(&boxes, &scores, 0.1, usize::MAX);
        let before = |one: usize, other: usize| (scores[one], other) > (scores[other], one);
        assert!(kept.windows(2).all(|two| before(two[0], two[1])));
        for at in 0..60 {
            let is_beaten = kept.iter().any(|own| before(*own, at) && iou_bev(&boxes[*own], &boxes[at]) > 0.1);
            assert_eq!(kept.contains(&at), !is_beaten, "{at}");
        }
        assert_eq!(nms(&boxes, &scores, 0.1, 3), kept[..3]);
    }
    assert!(nms(&[], &[], 0.1, 5).is_empty());
}

fn street(count: usize) -> (Frame, Vec<Box3d>) {
    let one = |rows: [[f32; 4]; 3]| [rows[0], rows[1], rows[2], [0.0, 0.0, 0.0, 1.0]];
    let calib = frame::Calib {
        p2: one([[700.0, 0.0, 600.0, 45.0], [0.0, 700.0, 180.0, -0.3], [0.0, 0.0, 1.0, 0.005]]),
        r0_rect: one([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
        tr_velo_to_cam: one([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]]),
    };
    let boxes = (0..count).map(|at| {
        let center = [10.0 + 3.0 * at as f64, 4.0 - 4.0 * (at % 3) as f64, -0.9];
        Box3d { center, size: [3.9, 1.6, 1.6], heading: 0.1 * at as f64 }
    });
    let frame = Frame {
        point_cloud: frame::PointCloud { num_features: 4, lidar_idx: "000000".into() },
        image: Some(frame::Image { image_idx: "000000".into(), image_shape: [375, 1242] }),
        calib: Some(calib),
        annos: None,
        road_plane: None,
    };
    (frame, boxes.collect())
}

fn cars(frame: &Frame, boxes: &[Box3d], scores: &[f32]) -> Annos {
    predictions::annos(frame, boxes, scores, &vec![1; boxes.len()], &["Car".into()])
}

#[test]
fn what_is_found_exactly_has_all_the_precision() {
    let (frame, boxes) = street(6);
    let truth = cars(&frame, &boxes, &[0.0; 6]);
    let scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
    let figures = |found: Annos| evaluate(&[&truth], &[found], &["Car".into()]).unwrap();
    let report = figures(cars(&frame, &boxes, &scores));
    // With six objects recall has six places, and the steps beyond the last have no precision.
    let own = &report.classes[0];
    let valid = (0..6).filter(|at| truth.bbox[*at][3] - truth.bbox[*at][1] > 25.0).count();
    assert!(valid >= 4 && own.bbox == own.bev && own.bev == own.volume && own.aos == Some(own.bbox), "{own:?}");
    assert!(own.volume[1].r40 > 0.0 && own.volume[1].r11 > own.volume[1].r40);
    assert_eq!(report.flat().iter().find(|(name, _)| name == "Car_3d/moderate_R40").unwrap().1, own.volume[1].r40);
    assert_eq!(report.mean_3d(), own.volume[1].r40);
    let text = report.text();
    assert!(
        text.starts_with("Car AP@0.70, 0.70, 0.70:\nbbox AP:") && text.contains("\nCar AP_R40@0.70, 0.50, 0.50:\n")
    );
    assert!(text.contains("\n3d   AP:") && text.contains("\naos  AP:"), "{text}");

    // Moved along their heading they are found only where less overlap is asked for: 3 m of 4.8 m are common.
    let moved = |own: &Box3d| {
        let (sin, cos) = own.heading.sin_cos();
        Box3d { center: [own.center[0] + 0.9 * cos, own.center[1] + 0.9 * sin, own.center[2]], ..*own }
    };
    let moved: Vec<Box3d> = boxes.iter().map(moved).collect();
    let moved_by = figures(cars(&frame, &moved, &scores));
    assert_eq!(moved_by.classes[0].volume[1].r40, 0.0);
    assert_eq!(moved_by.classes[1].volume[1].r40, report.classes[1].volume[1].r40);
    // The other way round they are where they should be, but face backwards.
    let turned: Vec<Box3d> = boxes.iter().map(|own| Box3d { heading: own.heading + PI, ..*own }).collect();
    let turned = figures(cars(&frame, &turned, &scores));
    assert_eq!(turned.classes[0].volume, own.volume);
    assert!(turned.classes[0].aos.unwrap()[1].r40 < 1e-9);
    // Nothing found, or nothing there.
    assert_eq!(figures(Annos::default()).mean_3d(), 0.0);
    let nothing = Annos::default();
    assert_eq!(evaluate(&[&nothing], &[cars(&frame, &boxes, &scores)], &["Car".into()]).unwrap().mean_3d(), 0.0);
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let (frame, boxes) = street(2);
    let truth = cars(&frame, &boxes, &[0.0; 2]);
    let refused = |found: Vec<Annos>, said: &str| {
        let error = evaluate(&[&truth], &found, &["Car".into()]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(vec![], "detections for 0 frames, but labels for 1");
    let found = cars(&frame, &boxes, &[0.5; 2]);
    refused(
        vec![Annos { score: vec![0.5], ..found.clone() }],
        "detections of frame 0 (from 0): there are 2 names, but 1 of score",
    );
    refused(vec![Annos { rotation_y: vec![0.0, f64::NAN], ..found }], "not finite");
}

#[test]
fn a_detection_becomes_a_label_and_its_line() {
    let (frame, boxes) = street(1);
    let own = cars(&frame, &boxes, &[0.5]);
    let text = predictions::text(&own);
    assert!(text.starts_with("Car -1 -1 ") && text.ends_with(" 0.5000\n") && text.split(' ').count() == 16, "{text}");
    let text = text.trim_end().replace(" -1 -1 ", " 0.00 0 ");
    let read = super::super::data::kitti::parse_labels(&text).unwrap();
    let back = super::super::data::kitti::to_lidar(
        &super::super::data::camera::Camera::new(frame.calib.as_ref().unwrap()).rect_to_lidar,
        &read,
        0,
    );
    for (one, other) in <[f64; 7]>::from(back).into_iter().zip(<[f64; 7]>::from(boxes[0])) {
        assert!((one - other).abs() < 1e-3, "{back:?}");
    }
    assert!(
        own.bbox[0][0] > 0.0 && own.bbox[0][2] < 1241.0 && own.bbox[0][3] - own.bbox[0][1] > 40.0,
        "{:?}",
        own.bbox
    );
    // A label that no class has is left out.
    assert!(predictions::annos(&frame, &boxes, &[0.5], &[2], &["Car".into()]).name.is_empty());
}

#[cfg(feature = "burn")]
mod hits {
    use super::Detection;
    use super::*;

    type Scene = (Vec<Detection>, Vec<(Box3d, usize)>);

    fn names() -> Vec<String> {
        ["Car", "Pedestrian", "Cyclist"].map(String::from).to_vec()
    }

    /// Objects, most of them found, some twice, some badly or as another class, and what is not there; no Cyclist.
    fn scene(number: u64) -> Scene {
        let mut rng = SampleRng::new(9, 0, number, "hits");
        let (mut found, mut objects) = (Vec::new(), Vec::new());
        for at in 0..rng.below(8) {
            let class = rng.below(2) as usize;
            let own = Box3d { center: [10.0 * at as f64, 0.0, 0.0], size: [4.0, 2.0, 1.5], heading: 0.3 };
            objects.push((own, class));
            for _ in 0..rng.below(3) {
                let off = rng.uniform(0.0, 1.0);
                let bounds = Box3d { center: [own.center[0] + off, 0.0, 0.0], ..own };
                let class = if rng.chance(0.1) { 1 - class } else { class };
                found.push(Detection { bounds, score: rng.below(100) as f32 / 100.0 + 0.005, class });
            }
        }
        let nowhere = Box3d { center: [0.0, 50.0, 0.0], size: [4.0, 2.0, 1.5], heading: 0.0 };
        found.push(Detection { bounds: nowhere, score: 0.455, class: 0 });
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        (found, objects)
    }

    fn sums(scenes: &[Scene]) -> Vec<f64> {
        let mut hits = Hits::new(&names());
        scenes.iter().for_each(|(found, objects)| hits.count(found, objects));
        hits.into_sums()
    }

    /// By every threshold of the score, each frame matched anew.
    fn plain(scenes: &[Scene], class: usize) -> f64 {
        let least = [0.7, 0.5][class];
        let objects: usize =
            scenes.iter().map(|(_, objects)| objects.iter().filter(|own| own.1 == class).count()).sum();
        let at = |threshold: f32| {
            let (mut hits, mut all) = (0, 0);
            for (found, objects) in scenes {
                let mut left: Vec<Box3d> = objects.iter().filter(|own| own.1 == class).map(|own| own.0).collect();
                for one in found.iter().filter(|one| one.class == class && one.score >= threshold) {
                    all += 1;
                    let best = (0..left.len())
                        .max_by(|a, b| iou_3d(&one.bounds, &left[*a]).total_cmp(&iou_3d(&one.bounds, &left[*b])));
                    if let Some(best) = best.filter(|best| iou_3d(&one.bounds, &left[*best]) >= least) {
                        left.remove(best);
                        hits += 1;
                    }
                }
            }
            (hits as f64 / objects as f64, hits as f64 / f64::from(all.max(1)))
        };
        let curve: Vec<(f64, f64)> = (0..100).map(|step| at(step as f32 / 100.0)).collect();
        let best = |recall: f64| curve.iter().filter(|at| at.0 >= recall - 1e-12).map(|at| at.1).fold(0.0, f64::max);
        100.0 * (1..=40).map(|step| best(f64::from(step) / 40.0)).sum::<f64>() / 40.0
    }

    #[test]
    fn the_running_figure_is_the_one_of_every_threshold() {
        let scenes: Vec<Scene> = (0..30).map(scene).collect();
        let all = sums(&scenes);
        let expect = (plain(&scenes, 0) + plain(&scenes, 1)) / 2.0;
        assert!(expect > 10.0 && expect < 90.0, "{expect}");
        assert!((Hits::mean_ap(&all) - expect).abs() < 1e-9, "{} {expect}", Hits::mean_ap(&all));
        // Counts of parts add up to those of all.
        let parts = [sums(&scenes[..7]), sums(&scenes[7..])];
        let added: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
        assert_eq!(added, all);
        assert_eq!(all.len(), Hits::sums_len(3));
    }

    #[test]
    fn what_is_all_right_has_a_hundred_and_nothing_has_no_figure() {
        let (_, objects) = scene(4);
        let right: Vec<Detection> =
            objects.iter().map(|(bounds, class)| Detection { bounds: *bounds, score: 0.9, class: *class }).collect();
        assert!(objects.len() > 2 && Hits::mean_ap(&sums(&[(right, objects.clone())])) == 100.0);
        assert_eq!(Hits::mean_ap(&sums(&[(vec![], objects)])), 0.0);
        assert!(Hits::mean_ap(&sums(&[(scene(4).0, vec![])])).is_nan());
        assert!(Hits::mean_ap(&[]).is_nan());
    }
}
