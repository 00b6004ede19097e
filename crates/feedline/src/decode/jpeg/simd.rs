//! The parts of the decoder with hand-written vector code, and the detection of processors that can run it. The whole
//! decoder is compiled for each kind of processor, and gives the same pixels on each.

use super::color;
use super::entropy::BlockPair;
use super::idct::{self, Target};

/// The functions with hand-written code for some processors.
pub(super) trait Simd: Copy {
    /// [`idct::eight`]; `few`: only the first four rows and columns of coefficients are not 0.
    fn eight(self, pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2], few: bool) -> bool;
    /// [`color::rgb`].
    fn rgb(self, y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]);
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    fn eight(self, pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2], _few: bool) -> bool {
        idct::eight(pair, quant, planes, targets)
    }

    #[inline(always)]
    fn rgb(self, y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        color::rgb(y, cb, cr, into);
    }
}

/// Proof that this processor has the features that the AVX2 code needs. Only `detect` makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        let there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt");
        there.then_some(Avx2(()))
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls code for a processor that has been detected")]
impl Simd for Avx2 {
    #[inline(always)]
    fn eight(self, pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2], few: bool) -> bool {
        // SAFETY: an `Avx2` exists only where AVX2 was detected.
        unsafe { super::avx2::eight(pair, quant, planes, targets, few) }
    }

    #[inline(always)]
    fn rgb(self, y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
        // SAFETY: as above.
        let done = unsafe { super::avx2::rgb(y, cb, cr, into) };
        color::rgb(&y[done..], &cb[done..], &cr[done..], &mut into[3 * done..]);
    }
}
