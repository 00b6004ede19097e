//! Pillow as a second decoder to compare with: `pillow.py` in a Python that has it, over a pipe.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running `pillow.py`. It ends when its standard input does.
#[derive(Debug)]
pub struct Pillow(Child);

/// Pillow's result for a picture.
#[derive(Debug, PartialEq)]
pub enum PillowAnswer {
    Pixels { mode: String, width_px: u32, height_px: u32, rgb: Vec<u8> },
    Refused(String),
}

impl Pillow {
    /// `vectors`: true if libjpeg-turbo may use its vector code. Without it, pixels differ where sums overflow 16 bits.
    pub fn start(python: &Path, vectors: bool) -> std::io::Result<Pillow> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("pillow.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if !vectors {
            command.env("JSIMD_FORCENONE", "1");
        }
        let mut pillow = Pillow(command.spawn()?);
        // Detects a Python without Pillow now, not at the first picture.
        pillow.ask(b"")?;
        Ok(pillow)
    }

    pub fn ask(&mut self, picture: &[u8]) -> std::io::Result<PillowAnswer> {
        let gone = || std::io::Error::other("the Python of --pillow ended, or has no Pillow");
        let (Some(to), Some(from)) = (&mut self.0.stdin, &mut self.0.stdout) else { return Err(gone()) };
        to.write_all(&(picture.len() as u32).to_le_bytes()).and_then(|()| to.write_all(picture)).map_err(|_| gone())?;
        to.flush().map_err(|_| gone())?;
        let mut length = [0; 4];
        from.read_exact(&mut length).map_err(|_| gone())?;
        let mut said = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut said).map_err(|_| gone())?;
        if said.first() != Some(&b'+') || said.len() < 17 {
            return Ok(PillowAnswer::Refused(String::from_utf8_lossy(said.get(1..).unwrap_or_default()).into_owned()));
        }
        let word = |at: usize| u32::from_le_bytes([said[at], said[at + 1], said[at + 2], said[at + 3]]);
        let mode = String::from_utf8_lossy(&said[1..9]).trim().to_owned();
        Ok(PillowAnswer::Pixels { mode, width_px: word(9), height_px: word(13), rgb: said[17..].to_vec() })
    }
}

impl Drop for Pillow {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
