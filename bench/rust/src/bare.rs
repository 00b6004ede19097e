//! The yardsticks of the picture works: decoding alone, and the bare fused loop without any loader.

use std::error::Error;
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fast_image_resize as fir;
use fir::images::{TypedImage, TypedImageRef};
use fir::pixels::U8x3;
use turbojpeg_sys as sys;

use crate::input::{Crop, centre_crop, pictures, random_crop};
use crate::{Args, report};

const SIDE: usize = 224;
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// One libjpeg-turbo decompressor, freed when dropped.
struct Decoder(sys::tjhandle);

impl Decoder {
    fn new(fast: bool) -> Result<Self, String> {
        // SAFETY: a fresh handle; the parameters are ones that a decompressor has.
        unsafe {
            let handle = sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS as _);
            if handle.is_null() {
                return Err("tj3Init failed".into());
            }
            sys::tj3Set(handle, sys::TJPARAM_TJPARAM_FASTDCT as _, fast.into());
            sys::tj3Set(handle, sys::TJPARAM_TJPARAM_FASTUPSAMPLE as _, fast.into());
            Ok(Self(handle))
        }
    }

    fn check(&self, code: i32) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the handle is live and the library returns a NUL-terminated string.
        Err(unsafe { CStr::from_ptr(sys::tj3GetErrorStr(self.0)) }.to_string_lossy().into_owned())
    }

    /// Reads the header: width, height and the width of one block (MCU) in pixels.
    fn header(&mut self, jpeg: &[u8]) -> Result<(usize, usize, usize), String> {
        // SAFETY: pointer and length belong to one slice.
        self.check(unsafe { sys::tj3DecompressHeader(self.0, jpeg.as_ptr(), jpeg.len() as _) })?;
        let get = |param: u32| unsafe { sys::tj3Get(self.0, param as _) };
        let subsampling = get(sys::TJPARAM_TJPARAM_SUBSAMP);
        let block = if matches!(subsampling, 1 | 2) { 16 } else { 8 };
        let block = if subsampling == 5 { 32 } else { block };
        let width = get(sys::TJPARAM_TJPARAM_JPEGWIDTH) as usize;
        Ok((width, get(sys::TJPARAM_TJPARAM_JPEGHEIGHT) as usize, block))
    }

    /// Decodes `region` (already scaled and aligned; all zero: everything) of the picture at 1/`shrink`.
    fn decode(&mut self, jpeg: &[u8], shrink: i32, region: sys::tjregion, out: &mut [u8]) -> Result<(), String> {
        let factor = sys::tjscalingfactor { num: 1, denom: shrink };
        // SAFETY: `out` is as large as the region that the caller computed from the header.
        unsafe {
            self.check(sys::tj3SetScalingFactor(self.0, factor))?;
            self.check(sys::tj3SetCroppingRegion(self.0, region))?;
            let format = sys::TJPF_TJPF_RGB as _;
            self.check(sys::tj3Decompress8(self.0, jpeg.as_ptr(), jpeg.len() as _, out.as_mut_ptr(), 0, format))
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { sys::tj3Destroy(self.0) }
    }
}

const WHOLE: sys::tjregion = sys::tjregion { x: 0, y: 0, w: 0, h: 0 };

/// Runs `body(thread)` on `workers` threads, each pinned to a core of its own; sums what they return.
fn pinned<F>(workers: usize, body: F) -> Result<usize, Box<dyn Error>>
where
    F: Fn(usize) -> Result<usize, String> + Sync,
{
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|thread| {
                let core = cores.get(thread % cores.len().max(1)).copied();
                let body = &body;
                scope.spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    body(thread)
                })
            })
            .collect();
        let mut total = 0;
        for thread in threads {
            total += thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(total)
    })
}

/// libjpeg-turbo's decode of whole pictures already in memory, and nothing else.
pub fn limit(args: &Args, fast: bool) -> Result<serde_json::Value, Box<dyn Error>> {
    let jpegs = pictures(&args.data)?.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    report::epochs(args, started, jpegs.len(), |_, mark| {
        let next = AtomicUsize::new(0);
        let done = pinned(args.workers, |_| {
            let mut decoder = Decoder::new(fast)?;
            let mut pixels = Vec::new();
            let mut done = 0;
            while let Some(jpeg) = jpegs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (width, height, _) = decoder.header(jpeg)?;
                if pixels.len() < width * height * 3 {
                    pixels.resize(width * height * 3, 0);
                }
                decoder.decode(jpeg, 1, WHOLE, &mut pixels)?;
                done += 1;
            }
            Ok(done)
        })?;
        mark();
        Ok(done)
    })
}

