//! A picture file whose head was looked at: its format and its header in one value. Owns the choice of the decoder.

use super::fault::Fault;
#[cfg(feature = "formats")]
use super::formats;
use super::guard::guarded;
use super::image::{CropBox, Format, Header, Limits, RgbImage, format};
use super::orientation::Orientation;
use super::{jpeg, png, png_whole};

/// The file of a picture. Its head is parsed once, by [`Encoded::new`]; what is done with the file goes by that.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    bytes: &'a [u8],
    head: Head<'a>,
    /// What is applied.
    orientation: Orientation,
}

/// The head, as the fast decoder of the format understands it; `None` leaves the file to the careful one.
#[derive(Debug)]
enum Head<'a> {
    Jpeg(Option<jpeg::Frame<'a>>),
    Png(Option<png_whole::Header>),
    #[cfg(feature = "formats")]
    Other(Format),
}

impl<'a> Encoded<'a> {
    /// Looks at the head of a file, without allocating. The picture is decoded as it is stored.
    ///
    /// # Errors
    /// A file that is empty, or of no format that is read.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Encoded<'a>, Fault> {
        guarded(|| {
            let head = match format(bytes)? {
                Format::Jpeg => Head::Jpeg(jpeg::frame(bytes)),
                Format::Png => Head::Png(png_whole::header(bytes)),
                #[cfg(feature = "formats")]
                other => Head::Other(other),
                #[cfg(not(feature = "formats"))]
                other => {
                    return Err(format!(
                        "{other:?} is not read by this build: build it with the cargo feature `formats`, or convert the file"
                    )
                    .into());
                }
            };
            Ok(Encoded { bytes, head, orientation: Orientation::UPRIGHT })
        })
    }

    /// The same picture, decoded as its EXIF data say that it is upright: size, parts and pixels are then those of
    /// Pillow's `ImageOps.exif_transpose`.
    pub(crate) fn upright(self) -> Encoded<'a> {
        Encoded { orientation: self.stored_orientation(), ..self }
    }

    /// True if EXIF data ask for a turn or a reflection.
    pub(crate) fn is_turned(&self) -> bool {
        self.stored_orientation() != Orientation::UPRIGHT
    }

    /// What the EXIF data say; nothing is upright, and so are data that cannot be read. The orientation of a TIFF is no matter
    /// of EXIF, and is always applied.
    fn stored_orientation(&self) -> Orientation {
        match &self.head {
            Head::Jpeg(frame) => {
                jpeg::exif(self.bytes, frame.as_ref()).map_or(Orientation::UPRIGHT, Orientation::of_exif)
            }
            Head::Png(_) => png_whole::exif(self.bytes).map_or(Orientation::UPRIGHT, Orientation::of_exif),
            #[cfg(feature = "formats")]
            Head::Other(format) => formats::orientation(*format, self.bytes),
        }
    }

    /// What the header says.
    ///
    /// # Errors
    /// A header that is damaged or cut.
    pub(crate) fn header(&self) -> Result<Header, Fault> {
        let Header { width_px, height_px, max_shrink } = guarded(|| self.stored_header())?;
        let max_shrink = self.orientation.max_shrink(max_shrink, (width_px, height_px));
        let (width_px, height_px) = self.orientation.upright_px((width_px, height_px));
        Ok(Header { width_px, height_px, max_shrink })
    }

    /// What the header says of the picture as it is stored.
    fn stored_header(&self) -> Result<Header, Fault> {
        match &self.head {
            Head::Jpeg(frame) => jpeg::header(self.bytes, frame.as_ref()),
            Head::Png(header) => {
                let (width_px, height_px) = png::dimensions(self.bytes, *header)?;
                Ok(Header { width_px, height_px, max_shrink: 1 })
            }
            #[cfg(feature = "formats")]
            Head::Other(format) => {
                let (width_px, height_px) = formats::dimensions(*format, self.bytes)?;
                Ok(Header { width_px, height_px, max_shrink: 1 })
            }
        }
    }

    /// Decodes the whole picture as it is stored.
    fn decode_stored(&self, limits: &Limits, into: &mut RgbImage, reserve: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        match &self.head {
            Head::Jpeg(frame) => jpeg::decode_rgb(self.bytes, frame.as_ref(), limits, into, reserve),
            Head::Png(header) => png::decode_rgb(self.bytes, *header, limits, into),
            #[cfg(feature = "formats")]
            Head::Other(format) => formats::decode_rgb(*format, self.bytes, limits, into, reserve),
        }
    }

    /// Turns a picture, or a part of one, from the way it is stored to the upright one.
    fn turn(&self, into: &mut RgbImage, reserve: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let extra_bytes = self.orientation.extra_bytes(into.pixels.len() as u64);
        if extra_bytes > 0 {
            reserve(into.pixels.len() as u64 + extra_bytes);
        }
        self.orientation.turn(into)
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
        let result = guarded(|| {
            self.decode_stored(limits, into, reserve)?;
            self.turn(into, reserve)
        });
        if result.is_err() {
            // Also gives back what a lying header made us allocate.
            *into = RgbImage::default();
        }
        result
    }

    /// [`decode_rgb_part`](super::decode_rgb_part), with `reserve` of [`Encoded::decode_rgb`]. Of an upright picture `shrink`
    /// is at most [`Header::max_shrink`].
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
            let part = match self.orientation {
                Orientation::UPRIGHT => part,
                // The place of a part that does not lie in the picture means nothing.
                orientation => {
                    let Header { width_px, height_px, .. } = self.stored_header()?;
                    let (upright_width_px, upright_height_px) = orientation.upright_px((width_px, height_px));
                    check_part(part, upright_width_px, upright_height_px)?;
                    orientation.stored(part, (width_px, height_px))
                }
            };
            self.decode_stored_part(limits, part, shrink, into, reserve)?;
            self.turn(into, reserve)
        });
        if result.is_err() {
            *into = RgbImage::default();
        }
        result
    }
}

