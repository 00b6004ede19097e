//! Tests of plans: torch's order, each sample once over all ranks, cursors, replacements.

use super::*;
use std::collections::HashMap;
use std::sync::Arc;

fn shared(file: &str) -> Option<serde_json::Value> {
    let path = format!("{}/../../../shared/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("golden files are JSON")),
        Err(_) => {
            eprintln!("skipped the golden values of {file}: the folder with reference data is not there");
            None
        }
    }
}

fn indices(plan: &Plan, epoch: u64, rank: u64) -> Vec<u64> {
    plan.epoch(epoch).rank(rank).map(|request| request.index).collect()
}

/// Values published for torch 2.13's DistributedSampler, seed 0.
#[test]
fn ranks_get_torchs_indices() {
    let plan = Plan::new(10, 3).unwrap();
    let ranks = |plan: &Plan, epoch| (0..plan.num_replicas()).map(|r| indices(plan, epoch, r)).collect::<Vec<_>>();
    assert_eq!(ranks(&plan, 0), [[4, 5, 0, 2], [1, 3, 8, 4], [7, 9, 6, 1]]);
    assert_eq!(ranks(&plan, 1), [[5, 2, 9, 4], [6, 0, 3, 5], [1, 8, 7, 6]]);
    assert_eq!(ranks(&plan.clone().with_tail(Tail::Drop), 0), [[4, 5, 0], [1, 3, 8], [7, 9, 6]]);
    let plain = Plan::unshuffled(10, 4).unwrap();
    assert_eq!(ranks(&plain, 0), [[0, 4, 8], [1, 5, 9], [2, 6, 0], [3, 7, 1]]);
    assert_eq!(ranks(&Plan::new(3, 7).unwrap(), 0), [[2], [0], [1], [2], [0], [1], [2]]);
}

#[test]
fn every_golden_record_of_the_sampler_agrees() {
    let Some(golden) = shared("distributed_sampler.json") else { return };
    let records = golden.as_array().or_else(|| golden["records"].as_array()).expect("a list of records");
    assert!(records.len() >= 700);
    for record in records {
        let get = |key: &str| record[key].as_u64().unwrap_or_else(|| panic!("{key} in {record}"));
        let (n, world, rank, seed, epoch) = (get("n"), get("world"), get("rank"), get("seed"), get("epoch"));
        let tail = if record["drop_last"].as_bool().unwrap() { Tail::Drop } else { Tail::Pad };
        let plan = Plan::unshuffled(n, world).unwrap().with_seed(seed).with_tail(tail);
        let shuffle = record["shuffle"].as_bool().unwrap();
        let plan = plan.with_permutation(if shuffle { Permutation::Torch } else { Permutation::None }).unwrap();
        let mine = indices(&plan, epoch, rank);
        assert_eq!(mine.len() as u64, get("len"), "{record}");
        let bytes: Vec<u8> = mine.iter().flat_map(|i| i.to_le_bytes()).collect();
        assert_eq!(sha256_hex(&bytes), record["sha256"].as_str().unwrap(), "{record}");
    }
}

