"""The samplers against torch's own, alone and inside torch's DataLoader, and their states over any number of ranks."""

import inspect
import json
import pickle
import random
import warnings

import feedline
import pytest
import torch
from feedline.torch import (
    DistributedBatchSampler,
    DistributedMixtureSampler,
    DistributedSampler,
    DistributedWeightedSampler,
)
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, TensorDataset
from torch.utils.data import DistributedSampler as TorchSampler


def data(length):
    return TensorDataset(torch.arange(length))


def test_indices_and_attributes_are_torchs_over_a_random_grid():
    draw = random.Random(0)
    for _ in range(300):
        length, replicas = draw.randint(1, 2000), draw.randint(1, 9)
        arguments = {
            "num_replicas": replicas,
            "rank": draw.randrange(replicas),
            "shuffle": draw.random() < 0.7,
            "seed": draw.choice([0, draw.randrange(100), draw.randrange(2**63 - 10)]),
            "drop_last": draw.random() < 0.5,
        }
        theirs, ours = TorchSampler(data(length), **arguments), DistributedSampler(data(length), **arguments)
        for name in ("num_replicas", "rank", "epoch", "drop_last", "shuffle", "seed", "num_samples", "total_size"):
            assert getattr(ours, name) == getattr(theirs, name), (name, length, arguments)
        for epoch in (0, 1, draw.randrange(1000)):
            theirs.set_epoch(epoch), ours.set_epoch(epoch)
            assert list(ours) == list(theirs), (length, arguments, epoch)
            assert len(ours) == len(theirs) and ours.epoch == theirs.epoch


def test_the_signature_begins_with_torchs():
    theirs = inspect.signature(TorchSampler).parameters.values()
    ours = list(inspect.signature(DistributedSampler).parameters.values())
    assert [(p.name, p.default) for p in theirs] == [(p.name, p.default) for p in ours[: len(theirs)]]
    assert issubclass(DistributedSampler, torch.utils.data.Sampler)


@pytest.mark.parametrize("arguments", [(3, 3), (3, -1), (3, 7), (), (None, 0)])
def test_wrong_ranks_are_torchs_errors(arguments):
    with pytest.raises(Exception) as theirs:
        TorchSampler(data(10), *arguments)
    with pytest.raises(type(theirs.value)) as ours:
        DistributedSampler(data(10), *arguments)
    assert str(ours.value) == str(theirs.value)


