//! A picture file whose head was looked at: its format and its header in one value. Owns the choice of the decoder.

use super::fault::Fault;
use super::guard::guarded;
use super::image::{CropBox, Format, Header, Limits, RgbImage, format};
use super::{jpeg, png, png_whole};

/// A JPEG or PNG file. Its head is parsed once, by [`Encoded::new`]; what is done with the file goes by that.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    bytes: &'a [u8],
    head: Head<'a>,
}

/// The head, as the fast decoder of the format understands it; `None` leaves the file to the careful one.
#[derive(Debug)]
enum Head<'a> {
    Jpeg(Option<jpeg::Frame<'a>>),
    Png(Option<png_whole::Header>),
}

impl<'a> Encoded<'a> {
    /// Looks at the head of a file, without allocating.
    ///
    /// # Errors
    /// A file that is empty, or neither a JPEG nor a PNG.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Encoded<'a>, Fault> {
        guarded(|| {
            let head = match format(bytes)? {
                Format::Jpeg => Head::Jpeg(jpeg::frame(bytes)),
                Format::Png => Head::Png(png_whole::header(bytes)),
            };
            Ok(Encoded { bytes, head })
        })
    }

    /// What the header says.
    ///
    /// # Errors
    /// A header that is damaged or cut.
    pub(crate) fn header(&self) -> Result<Header, Fault> {
        guarded(|| self.header_unguarded())
    }

    fn header_unguarded(&self) -> Result<Header, Fault> {
        match &self.head {
            Head::Jpeg(frame) => jpeg::header(self.bytes, frame.as_ref()),
            Head::Png(header) => {
                let (width_px, height_px) = png::dimensions(self.bytes, *header)?;
                Ok(Header { width_px, height_px, max_shrink: 1 })
            }
        }
    }

    /// [`decode_rgb`](super::decode_rgb). Tells `reserve` how many bytes it needs in all where these are more than the
    /// pixels, before it takes them.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decode_rgb(
        &self,
        limits: &Limits,
        into: &mut RgbImage,
        reserve: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let result = guarded(|| match &self.head {
            Head::Jpeg(frame) => jpeg::decode_rgb(self.bytes, frame.as_ref(), limits, into, reserve),
            Head::Png(header) => png::decode_rgb(self.bytes, *header, limits, into),
        });
        if result.is_err() {
            // Also gives back what a lying header made us allocate.
            *into = RgbImage::default();
        }
        result
    }

    /// [`decode_rgb_part`](super::decode_rgb_part), with `reserve` of [`Encoded::decode_rgb`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decode_rgb_part(
        &self,
        limits: &Limits,
        part: CropBox,
        shrink: u32,
        into: &mut RgbImage,
        reserve: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let result = guarded(|| {
            if !matches!(shrink, 1 | 2 | 4 | 8) {
                return Err(format!("an image cannot be decoded at 1/{shrink}, only at 1/1, 1/2, 1/4 and 1/8").into());
            }
            if let Head::Jpeg(Some(frame)) = &self.head
                && jpeg::decode_part(frame, limits, part, shrink, into).is_some()
            {
                return Ok(());
            }
            let Header { width_px, height_px, max_shrink } = self.header_unguarded()?;
            let done = match &self.head {
                Head::Jpeg(_) => {
                    let shrink = shrink.min(max_shrink);
                    jpeg::decode_generally(self.bytes, limits, shrink, into, reserve).map(|()| shrink)?
                }
                Head::Png(header) => png::decode_rgb(self.bytes, *header, limits, into).map(|()| 1)?,
            };
            if !part.lies_in(width_px, height_px) {
                return Err(format!("{part:?} is no part of {width_px} x {height_px} px").into());
            }
            cut_in_place(into, part.shrunk(shrink), (shrink / done) as usize);
            Ok(())
        });
        if result.is_err() {
            *into = RgbImage::default();
        }
        result
    }
}

/// Makes `image` the part `part` (of the image at 1/`shrink`) of itself at 1/`shrink`, by rounded means.
fn cut_in_place(image: &mut RgbImage, part: CropBox, shrink: usize) {
    let (wide, high) = (image.width_px as usize, image.height_px as usize);
    let mut to = 0;
    for row in part.top_px as usize..(part.top_px + part.height_px) as usize {
        if shrink == 1 {
            let from = 3 * (row * wide + part.left_px as usize);
            image.pixels.copy_within(from..from + 3 * part.width_px as usize, to);
            to += 3 * part.width_px as usize;
            continue;
        }
        for column in part.left_px as usize..(part.left_px + part.width_px) as usize {
            let (rows, columns) = (row * shrink..high.min((row + 1) * shrink), column * shrink..);
            let columns = columns.start..wide.min(columns.start + shrink);
            let count = rows.len() * columns.len();
            for channel in 0..3 {
                let row_sum = |row: usize| -> usize {
                    columns.clone().map(|column| usize::from(image.pixels[3 * (row * wide + column) + channel])).sum()
                };
                let sum: usize = rows.clone().map(row_sum).sum();
                // Pixels in front of the ones still needed are overwritten; a pixel's own three are read channel by
                // channel before its place, which is never behind them, is written.
                image.pixels[to + channel] = ((sum + count / 2) / count) as u8;
            }
            to += 3;
        }
    }
    image.reshape(part.width_px, part.height_px);
}