#[test]
fn every_golden_permutation_agrees() {
    let Some(golden) = shared("randperm.json") else { return };
    for record in golden.as_array().or_else(|| golden["records"].as_array()).expect("a list of records") {
        let n = record["n"].as_u64().unwrap() as u32;
        let mine = torch_randperm(n, record["seed"].as_u64().unwrap());
        let first: Vec<u64> = mine.iter().take(8).map(|&i| u64::from(i)).collect();
        let expect: Vec<u64> = record["first"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
        assert_eq!(first, expect, "n = {n}");
        let bytes: Vec<u8> = mine.iter().flat_map(|&i| u64::from(i).to_le_bytes()).collect();
        assert_eq!(sha256_hex(&bytes), record["sha256"].as_str().unwrap(), "n = {n}");
    }
}

/// A plan drawn at random for a property test.
fn random_plan(rng: &mut SampleRng) -> Plan {
    let len = 1 + rng.below(200);
    let plan = Plan::unshuffled(len, 1 + rng.below(12)).unwrap().with_seed(rng.next_u64());
    let kinds = [Permutation::None, Permutation::Torch, Permutation::Feistel];
    plan.with_permutation(kinds[rng.below(3) as usize]).unwrap()
}

fn count(indices: impl Iterator<Item = u64>) -> HashMap<u64, u64> {
    indices.fold(HashMap::new(), |mut counts, index| {
        *counts.entry(index).or_default() += 1;
        counts
    })
}

#[test]
fn the_union_over_ranks_is_the_data_set() {
    let mut rng = SampleRng::new(1, 0, 0, "union");
    for _ in 0..500 {
        let plan = random_plan(&mut rng);
        let (n, w, epoch) = (plan.len(), plan.num_replicas(), rng.below(5));
        for tail in [Tail::Pad, Tail::Drop, Tail::Exact] {
            let plan = plan.clone().with_tail(tail);
            let dealt = plan.epoch(epoch);
            let all: Vec<Request> = (0..w).flat_map(|rank| dealt.rank(rank).collect::<Vec<_>>()).collect();
            assert_eq!(all.len() as u64, dealt.total_size());
            let real = count(all.iter().filter(|r| !r.padded).map(|r| r.index));
            assert!(real.values().all(|&times| times == 1), "{plan:?}");
            let padded = all.iter().filter(|r| r.padded).count() as u64;
            let sizes: Vec<u64> = (0..w).map(|rank| dealt.num_samples(rank)).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            match tail {
                Tail::Pad => assert!(real.len() as u64 == n && padded < w && least == most),
                Tail::Drop => assert!(n - (real.len() as u64) < w && padded == 0 && least == most),
                Tail::Exact => assert!(real.len() as u64 == n && padded == 0 && most - least <= 1),
            }
        }
    }
}

#[test]
fn the_rest_of_an_epoch_is_its_continuation_on_the_same_ranks() {
    let mut rng = SampleRng::new(3, 0, 0, "same world");
    for _ in 0..200 {
        let plan = random_plan(&mut rng);
        for tail in [Tail::Pad, Tail::Drop, Tail::Exact] {
            let plan = plan.clone().with_tail(tail);
            let whole = plan.epoch(1);
            let slots = rng.below(whole.num_samples(0) + 1);
            let rest = plan.epoch_from(1, slots * plan.num_replicas());
            for rank in 0..plan.num_replicas() {
                let expect: Vec<Request> = whole.rank(rank).skip(slots as usize).collect();
                assert_eq!(rest.rank(rank).collect::<Vec<_>>(), expect, "{plan:?} after {slots}");
            }
        }
    }
}

/// Look-ups one position at a time, by a rank's slots, by clones that share the computed order, and by threads at once.
#[test]
fn whoever_asks_for_an_index_gets_the_same() {
    let mut rng = SampleRng::new(5, 0, 0, "ask");
    for _ in 0..100 {
        let plan = random_plan(&mut rng);
        let (w, epoch) = (plan.num_replicas(), plan.epoch(2));
        let expect: Vec<Request> = (0..epoch.total_size()).map(|position| plan.epoch(2).at(position)).collect();
        let clone = epoch.clone();
        std::thread::scope(|scope| {
            for rank in 0..w {
                let (epoch, clone, expect) = (&epoch, clone.clone(), &expect);
                scope.spawn(move || {
                    let mine: Vec<Request> = expect.iter().copied().filter(|r| r.position % w == rank).collect();
                    assert!(clone.rank(rank).eq(mine.iter().copied()), "{clone:?}, rank {rank}");
                    let middle = mine.len() as u64 / 2;
                    assert!(epoch.slots(rank, middle..mine.len() as u64).eq(mine.into_iter().skip(middle as usize)));
                });
            }
        });
        // Far past the end the order repeats, as often as needed.
        let far = epoch.at(5 * plan.len() + 3 % plan.len());
        assert!(far.padded && far.index == epoch.at(3 % plan.len()).index);
    }
}

#[test]
fn wrong_plans_are_refused_with_torchs_words() {
    assert!(Plan::new(0, 1).is_err() && Plan::new(1, 0).is_err());
    let error = Plan::new(4, 2).unwrap().check_rank(2).unwrap_err().to_string();
    assert!(error.contains("Invalid rank 2, rank should be in the interval [0, 1]"), "{error}");
    let error = Plan::new(1 << 31, 1).unwrap_err().to_string();
    assert!(error.contains("feistel"), "{error}");
}

#[test]
fn a_replacement_depends_on_the_place_alone() {
    let plan = Plan::new(100, 2).unwrap();
    let request = plan.epoch(4).at(17);
    let again = Plan::new(100, 5).unwrap().epoch(4).at(17);
    assert_eq!(request.replacement(0, 100), again.replacement(0, 100));
    assert_ne!(request.replacement(0, 100).index, request.replacement(1, 100).index);
    assert_eq!(request.replacement(3, 100).position, 17);
}

#[test]
fn a_cursor_knows_whose_it_is() {
    let plan = Plan::new(50, 2).unwrap();
    let cursor = Cursor::new(7, &plan, 3, 20, 0);
    let json = serde_json::to_string(&cursor).unwrap();
    assert!(json.len() < 300);
    let cursor: Cursor = serde_json::from_str(&json).unwrap();
    cursor.check(7, &Plan::new(50, 8).unwrap()).expect("the number of ranks may change");
    assert!(cursor.check(8, &plan).unwrap_err().to_string().contains("data set"));
    assert!(cursor.check(7, &plan.with_seed(1)).unwrap_err().to_string().contains("plan"));
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pairs(plan: &Plan, epochs: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let requests = epochs.flat_map(|e| (0..plan.epoch_len()).map(move |p| (e, p)));
    let requests = requests.map(|(e, p)| plan.epoch(e).at(p));
    requests.map(|request| (request.pass, request.index)).collect()
}

#[test]
fn virtual_epochs_cut_the_passes_that_are_laid_end_to_end() {
    for permutation in [Permutation::None, Permutation::Torch, Permutation::Feistel] {
        let plain = Plan::unshuffled(30, 2).unwrap().with_seed(3).with_permutation(permutation).unwrap();
        let passes = pairs(&plain, 0..20);
        assert!(passes.iter().enumerate().all(|(t, pair)| pair.0 == t as u64 / 30));
        for length in [1, 7, 29, 30, 31, 60, 100] {
            let plan = plain.clone().with_epoch_length(length).unwrap();
            let whole = pairs(&plan, 0..600_u64.div_ceil(length));
            assert_eq!(whole[..600], passes, "{permutation:?} in epochs of {length}");
            // Look-ups in any order, and many at once across the border of a pass.
            let rank: Vec<(u64, u64)> = plan.epoch(3).rank(1).map(|r| (r.pass, r.index)).collect();
            let mine = whole[3 * length as usize..].iter().take(length as usize).skip(1).step_by(2);
            assert!(mine.eq(rank.iter().take(length as usize / 2)));
            let epoch = plan.epoch(1);
            assert!((0..length).rev().all(|p| (epoch.at(p).pass, epoch.at(p).index) == whole[(length + p) as usize]));
        }
    }
}

#[test]
fn merged_epochs_are_one_permutation_of_all_of_them() {
    let plan = Plan::new(30, 2).unwrap().with_seed(3).with_merged_epochs(4).unwrap();
    assert_eq!(plan.epoch_len(), 120);
    // torch.randperm(120) of seed + epoch, index % n as upstream's __getitem__.
    let upstream = |seed| torch_randperm(120, seed).into_iter().map(u64::from).map(|at| (at / 30, at % 30));
    assert!(pairs(&plan, 0..1).into_iter().eq(upstream(3)));
    assert!(pairs(&plan, 1..2).into_iter().eq(upstream(4).map(|(pass, index)| (pass + 4, index))));
    let cut = plan.clone().with_epoch_length(50).unwrap();
    assert_eq!(pairs(&cut, 0..5)[..240], pairs(&plan, 0..2));
}

#[test]
fn a_mixture_goes_through_its_sources_in_their_own_orders() {
    for permutation in [Permutation::None, Permutation::Torch, Permutation::Feistel] {
        let plan = Plan::unshuffled(100, 3).unwrap().with_permutation(permutation).unwrap();
        let plan = plan.with_mixture(&[(70, 1.0), (30, 3.0)]).unwrap();
        let met = pairs(&plan, 0..8);
        for (range, share) in [(0..70, 200), (70..100, 600)] {
            let mine: Vec<_> = met.iter().filter(|(_, index)| range.contains(index)).collect();
            assert!(mine.len().abs_diff(share) < 4, "{}", mine.len());
            let size = range.end - range.start;
            for (pass, met) in (0..).zip(mine.chunks(size as usize)) {
                assert!(met.iter().all(|at| at.0 == pass));
                let once = count(met.iter().map(|at| at.1));
                assert!(once.len() == met.len(), "{permutation:?}");
            }
        }
    }
}

#[test]
fn buckets_pad_less_and_lose_nothing() {
    let mut rng = SampleRng::new(6, 0, 0, "lengths");
    let lengths: Arc<[u32]> = (0..5000).map(|_| (5.0 + rng.normal()).exp() as u32).collect();
    let waste = |plan: &Plan| -> u64 {
        let met: Vec<u64> = pairs(plan, 1..2).iter().map(|at| u64::from(lengths[at.1 as usize])).collect();
        met.chunks(32).map(|step| step.iter().max().unwrap() * step.len() as u64 - step.iter().sum::<u64>()).sum()
    };
    let plain = Plan::new(5000, 4).unwrap();
    for plain in [plain.clone(), plain.with_permutation(Permutation::Feistel).unwrap()] {
        let plan = plain.clone().with_buckets(Arc::clone(&lengths), 32 * 32, 32).unwrap();
        assert!(waste(&plan) * 5 < waste(&plain), "{} and {}", waste(&plan), waste(&plain));
        let (sorted, order) = (pairs(&plan, 0..2), pairs(&plain, 0..2));
        assert_ne!(sorted, order);
        for window in 0..5 {
            let range = window * 1024..5000.min(window * 1024 + 1024);
            let same = |all: &[(u64, u64)]| count(all[range.clone()].iter().map(|at| at.1));
            assert_eq!(same(&sorted), same(&order));
        }
    }
}

#[test]
fn weighted_draws_are_all_different_meetings() {
    let weights: Vec<f64> = (0..50).map(f64::from).collect();
    let plan = Plan::new(50, 2).unwrap().with_weights(&weights).unwrap();
    let met = pairs(&plan, 0..40);
    assert!(met.iter().zip(0..).all(|(at, t)| at.0 == t));
    let counts = count(met.iter().map(|at| at.1));
    assert!(!counts.contains_key(&0) && counts[&49] > 2 * counts[&5]);
    // 2000 draws of a mean weight of 24.5.
    assert!(counts[&49].abs_diff(80) < 40, "{}", counts[&49]);
}

#[test]
fn a_fingerprint_tells_every_order_from_the_others_and_old_ones_stay() {
    let plan = Plan::new(60, 2).unwrap().with_seed(4);
    assert_eq!(plan.fingerprint(), hash_words(&[60, 4, 1, 0]), "cursors saved by earlier versions stay valid");
    assert_eq!(plan.clone().with_epoch_length(60).unwrap().fingerprint(), plan.fingerprint());
    let lengths = |last| (0..60).map(|i| if i == 59 { last } else { i }).collect::<Arc<[u32]>>();
    let weights = |last| (0..60).map(|i| if i == 59 { last } else { 1.0 }).collect::<Vec<f64>>();
    let all = [
        Ok(plan.clone()),
        plan.clone().with_epoch_length(59),
        plan.clone().with_epoch_length(120),
        plan.clone().with_merged_epochs(2),
        plan.clone().with_weights(&weights(1.0)),
        plan.clone().with_weights(&weights(2.0)),
        plan.clone().with_mixture(&[(30, 1.0), (30, 2.0)]),
        plan.clone().with_mixture(&[(30, 1.0), (30, 1.0)]),
        plan.clone().with_mixture(&[(29, 1.0), (31, 1.0)]),
        plan.clone().with_buckets(lengths(1), 20, 5),
        plan.clone().with_buckets(lengths(2), 20, 5),
        plan.clone().with_buckets(lengths(2), 20, 10),
    ];
    let different: std::collections::HashSet<u64> = all.iter().map(|p| p.as_ref().unwrap().fingerprint()).collect();
    assert_eq!(different.len(), all.len());
    assert!(all.iter().all(|p| p.as_ref().unwrap().is_shuffled()));
}

#[test]
fn impossible_orders_are_refused() {
    let plan = Plan::new(60, 2).unwrap();
    let weighted = plan.clone().with_weights(&[1.0; 60]).unwrap();
    for refused in [
        plan.clone().with_epoch_length(0),
        plan.clone().with_merged_epochs(0),
        plan.clone().with_merged_epochs(1 << 26),
        Plan::unshuffled(60, 2).unwrap().with_merged_epochs(1 << 26).unwrap().with_permutation(Permutation::Torch),
        plan.clone().with_weights(&[1.0; 59]),
        plan.clone().with_mixture(&[(60, 0.0)]),
        plan.clone().with_mixture(&[(60, 1.0), (0, 1.0)]),
        plan.clone().with_mixture(&[(59, 1.0)]),
        plan.with_buckets(Arc::new([1; 59]), 4, 2),
        weighted.with_merged_epochs(2),
    ] {
        assert!(matches!(refused, Err(Error::Config { .. })), "{refused:?}");
    }
}

/// 4,096 ranks and 10^12 samples: checks random windows of positions, random ranks and random samples.
#[test]
fn four_thousand_ranks_share_a_trillion_samples() {
    const RANKS: u64 = 4096;
    const LEN: u64 = 1_000_000_000_000;
    let plan =
        Plan::unshuffled(LEN, RANKS).unwrap().with_permutation(Permutation::Feistel).unwrap().with_tail(Tail::Exact);
    let mut rng = SampleRng::new(9, 0, 0, "simulation");
    for epoch in 0..3 {
        // After an elastic restart, at a position that no number of ranks divides.
        let start = rng.below(LEN / 2) * (epoch.min(1));
        let dealt = plan.epoch_from(epoch, start);
        let window = rng.below((LEN - start) / RANKS - 20);
        let mut seen: Vec<u64> = (0..RANKS)
            .flat_map(|rank| dealt.slots(rank, window..window + 8).map(|request| request.index).collect::<Vec<_>>())
            .collect();
        let mut back: Vec<u64> = seen.iter().map(|&index| dealt.position_of(index).unwrap()).collect();
        back.sort_unstable();
        let first = start + window * RANKS;
        assert!(back.into_iter().eq(first..first + 8 * RANKS), "the window's positions, each once");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u64, 8 * RANKS, "no two ranks share a sample");
        let sizes: u64 = (0..RANKS).map(|rank| dealt.num_samples(rank)).sum();
        assert_eq!(sizes, LEN - start);
        // Random samples: each has one position, and its rank finds it there.
        let sample = rng.below(LEN - 1000);
        for index in sample..sample + 1000 {
            let position = dealt.position_of(index).unwrap();
            let Some(place) = position.checked_sub(start) else { continue };
            let (rank, slot) = (place % RANKS, place / RANKS);
            assert!(slot < dealt.num_samples(rank));
            assert!(dealt.slots(rank, slot..slot + 1).all(|request| request.index == index));
        }
    }
}

fn mixture(weights: [f64; 2], ranks: u64) -> Plan {
    let plan = Plan::new(61, ranks).unwrap().with_mixture(&[(30, weights[0]), (31, weights[1])]).unwrap();
    plan.with_seed(7)
}

#[test]
fn a_mixture_survives_json_bit_for_bit() {
    let mut rng = SampleRng::new(1, 2, 3, "weights");
    for _ in 0..300 {
        let plan = mixture([rng.unit(), 10.0 * rng.unit()], 2);
        let text = serde_json::to_string(&Cursor::new(1, &plan, 0, 10, 0)).unwrap();
        let cursor: Cursor = serde_json::from_str(&text).unwrap();
        assert_eq!(cursor.resume(1, &plan).unwrap(), plan, "{text}");
        let text = plan.describe().unwrap().to_string();
        assert_eq!(Plan::from_description(&serde_json::from_str(&text).unwrap()).unwrap(), plan, "{text}");
    }
}

#[test]
fn new_weights_begin_at_the_cursor_and_never_past_the_epoch() {
    let resumed =
        |epoch, position, old: &Plan| Cursor::new(1, old, epoch, position, 0).resume(1, &mixture([1.0, 5.0], 4));
    let old = mixture([1.0, 1.0], 4);
    let new = resumed(0, 40, &old).unwrap();
    assert_eq!(new.mix().map(|mix| (mix.origin, mix.counts.iter().sum::<u64>())), Some((40, 40)));
    // The padded end of an epoch of 61 is position 64; the next epoch's first places are not before the origin.
    assert_eq!(resumed(0, 64, &old).unwrap().mix().unwrap().origin, 61);
    assert_ne!(new.fingerprint(), mixture([1.0, 5.0], 4).fingerprint(), "where the weights began counts");
    // Back before the last change of weights: starts at the run's beginning, whatever the present plan knows.
    let back = Cursor::new(1, &new, 0, 7, 0).resume(1, &mixture([3.0, 1.0], 4)).unwrap();
    assert_eq!(back.mix().map(|mix| (mix.origin, mix.counts.clone())), Some((0, vec![0, 0])));
}

#[test]
fn sources_of_one_size_are_not_in_one_order() {
    for permutation in [Permutation::Torch, Permutation::Feistel] {
        let plan = Plan::unshuffled(80, 1).unwrap().with_permutation(permutation).unwrap();
        let plan = plan.with_mixture(&[(40, 1.0), (40, 1.0)]).unwrap();
        let first_pass = |source: u64| -> Vec<u64> {
            let all = indices(&plan, 0, 0).into_iter().filter(|index| index / 40 == source);
            all.take(30).map(|index| index % 40).collect()
        };
        assert_ne!(first_pass(0), first_pass(1), "{permutation:?}");
    }
}

#[test]
fn windows_of_buckets_are_not_in_one_order_and_leave_out_no_length() {
    let plan = |len: u64| {
        let lengths = (0..len as u32).map(|i| i % 40).collect();
        Plan::unshuffled(len, 1).unwrap().with_seed(5).with_buckets(lengths, 40, 8).unwrap()
    };
    // Every window holds the lengths 0 to 39 once, in chunks of 8.
    let order = indices(&plan(400), 0, 0);
    let windows: Vec<Vec<u64>> = order.chunks(40).map(|window| window.iter().map(|i| i % 40).collect()).collect();
    assert!(windows.iter().any(|window| window != &windows[0]), "each window has a key of its own");
    // 36 samples: the last 4 are not a full chunk, and they are not always the longest.
    let last: std::collections::BTreeSet<u64> = (0..30).map(|epoch| indices(&plan(36), epoch, 0)[35]).collect();
    assert_eq!(last.into_iter().collect::<Vec<_>>(), [3, 11, 19, 27, 35]);
}

#[test]
fn a_description_is_checked_like_any_plan() {
    let mut described = Plan::new(10, 2).unwrap().describe().unwrap();
    for length in [0, u64::MAX] {
        described["epoch_length"] = length.into();
        let error = Plan::from_description(&described).unwrap_err().to_string();
        assert!(error.contains(&format!("epochs of {length} samples")), "{error}");
    }
    // Torch's order of each source is possible, of all together it would not be.
    let large = Plan::unshuffled(3 << 30, 1).unwrap().with_mixture(&[(3 << 29, 1.0), (3 << 29, 1.0)]).unwrap();
    let large = large.with_permutation(Permutation::Torch).unwrap();
    assert_eq!(Plan::from_description(&large.describe().unwrap()).unwrap(), large);
    let too_large = Plan::new(10, 1).unwrap().with_mixture(&[(3, 1.0), (1 << 31, 1.0)]);
    assert!(too_large.is_err());
}
