"""The loader against torch's own, its state, its iterators, and what it says to wrong arguments."""

import io
import json
import pickle
import random

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset


def numbers(length):
    return feedline.arrays(np.arange(length, dtype=np.int64))


def loader(length, **options):
    return feedline.DataLoader(numbers(length), **{"num_workers": 2, "num_replicas": 1, "rank": 0} | options)


def steps(batches):
    return [batch[0].tolist() for batch in batches]


def test_batches_of_every_rank_are_those_of_torchs_sampler_and_loader():
    draw = random.Random(0)
    for _ in range(60):
        length, replicas, size = draw.randint(1, 300), draw.randint(1, 5), draw.randint(1, 9)
        drop_last, shuffle, seed = draw.random() < 0.5, draw.random() < 0.7, draw.randrange(2**40)
        data = TensorDataset(torch.arange(length))
        for rank in range(replicas):
            sampler = DistributedSampler(data, replicas, rank, shuffle, seed, drop_last)
            if len(sampler) == 0:
                continue
            theirs = DataLoader(data, size, sampler=sampler, drop_last=drop_last)
            options = {"num_replicas": replicas, "rank": rank, "shuffle": shuffle, "seed": seed}
            ours = loader(length, batch_size=size, drop_last=drop_last, num_workers=draw.choice([0, 2]), **options)
            assert len(ours) == len(theirs)
            for epoch in range(3):
                sampler.set_epoch(epoch)
                assert steps(ours) == steps(theirs), (length, replicas, rank, size, drop_last, shuffle, seed, epoch)


def test_one_rank_shuffles_as_torchs_loader_with_a_seeded_generator():
    for length, seed in [(1, 0), (10, 3), (997, 2**33 + 1)]:
        data = TensorDataset(torch.arange(length))
        ours = loader(length, batch_size=7, shuffle=True, seed=seed)
        for epoch in range(3):
            order = RandomSampler(data, generator=torch.Generator().manual_seed(seed + epoch))
            assert steps(ours) == steps(DataLoader(data, 7, sampler=order))


def test_any_number_of_workers_gives_the_same_batches():
    expect = [steps(loader(103, batch_size=8, shuffle=True, num_workers=0)) for _ in range(2)]
    for workers in (1, 2, 5):
        ours = loader(103, batch_size=8, shuffle=True, num_workers=workers)
        assert steps(ours) == expect[0] and len(steps(ours)) == 13


