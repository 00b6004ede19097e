//! The network: from pillars of points to boxes, after PointPillars (Lang et al., 2019), smaller. Owns its layers: names,
//! shapes, initial values. How one pass is computed belongs to `forward`, what its numbers mean to `anchors`.
//!
//! ```text
//! points of a pillar --> one linear layer, the largest over its points --> laid out as a map (C, ny, nx)
//! map --> blocks, each at half the resolution of the one before --> all brought to the size of the first, side by side
//!     --> for each place and anchor: score, box (7), direction (2)
//! ```
//!
//! Norms are group norms, and the pillars have none: nothing looks across samples, so the outcome for a frame does not depend
//! on what else is in its batch, nor on the ranks that share it. OpenPCDet's batch norms do.

use crate::lidar::config::BlockConfig;
use crate::network::parameters::{Init, Parameters, Role};

/// Numbers for each anchor: score, box, direction.
pub(super) const OUTPUTS: usize = 1 + 7 + 2;

/// The sizes that decide the shapes in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Pillars along x and y.
    pub(super) grid: [usize; 2],
    /// Numbers of a point as the network sees it.
    pub(super) features: usize,
    /// Of a pillar.
    pub(super) channels: usize,
    pub(super) blocks: Vec<BlockConfig>,
    /// Anchors at each place.
    pub(super) anchors: usize,
}

impl Sizes {
    /// Places along x and y after so many halvings.
    fn map(&self, halvings: usize) -> [usize; 2] {
        (0..halvings).fold(self.grid, |map, _| map.map(|side| side.div_ceil(2)))
    }

    /// Places along x and y at which boxes are looked for.
    pub(super) fn places(&self) -> [usize; 2] {
        self.map(1)
    }
}

/// A network and its numbers.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) sizes: Sizes,
    pub(super) store: Parameters,
}

impl Model {
    /// A network with initial weights that depend on `seed` and the tensors' names alone.
    pub(super) fn new(sizes: Sizes, seed: u64) -> Model {
        let mut store = Parameters::default();
        // He's normal distribution by fan-in.
        let weight = |store: &mut Parameters, name: String, shape: &[usize]| {
            let fan_in: usize = shape[1..].iter().product();
            let init = Init::Normal { deviation: (2.0 / fan_in as f64).sqrt() };
            store.add(format!("{name}.weight"), shape.to_vec(), Role::Weight, init, false);
        };
        let offset = |store: &mut Parameters, name: String, channels: usize, init: Init| {
            store.add(name, vec![channels], Role::Offset, init, false);
        };
        weight(&mut store, "pillars".into(), &[sizes.channels, sizes.features]);
        offset(&mut store, "pillars.bias".into(), sizes.channels, Init::Zeros);
        let mut channels_in = sizes.channels;
        for (at, block) in sizes.blocks.iter().enumerate() {
            for layer in 0..=block.layers {
                let name = format!("blocks.{at}.{layer}");
                weight(&mut store, name.clone(), &[block.channels, channels_in, 3, 3]);
                offset(&mut store, format!("{name}.norm.weight"), block.channels, Init::Ones);
                offset(&mut store, format!("{name}.norm.bias"), block.channels, Init::Zeros);
                channels_in = block.channels;
            }
            let up = block.up_channels << (2 * at);
            weight(&mut store, format!("up.{at}"), &[up, block.channels]);
            offset(&mut store, format!("up.{at}.norm.weight"), block.up_channels, Init::Ones);
            offset(&mut store, format!("up.{at}.norm.bias"), block.up_channels, Init::Zeros);
        }
        let features: usize = sizes.blocks.iter().map(|block| block.up_channels).sum();
        // Small, so that no box is ruled out at first.
        let outputs = sizes.anchors * OUTPUTS;
        let init = Init::Normal { deviation: 0.01 };
        store.add("head.weight".into(), vec![outputs, features], Role::Weight, init, false);
        offset(&mut store, "head.bias".into(), outputs, Init::Zeros);
        store.initialise(seed);
        Model { sizes, store }
    }
}
