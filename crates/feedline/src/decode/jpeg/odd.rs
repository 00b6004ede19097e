//! JPEGs that libjpeg reads and the general decoder does not: sequential scans of some components but not all, chroma of
//! higher resolution than luma, and inks of different sampling. Plain code for rare files; the pixels are libjpeg-turbo's.
//! Strict: damage gives `None`.

use super::entropy::{Bits, natural};
use super::huffman::{ac_table, dc_table};
use super::idct::{self, Target};
use super::survey::Survey;
use super::{color, header};
use crate::decode::fault::{Fault, grown};
use libjpeg_turbo_rs::{ColorSpace, read_coefficients};

/// The samples of one component.
pub(super) struct Plane {
    pub samples: Vec<u8>,
    /// Distance between rows, in samples.
    pub stride: usize,
}

/// The components' samples, from scans of any components. Each component is in at most one scan.
pub(super) fn planes(survey: &Survey<'_>) -> Result<Option<Vec<Plane>>, Fault> {
    let mcus = survey.mcus();
    let mut planes = Vec::new();
    for component in &survey.components {
        let (stride, rows) = (8 * mcus.0 * component.factors.0, 8 * mcus.1 * component.factors.1);
        let mut samples = Vec::new();
        // After the rows there is room for a discarded block. Samples that no scan holds are middle grey.
        grown(&mut samples, stride * (rows + 8), 128, "the samples of a JPEG")?;
        planes.push(Plane { samples, stride });
    }
    let mut seen = [false; 4];
    for scan in 0..survey.scans.len() {
        if scan_into(survey, scan, &mut planes, &mut seen).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(planes))
}

/// The components' samples of a sequential picture, if it has a block that the general decoder transforms differently from
/// libjpeg-turbo. Only damaged files have such coefficients.
pub(super) fn wild_planes(survey: &Survey<'_>, bytes: &[u8]) -> Result<Option<Vec<Plane>>, Fault> {
    let Ok(found) = read_coefficients(bytes) else { return Ok(None) };
    let mut planes = Vec::new();
    let mut is_wild = false;
    for component in &found.components {
        let Some(quant) = found.quant_tables.get(usize::from(component.quant_table_index)) else { return Ok(None) };
        let stride = 8 * component.blocks_x;
        let mut samples = Vec::new();
        grown(&mut samples, stride * 8 * component.blocks_y, 128, "the samples of a JPEG")?;
        for (at, zigzag) in component.blocks.iter().enumerate() {
            let mut block = [0; 64];
            zigzag.iter().enumerate().for_each(|(at, value)| block[natural(at)] = *value);
            is_wild |= idct::is_wild_block(&block, quant);
            let place = 8 * (at / component.blocks_x * stride + at % component.blocks_x);
            for (row, eight) in idct::exact(&block, quant).iter().enumerate() {
                samples[place + row * stride..][..8].copy_from_slice(eight);
            }
        }
        planes.push(Plane { samples, stride });
    }
    Ok((is_wild && planes.len() == survey.components.len()).then_some(planes))
}

fn scan_into(survey: &Survey<'_>, scan: usize, planes: &mut [Plane], seen: &mut [bool; 4]) -> Option<()> {
    let scan = &survey.scans[scan];
    if scan.spectrum != header::ALL_COEFFICIENTS || scan.components.is_empty() {
        return None;
    }
    let mut tables = Vec::new();
    for &(component, dc, ac) in &scan.components {
        if std::mem::replace(&mut seen[component], true) {
            return None;
        }
        let steps = scan.tables.quants.get(survey.components[component].quant).copied()??;
        let mut quant = [0_i16; 128];
        for (zigzag, &step) in steps.iter().enumerate() {
            let (row, column) = (natural(zigzag) / 8, natural(zigzag) % 8);
            quant[row * 16 + column] = step.into();
        }
        tables.push((quant, dc_table(scan.tables.huffs[0][dc]?)?, ac_table(scan.tables.huffs[1][ac]?)?));
    }
    // The blocks of an MCU; a single component's are taken row by row, without those that lie outside the picture.
    let (mcus, sizes) = match *scan.components {
        [(component, ..)] => {
            let (columns, rows) = survey.extent(component);
            ((columns.div_ceil(8), rows.div_ceil(8)), vec![(1, 1)])
        }
        _ => (survey.mcus(), scan.components.iter().map(|&(at, ..)| survey.components[at].factors).collect()),
    };
    let mut bits = Bits::new(scan.data);
    let mut last_dc = [0_i32; 4];
    for mcu in 0..mcus.0 * mcus.1 {
        let interval = scan.tables.restart_interval;
        if interval > 0 && mcu > 0 && mcu.is_multiple_of(interval) {
            bits.restart(mcu / interval - 1)?;
            last_dc = [0; 4];
        }
        for (at, (&(component, ..), &(wide, high))) in scan.components.iter().zip(&sizes).enumerate() {
            let (quant, dc, ac) = &tables[at];
            let Plane { samples, stride } = &mut planes[component];
            let nowhere = Target { at: samples.len() - 8 * *stride, stride: *stride };
            for place in 0..wide * high {
                let column = mcu % mcus.0 * wide + place % wide;
                let row = mcu / mcus.0 * high + place / wide;
                let mut pair = [0; 256];
                if bits.block(dc, ac, &mut last_dc[at], &mut pair, 0).is_damaged() {
                    return None;
                }
                let target = Target { at: 8 * (row * *stride + column), stride: *stride };
                if !idct::eight(&pair, quant, samples, [target, nowhere]) {
                    return None;
                }
            }
        }
        if bits.overdrawn() {
            return None;
        }
    }
    bits.at_end_of_scan().then_some(())
}

