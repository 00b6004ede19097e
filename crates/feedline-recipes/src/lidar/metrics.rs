//! Metrics of found boxes: IoU, non-maximum suppression, and KITTI's average precision.

#[cfg(feature = "burn")]
mod hits;
mod iou;
mod kitti_ap;
mod nms;
mod report;

#[cfg(feature = "burn")]
pub use hits::Detection;
#[cfg(feature = "burn")]
pub(super) use hits::Hits;
pub use iou::{iou_3d, iou_bev};
pub use kitti_ap::Figures;
pub use nms::nms;
pub use report::{ClassFigures, Report, evaluate};

#[cfg(test)]
mod tests;
