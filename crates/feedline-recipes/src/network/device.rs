//! The device and the number type of a network. Owns the choice of Burn's back end and the opening of a GPU; the task owns
//! the computation.

#[cfg(feature = "burn")]
pub(crate) use open::{check_precision, name};

/// The number type of the forward and backward pass in training. Parameters, their updates, norms, the loss and
/// evaluation are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    F32,
    /// Convolutions and the head in bfloat16.
    Bf16,
    /// Convolutions and the head in IEEE half precision, with dynamic loss scaling.
    F16,
}

/// The device that the passes of a network run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Burn's back end `flex`.
    Cpu,
    /// The default adapter of the back end `wgpu`, which may be a software driver: its name is printed.
    Gpu,
}

#[cfg(feature = "burn")]
mod open {
    use super::{DeviceKind, Precision};
    use burn::tensor::{DType, Device};
    use feedline::{Error, Result};

    impl DeviceKind {
        /// The device, ready for use.
        ///
        /// # Errors
        /// No GPU back end in this build, or none that finds a GPU: never another device instead.
        pub(crate) fn open(self) -> Result<Device> {
            match self {
                DeviceKind::Cpu => Ok(Device::flex()),
                DeviceKind::Gpu => {
                    gpu().map_err(|remedy| Error::Unsupported { what: "device gpu (model.device)".into(), remedy })
                }
            }
        }
    }

    #[cfg(not(feature = "wgpu"))]
    fn gpu() -> Result<Device, String> {
        Err("This build has no GPU back end: build one with `cargo build --release --features wgpu`, or use \
             --device cpu"
            .into())
    }

    /// The GPU, opened once in a process: a runtime cannot be opened twice.
    #[cfg(feature = "wgpu")]
    fn gpu() -> Result<Device, String> {
        use std::sync::OnceLock;
        static GPU: OnceLock<Result<Device, String>> = OnceLock::new();
        let opened = GPU.get_or_init(open).clone();
        opened.map_err(|problem| format!("No GPU could be opened: {problem}. Check its driver, or use --device cpu"))
    }

    #[cfg(feature = "wgpu")]
    fn open() -> Result<Device, String> {
        Device::wgpu_options().init().map_err(|problem| problem.to_string())
    }

    /// Checks that the device computes in the number type.
    pub(crate) fn check_precision(device: &Device, precision: Precision) -> Result<()> {
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        };
        if device.supports_dtype(dtype) {
            return Ok(());
        }
        let precision = format!("{precision:?}").to_lowercase();
        let what = format!("--precision {precision} on {}", name(device));
        Err(Error::Unsupported { what, remedy: "Use --precision f32".into() })
    }

    /// The device's own name.
    pub(crate) fn name(device: &Device) -> String {
        #[cfg(feature = "wgpu")]
        if let Some(identity) = device.identity() {
            return identity.name;
        }
        let _ = device;
        "cpu".into()
    }
}
