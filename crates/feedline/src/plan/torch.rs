//! torch's own permutation, bit for bit: the Mersenne Twister and the two shuffles of `torch.randperm` on the CPU.

/// MT19937 (Matsumoto and Nishimura, 1998) seeded by `init_genrand`, as torch's CPU generator.
struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Mt19937 {
        let mut state = [seed; 624];
        for j in 1..624 {
            let before = state[j - 1];
            state[j] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(j as u32);
        }
        Mt19937 { state, next: 624 }
    }

    fn regenerate(&mut self) {
        for j in 0..624 {
            let y = (self.state[j] & 0x8000_0000) | (self.state[(j + 1) % 624] & 0x7FFF_FFFF);
            let twist = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[j] = self.state[(j + 397) % 624] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            self.regenerate();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }
}

/// From this length on torch draws 64 bits a step and shuffles inside out (`randperm_cpu` in TensorFactories.cpp).
const INSIDE_OUT_FROM: u32 = u32::MAX / 20;

/// `torch.randperm(n, generator=g)` with `g.manual_seed(seed)`, on the CPU, as of torch 2.x. Only the low 32 bits of
/// the seed matter, in torch too.
pub fn torch_randperm(n: u32, seed: u64) -> Vec<u32> {
    let mut mt = Mt19937::new(seed as u32);
    if n < INSIDE_OUT_FROM { forward(n, &mut mt) } else { inside_out(n, &mut mt) }
}

fn forward(n: u32, mt: &mut Mt19937) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let z = mt.next_u32() % (n - i);
        order.swap(i as usize, (i + z) as usize);
    }
    order
}

fn inside_out(n: u32, mt: &mut Mt19937) -> Vec<u32> {
    let mut order = vec![0; n as usize];
    for i in 0..n {
        let z = mt.next_u64() % u64::from(i + 1);
        order[i as usize] = order[z as usize];
        order[z as usize] = i;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_inside_out_shuffle_is_a_permutation_drawn_from_64_bits() {
        let order = inside_out(1000, &mut Mt19937::new(3));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(order, forward(1000, &mut Mt19937::new(3)));
    }
}
