//! Which instructions to use: the one place where code for a certain processor is entered. The whole decoder is
//! compiled for each, and gives the same pixels on each.

use super::entropy::BlockPair;
use super::header::Frame;
use super::idct::{self, Target};
use super::strips::Scratch;
use super::{color, strips};
use crate::decode::{CropBox, RgbImage};

/// What is written by hand for a processor.
pub(super) trait Simd: Copy {
    /// [`idct::eight`]; `few`: only the first four rows and columns of coefficients are not 0.
    fn eight(self, pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2], few: bool) -> bool;
    /// [`color::rgb`].
    fn rgb(self, y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]);
}

/// Any processor.
#[derive(Clone, Copy)]
struct Portable;

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

/// A processor that was seen to have what the code needs. Only `detect` makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Avx2> {
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_avx2(
    simd: Avx2,
    frame: &Frame<'_>,
    part: CropBox,
    scale: usize,
    scratch: &mut Scratch,
    into: &mut RgbImage,
) -> Option<()> {
    strips::decode(simd, frame, part, scale, scratch, into)
}

/// [`strips::decode`] with the best code for this processor, or with the portable one.
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code for a processor that has been detected"))]
pub(super) fn decode(
    frame: &Frame<'_>,
    part: CropBox,
    scale: usize,
    portable: bool,
    into: &mut RgbImage,
) -> Option<()> {
    strips::with_scratch(|scratch| {
        #[cfg(target_arch = "x86_64")]
        if let (false, Some(simd)) = (portable, Avx2::detect()) {
            // SAFETY: `detect` has seen all of the features.
            return unsafe { decode_avx2(simd, frame, part, scale, scratch, into) };
        }
        let _ = portable;
        strips::decode(Portable, frame, part, scale, scratch, into)
    })
}