def test_ranks_that_are_set_later_are_refused():
    """torch takes them, and deals by them; here the order is made already."""
    sampler = DistributedSampler(data(10), 2, 0)
    for name in ("rank", "num_replicas"):
        with pytest.raises(AttributeError, match=name):
            setattr(sampler, name, 1)
    assert (sampler.num_replicas, sampler.rank) == (2, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_loader_takes_it(workers):
    for rank in range(3):
        loaders = []
        for kind in (TorchSampler, DistributedSampler):
            sampler = kind(data(50), 3, rank, seed=4)
            loaders.append((sampler, DataLoader(data(50), 4, sampler=sampler, num_workers=workers)))
        for epoch in range(2):
            steps = []
            for sampler, loader in loaders:
                sampler.set_epoch(epoch)
                steps.append([batch[0].tolist() for batch in loader])
            assert steps[0] == steps[1]


def test_exact_gives_every_sample_once():
    for length, replicas in [(10, 3), (2, 5), (9, 3)]:
        shares = [list(DistributedSampler(data(length), replicas, rank, tail="exact")) for rank in range(replicas)]
        assert sorted(index for share in shares for index in share) == list(range(length))
    with pytest.raises(feedline.ConfigError, match="contradict"):
        DistributedSampler(data(10), 2, 0, drop_last=True, tail="exact")


def test_epochs_may_be_merged_or_of_any_length():
    merged = DistributedSampler(data(10), 2, 0, merge_epochs=3), DistributedSampler(data(10), 2, 1, merge_epochs=3)
    assert sorted([*merged[0], *merged[1]]) == sorted(list(range(10)) * 3)
    cut = DistributedSampler(data(10), 1, 0, epoch_length=4)
    seen = []
    for epoch in range(5):
        cut.set_epoch(epoch)
        assert len(cut) == 4
        seen += list(cut)
    whole = TorchSampler(data(10), 1, 0)
    expect = []
    for epoch in range(2):
        whole.set_epoch(epoch)
        expect += list(whole)
    assert seen == expect, "passes over the data, laid end to end"


KINDS = {
    "torch": lambda replicas, rank: DistributedSampler(data(101), replicas, rank, seed=3),
    "exact": lambda replicas, rank: DistributedSampler(data(101), replicas, rank, seed=3, tail="exact"),
    "feistel": lambda replicas, rank: DistributedSampler(data(101), replicas, rank, permutation="feistel", tail="exact"),
    "weighted": lambda replicas, rank: DistributedWeightedSampler(range(1, 102), 101, replicas, rank, tail="exact"),
    "mixture": lambda replicas, rank: DistributedMixtureSampler(
        ConcatDataset([data(30), data(71)]), [1, 3], 101, replicas, rank, tail="exact"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_chain_of_ranks_gives_one_sequence(kind):
    draw = random.Random(1)
    whole = list(KINDS[kind](1, 0))
    assert len(whole) == 101
    for _ in range(10):
        seen, state, left = [], None, True
        while left:
            replicas, steps = draw.randint(1, 5), draw.randint(1, 15)
            samplers = [KINDS[kind](replicas, rank) for rank in range(replicas)]
            for sampler in samplers:
                sampler.load_state_dict(state) if state else None
                assert sampler.epoch == 0
            passes = [iter(sampler) for sampler in samplers]
            for _ in range(steps):
                given = [next(one, None) for one in passes]
                seen += [index for index in given if index is not None]
            states = [json.dumps(sampler.state_dict()) for sampler in samplers]
            left = all(index is not None for index in given) and len(seen) < 101
            assert not left or len(set(states)) == 1
            state = json.loads(states[0])
        assert seen[:101] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_consumed_counts_and_not_what_torchs_loader_asked_for(workers):
    whole = [batch[0].tolist() for batch in DataLoader(data(100), 5, sampler=TorchSampler(data(100), 2, 0))]
    sampler = DistributedSampler(data(100), 2, 0)
    batches = iter(DataLoader(data(100), 5, sampler=sampler, num_workers=workers))
    for step in range(4):
        next(batches)
        state = sampler.state_dict(consumed=5 * (step + 1))
        again = DistributedSampler(data(100), 2, 0)
        again.load_state_dict(state)
        again.set_epoch(0)  # as programs do at the beginning of an epoch
        rest = [batch[0].tolist() for batch in DataLoader(data(100), 5, sampler=again)]
        assert rest == whole[step + 1 :]
    for wrong in (-1, 51):
        with pytest.raises(feedline.ConfigError, match="were handed out"):
            sampler.state_dict(consumed=wrong)


def test_a_state_of_another_order_is_refused_and_changes_nothing():
    state = DistributedSampler(data(100), 2, 0, seed=1).state_dict()
    for other in (DistributedSampler(data(100), 2, 0, seed=2), DistributedSampler(data(99), 2, 0, seed=1)):
        before = list(other)
        with pytest.raises(feedline.StateError):
            other.load_state_dict(state)
        other.set_epoch(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(other) == before


def test_a_pickled_sampler_goes_on_where_it_was():
    sampler = DistributedSampler(data(40), 2, 1)
    indices = iter(sampler)
    head = [next(indices) for _ in range(7)]
    copy = pickle.loads(pickle.dumps(sampler))
    assert head + list(copy) == list(DistributedSampler(data(40), 2, 1))


def test_an_epoch_that_is_sampled_twice_is_told_once():
    sampler = DistributedSampler(data(10), 1, 0)
    list(sampler)
    with pytest.warns(UserWarning, match=r"Call sampler\.set_epoch"):
        list(sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(sampler)
        fresh = DistributedSampler(data(10), 1, 0)
        for epoch in range(3):
            fresh.set_epoch(epoch)
            list(fresh)
        plain = DistributedSampler(data(10), 1, 0, shuffle=False)
        assert list(plain) == list(plain)


def test_weights_decide_how_often():
    weights = [1.0, 0.0, 2.0, 7.0]
    drawn = [index for rank in range(3) for index in DistributedWeightedSampler(weights, 30_000, 3, rank)]
    assert [round(drawn.count(index) / 30_000, 1) for index in range(4)] == [0.1, 0.0, 0.2, 0.7]
    other = DistributedWeightedSampler(weights, 30_000, 1, 0)
    other.set_epoch(1)
    assert list(other) != list(DistributedWeightedSampler(weights, 30_000, 1, 0))
    for wrong in ([], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(feedline.ConfigError):
            DistributedWeightedSampler(wrong, 10, 1, 0)


def test_a_mixture_takes_its_shares_and_may_change_them_when_it_goes_on():
    both = ConcatDataset([data(100), data(50)])
    sampler = DistributedMixtureSampler(both, [3, 1], 80, 1, 0)
    drawn = list(sampler)
    assert sum(index < 100 for index in drawn) == 60 and len(set(drawn)) == 80
    first = DistributedMixtureSampler(both, [3, 1], 80, 1, 0)
    indices = iter(first)
    head = [next(indices) for _ in range(40)]
    changed = DistributedMixtureSampler(both, [1, 1], 80, 1, 0)
    changed.load_state_dict(first.state_dict())
    rest = list(changed)
    assert len(rest) == 40 and sum(index < 100 for index in rest) == 20 and not set(head) & set(rest)
    with pytest.raises(feedline.ConfigError, match="ConcatDataset"):
        DistributedMixtureSampler(data(3), [1], 3, 1, 0)
    with pytest.raises(feedline.ConfigError, match="2 data sets and 1 weights"):
        DistributedMixtureSampler(both, [1], 3, 1, 0)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_torchs_and_a_state_continues_them(drop_last):
    ours = DistributedBatchSampler(data(53), 4, 2, 1, seed=6, drop_last=drop_last)
    theirs = BatchSampler(TorchSampler(data(53), 2, 1, seed=6, drop_last=drop_last), 4, drop_last)
    whole = list(theirs)
    assert list(ours) == whole and len(ours) == len(theirs) == len(whole)
    loader = DataLoader(data(53), batch_sampler=DistributedBatchSampler(data(53), 4, 2, 1, seed=6, drop_last=drop_last))
    assert [batch[0].tolist() for batch in loader] == whole
    fresh = DistributedBatchSampler(data(53), 4, 2, 1, seed=6, drop_last=drop_last)
    batches = iter(fresh)
    next(batches), next(batches), next(batches)
    again = DistributedBatchSampler(data(53), 4, 2, 1, seed=6, drop_last=drop_last)
    again.load_state_dict(fresh.state_dict(steps=2))
    assert list(again) == whole[2:]


def test_lengths_bring_like_to_like():
    draw = random.Random(2)
    lengths = [draw.randint(1, 500) for _ in range(600)]
    padded = {}
    for bucketed in (None, lengths):
        steps = [list(DistributedBatchSampler(data(600), 6, 2, rank, lengths=bucketed, window=bucketed and 300)) for rank in (0, 1)]
        assert sorted(index for rank in steps for batch in rank for index in batch) == list(range(600))
        padded[bucketed is None] = sum(
            max(lengths[index] for index in batch) * len(batch) for rank in steps for batch in rank
        )
    assert padded[False] < 0.7 * padded[True]


def test_ten_million_indices_take_less_memory_than_torchs(python):
    code = """
import sys
import feedline.torch, torch.utils.data

def peak_kb():
    # Not getrusage's ru_maxrss, which begins with that of the process that forked this one.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))

length, module = 10_000_000, {"ours": feedline.torch, "torchs": torch.utils.data}[sys.argv[1]]
before = peak_kb()
sampler = module.DistributedSampler(range(length), num_replicas=8, rank=3, seed=5)
total = 0
for place, index in enumerate(sampler):
    total = (total * 31 + index) % (2**61 - 1) if place % 1000 == 0 else total
print(total, len(sampler), peak_kb() - before)
"""
    ours, torchs = (python(code, kind, timeout=120).stdout.split() for kind in ("ours", "torchs"))
    assert ours[:2] == torchs[:2]
    assert int(ours[2]) < int(torchs[2]) / 3
