//! Burn's own `DataLoader` over a loader of Feedline, so that whatever is written for Burn can be fed. Owns the
//! translation and nothing else: order, epochs, threads and cursor are the loader's.

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use feedline::deliver::Loader;
use feedline::{Batch, Error, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Convert<O> = dyn Fn(Batch, &Device) -> Result<O> + Send + Sync;

/// A [`Loader`] as Burn's [`DataLoader`].
///
/// - Every `iter()` is a pass over the next epoch, in the loader's order, whatever came of the pass before; the first
///   one after a cursor was loaded is the rest of its epoch. A pass begun ends the passes before it. The loader's
///   `end_epoch` must not lie before the last pass.
/// - An error of the loader or of the conversion ends the pass and is its last item.
/// - Items are this rank's samples of an epoch, those that fill up the ranks included.
/// - `to_device` gives the same loader with batches made on another device: epochs go on counting together.
/// - `slice` of anything but the whole is refused when it is iterated. Burn cuts a loader into slices to feed several
///   devices, each of which would then be shuffled on its own; Feedline deals to devices as to ranks.
pub struct BurnLoader<O> {
    passes: Arc<Mutex<Passes>>,
    convert: Arc<Convert<O>>,
    device: Device,
    num_items: usize,
    /// The slice that was asked for and cannot be given.
    refused: Option<Range<usize>>,
}

struct Passes {
    loader: Loader,
    /// Number of passes begun; an iterator of an earlier one is over.
    begun: u64,
}

impl<O> Clone for BurnLoader<O> {
    fn clone(&self) -> BurnLoader<O> {
        let BurnLoader { passes, convert, device, num_items, refused } = self;
        BurnLoader {
            passes: Arc::clone(passes),
            convert: Arc::clone(convert),
            device: device.clone(),
            num_items: *num_items,
            refused: refused.clone(),
        }
    }
}

impl<O> BurnLoader<O> {
    /// Batches of `loader` through `convert`, which is told the device they are for: `device`, or that of `to_device`.
    pub fn new(
        loader: Loader,
        device: Device,
        convert: impl Fn(Batch, &Device) -> Result<O> + Send + Sync + 'static,
    ) -> BurnLoader<O> {
        let (plan, options) = (loader.plan(), loader.options());
        let samples = plan.epoch(0).num_samples(options.rank);
        let num_items = if options.drop_last { samples - samples % options.batch_size } else { samples } as usize;
        let passes = Arc::new(Mutex::new(Passes { loader, begun: 0 }));
        BurnLoader { passes, convert: Arc::new(convert), device, num_items, refused: None }
    }

    /// The loader itself, for its cursor, its epoch or its figures. A pass under way goes on where `use_it` left it.
    pub fn with_loader<R>(&self, use_it: impl FnOnce(&mut Loader) -> R) -> R {
        use_it(&mut self.lock().loader)
    }

    fn lock(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_of(&self, pass: u64) -> Result<Option<(usize, O)>> {
        if let Some(Range { start, end }) = &self.refused {
            return Err(Error::config(
                format!("a loader of Feedline cannot be cut into items {start} to {end} of {}", self.num_items),
                "Make the plan with one rank per device (num_replicas) and a loader for each",
            ));
        }
        let mut passes = self.lock();
        if passes.begun != pass {
            return Err(Error::config(
                "another pass over this loader was begun while this one was under way",
                "Finish a pass before the next, or use two loaders",
            ));
        }
        let batch = passes.loader.next_batch()?;
        drop(passes); // tensors are made without holding up whoever asks for the cursor
        batch.map(|batch| Ok((batch.len(), (self.convert)(batch, &self.device)?))).transpose()
    }
}

impl<O: Send + 'static> DataLoader<O> for BurnLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        let mut passes = self.lock();
        passes.begun += 1;
        drop(passes.loader.iter()); // leaves a pass that was not finished
        // A cursor counts positions of all ranks.
        let before = passes.loader.state_dict().position / passes.loader.plan().num_replicas();
        let items = (before as usize).min(self.num_items);
        Box::new(Pass { loader: self, number: passes.begun, items, over: false })
    }

    fn num_items(&self) -> usize {
        self.refused.as_ref().map_or(self.num_items, Range::len)
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<O>> {
        Arc::new(BurnLoader { device: device.clone(), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        let whole = start == 0 && end >= self.num_items();
        let refused = if whole { self.refused.clone() } else { Some(start..end) };
        Arc::new(BurnLoader { refused, ..self.clone() })
    }
}

struct Pass<'a, O> {
    loader: &'a BurnLoader<O>,
    number: u64,
    /// Of this epoch, those before a cursor included.
    items: usize,
    over: bool,
}

impl<O> Iterator for Pass<'_, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.loader.next_of(self.number) {
            Ok(Some((count, batch))) => {
                self.items += count;
                Some(Ok(batch))
            }
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = true;
                Some(Err(DatasetError::new(error)))
            }
        }
    }
}

impl<O> DataLoaderIterator<O> for Pass<'_, O> {
    fn progress(&self) -> Progress {
        Progress::new(self.items, self.loader.num_items, Some("items".into()))
    }
}

#[cfg(test)]
mod tests;
