//! The layers of the networks, as what runs or declares a network sees them. Owns their sizes; computes nothing.

/// A convolution without bias, padded to keep the size at stride 1 (padding = kernel / 2), square kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    pub(super) kernel_px: usize,
    pub(super) stride_px: usize,
    pub(super) groups: usize,
}

impl Conv {
    pub(super) fn new(channels_in: usize, channels_out: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in, channels_out, kernel_px, stride_px, groups: 1 }
    }

    /// One kernel per channel.
    pub(super) fn depthwise(channels: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in: channels, channels_out: channels, kernel_px, stride_px, groups: channels }
    }
}

/// The final linear layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) name: &'static str,
    pub(super) features: usize,
    pub(super) pool: Pool,
    /// Share of features set to zero in training.
    pub(super) dropout: f64,
    pub(super) init: HeadInit,
}

/// The way from maps to one number per channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pool {
    Mean,
    Max,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HeadInit {
    /// torch's `nn.Linear`: weight and bias uniform within 1 / sqrt(features).
    Linear,
    /// torchvision's MobileNetV2: weight normal with deviation 0.01, bias 0.
    Normal,
}

/// The layers that a network is made of, visited in the order of the state dict.
pub(super) trait Network {
    /// Feature maps (B, C, H, W).
    type Maps: Clone;
    /// Logits (B, classes).
    type Logits;

    fn conv(&mut self, name: &str, x: Self::Maps, conv: Conv) -> Self::Maps;
    fn batch_norm(&mut self, name: &str, x: Self::Maps, channels: usize) -> Self::Maps;
    fn relu(&mut self, x: Self::Maps) -> Self::Maps;
    fn relu6(&mut self, x: Self::Maps) -> Self::Maps;
    fn add(&mut self, x: Self::Maps, y: Self::Maps) -> Self::Maps;
    /// Kernel 3, stride 2, padding 1.
    fn max_pool(&mut self, x: Self::Maps) -> Self::Maps;
    /// One number per channel, dropout, linear layer.
    fn classify(&mut self, x: Self::Maps, head: Head) -> Self::Logits;
}
