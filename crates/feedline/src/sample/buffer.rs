//! Batch memory: aligned buffers that return to their pool, and buffers whose slots several threads fill at once.
//! The only file of this crate with `unsafe`; it must not know what the bytes mean.
#![expect(unsafe_code, reason = "disjoint slots of one buffer are written by several threads")]

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Alignment of every buffer: a cache line.
const ALIGN_BYTES: usize = 64;

/// Bytes of a fixed length, 64-byte aligned. On drop they go back to the pool they came from.
pub(crate) struct Buffer {
    /// A little longer than needed, to align by hand. An aligned request for zeros would be zeroed at once by the
    /// allocator; plain fresh pages are zeroed by the system on first touch, by the worker that fills them.
    storage: Vec<u8>,
    len_bytes: usize,
    pool: Option<Arc<BufferPool>>,
}

impl Buffer {
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn zeroed(len_bytes: usize) -> Result<Buffer> {
        Ok(Buffer { storage: zeros(len_bytes)?, len_bytes, pool: None })
    }

    /// The parts joined, `len_bytes` in total.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn joined<'a>(len_bytes: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Buffer> {
        // Nothing is written twice: the capacity suffices, so the list never moves, and zeros fill only what no part does.
        let mut storage: Vec<u8> = Vec::new();
        let needed = len_bytes.saturating_add(ALIGN_BYTES);
        storage.try_reserve_exact(needed).map_err(|_| refused(len_bytes))?;
        storage.resize(storage.as_ptr().align_offset(ALIGN_BYTES), 0);
        parts.into_iter().for_each(|part| storage.extend_from_slice(part));
        storage.resize(needed, 0);
        Ok(Buffer { storage, len_bytes, pool: None })
    }

    fn start(&self) -> usize {
        self.storage.as_ptr().align_offset(ALIGN_BYTES)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.storage[self.start()..][..self.len_bytes]
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        let start = self.start();
        &mut self.storage[start..][..self.len_bytes]
    }
}

impl Clone for Buffer {
    /// A copy that belongs to no pool. Lack of memory ends the process, as with any clone.
    fn clone(&self) -> Buffer {
        Buffer::joined(self.len_bytes, [self.as_bytes()])
            .unwrap_or_else(|_| handle_alloc_error(Layout::for_value(self.storage.as_slice())))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len_bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give(std::mem::take(&mut self.storage));
        }
    }
}

/// Keeps storage that consumers have dropped, for the next batch: after the first few batches nothing is allocated.
#[derive(Default)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
}

/// Most buffers kept for reuse; more than this are in flight only while a consumer hoards batches.
const MAX_FREE_BUFFERS: usize = 64;

impl BufferPool {
    /// A buffer of `len_bytes` with unspecified content.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(crate) fn take(self: &Arc<Self>, len_bytes: usize) -> Result<Buffer> {
        let needed = len_bytes.saturating_add(ALIGN_BYTES);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.iter().rposition(|storage| storage.len() == needed).map(|at| free.swap_remove(at));
        drop(free);
        let storage = match found {
            Some(storage) => storage,
            None => {
                let mut storage = zeros(len_bytes)?;
                advise_huge_pages(&mut storage);
                storage
            }
        };
        Ok(Buffer { storage, len_bytes, pool: Some(Arc::clone(self)) })
    }

    fn give(&self, storage: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < MAX_FREE_BUFFERS {
            free.push(storage);
        }
    }
}

/// Zeroed storage for a buffer of `len_bytes`; the system zeroes each page on first touch. Lack of memory is an error here;
/// with `vec!` it would end the process.
fn zeros(len_bytes: usize) -> Result<Vec<u8>> {
    let needed = len_bytes.saturating_add(ALIGN_BYTES);
    let layout = Layout::array::<u8>(needed).map_err(|_| refused(len_bytes))?;
    // SAFETY: the layout is not empty, since ALIGN_BYTES is above 0.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(refused(len_bytes));
    }
    // SAFETY: the global allocator has just given `needed` bytes with the alignment of u8, and all of them are zeros.
    Ok(unsafe { Vec::from_raw_parts(start, needed, needed) })
}

fn refused(len_bytes: usize) -> Error {
    Error::memory("an array", len_bytes as u64)
}

