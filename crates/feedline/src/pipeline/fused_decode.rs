//! The fused image path: from the bytes of a picture to its augmented pixels, in as few passes as possible. Owns the
//! order of the steps (draw the crop from the header, decode only the part it needs, resize, the other operations) and
//! the working memory; knows neither files nor the use of the pixels.

use crate::augment::{ImageOp, View, apply_from, flip, make_room};
use crate::decode::{self, CropBox, DecodedCache, Encoded, Fault, Header, Limits, RgbImage};
use crate::error::Stage;
use crate::meter::SampleContext;
use crate::plan::Request;
use serde::{Deserialize, Serialize};
use std::cell::{OnceCell, RefCell};

/// The part of a picture that is decoded if its first operation crops and resizes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// Only the needed part, and a large JPEG at 1/2, 1/4 or 1/8 of its size, as long as the result is never enlarged
    /// again. The fastest. If a picture is shrunk, its pixels differ from those of the other modes: by a level of 255
    /// or two on average, and by some thirty at hard edges (decision 11 has the figures).
    #[default]
    Fused,
    /// Only the needed part. The same pixels as `Whole`. Damage below the part is not detected.
    Region,
    /// The whole picture, then the operations one by one.
    Whole,
}

/// What becomes of the EXIF tag "orientation". The orientation of a TIFF is a part of its format and always applied, as by Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// A picture is taken as it is stored, as by torchvision's `ImageFolder`.
    #[default]
    Ignore,
    /// A picture is turned upright, as by Pillow's `ImageOps.exif_transpose`: its size and all operations are those of the upright
    /// one. [`DecodeMode::Fused`] then shrinks a mirrored or turned picture only by a factor that divides its sides.
    Apply,
}

/// Decoding and augmentation of one family of pictures: a pure function of the request and the bytes.
#[derive(Debug)]
pub struct FusedDecode {
    ops: Vec<ImageOp>,
    limits: Limits,
    mode: DecodeMode,
    exif: Exif,
    cache: Option<DecodedCache>,
}

/// An augmented picture before its last step.
#[derive(Debug)]
pub struct Augmented<'a> {
    /// The pixels.
    pub image: &'a RgbImage,
    /// True if left and right must still be exchanged, which costs nothing while the pixels are written elsewhere.
    pub mirrored: bool,
    /// True if EXIF data ask for a turn of this picture that was not made ([`Exif::Ignore`]).
    pub ignored_exif: bool,
}

impl Augmented<'_> {
    /// The finished picture as a copy.
    pub fn to_image(&self) -> RgbImage {
        let mut image = self.image.clone();
        if self.mirrored {
            flip(&mut image);
        }
        image
    }
}

#[derive(Default)]
struct DecodeScratch {
    decoded: RgbImage,
    image: RgbImage,
}

/// Maximum working memory that a thread keeps from picture to picture; larger memory is freed.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// The demands on decoding a picture: its first view, if the first operation has one, and the shrink factor and part to
/// decode.
struct Need {
    view: Option<View>,
    shrink: u32,
    /// In pixels of the picture.
    part: CropBox,
}

/// The file of a picture, whose head is looked at once, and not before it is needed: the picture may be in the cache.
struct EncodedLazily<'a> {
    bytes: &'a [u8],
    exif: Exif,
    encoded: OnceCell<Encoded<'a>>,
}