/// Read, region decode (accurate DCT), resize, flip, normalise into a batch buffer: no loader around it.
pub fn bare(args: &Args) -> Result<serde_json::Value, Box<dyn Error>> {
    let files = pictures(&args.data)?;
    let train = args.work != "C";
    let started = Instant::now();
    report::epochs(args, started, files.len(), |epoch, mark| {
        let next = AtomicUsize::new(0);
        let mut order: Vec<usize> = (0..files.len()).collect();
        fastrand::Rng::with_seed(epoch as u64).shuffle(&mut order);
        let done = pinned(args.workers, |thread| {
            let mut decoder = Decoder::new(false)?;
            let mut resizer = fir::Resizer::new();
            let mut rng = fastrand::Rng::with_seed((epoch * 4096 + thread) as u64);
            let (mut jpeg, mut pixels) = (Vec::new(), Vec::new());
            let mut small = TypedImage::<U8x3>::new(SIDE as u32, SIDE as u32);
            let sample = 3 * SIDE * SIDE;
            let mut batch = vec![0f32; args.batch_size * sample];
            let mut done = 0;
            while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                jpeg.clear();
                std::fs::File::open(&files[index])
                    .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut jpeg))
                    .map_err(|e| e.to_string())?;
                let (width, height, block) = decoder.header(&jpeg)?;
                let crop = if train { random_crop(&mut rng, width, height) } else { centre_crop(width, height) };
                let flip = train && rng.bool();
                shrink_into(&mut decoder, &jpeg, (width, height, block), &crop, &mut pixels, &mut resizer, &mut small)?;
                let slot = done % args.batch_size;
                let slot = &mut batch[slot * sample..(slot + 1) * sample];
                normalise_any(small.pixels(), slot, flip);
                done += 1;
            }
            std::hint::black_box(&batch);
            Ok(done)
        })?;
        mark();
        Ok(done)
    })
}

/// Decodes the blocks that `crop` touches, at the smallest scale that still has 224 pixels a side, and resizes.
fn shrink_into(
    decoder: &mut Decoder,
    jpeg: &[u8],
    (width, height, block): (usize, usize, usize),
    crop: &Crop,
    pixels: &mut Vec<u8>,
    resizer: &mut fir::Resizer,
    small: &mut TypedImage<U8x3>,
) -> Result<(), String> {
    let fits = |shrink: &usize| crop.width / shrink >= SIDE && crop.height / shrink >= SIDE;
    let shrink = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
    let step = block / shrink;
    let (full_w, full_h) = (width.div_ceil(shrink), height.div_ceil(shrink));
    let left = crop.left / block * step;
    let top = crop.top / block * step;
    // Two pixels beyond the crop, for the filter's neighbours.
    let right = ((crop.left + crop.width).div_ceil(shrink) + 2).min(full_w);
    let bottom = ((crop.top + crop.height).div_ceil(shrink) + 2).min(full_h);
    let (region_w, region_h) = (right - left, bottom - top);
    if pixels.len() < region_w * region_h * 3 {
        pixels.resize(region_w * region_h * 3, 0);
    }
    let pixels = &mut pixels[..region_w * region_h * 3];
    let region = sys::tjregion { x: left as _, y: top as _, w: region_w as _, h: region_h as _ };
    decoder.decode(jpeg, shrink as i32, region, pixels)?;
    let view =
        TypedImageRef::<U8x3>::from_buffer(region_w as u32, region_h as u32, pixels).map_err(|e| e.to_string())?;
    let scale = shrink as f64;
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
        .use_alpha(false)
        .crop(
            crop.left as f64 / scale - left as f64,
            crop.top as f64 / scale - top as f64,
            (crop.width as f64 / scale).min(region_w as f64),
            (crop.height as f64 / scale).min(region_h as f64),
        );
    resizer.resize_typed(&view, small, &options).map_err(|e| e.to_string())
}

/// HWC u8 to CHW f32, normalised, flipped when asked: under AVX2 where the machine has it.
pub fn normalise_any(pixels: &[U8x3], out: &mut [f32], flip: bool) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        return unsafe { normalise_avx2(pixels, out, flip) };
    }
    normalise(pixels, out, flip);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn normalise_avx2(pixels: &[U8x3], out: &mut [f32], flip: bool) {
    normalise(pixels, out, flip);
}

#[inline(always)]
fn normalise(pixels: &[U8x3], out: &mut [f32], flip: bool) {
    for (channel, plane) in out.chunks_exact_mut(SIDE * SIDE).enumerate() {
        let scale = 1.0 / (255.0 * STD[channel]);
        let shift = -MEAN[channel] / STD[channel];
        for (row, line) in plane.chunks_exact_mut(SIDE).zip(pixels.chunks_exact(SIDE)) {
            if flip {
                for (value, pixel) in row.iter_mut().rev().zip(line) {
                    *value = f32::from(pixel.0[channel]) * scale + shift;
                }
            } else {
                for (value, pixel) in row.iter_mut().zip(line) {
                    *value = f32::from(pixel.0[channel]) * scale + shift;
                }
            }
        }
    }
}