/// Asks the system for huge pages if a buffer is large enough: first touches then cost a page fault for every 2 MiB
/// instead of every 4 KiB. A refusal costs only speed.
#[cfg(target_os = "linux")]
fn advise_huge_pages(storage: &mut [u8]) {
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    if storage.len() >= 2 * HUGE_PAGE_BYTES {
        let skip = storage.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let whole = storage.get_mut(skip..).unwrap_or_default();
        // SAFETY: the range lies in memory that is borrowed exclusively, and this advice changes no byte of it. A
        // refusal is of no consequence.
        unsafe {
            libc::madvise(whole.as_mut_ptr().cast(), whole.len() & !(HUGE_PAGE_BYTES - 1), libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: &mut [u8]) {}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BufferPool")
    }
}

/// A buffer cut into equal slots, each written by the one thread that claimed it.
pub(crate) struct SlotBuffer {
    start: *mut u8,
    slot_bytes: usize,
    claimed: Vec<AtomicBool>,
    /// Keeps the storage alive; not touched while slots are out (`start` points into it).
    buffer: UnsafeCell<Buffer>,
}

// SAFETY: the storage is only reached through `slot`, which hands out each disjoint range at most once, and through
// `into_buffer`, which needs the value itself and so ends all sharing.
unsafe impl Send for SlotBuffer {}
// SAFETY: as above.
unsafe impl Sync for SlotBuffer {}

impl SlotBuffer {
    /// Cuts `buffer` into `slots` slots of `slot_bytes`.
    ///
    /// # Panics
    /// If the buffer is not exactly that long.
    pub(crate) fn new(mut buffer: Buffer, slots: usize, slot_bytes: usize) -> SlotBuffer {
        assert_eq!(buffer.len_bytes, slots * slot_bytes);
        let start = buffer.as_bytes_mut().as_mut_ptr();
        let claimed = (0..slots).map(|_| AtomicBool::new(false)).collect();
        SlotBuffer { start, slot_bytes, claimed, buffer: UnsafeCell::new(buffer) }
    }

    /// The bytes of slot `at`, for the caller alone.
    ///
    /// # Panics
    /// If there is no such slot, or it was handed out before.
    #[expect(clippy::mut_from_ref, reason = "each slot is handed out once")]
    pub(crate) fn slot(&self, at: usize) -> &mut [u8] {
        assert!(!self.claimed[at].swap(true, Ordering::AcqRel), "slot {at} is handed out twice");
        // SAFETY: `at` is below the number of slots (the index above panics otherwise), so the range lies inside the
        // buffer; the flag makes sure that no other reference to this range exists; `self` keeps the storage alive
        // and does not move it (a Vec's heap storage stays where it is when the Vec moves).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at * self.slot_bytes), self.slot_bytes) }
    }

    /// The whole buffer, once nobody shares it any more.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_returns_to_its_pool_and_is_used_again() {
        let pool = Arc::new(BufferPool::default());
        let first = pool.take(1000).unwrap().as_bytes().as_ptr();
        let again = pool.take(1000).unwrap();
        assert_eq!(first, again.as_bytes().as_ptr());
        assert_eq!(again.as_bytes().len(), 1000);
        assert_ne!(pool.take(1000).unwrap().as_bytes().as_ptr(), again.as_bytes().as_ptr());
    }

    #[test]
    fn parts_are_joined_in_order_on_a_cache_line() {
        for len in [0, 1, 63, 64, 1000] {
            let parts: [Vec<u8>; 3] = [vec![1; len], vec![], vec![2; 2 * len]];
            let buffer = Buffer::joined(3 * len, parts.iter().map(Vec::as_slice)).unwrap();
            assert_eq!(buffer.as_bytes(), parts.concat());
            assert_eq!(buffer.clone().as_bytes(), parts.concat());
            assert!(buffer.as_bytes().as_ptr().addr().is_multiple_of(ALIGN_BYTES));
        }
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_and_says_how_much() {
        let pool = Arc::new(BufferPool::default());
        // More than any machine has, and more than a number of bytes may be.
        for len_bytes in [1 << 60, isize::MAX as usize, usize::MAX] {
            let part: &[u8] = &[1, 2];
            for error in [
                pool.take(len_bytes).unwrap_err(),
                Buffer::zeroed(len_bytes).unwrap_err(),
                Buffer::joined(len_bytes, [part]).unwrap_err(),
            ] {
                assert!(error.to_string().contains(&format!("needs {len_bytes} bytes")), "{error}");
            }
        }
        assert_eq!(pool.take(1000).unwrap().as_bytes(), vec![0; 1000], "the pool goes on");
    }

    #[test]
    fn slots_are_disjoint_and_land_in_order() {
        let slots = SlotBuffer::new(Buffer::zeroed(300).unwrap(), 3, 100);
        std::thread::scope(|scope| {
            for at in [2usize, 0, 1] {
                let slots = &slots;
                scope.spawn(move || slots.slot(at).fill(at as u8 + 1));
            }
        });
        let buffer = slots.into_buffer();
        let expect: Vec<u8> = (0..300).map(|i| (i / 100) as u8 + 1).collect();
        assert_eq!(buffer.as_bytes(), expect);
    }

    #[test]
    #[should_panic(expected = "slot 1 is handed out twice")]
    fn a_slot_is_handed_out_once() {
        let slots = SlotBuffer::new(Buffer::zeroed(8).unwrap(), 2, 4);
        slots.slot(1);
        slots.slot(1);
    }
}
