//! Feedline's own small network for 64 px pictures, found by trial on drawn shapes and on digits. Dense 3x3 convolutions,
//! because on a CPU few wide dense layers run far faster than many depthwise ones; two layers at 16x16, because outlines
//! need that resolution; and the maximum over the picture, which a small object decides alone where a mean would drown
//! it.

use super::layers::{Conv, Head, HeadInit, Network, Pool};

/// (channels out, stride) of each layer.
const LAYERS: [(usize, usize); 5] = [(16, 2), (24, 2), (48, 1), (64, 2), (96, 1)];

/// Convolution, norm and ReLU per layer, then maximum and linear layer.
pub(super) fn build<N: Network>(net: &mut N, mut x: N::Maps) -> N::Logits {
    let mut channels = 3;
    for (at, (channels_out, stride_px)) in LAYERS.into_iter().enumerate() {
        x = net.conv(&format!("features.{at}.0"), x, Conv::new(channels, channels_out, 3, stride_px));
        x = net.batch_norm(&format!("features.{at}.1"), x, channels_out);
        x = net.relu(x);
        channels = channels_out;
    }
    let head = Head { name: "classifier", features: channels, pool: Pool::Max, dropout: 0.0, init: HeadInit::Linear };
    net.classify(x, head)
}