impl Encoded<'_> {
    /// Decodes a part of the picture as it is stored.
    fn decode_stored_part(
        &self,
        limits: &Limits,
        part: CropBox,
        shrink: u32,
        into: &mut RgbImage,
        reserve: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        if let Head::Jpeg(Some(frame)) = &self.head
            && jpeg::decode_part(frame, limits, part, shrink, into).is_some()
        {
            return Ok(());
        }
        let Header { width_px, height_px, max_shrink } = self.stored_header()?;
        let done = match &self.head {
            Head::Jpeg(_) => {
                let shrink = shrink.min(max_shrink);
                jpeg::decode_generally(self.bytes, limits, shrink, into, reserve).map(|()| shrink)?
            }
            _ => self.decode_stored(limits, into, reserve).map(|()| 1)?,
        };
        check_part(part, width_px, height_px)?;
        cut_in_place(into, part.shrunk(shrink), (shrink / done) as usize);
        Ok(())
    }
}

fn check_part(part: CropBox, width_px: u32, height_px: u32) -> Result<(), Fault> {
    if part.lies_in(width_px, height_px) {
        return Ok(());
    }
    Err(format!("{part:?} is no part of {width_px} x {height_px} px").into())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of 44 x 36 px with each orientation, and of some kinds.
    const PICTURES: [&str; 10] = [
        "exif_1.jpg",
        "exif_2.jpg",
        "exif_3.jpg",
        "exif_4.jpg",
        "exif_5.jpg",
        "exif_6.jpg",
        "exif_7.jpg",
        "exif_8.jpg",
        "exif_6_progressive.jpg",
        "exif_6.png",
    ];

    #[test]
    fn parts_of_an_upright_picture_are_those_of_the_stored_one_turned_at_every_scale() {
        let mut scales = Vec::new();
        for name in PICTURES {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/images/formats");
            let bytes = std::fs::read(format!("{folder}/{name}")).unwrap();
            let stored = Encoded::new(&bytes).unwrap();
            let upright = Encoded::new(&bytes).unwrap().upright();
            assert_eq!(stored.is_turned(), name != "exif_1.jpg");
            let decoded = |encoded: &Encoded<'_>, part: CropBox, shrink: u32| {
                let mut image = RgbImage::default();
                encoded.decode_rgb_part(&Limits::default(), part, shrink, &mut image, &mut |_| ()).map(|()| image)
            };
            let all = |encoded: &Encoded<'_>| {
                let Header { width_px, height_px, .. } = encoded.header().unwrap();
                CropBox { left_px: 0, top_px: 0, width_px, height_px }
            };
            let max_shrink = upright.header().unwrap().max_shrink;
            scales.push(max_shrink);
            for shrink in [1, 2, 4, 8].into_iter().filter(|shrink| *shrink <= max_shrink) {
                let mut turned = decoded(&stored, all(&stored), shrink).unwrap();
                stored.stored_orientation().turn(&mut turned).unwrap();
                assert_eq!(decoded(&upright, all(&upright), shrink).unwrap(), turned, "{name} at 1/{shrink}");
                for (left_px, top_px, width_px, height_px) in [(0, 0, 9, 5), (13, 6, 21, 27), (30, 31, 6, 5)] {
                    let part = CropBox { left_px, top_px, width_px, height_px };
                    let mut cut = turned.clone();
                    cut_in_place(&mut cut, part.shrunk(shrink), 1);
                    assert_eq!(decoded(&upright, part, shrink).unwrap(), cut, "{name} at 1/{shrink}, {part:?}");
                }
            }
            let outside = CropBox { left_px: 0, top_px: 0, width_px: 45, height_px: 45 };
            assert!(decoded(&upright, outside, 1).unwrap_err().to_string().contains("is no part of"));
        }
        assert_eq!(scales, [8, 4, 4, 4, 8, 4, 4, 4, 1, 1]);
    }
}
