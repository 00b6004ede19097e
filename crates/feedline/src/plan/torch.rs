//! torch's own permutation, bit for bit: the two shuffles of `torch.randperm` on the CPU. The first of them is computed
//! on demand, only as far as needed. Knows nothing of ranks and epochs.

use super::mt19937::Mt19937;

/// From this length on torch draws 64 bits a step and shuffles inside out (`randperm_cpu` in TensorFactories.cpp).
const INSIDE_OUT_FROM: usize = (u32::MAX / 20) as usize;

/// Steps taken together: their places are drawn and read first, so that their cache misses overlap; then they are
/// swapped one after the other.
const BLOCK: usize = 512;

/// `torch.randperm(n, generator=g)` with `g.manual_seed(seed)`, on the CPU, as of torch 2.x. Only the low 32 bits of
/// the seed matter, in torch too.
pub fn torch_randperm(n: u32, seed: u64) -> Vec<u32> {
    let mut order = TorchOrder::new(n, seed);
    order.extend_to(n as usize);
    order.slots
}

/// The same permutation, computed only as far as needed, in 4 bytes a position.
///
/// Below 2^32 / 20 (about 2.1e8) positions torch's shuffle goes forward: step i swaps position i with one that is not
/// before it, so position i is final after i steps, and the first index costs one step. From that length on it goes
/// inside out: any step may change any position before it, so the first look-up computes the whole order.
pub(super) struct TorchOrder {
    /// Before `made`: the indices. From there on: the value at a position, xor the position. So the zeros of a fresh
    /// allocation, which the system gives without touching the memory of a long list, mean the order 0, 1, 2, ...
    slots: Vec<u32>,
    made: usize,
    twister: Mt19937,
}

impl TorchOrder {
    pub(super) fn new(n: u32, seed: u64) -> TorchOrder {
        TorchOrder { slots: vec![0; n as usize], made: 0, twister: Mt19937::new(seed as u32) }
    }

    /// The index at `position`.
    ///
    /// # Panics
    /// If the position is not below n.
    pub(super) fn index(&mut self, position: usize) -> u32 {
        if position >= self.made {
            self.extend_to(position + 1);
        }
        self.slots[position]
    }

    /// Number of positions computed so far.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made
    }

    fn extend_to(&mut self, end: usize) {
        if self.slots.len() >= INSIDE_OUT_FROM {
            if self.made == 0 {
                inside_out(&mut self.slots, &mut self.twister);
                self.made = self.slots.len();
            }
            return;
        }
        while self.made < end {
            // Few at first: the first touch of a page is slow, and the first index must not wait for a whole block.
            let count = (self.made / 4).clamp(1, BLOCK).min(self.slots.len() - self.made);
            self.forward(count);
        }
    }

    fn forward(&mut self, count: usize) {
        let (slots, first) = (&mut self.slots[self.made..], self.made as u32);
        let mut places = [0; BLOCK];
        let places = &mut places[..count];
        self.twister.fill(places);
        let left = slots.len() as u32;
        for (step, place) in (0..).zip(&mut *places) {
            *place = step + *place % (left - step);
        }
        touch(slots, places.iter().map(|&place| place as usize));
        for (step, &place) in (0..).zip(&*places) {
            let (here, there) = (slots[step as usize] ^ (first + step), slots[place as usize] ^ (first + place));
            slots[place as usize] = here ^ (first + place);
            slots[step as usize] = there;
        }
        self.made += count;
    }
}

/// Reads these places, so that the processor fetches many of them at a time; it cannot do so while it swaps.
fn touch(slots: &[u32], places: impl Iterator<Item = usize>) {
    std::hint::black_box(places.fold(0, |all, place| all ^ slots[place]));
}

fn inside_out(order: &mut [u32], twister: &mut Mt19937) {
    let mut words = [0; 2 * BLOCK];
    let mut places = [0; BLOCK];
    for first in (0..order.len()).step_by(BLOCK) {
        let places = &mut places[..BLOCK.min(order.len() - first)];
        let words = &mut words[..2 * places.len()];
        twister.fill(words);
        for ((step, place), pair) in (first as u64..).zip(&mut *places).zip(words.chunks_exact(2)) {
            *place = ((u64::from(pair[0]) << 32 | u64::from(pair[1])) % (step + 1)) as usize;
        }
        touch(order, places.iter().copied());
        for (step, &place) in (first..).zip(&*places) {
            order[step] = order[place];
            order[place] = step as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;

    /// The forward shuffle as in torch's source: on a plain list of indices, all steps in order.
    fn plain_forward(n: usize, seed: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for (i, word) in words(n, seed).into_iter().enumerate() {
            order.swap(i, i + word as usize % (n - i));
        }
        order
    }

    fn plain_inside_out(n: usize, seed: u32) -> Vec<u32> {
        let mut order = vec![0; n];
        for (i, pair) in words(2 * n, seed).chunks(2).enumerate() {
            let z = ((u64::from(pair[0]) << 32 | u64::from(pair[1])) % (i as u64 + 1)) as usize;
            order[i] = order[z];
            order[z] = i as u32;
        }
        order
    }

    fn words(count: usize, seed: u32) -> Vec<u32> {
        let mut words = vec![0; count];
        Mt19937::new(seed).fill(&mut words);
        words
    }

    #[test]
    fn small_permutations_are_torchs() {
        // torch 2.13: torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        for (seed, expect) in [
            (0, [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]),
            (1, [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]),
            (42, [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]),
            ((1 << 32) + 1, [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]),
        ] {
            assert_eq!(torch_randperm(10, seed), expect, "seed {seed}");
        }
        assert_eq!(torch_randperm(0, 5), Vec::<u32>::new());
        assert_eq!(torch_randperm(1, 5), [0]);
    }

    #[test]
    fn whole_orders_equal_the_plain_shuffle() {
        for n in (0..2000).chain([1_000_000]) {
            assert!(torch_randperm(n, u64::from(n)) == plain_forward(n as usize, n), "n = {n}");
        }
    }

    #[test]
    fn any_order_of_asking_gives_the_plain_shuffle() {
        let mut rng = SampleRng::new(8, 0, 0, "access");
        for n in (1..2000).step_by(7).chain([1_000_000]) {
            let whole = plain_forward(n, 3);
            let mut order = TorchOrder::new(n as u32, 3);
            for _ in 0..100 {
                let position = rng.below(n as u64) as usize;
                assert_eq!(order.index(position), whole[position], "position {position} of {n}");
            }
            assert!((0..n).rev().all(|position| order.index(position) == whole[position]), "{n} backwards");
        }
    }

    #[test]
    fn an_index_costs_the_steps_before_it_and_four_bytes() {
        let mut order = TorchOrder::new(50_000_000, 0);
        order.index(0);
        assert_eq!(order.made, 1);
        order.index(10_000);
        assert!((10_001..=10_000 + BLOCK).contains(&order.made), "{}", order.made);
        assert_eq!((order.slots.len(), order.slots.capacity()), (50_000_000, 50_000_000));
    }

    #[test]
    fn the_inside_out_shuffle_equals_the_plain_one() {
        for n in (0..2000).step_by(11).chain([1_000_000]) {
            let mut order = vec![0; n];
            inside_out(&mut order, &mut Mt19937::new(3));
            assert!(order == plain_inside_out(n, 3), "n = {n}");
        }
    }
}
