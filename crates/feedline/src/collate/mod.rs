//! Collate: samples to one batch, by three operations: stack, pad, concat. The field's declaration sets the operation, never
//! its name. These functions are the reference; the engine writes stacked fields in place and must give the same bytes.

use crate::error::{Error, Result};
use crate::sample::buffer::Buffer;
use crate::sample::{Array, BatchField, Collate, Element, FieldSpec, Sample};

/// Collates whole samples into named fields.
///
/// # Errors
/// Names the field and the two shapes that do not go together.
pub fn collate(specs: &[FieldSpec], samples: &[Sample]) -> Result<Vec<(String, BatchField)>> {
    specs
        .iter()
        .enumerate()
        .map(|(at, spec)| {
            let arrays: Vec<&Array> = samples.iter().map(|sample| &sample.fields[at]).collect();
            Ok((spec.name.clone(), collate_field(spec, &arrays)?))
        })
        .collect()
}

/// Collates one field.
pub(crate) fn collate_field(spec: &FieldSpec, arrays: &[&Array]) -> Result<BatchField> {
    let named = |error: Error| match error {
        Error::Config { problem, remedy } => {
            Error::Config { problem: format!("field {:?}: {problem}", spec.name), remedy }
        }
        other => other.needed_for(|| of_batch(spec, arrays.len())),
    };
    match spec.collate {
        Collate::Stack => stack(arrays).map(BatchField::Stack).map_err(named),
        Collate::Pad { value } => {
            pad(arrays, value).map(|(values, counts)| BatchField::Pad { values, counts }).map_err(named)
        }
        Collate::Concat { numbered } => {
            let (mut values, offsets) = concat(arrays).map_err(named)?;
            if numbered {
                number_rows(&mut values, offsets.as_slice());
            }
            Ok(BatchField::Concat { values, offsets })
        }
        Collate::List => Ok(BatchField::List(arrays.iter().map(|array| array.as_bytes().to_vec()).collect())),
    }
}

/// Names a batch's field in an error about memory.
pub(crate) fn of_batch(spec: &FieldSpec, samples: usize) -> String {
    format!("field {:?} of a batch of {samples} samples", spec.name)
}

fn mismatch(verb: &str, what: &str, at: usize, expect: &Array, got: &Array) -> Error {
    Error::config(
        format!(
            "cannot {verb} arrays of different {what}: sample 0 of the batch has {:?} {:?}, sample {at} has {:?} {:?}",
            expect.dtype(),
            expect.shape(),
            got.dtype(),
            got.shape()
        ),
        if verb == "stack" {
            "Give all samples one shape, or declare the field as pad or concat"
        } else {
            "Only the first axis may differ"
        },
    )
}

/// Stacks arrays of one shape along a new first axis: (B, ...).
///
/// # Errors
/// If there is no array, or shapes or element types differ.
pub fn stack(arrays: &[&Array]) -> Result<Array> {
    let first = arrays.first().ok_or_else(|| Error::config("an empty batch cannot be collated", "Give a sample"))?;
    let mut shape = vec![arrays.len()];
    shape.extend(first.shape());
    let mut out = Array::try_zeros(first.dtype(), shape)?;
    let slot_bytes = first.as_bytes().len();
    for (at, array) in arrays.iter().enumerate() {
        if (array.shape(), array.dtype()) != (first.shape(), first.dtype()) {
            return Err(mismatch("stack", "shape", at, first, array));
        }
        out.as_bytes_mut()[at * slot_bytes..][..slot_bytes].copy_from_slice(array.as_bytes());
    }
    Ok(out)
}

/// Checks that all arrays have one element type and row shape, and returns the number of rows of each.
fn rows(verb: &str, arrays: &[&Array]) -> Result<Vec<usize>> {
    let first = arrays.first().ok_or_else(|| Error::config("an empty batch cannot be collated", "Give a sample"))?;
    for (at, array) in arrays.iter().enumerate() {
        let fits = !array.shape().is_empty()
            && !first.shape().is_empty()
            && array.shape()[1..] == first.shape()[1..]
            && array.dtype() == first.dtype();
        if !fits {
            return Err(mismatch(verb, "row shape", at, first, array));
        }
    }
    Ok(arrays.iter().map(|array| array.shape()[0]).collect())
}

/// Pads arrays (N, ...) with `value` up to the largest N: values (B, max N, ...) and counts i64 (B,).
///
/// # Errors
/// If there is no array, or row shapes or element types differ.
pub fn pad(arrays: &[&Array], value: f64) -> Result<(Array, Array)> {
    let counts = rows("pad", arrays)?;
    let first = arrays[0];
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut shape = vec![arrays.len(), most];
    shape.extend(&first.shape()[1..]);
    let mut out = Array::try_zeros(first.dtype(), shape)?;
    fill(&mut out, value);
    let slot_bytes = out.as_bytes().len() / arrays.len();
    for (at, array) in arrays.iter().enumerate() {
        out.as_bytes_mut()[at * slot_bytes..][..array.as_bytes().len()].copy_from_slice(array.as_bytes());
    }
    let counts: Vec<i64> = counts.iter().map(|&n| n as i64).collect();
    Ok((out, Array::from_slice([arrays.len()], &counts)))
}