@pytest.mark.parametrize("tail", ["pad", "drop", "exact"])
def test_a_state_goes_on_with_exactly_the_next_sample_on_any_number_of_ranks(tail):
    """Ranks, batch sizes and workers change at random; the samples of all ranks, laid together, are one sequence."""
    length, draw = 211, random.Random(7)
    whole = [index for step in steps(loader(length, batch_size=1, shuffle=True, tail=tail)) for index in step]
    for _ in range(15):
        seen, state = [], None
        while True:
            replicas, size = draw.randint(1, 4), draw.randint(1, 6)
            options = {"num_replicas": replicas, "batch_size": size, "shuffle": True, "tail": tail}
            ranks = [loader(length, rank=rank, num_workers=draw.choice([0, 2]), **options) for rank in range(replicas)]
            if state is not None:
                for rank in ranks:
                    rank.load_state_dict(state)
            stop = draw.randint(1, 1 + 60 // (replicas * size))
            passes = [iter(rank) for rank in ranks]
            for _ in range(stop):
                given = [next(one, None) for one in passes]
                real = [[] if batch is None else batch[0].tolist()[: batch.valid] for batch in given]
                for place in range(size):
                    seen += [indices[place] for indices in real if place < len(indices)]
            if any(batch is None for batch in given):
                break
            states = [rank.state_dict() for rank in ranks]
            assert all(other == states[0] for other in states)
            state = json.loads(json.dumps(states[0]))
        cut = len(seen) if tail == "drop" else length
        assert seen[:cut] == whole[:cut] and len(seen) >= length - 4


def test_a_state_survives_json_pickle_and_torch_save():
    ours = loader(50, batch_size=4, shuffle=True)
    batches = iter(ours)
    for _ in range(5):
        next(batches)
    state, rest = ours.state_dict(), steps(batches)
    saved = io.BytesIO()
    torch.save({"loader": state}, saved)
    saved.seek(0)
    copies = [json.loads(json.dumps(state)), pickle.loads(pickle.dumps(state)), torch.load(saved)["loader"]]
    for copy in copies:
        again = loader(50, batch_size=4, shuffle=True)
        again.load_state_dict(copy)
        assert again.batches_left == len(rest)
        assert steps(again) == rest and again.epoch == 1


def test_the_state_counts_what_was_handed_out_and_not_what_was_prefetched():
    ours = loader(100, batch_size=10, shuffle=True, num_workers=4)
    batches = iter(ours)
    positions = []
    for _ in batches:
        positions.append(ours.state_dict()["position"])
    assert positions == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert (ours.state_dict()["epoch"], ours.state_dict()["position"]) == (1, 0)


def test_a_state_of_other_data_or_another_order_is_refused_and_changes_nothing():
    state = loader(50, batch_size=4, shuffle=True, seed=1).state_dict()
    for other in (loader(51, batch_size=4, shuffle=True, seed=1), loader(50, batch_size=4, shuffle=True, seed=2)):
        before = other.state_dict()
        with pytest.raises(feedline.StateError) as refused:
            other.load_state_dict(state)
        assert refused.value.field and refused.value.saved != refused.value.now
        assert other.state_dict() == before
    for wrong in ({"nothing": 1}, None, "state", {"tensor": torch.ones(1)}):
        with pytest.raises(feedline.ConfigError, match=r"no state .* Give what state_dict\(\) returned"):
            loader(50).load_state_dict(wrong)
    with pytest.raises(feedline.ConfigError, match="epoch=-1"):
        loader(50).set_epoch(-1)


def test_every_iterator_is_the_next_epoch_and_leaving_early_is_fine():
    ours = loader(20, batch_size=6, shuffle=True)
    expect = []
    for epoch in range(4):
        fresh = loader(20, batch_size=6, shuffle=True)
        fresh.set_epoch(epoch)
        expect.append(steps(fresh))
    assert len({str(epoch) for epoch in expect}) == 4
    assert steps(ours) == expect[0]
    for _ in ours:
        break
    assert ours.epoch == 1
    assert steps(ours) == expect[2]
    ours.set_epoch(1)
    assert steps(ours) == expect[1]
    ours.set_epoch(1)
    with pytest.warns(UserWarning, match="epoch 1 is delivered a second time"):
        assert steps(ours) == expect[1]


def test_set_epoch_after_loading_a_state_keeps_its_place():
    """``for epoch in range(start, n): loader.set_epoch(epoch)``, as every program with a DistributedSampler has it."""
    first = loader(30, batch_size=4, shuffle=True)
    first.set_epoch(2)
    batches = iter(first)
    next(batches), next(batches)
    second = loader(30, batch_size=4, shuffle=True)
    second.load_state_dict(first.state_dict())
    second.set_epoch(2)
    assert steps(second) == steps(batches)
    second.set_epoch(3)
    assert len(steps(second)) == 8


def test_several_live_iterators_go_on_side_by_side():
    ours = loader(40, batch_size=4, shuffle=True)
    expect = [steps(loader(40, batch_size=4, shuffle=True)), None, None]
    for epoch in (1, 2):
        fresh = loader(40, batch_size=4, shuffle=True)
        fresh.set_epoch(epoch)
        expect[epoch] = steps(fresh)
    passes, seen = [iter(ours)], [[]]
    for _ in range(3):
        seen[0].append(next(passes[0])[0].tolist())
    passes += [iter(ours), iter(ours)]
    seen += [[], []]
    for _ in range(7):
        for one, into in zip(passes, seen):
            into.append(next(one)[0].tolist())
    assert seen[0] == expect[0] and next(passes[0], None) is None
    assert seen[1] == expect[1][:7] and seen[2] == expect[2][:7]
    # The state is that of the iterator made last.
    again = loader(40, batch_size=4, shuffle=True)
    again.load_state_dict(ours.state_dict())
    assert steps(again) == expect[2][7:] == steps(passes[2])


def test_the_epoch_of_a_sampler_is_followed():
    data = TensorDataset(torch.arange(31))
    for kind in (DistributedSampler, feedline.torch.DistributedSampler):
        sampler = kind(data, num_replicas=3, rank=1, seed=9)
        ours = feedline.DataLoader(numbers(31), batch_size=4, sampler=sampler)
        assert (ours.rank, ours.num_replicas) == (1, 3)
        for epoch in (0, 1, 5, 2):
            sampler.set_epoch(epoch)
            theirs = DistributedSampler(data, num_replicas=3, rank=1, seed=9)
            theirs.set_epoch(epoch)
            assert [index for step in steps(ours) for index in step] == list(theirs)


OURS, THEIRS = feedline.torch.DistributedSampler, DistributedSampler


@pytest.mark.parametrize("kind", [OURS, THEIRS])
def test_a_loader_begins_where_its_sampler_stands(kind):
    data = TensorDataset(torch.arange(31))
    sampler = kind(data, num_replicas=2, rank=1, seed=9)
    sampler.set_epoch(5)
    ours = feedline.DataLoader(dataset=numbers(31), batch_size=4, sampler=sampler, shuffle=False)
    theirs = THEIRS(data, num_replicas=2, rank=1, seed=9)
    expect = {}
    for epoch in (5, 6):
        theirs.set_epoch(epoch)
        expect[epoch] = list(theirs)
    flat = lambda: [index for step in steps(ours) for index in step]
    assert flat() == expect[5]
    # A program that sets the epoch means it, torch's way: the same one again is the same one again.
    sampler.set_epoch(5)
    with pytest.warns(UserWarning, match="second time"):
        assert flat() == expect[5]
    sampler.set_epoch(6)
    assert flat() == expect[6]


def test_a_sampler_that_was_loaded_is_followed_and_knows_where_its_loader_is():
    def pair():
        sampler = OURS(range(40), num_replicas=2, rank=0, seed=3)
        return sampler, feedline.DataLoader(numbers(40), batch_size=4, sampler=sampler)

    sampler, first = pair()
    batches = iter(first)
    for _ in range(2):
        next(batches)
    state = sampler.state_dict()
    rest = steps(batches)
    assert state["position"] == 16 and len(rest) == 3
    with pytest.raises(feedline.ConfigError, match="counts by itself"):
        sampler.state_dict(consumed=8)
    for when in ("before", "after"):
        fresh = OURS(range(40), num_replicas=2, rank=0, seed=3)
        if when == "before":
            fresh.load_state_dict(state)
        ours = feedline.DataLoader(numbers(40), batch_size=4, sampler=fresh)
        if when == "after":
            fresh.load_state_dict(state)
        assert steps(ours) == rest
        assert fresh.state_dict()["epoch"] == 1
    # The same in torch's own loader.
    again = OURS(range(40), num_replicas=2, rank=0, seed=3)
    again.load_state_dict(state)
    assert steps(DataLoader(TensorDataset(torch.arange(40)), 4, sampler=again)) == rest
    assert pickle.loads(pickle.dumps(sampler)).state_dict() == sampler.state_dict()


class Reversed(THEIRS):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class OursReversed(OURS):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class Longer(THEIRS):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.num_samples += 1


class OnlyNamed(THEIRS):
    """Says nothing else than torch's."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Reversed(range(12), 2, 0), "has its own __iter__"),
        (lambda: OursReversed(range(12), 2, 0), "has its own __iter__"),
        (lambda: Longer(range(12), 2, 0), "says 7 samples for a rank"),
        (lambda: THEIRS(range(13), 2, 0), "over 13 samples, the data set has 12"),
        (lambda: OURS(range(13), 2, 0), "over 13 samples, the data set has 12"),
        (lambda: type("DistributedSampler", (), vars(THEIRS(range(12), 2, 0)))(), "DistributedSampler of .* is not one"),
        (lambda: RandomSampler(range(12)), "RandomSampler of torch"),
        (lambda: [3, 1, 2], "the sampler list of builtins"),
    ],
)
def test_a_sampler_whose_order_would_not_be_the_loaders_is_refused(make, words):
    with pytest.raises(feedline.ConfigError, match=words):
        feedline.DataLoader(numbers(12), sampler=make())


def test_a_subclass_that_changes_no_order_is_followed_and_a_changed_order_is_noticed():
    sampler = OnlyNamed(range(12), 2, 0, seed=1)
    ours = feedline.DataLoader(numbers(12), sampler=sampler)
    assert [index for step in steps(ours) for index in step] == list(THEIRS(range(12), 2, 0, seed=1))
    sampler.seed = 2
    with pytest.raises(feedline.ConfigError, match="order has changed"):
        steps(ours)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", 5), ("rank", 0), ("num_replicas", 2), ("tail", "exact"), ("weights", [1.0] * 12), ("epoch_length", 9),
     ("merge_epochs", 2), ("permutation", "feistel"), ("shuffle", True)],
)  # fmt: skip
def test_what_a_sampler_decides_is_not_asked_of_the_loader(argument, value):
    with pytest.raises(feedline.ConfigError, match=argument):
        feedline.DataLoader(numbers(12), sampler=THEIRS(range(12), 2, 0), **{argument: value})


def test_arguments_without_effect_are_refused():
    with pytest.raises(feedline.ConfigError, match="no effect without shuffle"):
        loader(12, permutation="feistel")
    with pytest.raises(feedline.ConfigError, match="no effect with shuffle=False"):
        OURS(range(12), 1, 0, shuffle=False, permutation="feistel")
    with pytest.raises(feedline.ConfigError, match="no effect without lengths"):
        feedline.torch.DistributedBatchSampler(range(12), 2, 1, 0, window=4)
    parts = torch.utils.data.ConcatDataset([TensorDataset(torch.arange(3))] * 2)
    with pytest.raises(feedline.ConfigError, match="Leave one out"):
        feedline.torch.DistributedMixtureSampler(parts, [1, 1], 6, 1, 0, lengths=[3, 3])
    with pytest.raises(TypeError, match="one dataset"):
        feedline.DataLoader(numbers(3), source=numbers(4))
    assert steps(feedline.DataLoader(source=numbers(3), batch_size=3)) == [[0, 1, 2]]


def test_an_iterator_that_nothing_is_taken_from_is_no_epoch():
    ours = loader(20, batch_size=6, shuffle=True)
    expect = [steps(loader(20, batch_size=6, shuffle=True))]
    thrown_away, used = iter(ours), iter(ours)
    assert steps(used) == expect[0] and ours.epoch == 1
    # Setting the epoch of a loader's sampler sets the loader's epoch.
    ours.sampler.set_epoch(0)
    assert (ours.sampler.epoch, len(ours.sampler)) == (0, 20)
    with pytest.warns(UserWarning, match="second time"):
        assert steps(thrown_away) == expect[0]


def test_a_batch_has_names_and_knows_its_place():
    source = feedline.arrays(x=np.arange(10, dtype=np.float32), y=np.arange(10, dtype=np.int64) * 2)
    ours = feedline.DataLoader(source, batch_size=4, tail="exact", num_replicas=2, rank=1, num_workers=0)
    assert source.fields == ["x", "y"]
    batches = list(ours)
    x, y = batches[1]
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and batches[1]["y"] is y
    assert (batches[1].epoch, batches[1].step, batches[1].names) == (0, 1, ["x", "y"])
    assert batches[1].indices[: batches[1].valid] == [9] and y.tolist()[: batches[1].valid] == [18]
    assert sum(batch.valid for batch in batches) == 5
    with pytest.raises(KeyError, match="no field 'z'"):
        batches[0]["z"]
    assert next(iter(ours)).epoch == 1
    moved = batches[1].to(torch.float64)
    assert moved["x"].dtype == torch.float64 and (moved.names, moved.indices) == (["x", "y"], batches[1].indices)
    with pytest.raises(AttributeError, match="valid is not known"):
        feedline.Batch(moved).valid


def test_weights_draw_with_replacement():
    weights = [0.0] * 90 + [1.0] * 10
    ours = loader(100, batch_size=10, weights=weights, epoch_length=1000)
    seen = [index for step in steps(ours) for index in step]
    assert len(seen) == 1000 and set(seen) == set(range(90, 100))
    assert max(seen.count(index) for index in range(90, 100)) < 160


def test_output_is_torch_numpy_or_dlpack():
    kinds = {"torch": torch.Tensor, "numpy": np.ndarray, "dlpack": object}
    for output, kind in kinds.items():
        (value,) = next(iter(loader(8, batch_size=8, output=output)))
        assert isinstance(value, kind)
        assert np.from_dlpack(value).tolist() == list(range(8))
    with pytest.raises(feedline.ConfigError, match='Use "torch"'):
        loader(8, output="jax")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"collate_fn": list}, r"\.map\(f\)"),
        ({"batch_sampler": [[0]]}, "batch_size"),
        ({"worker_init_fn": print}, "threads"),
        ({"generator": torch.Generator()}, "seed="),
        ({"multiprocessing_context": "fork"}, "leave it out"),
        ({"sampler": torch.utils.data.RandomSampler(range(5))}, "DistributedSampler"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"timeout": -1}, "timeout=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"num_workers": 1.5}, "num_workers=1.5"),
        ({"memory_budget_bytes": 0}, "memory_budget_bytes=0"),
        ({"max_bad_samples": -1}, "max_bad_samples=-1"),
        ({"epoch_length": 0}, "epoch_length=0"),
        ({"num_replicas": 2, "rank": -1}, "rank=-1"),
        ({"num_replicas": "2"}, "num_replicas='2'"),
        ({"tail": "wrap"}, '"exact"'),
        ({"permutation": "xor", "shuffle": True}, '"feistel"'),
        ({"num_replicas": 2, "rank": 2}, "rank"),
        ({"weights": [1.0]}, "weight"),
        ({"on_bad_sample": "skip"}, '"replace"'),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(arguments, remedy):
    with pytest.raises(feedline.ConfigError, match=remedy):
        loader(5, **arguments)


def test_torchs_harmless_arguments_are_taken_and_unknown_ones_are_not():
    ours = loader(
        5, persistent_workers=True, prefetch_factor=4, in_order=True, collate_fn=None, generator=None, pin_memory_device=""
    )
    assert len(steps(ours)) == 5
    with pytest.raises(TypeError, match="batchsize"):
        loader(5, batchsize=3)


def test_errors_pickle_with_their_facts():
    error = feedline.SampleError("failed", stage="read", index=3, location="a.jpg", problem="gone")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is feedline.SampleError and str(again) == "failed"
    assert (again.stage, again.index, again.location, again.problem) == ("read", 3, "a.jpg", "gone")


def test_the_stats_say_what_limits_in_words():
    ours = loader(50, batch_size=5)
    steps(ours)
    assert "samples" in json.dumps(ours.stats()) and len(ours.stats()["verdict"]) > 20
