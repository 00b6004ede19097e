//! The network: from a picture and the distances to the seen surface (TSDF) to what fills each voxel. Owns its layers:
//! names, shapes, initial values. How one pass is computed belongs to `forward`, the order of voxels in it to `fold`.
//!
//! ```text
//! colours, HHA --> 2D branch --> features at 1/4 and 1/8 of the picture --> seen voxels take those of their pixel --+
//! TSDF --> 3D branch at half resolution --+--> sketch logits at full resolution (structure first) ----------------- +
//!                                         +-----------------------------------------------------------------------> +
//!                                                      3D branch at half resolution <------ fused ------------------+
//!                                                      --> up, with the features of full resolution again --> logits
//! ```
//!
//! After the two-stage idea of TorchSSC (Chen et al., "3D Sketch-aware Semantic Scene Completion", 2020), much smaller
//! and without its variational part. Norms are group norms: nothing looks across samples, so the outcome for a sample
//! does not depend on what else is in its batch.

use super::fold::{CORNERS, Fold, PATCH_PX};
use crate::network::parameters::{Init, Parameters, Role};
use feedline::{Error, Result};

/// Dilations of the residual blocks of the two 3D branches.
pub(super) const SKETCH_BLOCKS: [usize; 2] = [1, 2];
pub(super) const SEMANTIC_BLOCKS: [usize; 3] = [1, 2, 3];
/// Classes of the sketch: no edge, edge.
pub(crate) const SKETCH_CLASSES: usize = 2;

/// The sizes that decide the shapes in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Height and width.
    pub(crate) image_px: [usize; 2],
    /// Voxels along each side, all even.
    pub(crate) grid: [usize; 3],
    pub(crate) num_classes: usize,
    /// Features of a voxel.
    pub(crate) channels: usize,
    pub(crate) use_hha: bool,
}

impl Sizes {
    pub(crate) fn voxels(&self) -> usize {
        self.grid.iter().product()
    }

    pub(crate) fn pixels(&self) -> usize {
        self.image_px.iter().product()
    }

    /// Colours, and the three of HHA.
    pub(super) fn picture_channels(&self) -> usize {
        if self.use_hha { 6 } else { 3 }
    }

    /// Height and width of the features at 1/4 and at 1/8.
    pub(super) fn maps_px(&self) -> [[usize; 2]; 2] {
        let fine = self.image_px.map(|px| px.div_ceil(PATCH_PX));
        [fine, fine.map(|px| px.div_ceil(2))]
    }

    fn check(&self) -> Result<()> {
        if self.grid.iter().any(|side| *side == 0 || side % 2 == 1) {
            return Err(Error::config(
                format!("grid is {:?}: the network works at half resolution and needs even sides", self.grid),
                "Use even numbers of voxels, e.g. [60, 36, 60]",
            ));
        }
        if self.image_px.contains(&0) {
            return Err(Error::config(
                format!("image_px is {:?}: a picture has pixels", self.image_px),
                "Give height and width, e.g. [480, 640]",
            ));
        }
        if self.channels == 0 {
            return Err(Error::config("channels is 0: a voxel needs at least one feature", "Use 16 if in doubt"));
        }
        Ok(())
    }
}

/// A network and its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) sizes: Sizes,
    pub(crate) store: Parameters,
    pub(super) fold: Fold,
}

impl Model {
    /// A network with initial weights that depend on `seed` and the tensors' names alone.
    ///
    /// # Errors
    /// Sizes it cannot work with.
    pub(crate) fn new(sizes: Sizes, seed: u64) -> Result<Model> {
        sizes.check()?;
        let mut layers = Layers { store: Parameters::default(), in_backbone: true };
        let (c, fine) = (sizes.channels, sizes.channels);
        let coarse = 2 * fine;

        layers.linear("image.stem", sizes.picture_channels() * PATCH_PX * PATCH_PX, fine);
        layers.norm("image.stem", fine);
        layers.conv("image.fine", &[fine, fine, 3, 3]);
        layers.norm("image.fine", fine);
        layers.conv("image.down", &[coarse, fine, 3, 3]);
        layers.norm("image.down", coarse);
        layers.conv("image.coarse", &[coarse, coarse, 3, 3]);
        layers.norm("image.coarse", coarse);
        layers.linear("image.from_fine", fine, c);
        layers.linear("image.from_coarse", coarse, c);

        layers.in_backbone = false;
        layers.conv("sketch.stem", &[c, CORNERS, 3, 3, 3]);
        layers.norm("sketch.stem", c);
        SKETCH_BLOCKS.iter().enumerate().for_each(|(at, _)| layers.block(&format!("sketch.{at}"), c));
        layers.linear("sketch.up", c, CORNERS * c);
        layers.linear("sketch.skip", 1, c);
        layers.bias("sketch.up", c);
        layers.head("sketch.head", c, SKETCH_CLASSES);

        layers.linear("semantic.fuse", CORNERS * (c + SKETCH_CLASSES) + c, c);
        layers.norm("semantic.fuse", c);
        SEMANTIC_BLOCKS.iter().enumerate().for_each(|(at, _)| layers.block(&format!("semantic.{at}"), c));
        layers.linear("semantic.up", c, CORNERS * c);
        layers.linear("semantic.skip", 2 * c, c);
        layers.bias("semantic.up", c);
        layers.head("semantic.head", c, sizes.num_classes);

        layers.store.initialise(seed);
        Ok(Model { sizes, store: layers.store, fold: Fold::new(sizes.grid) })
    }
}

/// Collects the tensors of a network.
struct Layers {
    store: Parameters,
    in_backbone: bool,
}

impl Layers {
    fn add(&mut self, name: String, shape: &[usize], role: Role, init: Init) {
        self.store.add(name, shape.to_vec(), role, init, self.in_backbone);
    }

    /// A convolution without bias. Starts with He's normal distribution by fan-in, as TorchSSC does.
    fn conv(&mut self, name: &str, shape: &[usize]) {
        let fan_in: usize = shape[1..].iter().product();
        let init = Init::Normal { deviation: (2.0 / fan_in as f64).sqrt() };
        self.add(format!("{name}.weight"), shape, Role::Weight, init);
    }

    /// The same for every pixel or voxel.
    fn linear(&mut self, name: &str, channels_in: usize, channels_out: usize) {
        self.conv(name, &[channels_out, channels_in]);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.norm.weight"), &[channels], Role::Offset, Init::Ones);
        self.add(format!("{name}.norm.bias"), &[channels], Role::Offset, Init::Zeros);
    }

    fn bias(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.bias"), &[channels], Role::Offset, Init::Zeros);
    }

    /// Two convolutions beside a straight way.
    fn block(&mut self, name: &str, channels: usize) {
        for part in ["a", "b"] {
            self.conv(&format!("{name}.{part}"), &[channels, channels, 3, 3, 3]);
            self.norm(&format!("{name}.{part}"), channels);
        }
    }

    /// Logits. They start small, so that no class is ruled out.
    fn head(&mut self, name: &str, channels: usize, classes: usize) {
        let init = Init::Normal { deviation: 0.01 };
        self.add(format!("{name}.weight"), &[classes, channels], Role::Weight, init);
        self.bias(name, classes);
    }
}
