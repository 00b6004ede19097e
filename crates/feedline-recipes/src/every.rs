//! The list of recipes: a new one is a line here. Owns their order, in which the command line's help has them.

use crate::classification::recipe::Classification;
use crate::lidar::recipe::Lidar;
use crate::recipe::Recipe;
#[cfg(feature = "burn")]
use crate::recipe::Trainable;
use crate::scene_completion::recipe::SceneCompletion;

/// Sees recipes of different types, one after the other.
pub trait Visitor {
    /// A recipe of which there is only the data, or only the data in this build.
    fn data<R: Recipe>(&mut self);

    /// A recipe with a network.
    #[cfg(feature = "burn")]
    fn trainable<R: Trainable>(&mut self) {
        self.data::<R>();
    }

    /// A recipe whose network is not in this build.
    #[cfg(not(feature = "burn"))]
    fn trainable<R: Recipe>(&mut self) {
        self.data::<R>();
    }
}

/// Shows every recipe to `visitor`.
pub fn every(visitor: &mut impl Visitor) {
    visitor.trainable::<Classification>();
    visitor.trainable::<SceneCompletion>();
    visitor.trainable::<Lidar>();
}
