//! Aims against the assignment written out, the code of boxes there and back.

use super::*;
use feedline::plan::rng::SampleRng;

fn anchors() -> Anchors {
    let class = |size_m, matched, unmatched| AnchorConfig { size_m, bottom_m: -1.78, matched, unmatched };
    let classes =
        [class([3.9, 1.6, 1.56], 0.6, 0.45), class([0.8, 0.6, 1.73], 0.5, 0.35), class([1.76, 0.6, 1.73], 0.5, 0.35)];
    let grid = Grid::new([0.0, -8.0, -3.0, 16.0, 8.0, 1.0], [0.32, 0.32, 4.0], 20).unwrap();
    Anchors::new(&classes, &grid, [25, 25])
}

fn object(rng: &mut SampleRng, class: usize) -> (Box3d, usize) {
    let size = [[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]][class];
    let size = size.map(|side: f64| side * rng.uniform(0.8, 1.25));
    // Some lie half outside of the map.
    let center = [rng.uniform(-1.0, 17.0), rng.uniform(-9.0, 9.0), rng.uniform(-1.5, -0.5)];
    (Box3d { center, size, heading: rng.uniform(-7.0, 7.0) }, class)
}

/// The overlap of ground plans, each turned to the nearer axis.
fn nearest_overlap(one: &Box3d, other: &Box3d) -> f64 {
    let bounds = |own: &Box3d| {
        let turn = (own.heading - PI * (own.heading / PI + 0.5).floor()).abs();
        let [along, across] = if turn > FRAC_PI_4 { [own.size[1], own.size[0]] } else { [own.size[0], own.size[1]] };
        let [x, y, _] = own.center;
        [x - along / 2.0, y - across / 2.0, x + along / 2.0, y + across / 2.0]
    };
    let (a, b) = (bounds(one), bounds(other));
    let common = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |of: [f64; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let both = common(0) * common(1);
    both / (area(a) + area(b) - both)
}

/// `AxisAlignedTargetAssigner`, for every pair of an anchor and an object.
fn written_out(anchors: &Anchors, objects: &[(Box3d, usize)]) -> Vec<Aim> {
    let count = anchors.per_place() * anchors.places();
    let overlaps: Vec<Vec<f64>> = (0..count)
        .map(|anchor| {
            let own = anchors.get(anchor);
            let of = |(bounds, class): &(Box3d, usize)| match *class == anchors.class(anchor) {
                true => nearest_overlap(&own, bounds),
                false => 0.0,
            };
            objects.iter().map(of).collect()
        })
        .collect();
    let most = |object: usize| overlaps.iter().map(|row| row[object]).fold(0.0, f64::max);
    overlaps
        .iter()
        .enumerate()
        .map(|(anchor, row)| {
            let best = (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
            let class = &anchors.classes[anchors.class(anchor)];
            let overlap = row.get(best).copied().unwrap_or(0.0);
            let is_most = (0..row.len()).any(|at| row[at] > 0.0 && (row[at] - most(at)).abs() < 1e-9);
            if is_most || overlap >= class.matched {
                Aim::Object(best)
            } else if overlap >= class.unmatched {
                Aim::Either
            } else {
                Aim::Nothing
            }
        })
        .collect()
}

#[test]
fn aims_are_those_of_the_assignment_written_out() {
    let anchors = anchors();
    let mut counts = [0; 3];
    for case in 0..40 {
        let mut rng = SampleRng::new(3, 0, case, "aims");
        let objects: Vec<_> = (0..case % 9)
            .map(|_| {
                let class = rng.below(3) as usize;
                object(&mut rng, class)
            })
            .collect();
        let aims = anchors.aims(&objects);
        assert_eq!(aims, written_out(&anchors, &objects), "{objects:?}");
        for aim in aims {
            counts[match aim {
                Aim::Nothing => 0,
                Aim::Either => 1,
                Aim::Object(_) => 2,
            }] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

#[test]
fn an_object_that_fits_no_anchor_well_has_its_best_one_and_none_if_it_is_outside() {
    let anchors = anchors();
    let poor = (Box3d { center: [8.0, 0.0, -1.0], size: [9.0, 4.0, 2.0], heading: 0.1 }, 0);
    let aims = anchors.aims(&[poor]);
    let own: Vec<usize> = (0..aims.len()).filter(|at| aims[*at] == Aim::Object(0)).collect();
    assert!(!own.is_empty() && own.iter().all(|anchor| anchors.class(*anchor) == 0), "{own:?}");
    let outside = (Box3d { center: [100.0, 0.0, -1.0], ..poor.0 }, 0);
    assert!(anchors.aims(&[outside]).iter().all(|aim| *aim == Aim::Nothing));
}

#[test]
fn a_box_is_read_back_from_its_code_and_direction() {
    let anchors = anchors();
    let mut rng = SampleRng::new(4, 0, 0, "code");
    for case in 0..500 {
        let (own, _) = object(&mut rng, case % 3);
        let anchor = anchors.get(rng.below(25 * 25 * 6) as usize);
        let mut read = decode(encode(&own, &anchor), &anchor);
        // The sine of the loss cannot tell half turns apart: the direction does.
        read.heading = facing(read.heading + PI * (case % 4) as f64, direction(own.heading));
        let turn = (read.heading - own.heading) / (2.0 * PI);
        assert!((turn - turn.round()).abs() < 1e-9 && read.heading.abs() <= PI + 1e-9, "{read:?} {own:?}");
        let (read, own): ([f64; 7], [f64; 7]) = (read.into(), own.into());
        for at in 0..6 {
            assert!((read[at] - own[at]).abs() < 1e-9, "{read:?} {own:?}");
        }
    }
}
