//! How a camera was held: the EXIF tag "orientation", and the turns and reflections that show the picture upright. Owns the
//! arithmetic between the stored picture and the upright one; each format knows where its EXIF data stand.

use super::fault::{Fault, grown};
use super::ifd::Directory;
use super::image::{CropBox, RgbImage};

/// One of the eight ways in which a picture may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orientation {
    /// Columns and rows change places.
    swaps: bool,
    /// The stored columns run from right to left (as they lie in the file).
    mirrors_columns: bool,
    /// The stored rows run from bottom to top.
    mirrors_rows: bool,
}

/// The tag's number in EXIF and in TIFF.
pub(super) const TAG: u16 = 0x112;

/// Pixels of a block that stays in the cache while columns become rows.
const BLOCK_PX: usize = 16;

impl Orientation {
    /// As it is stored.
    pub(crate) const UPRIGHT: Orientation = Orientation { swaps: false, mirrors_columns: false, mirrors_rows: false };

    /// By the tag's value; one that means nothing is upright.
    pub(super) fn of_tag(value: u64) -> Orientation {
        Orientation {
            swaps: matches!(value, 5..=8),
            mirrors_columns: matches!(value, 2 | 3 | 7 | 8),
            mirrors_rows: matches!(value, 3 | 4 | 6 | 7),
        }
    }

