//! Of boxes that overlap, the best: greedy non-maximum suppression. Owns the order in which boxes are taken.

use super::iou::iou_bev;
use feedline::augment::boxes::Box3d;

/// The numbers of the boxes that are kept, best first, `most` of them at most: going by score from the best on, and by number
/// where scores are equal, a box is left out if its ground plan overlaps one that is kept by more than `iou`.
///
/// # Panics
/// If there are not as many scores as boxes.
pub fn nms(boxes: &[Box3d], scores: &[f32], iou: f64, most: usize) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "a score for each box");
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        if kept.len() == most {
            break;
        }
        if kept.iter().all(|better| iou_bev(&boxes[*better], &boxes[at]) <= iou) {
            kept.push(at);
        }
    }
    kept
}
