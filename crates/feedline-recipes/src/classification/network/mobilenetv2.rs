//! MobileNetV2 as torchvision defines it (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
//! 2018), width 1.0.

use super::layers::{Conv, Head, HeadInit, Network, Pool};

/// (expansion, channels out, blocks, stride of the first block), table 2 of the paper.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// The stem, 17 inverted residuals, a 1x1 convolution to 1280 channels, dropout 0.2 and the linear layer.
pub(super) fn build<N: Network>(net: &mut N, x: N::Maps) -> N::Logits {
    let mut x = conv_norm_relu6(net, "features.0.0", "features.0.1", x, Conv::new(3, 32, 3, 2));
    let (mut channels, mut at) = (32, 1);
    for (expansion, channels_out, blocks, first_stride_px) in STAGES {
        for block in 0..blocks {
            let stride_px = if block == 0 { first_stride_px } else { 1 };
            x = inverted_residual(net, &format!("features.{at}.conv"), x, expansion, channels, channels_out, stride_px);
            channels = channels_out;
            at += 1;
        }
    }
    let x = conv_norm_relu6(net, "features.18.0", "features.18.1", x, Conv::new(channels, 1280, 1, 1));
    net.classify(
        x,
        Head { name: "classifier.1", features: 1280, pool: Pool::Mean, dropout: 0.2, init: HeadInit::Normal },
    )
}

fn conv_norm_relu6<N: Network>(net: &mut N, conv_name: &str, norm_name: &str, x: N::Maps, conv: Conv) -> N::Maps {
    let x = net.conv(conv_name, x, conv);
    let x = net.batch_norm(norm_name, x, conv.channels_out);
    net.relu6(x)
}

fn inverted_residual<N: Network>(
    net: &mut N,
    name: &str,
    x: N::Maps,
    expansion: usize,
    channels: usize,
    channels_out: usize,
    stride_px: usize,
) -> N::Maps {
    let wide = channels * expansion;
    let mut y = x.clone();
    let mut layers = vec![Conv::depthwise(wide, 3, stride_px)];
    if expansion != 1 {
        layers.insert(0, Conv::new(channels, wide, 1, 1));
    }
    for (at, conv) in layers.iter().enumerate() {
        y = conv_norm_relu6(net, &format!("{name}.{at}.0"), &format!("{name}.{at}.1"), y, *conv);
    }
    let at = layers.len();
    y = net.conv(&format!("{name}.{at}"), y, Conv::new(wide, channels_out, 1, 1));
    y = net.batch_norm(&format!("{name}.{}", at + 1), y, channels_out);
    if stride_px == 1 && channels == channels_out { net.add(x, y) } else { y }
}
