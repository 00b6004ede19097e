//! Stage 5, collate: many samples to one batch by stack, pad or concat, as each field declares.
//!
//!     cargo run --release -p feedline-recipes --example 5_collate

use feedline::collate::collate;
use feedline::{Array, BatchField, DType, FieldSpec, Sample};

fn main() -> feedline::Result<()> {
    // Three little point clouds (N, 2): of 2, 4 and 1 points, each with a label and a name.
    let specs = [
        FieldSpec::stack("label", DType::I64, []),
        FieldSpec::pad("boxes", DType::F32, [2], -1.0),
        FieldSpec::concat("points", DType::F32, [2]),
        FieldSpec::bytes("name"),
    ];
    let samples: Vec<Sample> = [(2, "pair"), (4, "square"), (1, "dot")]
        .into_iter()
        .enumerate()
        .map(|(label, (count, name))| {
            let values: Vec<f32> = (0..2 * count).map(|at| (10 * label + at) as f32).collect();
            let rows = Array::from_slice([count, 2], &values);
            let label = Array::from_slice([], &[label as i64]);
            Sample { fields: vec![label, rows.clone(), rows, Array::from_slice([name.len()], name.as_bytes())] }
        })
        .collect();

    for (name, field) in collate(&specs, &samples)? {
        match field {
            BatchField::Stack(array) => println!("{name}: stack {:?}\n  {:?}", array.shape(), array.as_slice::<i64>()),
            BatchField::Pad { values, counts } => {
                println!("{name}: pad {:?}, true counts {:?}", values.shape(), counts.as_slice::<i64>());
                values.as_slice::<f32>().chunks(2 * values.shape()[1]).for_each(|sample| println!("  {sample:?}"));
            }
            BatchField::Concat { values, offsets } => {
                println!("{name}: concat {:?}, offsets {:?}", values.shape(), offsets.as_slice::<i64>());
                println!("  {:?}", values.as_slice::<f32>());
            }
            BatchField::List(parts) => {
                println!("{name}: {:?}", parts.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>());
            }
        }
    }

    // Shapes that do not go together are refused by name.
    let odd = [Array::zeros(DType::F32, [3, 8, 8]), Array::zeros(DType::F32, [1, 8, 8])];
    let odd = odd.map(|image| Sample { fields: vec![image] });
    if let Err(error) = collate(&[FieldSpec::stack("image", DType::F32, [3, 8, 8])], &odd) {
        println!("\n{error}");
    }
    Ok(())
}
