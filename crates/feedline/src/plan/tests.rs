use super::*;
use std::collections::HashMap;

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

/// Stop anywhere, go on with any number of ranks, as often as you like: each sample once.
#[test]
fn any_chain_of_world_sizes_covers_the_epoch_exactly() {
    let mut rng = SampleRng::new(2, 0, 0, "elastic");
    for _ in 0..300 {
        let plan = random_plan(&mut rng).with_tail(Tail::Exact);
        let whole: Vec<u64> = (0..plan.len()).map(|p| plan.epoch(3).at(p).index).collect();
        let (mut start, mut seen) = (0, Vec::new());
        while start < plan.len() {
            let world = 1 + rng.below(9);
            let now = Plan { num_replicas: world, ..plan.clone() };
            let rest = now.epoch_from(3, start);
            let slots = 1 + rng.below(10);
            let mut here: Vec<Request> =
                (0..world).flat_map(|rank| rest.rank(rank).take(slots as usize).collect::<Vec<_>>()).collect();
            here.sort_by_key(|r| r.position);
            start += here.len() as u64;
            seen.extend(here.iter().map(|r| r.index));
        }
        assert_eq!(seen, whole, "{plan:?}");
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

/// Ways of asking: one position at a time, a rank's slots, clones that share what is made, threads at once.
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
        // Far past the end the order begins again, as often as needed.
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