impl<'a> EncodedLazily<'a> {
    fn get(&self) -> Result<&Encoded<'a>, Fault> {
        if let Some(encoded) = self.encoded.get() {
            return Ok(encoded);
        }
        let encoded = Encoded::new(self.bytes)?;
        let encoded = if self.exif == Exif::Apply { encoded.upright() } else { encoded };
        Ok(self.encoded.get_or_init(|| encoded))
    }

    /// True if it was looked at, and asks for a turn that is not made.
    fn is_turn_ignored(&self) -> bool {
        self.exif == Exif::Ignore && self.encoded.get().is_some_and(Encoded::is_turned)
    }

    /// Its size.
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl FusedDecode {
    /// The operations `ops` on pictures within `limits`.
    pub fn new(ops: Vec<ImageOp>, limits: Limits, mode: DecodeMode) -> FusedDecode {
        FusedDecode { ops, limits, mode, exif: Exif::default(), cache: None }
    }

    /// What becomes of the EXIF orientation.
    #[must_use]
    pub fn with_exif(mut self, exif: Exif) -> FusedDecode {
        self.exif = exif;
        self
    }

    /// Caches decoded pictures; the resulting bytes are the same.
    #[must_use]
    pub fn with_cache(mut self, cache: DecodedCache) -> FusedDecode {
        self.cache = Some(cache);
        self
    }

    /// True if the cache can supply the sample, so that its bytes need not be read.
    pub fn is_cached(&self, request: &Request) -> bool {
        let Some(cache) = &self.cache else { return false };
        cache.header(request.index).is_some_and(|header| {
            let need = self.need(request, header);
            cache.find(request.index, need.shrink, need.part.shrunk(need.shrink)).is_some()
        })
    }

    /// Makes the picture of `request` from `bytes` and hands it to `then`. Reports its stages to `context`, and
    /// reserves the memory it takes there.
    ///
    /// # Errors
    /// Damage found while decoding.
    pub fn run<T>(
        &self,
        request: &Request,
        bytes: &[u8],
        context: &mut SampleContext,
        then: impl FnOnce(Augmented<'_>, &mut SampleContext) -> T,
    ) -> Result<T, Fault> {
        thread_local! {
            /// Reused from picture to picture, so that a worker allocates nothing after its largest picture.
            static SCRATCH: RefCell<DecodeScratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(|DecodeScratch { decoded, image }| {
            context.enter(Stage::Decode);
            let known = self.cache.as_ref().and_then(|cache| cache.header(request.index));
            let file = EncodedLazily { bytes, exif: self.exif, encoded: OnceCell::new() };
            let header = known.map_or_else(|| file.get()?.header(), Ok)?;
            let need = self.need(request, header);
            if need.view.is_some() {
                make_room(&self.ops, 1, None, image)?;
            }
            let done = match (&self.cache, need.view) {
                (Some(cache), Some(view)) => {
                    self.through_cache(cache, view, &need, header, request, &file, context, image)
                }
                _ => false,
            };
            if !done {
                context.reserve(working_bytes(header, need.part.shrunk(need.shrink)).saturating_add(file.len_bytes()));
                match need.view {
                    Some(view) => {
                        let mut reserve = |more: u64| context.reserve(file.len_bytes() + more);
                        file.get()?.decode_rgb_part(&self.limits, need.part, need.shrink, decoded, &mut reserve)?;
                        context.count_bytes(decoded.pixels.len());
                        context.enter(Stage::Augment);
                        let seen = need.part.shrunk(need.shrink);
                        view.render(decoded, (seen.left_px, seen.top_px), need.shrink, image);
                    }
                    None => {
                        let mut reserve = |more: u64| context.reserve(file.len_bytes() + more);
                        file.get()?.decode_rgb(&self.limits, image, &mut reserve)?;
                        make_room(&self.ops, 0, Some([image.height_px, image.width_px]), image)?;
                        context.count_bytes(image.pixels.len());
                        context.enter(Stage::Augment);
                    }
                }
            }
            let mirrored = self.augment(usize::from(need.view.is_some()), image, request);
            let ignored_exif = file.is_turn_ignored();
            let result = then(Augmented { image, mirrored, ignored_exif }, context);
            for scratch in [decoded, image] {
                if scratch.pixels.capacity() > MAX_KEPT_BYTES {
                    *scratch = RgbImage::default();
                }
            }
            Ok(result)
        })
    }

    /// Draws the demands of the picture, from its size alone.
    fn need(&self, request: &Request, header: Header) -> Need {
        let Header { width_px, height_px, .. } = header;
        let first = self.ops.first().filter(|_| width_px > 0 && height_px > 0);
        let view = first.and_then(|op| op.view(width_px, height_px, &mut request.rng(&op.stream(0))));
        let whole = CropBox { left_px: 0, top_px: 0, width_px, height_px };
        match (view, self.mode) {
            (Some(view), DecodeMode::Fused) => {
                Need { view: Some(view), shrink: view.shrink(header.max_shrink), part: view.needed() }
            }
            (Some(view), DecodeMode::Region) => Need { view: Some(view), shrink: 1, part: view.needed() },
            (view, _) => Need { view, shrink: 1, part: whole },
        }
    }

    /// Renders the view from a cached picture, or decodes a picture worth caching; `false` if there is no room, or the
    /// picture is damaged, perhaps outside of the part: the result must not depend on what was cached.
    #[expect(clippy::too_many_arguments, reason = "one step of `run`, cut out to be read alone")]
    fn through_cache(
        &self,
        cache: &DecodedCache,
        view: View,
        need: &Need,
        header: Header,
        request: &Request,
        file: &EncodedLazily<'_>,
        context: &mut SampleContext,
        image: &mut RgbImage,
    ) -> bool {
        let shrink = need.shrink;
        let kept = match cache.find(request.index, shrink, need.part.shrunk(shrink)) {
            Some(kept) => kept,
            None => {
                let Header { width_px, height_px, .. } = header;
                // A part that is drawn anew each epoch is in the whole picture; one that stays the same is enough.
                let random = self.ops.first().is_some_and(ImageOp::has_random_view);
                let part = if random { CropBox { left_px: 0, top_px: 0, width_px, height_px } } else { need.part };
                let place = part.shrunk(shrink);
                if !cache.reserve(place) {
                    return false;
                }
                context.reserve(working_bytes(header, place).saturating_add(file.len_bytes()));
                let mut picture = RgbImage::default();
                let mut reserve = |more: u64| context.reserve(file.len_bytes() + more);
                let decoded = file
                    .get()
                    .and_then(|file| file.decode_rgb_part(&self.limits, part, shrink, &mut picture, &mut reserve));
                if decoded.is_err() {
                    cache.give_back(place);
                    return false;
                }
                context.count_bytes(picture.pixels.len());
                picture.pixels.shrink_to_fit();
                let kept = decode::Kept { shrink, place, image: picture.into() };
                cache.keep(request.index, header, kept.clone());
                kept
            }
        };
        context.enter(Stage::Augment);
        view.render(&kept.image, (kept.place.left_px, kept.place.top_px), shrink, image);
        true
    }

    /// Applies the operations from the `done`-th on. Returns `true` if the last is a flip, which is left to the caller.
    fn augment(&self, done: usize, image: &mut RgbImage, request: &Request) -> bool {
        let rng = |stage: &str| request.rng(stage);
        match self.ops.split_last() {
            Some((flip @ ImageOp::HorizontalFlip { p }, before)) => {
                apply_from(before, done, image, rng);
                rng(&flip.stream(before.len())).chance(*p)
            }
            _ => {
                apply_from(&self.ops, done, image, rng);
                false
            }
        }
    }
}

/// Approximate memory for decoding: the pixels, and if the whole picture is decoded, the decoder's own copy. Saturates,
/// since a header may claim any size.
fn working_bytes(header: Header, part: CropBox) -> u64 {
    let pixels = |width: u32, height: u32| (u64::from(width) * u64::from(height)).saturating_mul(3);
    let whole = pixels(header.width_px, header.height_px).saturating_mul(if header.max_shrink == 1 { 2 } else { 0 });
    whole.saturating_add(pixels(part.width_px, part.height_px))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_claims_overflows_nothing() {
        let header = Header { width_px: 1 << 31, height_px: 1 << 31, max_shrink: 1 };
        let part = CropBox { left_px: 0, top_px: 0, width_px: 1 << 31, height_px: 1 << 31 };
        assert_eq!(working_bytes(header, part), u64::MAX);
        let small = CropBox { left_px: 0, top_px: 0, width_px: 4, height_px: 5 };
        assert_eq!(working_bytes(Header { width_px: 10, height_px: 20, max_shrink: 1 }, small), 1200 + 60);
        assert_eq!(working_bytes(Header { width_px: 10, height_px: 20, max_shrink: 8 }, small), 60);
    }
}