/// Brings the planes to the picture's size and turns them into pixels of `channels` bytes: RGB, or CMYK as it is stored.
pub(super) fn pixels(survey: &Survey<'_>, planes: &[Plane], space: ColorSpace, into: &mut [u8]) -> Result<(), Fault> {
    let mut full = Vec::new();
    for (component, plane) in planes.iter().enumerate() {
        full.push(upsampled(survey, component, plane)?);
    }
    let width = survey.width_px;
    let mut rgb = Vec::new();
    grown(&mut rgb, 3 * width, 0, "a row of a JPEG")?;
    let channels = full.len().max(3);
    for (row, out) in into.chunks_exact_mut(channels * width).enumerate() {
        let row = row * width..(row + 1) * width;
        match (space, &*full) {
            (_, [y]) => color::grey(&y[row], out),
            (ColorSpace::YCbCr, [y, cb, cr]) => {
                color::rgb(&y[row.clone()], &cb[row.clone()], &cr[row], out);
            }
            (ColorSpace::Ycck, [y, cb, cr, k]) => {
                color::rgb(&y[row.clone()], &cb[row.clone()], &cr[row.clone()], &mut rgb);
                for ((out, rgb), k) in out.as_chunks_mut::<4>().0.iter_mut().zip(rgb.as_chunks::<3>().0).zip(&k[row]) {
                    *out = [255 - rgb[0], 255 - rgb[1], 255 - rgb[2], *k];
                }
            }
            (ColorSpace::Rgb, [_, _, _]) | (ColorSpace::Cmyk, [_, _, _, _]) => {
                for (channel, plane) in full.iter().enumerate() {
                    let out = out[channel..].iter_mut().step_by(full.len());
                    out.zip(&plane[row.clone()]).for_each(|(out, sample)| *out = *sample);
                }
            }
            _ => return Err(format!("unsupported kind of JPEG: {} components as {space:?}", full.len()).into()),
        }
    }
    Ok(())
}

/// Upsamples one component to the picture's size: smoothly where libjpeg does, else by repeating each sample.
fn upsampled(survey: &Survey<'_>, component: usize, plane: &Plane) -> Result<Vec<u8>, Fault> {
    let ((h, v), (h_max, v_max)) = (survey.components[component].factors, survey.largest());
    if !h_max.is_multiple_of(h) || !v_max.is_multiple_of(v) {
        return Err(format!(
            "unsupported kind of JPEG: a component has {h} x {v} samples where another has {h_max} x {v_max}, which is no \
             whole ratio"
        )
        .into());
    }
    let (across, down) = (h_max / h, v_max / v);
    let (columns, rows) = survey.extent(component);
    let (width, height) = (survey.width_px, survey.height_px);
    let sample_row = |row: usize| &plane.samples[row * plane.stride..row * plane.stride + columns];
    let smooth = columns > 2;
    let mut out = Vec::new();
    grown(&mut out, width * height, 0, "a component of a JPEG")?;
    // A row and its neighbour with the edge repeated on both sides, and twice the columns.
    let (mut near, mut far) = (Vec::new(), Vec::new());
    let (mut sums, mut wide) = (vec![0; columns + 2], vec![0; 2 * columns]);
    let edged = |row: usize, into: &mut Vec<u8>| {
        let row = sample_row(row);
        into.clear();
        into.push(row[0]);
        into.extend_from_slice(row);
        into.push(row[columns - 1]);
    };
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        let own = row / down;
        let other = if row.is_multiple_of(2) { own.saturating_sub(1) } else { (own + 1).min(rows - 1) };
        match (across, down) {
            (1, 1) => out.copy_from_slice(&sample_row(row)[..width]),
            (2, 1) if smooth => {
                edged(own, &mut near);
                color::wider(&near, &mut wide);
                out.copy_from_slice(&wide[..width]);
            }
            (1, 2) => {
                let bias = if row.is_multiple_of(2) { 1 } else { 2 };
                for ((out, near), far) in out.iter_mut().zip(sample_row(own)).zip(sample_row(other)) {
                    *out = ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8;
                }
            }
            (2, 2) if smooth => {
                edged(own, &mut near);
                edged(other, &mut far);
                color::wider_between(&near, &far, &mut sums, &mut wide);
                out.copy_from_slice(&wide[..width]);
            }
            _ => {
                let samples = sample_row(own);
                out.chunks_mut(across).zip(samples).for_each(|(out, sample)| out.fill(*sample));
            }
        }
    }
    Ok(out)
}