    /// By EXIF data; those that cannot be read say nothing.
    pub(super) fn of_exif(mut exif: &[u8]) -> Orientation {
        while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
            exif = rest;
        }
        let value = Directory::first(exif).and_then(|directory| directory.one(TAG));
        value.map_or(Orientation::UPRIGHT, Orientation::of_tag)
    }

    /// The size (width, height) of the upright picture.
    pub(super) fn upright_px(self, (width_px, height_px): (u32, u32)) -> (u32, u32) {
        if self.swaps { (height_px, width_px) } else { (width_px, height_px) }
    }

    /// The largest of 1, 2, 4 and `max_shrink` whose pixels are the same squares in the stored picture as in the upright one:
    /// squares are counted from the first pixel, so where a side is mirrored they must divide it.
    pub(super) fn max_shrink(self, max_shrink: u32, (width_px, height_px): (u32, u32)) -> u32 {
        let is_same = |by: &u32| {
            (!self.mirrors_columns || width_px.is_multiple_of(*by))
                && (!self.mirrors_rows || height_px.is_multiple_of(*by))
        };
        [8, 4, 2].into_iter().filter(|by| *by <= max_shrink).find(is_same).unwrap_or(1)
    }

    /// Where a part of the upright picture lies in the stored one, which has this size. The part lies in the picture.
    pub(super) fn stored(self, part: CropBox, (width_px, height_px): (u32, u32)) -> CropBox {
        let CropBox { left_px, top_px, width_px: wide, height_px: high } = part;
        let (left, top, wide, high) =
            if self.swaps { (top_px, left_px, high, wide) } else { (left_px, top_px, wide, high) };
        let place = |mirrors: bool, start: u32, length: u32, side: u32| {
            if mirrors { side - start - length } else { start }
        };
        CropBox {
            left_px: place(self.mirrors_columns, left, wide, width_px),
            top_px: place(self.mirrors_rows, top, high, height_px),
            width_px: wide,
            height_px: high,
        }
    }

    /// Bytes that [`Orientation::turn`] takes beside a picture of so many bytes.
    pub(super) fn extra_bytes(self, picture_bytes: u64) -> u64 {
        if self.swaps { picture_bytes } else { 0 }
    }

    /// Makes a stored picture, or a part of one, the upright one.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn turn(self, image: &mut RgbImage) -> Result<(), Fault> {
        let (wide, high) = (image.width_px as usize, image.height_px as usize);
        if self.swaps {
            let mut turned = Vec::new();
            grown(&mut turned, image.pixels.len(), 0, "a picture that is turned upright")?;
            let (from, into) = (image.pixels.as_chunks::<3>().0, turned.as_chunks_mut::<3>().0);
            // Row `y` of the upright picture is a stored column.
            for first_y in (0..wide).step_by(BLOCK_PX) {
                for first_x in (0..high).step_by(BLOCK_PX) {
                    for y in first_y..wide.min(first_y + BLOCK_PX) {
                        let column = if self.mirrors_columns { wide - 1 - y } else { y };
                        for x in first_x..high.min(first_x + BLOCK_PX) {
                            let row = if self.mirrors_rows { high - 1 - x } else { x };
                            into[y * high + x] = from[row * wide + column];
                        }
                    }
                }
            }
            *image = RgbImage { width_px: high as u32, height_px: wide as u32, pixels: turned };
            return Ok(());
        }
        let pixels = image.pixels.as_chunks_mut::<3>().0;
        match (self.mirrors_columns, self.mirrors_rows) {
            (true, true) => pixels.reverse(),
            (true, false) => pixels.chunks_exact_mut(wide.max(1)).for_each(<[[u8; 3]]>::reverse),
            (false, true) => {
                let (above, below) = pixels.split_at_mut(high / 2 * wide);
                let below = below.rchunks_exact_mut(wide.max(1));
                above.chunks_exact_mut(wide.max(1)).zip(below).for_each(|(one, other)| one.swap_with_slice(other));
            }
            (false, false) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stored picture that is upright as 0 1 2 / 3 4 5, by the words of the standard: where row 0 and column 0 are shown.
    const STORED: [(u64, u32, &[u8]); 8] = [
        (1, 3, &[0, 1, 2, 3, 4, 5]),
        (2, 3, &[2, 1, 0, 5, 4, 3]), // top, right
        (3, 3, &[5, 4, 3, 2, 1, 0]), // bottom, right
        (4, 3, &[3, 4, 5, 0, 1, 2]), // bottom, left
        (5, 2, &[0, 3, 1, 4, 2, 5]), // left, top
        (6, 2, &[2, 5, 1, 4, 0, 3]), // right, top
        (7, 2, &[5, 2, 4, 1, 3, 0]), // right, bottom
        (8, 2, &[3, 0, 4, 1, 5, 2]), // left, bottom
    ];

    fn picture(width_px: u32, values: &[u8]) -> RgbImage {
        let pixels: Vec<u8> = values.iter().flat_map(|value| [*value, 10, 20 + value]).collect();
        RgbImage { width_px, height_px: values.len() as u32 / width_px, pixels }
    }

    #[test]
    fn every_orientation_is_turned_upright_and_finds_its_parts() {
        let upright = picture(3, &[0, 1, 2, 3, 4, 5]);
        for (value, width_px, values) in STORED {
            let (orientation, stored) = (Orientation::of_tag(value), picture(width_px, values));
            let size = (stored.width_px, stored.height_px);
            assert_eq!(orientation.upright_px(size), (3, 2), "{value}");
            let mut turned = stored.clone();
            orientation.turn(&mut turned).unwrap();
            assert_eq!(turned, upright, "{value}");
            for (left_px, top_px) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] {
                let part = CropBox { left_px, top_px, width_px: 1, height_px: 1 };
                let place = orientation.stored(part, size);
                let at = (place.top_px * size.0 + place.left_px) as usize;
                assert_eq!(u32::from(values[at]), 3 * top_px + left_px, "{value} {part:?}");
            }
        }
        let [two, six] = [2, 6].map(Orientation::of_tag);
        assert_eq!((two.max_shrink(8, (12, 5)), two.max_shrink(8, (16, 5)), six.max_shrink(8, (16, 5))), (4, 8, 1));
        assert_eq!(Orientation::UPRIGHT.max_shrink(8, (3, 5)), 8);
    }

    #[test]
    fn exif_data_of_both_byte_orders_are_read_and_broken_ones_say_nothing() {
        let little = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        assert_eq!(Orientation::of_exif(little), Orientation::of_tag(6));
        assert_eq!(Orientation::of_exif(big), Orientation::of_tag(6));
        for end in 0..big.len() - 4 {
            assert_eq!(Orientation::of_exif(&big[..end]), Orientation::UPRIGHT, "{end} bytes");
        }
        for value in [0, 9, 77] {
            assert_eq!(Orientation::of_tag(value), Orientation::UPRIGHT);
        }
    }
}