/// Joins arrays (N, ...) along N: values (sum N, ...) and offsets i64 (B + 1,), so sample b is offsets[b]..offsets[b+1].
///
/// # Errors
/// If there is no array, or row shapes or element types differ.
pub fn concat(arrays: &[&Array]) -> Result<(Array, Array)> {
    let counts = rows("concat", arrays)?;
    let first = arrays[0];
    let mut shape = vec![counts.iter().sum()];
    shape.extend(&first.shape()[1..]);
    let len_bytes = arrays.iter().map(|array| array.as_bytes().len()).sum();
    let joined = Buffer::joined(len_bytes, arrays.iter().map(|array| array.as_bytes()))?;
    let out = Array::from_buffer(first.dtype(), shape, joined);
    let mut offsets = vec![0i64];
    for n in counts {
        offsets.push(offsets[offsets.len() - 1] + n as i64);
    }
    Ok((out, Array::from_slice([offsets.len()], &offsets)))
}

/// Calls a function of the array's element type.
macro_rules! by_dtype {
    ($array:expr, $typed:ident($($argument:expr),*)) => {{
        use crate::sample::DType::{F32, F64, I32, I64, U8, U16};
        match $array.dtype() {
            U8 => $typed::<u8>($($argument),*),
            U16 => $typed::<u16>($($argument),*),
            I32 => $typed::<i32>($($argument),*),
            I64 => $typed::<i64>($($argument),*),
            F32 => $typed::<f32>($($argument),*),
            F64 => $typed::<f64>($($argument),*),
        }
    }};
}

fn fill(array: &mut Array, value: f64) {
    fn typed<T: Element>(array: &mut Array, value: f64) {
        array.as_mut_slice::<T>().fill(T::from_f64(value));
    }
    by_dtype!(array, typed(array, value))
}

/// Writes the number of its sample to the first column of each row.
fn number_rows(array: &mut Array, offsets: &[i64]) {
    fn typed<T: Element>(array: &mut Array, offsets: &[i64]) {
        let columns = array.shape()[1..].iter().product::<usize>();
        let values = array.as_mut_slice::<T>();
        for (number, own) in offsets.windows(2).enumerate() {
            let rows = &mut values[own[0] as usize * columns..own[1] as usize * columns];
            rows.iter_mut().step_by(columns).for_each(|value| *value = T::from_f64(number as f64));
        }
    }
    by_dtype!(array, typed(array, offsets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_adds_an_axis_in_front() {
        let (a, b) = (Array::from_slice([2], &[1f32, 2.0]), Array::from_slice([2], &[3f32, 4.0]));
        assert_eq!(stack(&[&a, &b]).unwrap(), Array::from_slice([2, 2], &[1f32, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn pad_fills_up_to_the_longest_and_keeps_the_counts() {
        let (a, b) = (Array::from_slice([1, 2], &[1i32, 2]), Array::from_slice([2, 2], &[3i32, 4, 5, 6]));
        let none = Array::zeros(crate::DType::I32, [0, 2]);
        let (values, counts) = pad(&[&a, &none, &b], -1.0).unwrap();
        assert_eq!(values, Array::from_slice([3, 2, 2], &[1i32, 2, -1, -1, -1, -1, -1, -1, 3, 4, 5, 6]));
        assert_eq!(counts.as_slice::<i64>(), [1, 0, 2]);
    }

    #[test]
    fn concat_joins_and_says_where_each_begins() {
        let (a, b) = (Array::from_slice([2, 1], &[7u8, 8]), Array::from_slice([1, 1], &[9u8]));
        let none = Array::zeros(crate::DType::U8, [0, 1]);
        let (values, offsets) = concat(&[&a, &none, &b]).unwrap();
        assert_eq!(values, Array::from_slice([3, 1], &[7u8, 8, 9]));
        assert_eq!(offsets.as_slice::<i64>(), [0, 2, 2, 3]);
    }

    #[test]
    fn rows_are_numbered_by_their_sample() {
        let (a, b) = (Array::from_slice([2, 2], &[-1f32, 5.0, -1.0, 6.0]), Array::from_slice([1, 2], &[-1f32, 7.0]));
        let none = Array::zeros(crate::DType::F32, [0, 2]);
        let spec = FieldSpec::concat_numbered("points", crate::DType::F32, 2);
        let BatchField::Concat { values, offsets } = collate_field(&spec, &[&a, &none, &b]).unwrap() else { panic!() };
        assert_eq!(values, Array::from_slice([3, 2], &[0f32, 5.0, 0.0, 6.0, 2.0, 7.0]));
        assert_eq!(offsets.as_slice::<i64>(), [0, 2, 2, 3]);
    }

    #[test]
    fn a_mismatch_names_field_sample_and_shapes() {
        let (a, b) = (Array::from_slice([2], &[1f32, 2.0]), Array::from_slice([3], &[3f32, 4.0, 5.0]));
        let spec = FieldSpec::stack("image", crate::DType::F32, [2]);
        let error = collate_field(&spec, &[&a, &b]).unwrap_err().to_string();
        for part in ["\"image\"", "[2]", "[3]", "sample 1", "pad or concat"] {
            assert!(error.contains(part), "{error}");
        }
        let flat = Array::from_slice([1], &[1f64]);
        assert!(pad(&[&a, &flat], 0.0).is_err() && concat(&[&flat, &a]).is_err() && stack(&[]).is_err());
    }
}
