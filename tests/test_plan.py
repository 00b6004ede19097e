"""`feedline plan` against torch's own DistributedSampler, index for index."""

import json
import random

import numpy as np
import pytest
from torch.utils.data import DistributedSampler


def torch_indices(n, replicas, rank, seed, epoch, drop_last, shuffle):
    sampler = DistributedSampler(
        range(n), num_replicas=replicas, rank=rank, shuffle=shuffle, seed=seed, drop_last=drop_last
    )
    sampler.set_epoch(epoch)
    return list(sampler)


def plan_args(n, replicas, seed, epoch, drop_last, shuffle):
    args = ["plan", "--len", n, "--num-replicas", replicas, "--seed", seed, "--epoch", epoch]
    args += ["--tail", "drop" if drop_last else "pad"]
    return args if shuffle else [*args, "--no-shuffle"]


def indices_of(feedline, args, rank):
    return [int(line) for line in feedline.ok(*args, "--format", "indices", "--rank", rank).stdout.splitlines()]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n, replicas", [(1, 1), (2, 5), (3, 8), (7, 2), (8, 4), (10, 3), (257, 4), (1000, 7)])
def test_indices_equal_torch(feedline, n, replicas, drop_last, shuffle):
    for seed, epoch in [(0, 0), (0, 1), (42, 3), (2**32 + 5, 2), (2**63 + 11, 1)]:
        args = plan_args(n, replicas, seed, epoch, drop_last, shuffle)
        for rank in range(replicas):
            expected = torch_indices(n, replicas, rank, seed, epoch, drop_last, shuffle)
            assert indices_of(feedline, args, rank) == expected, (args, rank)


def test_json_equals_torch_for_random_arguments(feedline):
    rng = random.Random(20240)
    for _ in range(300):
        n, replicas = rng.choice([rng.randint(1, 12), rng.randint(1, 3000)]), rng.randint(1, 17)
        seed, epoch = rng.choice([0, rng.randrange(2**32), rng.randrange(2**63)]), rng.randrange(1000)
        drop_last, shuffle = rng.random() < 0.5, rng.random() < 0.8
        args = plan_args(n, replicas, seed, epoch, drop_last, shuffle)
        plan = json.loads(feedline.ok(*args, "--format", "json").stdout)
        assert [part["rank"] for part in plan["ranks"]] == list(range(replicas))
        expected = [torch_indices(n, replicas, rank, seed, epoch, drop_last, shuffle) for rank in range(replicas)]
        assert [part["indices"] for part in plan["ranks"]] == expected, args
        assert plan["total_size"] == sum(map(len, expected))


def test_a_long_epoch_equals_torch(feedline):
    args = plan_args(1_000_003, 8, 7, 5, drop_last=False, shuffle=True)
    assert indices_of(feedline, args, 6) == torch_indices(1_000_003, 8, 6, 7, 5, False, True)


@pytest.mark.parametrize("n, replicas", [(1, 1), (10, 3), (1_000_003, 1), (1_000_003, 64)])
def test_the_checksum_of_the_timing_is_that_of_torchs_indices(feedline, n, replicas):
    args = plan_args(n, replicas, 11, 2, drop_last=False, shuffle=True)
    for rank in {0, replicas - 1}:
        timing = json.loads(feedline.ok(*args, "--rank", rank, "--timing").stdout)
        expected = np.array(torch_indices(n, replicas, rank, 11, 2, False, True), dtype=np.uint64)
        assert timing["indices"] == len(expected)
        weighted = expected * np.arange(1, len(expected) + 1, dtype=np.uint64)
        assert int(timing["checksum"], 16) == int(weighted.sum(dtype=np.uint64))
        assert timing["start_seconds"] <= timing["first_index_seconds"] <= timing["draw_seconds"]


@pytest.mark.parametrize("tail", ["pad", "drop", "exact"])
@pytest.mark.parametrize("n, replicas", [(2, 5), (10, 3), (12, 4), (100, 7)])
def test_json_agrees_with_indices(feedline, n, replicas, tail):
    args = ["plan", "--len", n, "--num-replicas", replicas, "--seed", 3, "--epoch", 2, "--tail", tail]
    plan = json.loads(feedline.ok(*args, "--format", "json").stdout)
    assert (plan["len"], plan["num_replicas"], plan["seed"], plan["epoch"]) == (n, replicas, 3, 2)
    for part in plan["ranks"]:
        assert part["indices"] == indices_of(feedline, args, part["rank"])
    padded = sum(len(part["padded_slots"]) for part in plan["ranks"])
    assert padded == (-n % replicas if tail == "pad" else 0)


@pytest.mark.parametrize("permutation", ["torch", "feistel"])
def test_an_exact_tail_deals_every_sample_once(feedline, permutation):
    for n, replicas in [(1, 1), (2, 5), (10, 3), (12, 4), (101, 7), (1000, 16)]:
        args = ["plan", "--len", n, "--num-replicas", replicas, "--seed", 9, "--tail", "exact"]
        args += ["--permutation", permutation]
        ranks = [indices_of(feedline, args, rank) for rank in range(replicas)]
        assert sorted(index for rank in ranks for index in rank) == list(range(n))
        sizes = [len(rank) for rank in ranks]
        assert max(sizes) - min(sizes) <= 1


def test_an_exact_tail_is_torchs_order_without_the_padding(feedline):
    n, replicas = 23, 4
    args = ["plan", "--len", n, "--num-replicas", replicas, "--seed", 1, "--epoch", 6, "--tail", "exact"]
    for rank in range(replicas):
        expected = torch_indices(n, replicas, rank, 1, 6, drop_last=False, shuffle=True)
        count = len(range(rank, n, replicas))
        assert indices_of(feedline, args, rank) == expected[:count]


@pytest.mark.parametrize(
    "args", [["--len", 10, "--num-replicas", 0], ["--len", 10, "--num-replicas", 2, "--rank", 2]]
)
def test_impossible_arguments_are_refused(feedline, args):
    ended = feedline("plan", *args, "--format", "indices")
    assert ended.code == 2 and ended.stdout == "" and ended.stderr
