//! The networks that settings can name. Owns names and sizes only; the layers belong to `model`, which needs a tensor
//! framework.

/// The network that turns pictures into features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// Feedline's own: few wide dense convolutions, trains from scratch on a laptop CPU in minutes.
    Small,
    /// torchvision's `mobilenet_v2`.
    Mobilenetv2,
    /// torchvision's `resnet18`.
    Resnet18,
    /// torchvision's `resnet50`.
    Resnet50,
}

impl Backbone {
    /// Every backbone.
    pub const ALL: [Backbone; 4] = [Backbone::Small, Backbone::Mobilenetv2, Backbone::Resnet18, Backbone::Resnet50];

    /// The name used in settings and files.
    pub fn name(self) -> &'static str {
        match self {
            Backbone::Small => "small",
            Backbone::Mobilenetv2 => "mobilenetv2",
            Backbone::Resnet18 => "resnet18",
            Backbone::Resnet50 => "resnet50",
        }
    }

    /// Side of the square pictures it is meant for, in pixels. Other sizes work, since features are pooled over
    /// the picture.
    pub fn input_px(self) -> usize {
        match self {
            Backbone::Small => 64,
            _ => 224,
        }
    }
}
