//! ResNet as torchvision defines it (He et al., "Deep Residual Learning for Image Recognition", 2015; in the
//! bottleneck the stride sits in the 3x3 convolution, as in torchvision's "V1.5").

use super::layers::{Conv, Head, HeadInit, Network, Pool};

/// The two kinds of residual block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, the last four times as wide.
    Bottleneck,
}

/// Four stages of `depths` blocks, 64 to 512 wide.
pub(super) fn build<N: Network>(net: &mut N, x: N::Maps, block: Block, depths: [usize; 4]) -> N::Logits {
    let x = net.conv("conv1", x, Conv::new(3, 64, 7, 2));
    let x = net.batch_norm("bn1", x, 64);
    let x = net.relu(x);
    let mut x = net.max_pool(x);
    let mut channels = 64;
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = 64 << stage;
        for at in 0..depth {
            let stride_px = if stage > 0 && at == 0 { 2 } else { 1 };
            let name = format!("layer{}.{at}", stage + 1);
            (x, channels) = residual(net, &name, x, block, channels, width, stride_px);
        }
    }
    net.classify(x, Head { name: "fc", features: channels, pool: Pool::Mean, dropout: 0.0, init: HeadInit::Linear })
}

/// One block and the number of channels it gives.
fn residual<N: Network>(
    net: &mut N,
    name: &str,
    x: N::Maps,
    block: Block,
    channels: usize,
    width: usize,
    stride_px: usize,
) -> (N::Maps, usize) {
    let (convs, channels_out) = match block {
        Block::Basic => (vec![Conv::new(channels, width, 3, stride_px), Conv::new(width, width, 3, 1)], width),
        Block::Bottleneck => (
            vec![
                Conv::new(channels, width, 1, 1),
                Conv::new(width, width, 3, stride_px),
                Conv::new(width, 4 * width, 1, 1),
            ],
            4 * width,
        ),
    };
    let mut y = x.clone();
    for (at, conv) in convs.iter().enumerate() {
        y = net.conv(&format!("{name}.conv{}", at + 1), y, *conv);
        y = net.batch_norm(&format!("{name}.bn{}", at + 1), y, conv.channels_out);
        if at + 1 < convs.len() {
            y = net.relu(y);
        }
    }
    let shortcut = if stride_px != 1 || channels != channels_out {
        let x = net.conv(&format!("{name}.downsample.0"), x, Conv::new(channels, channels_out, 1, stride_px));
        net.batch_norm(&format!("{name}.downsample.1"), x, channels_out)
    } else {
        x
    };
    let sum = net.add(y, shortcut);
    (net.relu(sum), channels_out)
}
