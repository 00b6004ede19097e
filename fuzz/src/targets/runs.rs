//! Files of a run: cursor, checkpoint, tensors, ledger.

use super::{Bench, Verdict};
use feedline::plan::{Cursor, Plan};
use feedline::train::checkpoint::{Checkpoints, load, read_tensors};
use feedline::train::proof::verify;
use std::fs;
use std::path::Path;

fn seed(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/seeds").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Cursors that belong to the plan below.
pub fn cursors() -> std::io::Result<Vec<Vec<u8>>> {
    let plan = Plan::new(24, 2).map_err(std::io::Error::other)?;
    let at = |epoch, position| serde_json::to_vec(&Cursor::new(0x2A, &plan, epoch, position, 0));
    Ok([at(0, 0), at(1, 6), at(2, 24)].into_iter().collect::<Result<_, _>>()?)
}

pub fn cursor(_: &mut Bench, bytes: &[u8]) -> Verdict {
    let Ok(plan) = Plan::new(24, 2) else { return Verdict::Wrong("there is no plan of 24 samples".into()) };
    let cursor: Cursor = match serde_json::from_slice(bytes) {
        Ok(cursor) => cursor,
        Err(error) => return Verdict::Refused { said: error.to_string(), compared: None },
    };
    match cursor.resume(0x2A, &plan) {
        Ok(plan) => {
            // Any accepted position has a next sample or is the end of an epoch.
            let epoch = plan.epoch_from(cursor.epoch, cursor.position);
            let left = epoch.rank(0).take(3).count();
            if cursor.position > plan.epoch_len() + 2 && left > 0 {
                return Verdict::Wrong(format!("{left} samples behind the end of an epoch: {cursor:?}"));
            }
            Verdict::Accepted { compared: None }
        }
        Err(error) => Verdict::Refused { said: error.to_string(), compared: None },
    }
}

/// A complete checkpoint, but for the file that the input is.
fn of_checkpoint(bench: &Bench, name: &str, bytes: &[u8]) -> Verdict {
    let folder = bench.dir.join("run/checkpoints/ep001-step00000000");
    if !folder.exists() {
        for name in ["checkpoint.toml", "model.safetensors", "optimizer.safetensors"] {
            bench.write(&format!("run/checkpoints/ep001-step00000000/{name}"), &seed(name));
        }
    }
    bench.write(&format!("run/checkpoints/ep001-step00000000/{name}"), bytes);
    let _ = Checkpoints::new(bench.dir.join("run/checkpoints")).newest();
    Verdict::of(load(&folder))
}

pub fn checkpoint(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    of_checkpoint(bench, "checkpoint.toml", bytes)
}

pub fn tensors(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let path = bench.write("x.safetensors", bytes);
    if let Err(error) = read_tensors(&path) {
        return Verdict::Refused { said: error.to_string(), compared: None };
    }
    of_checkpoint(bench, "model.safetensors", bytes)
}

/// The ledger of a run whose checkpoint stands at its end.
pub fn ledger(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    if !bench.dir.join("run/samples.txt").exists() {
        for name in ["checkpoint.toml", "model.safetensors", "optimizer.safetensors"] {
            bench.write(&format!("run/checkpoints/ep001-step00000000/{name}"), &seed(name));
        }
        let _ = std::os::unix::fs::symlink("ep001-step00000000", bench.dir.join("run/checkpoints/last"));
        bench.write("run/samples.txt", &seed("samples.txt"));
    }
    bench.write("run/ledger.jsonl", bytes);
    match verify(&bench.dir.join("run")) {
        Err(error) => Verdict::Refused { said: error.to_string(), compared: None },
        Ok(proof) if proof.proved => Verdict::Accepted { compared: None },
        Ok(proof) => Verdict::Refused { said: format!("not proved: {}", proof.problems.join("; ")), compared: None },
    }
}
