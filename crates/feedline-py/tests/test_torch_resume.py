"""The place of feedline.torch.DataLoader: states, restarts on other ranks, workers and batch sizes, and each sample's seeds."""

import copy
import io
import itertools
import json
import pickle
import random

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data import DistributedSampler as TorchSampler
from torch_datasets import (
    WORKERS,
    Dealt,
    Draws,
    Failing,
    Logged,
    Mortal,
    Numbers,
    Remembering,
    Reversed,
    Rotated,
    Shards,
    Stateful,
    draws,
    generators,
    numbers_of,
    plain,
    seed_everything,
    with_draws,
)

OURS = feedline.torch.DataLoader
N = 26


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def over(make):
    return lambda: {"sampler": make(Numbers(N))}


# Orders that go on with any number of workers and any batch size.
ELASTIC = {
    "sequential": lambda: {},
    "shuffled": lambda: {"shuffle": True},
    "generator": lambda: {"shuffle": True, "generator": seeded(3)},
    "unshuffled-with-generator": lambda: {"generator": seeded(3)},
    "random-with-generator": over(lambda data: RandomSampler(data, generator=seeded(5))),
    "few": over(lambda data: RandomSampler(data, num_samples=17)),
    "many": over(lambda data: RandomSampler(data, num_samples=2 * N + 3)),
    "replacement": over(lambda data: RandomSampler(data, replacement=True, num_samples=70)),
    "replacement-generator": over(lambda data: RandomSampler(data, True, 70, seeded(5))),
    "weighted": over(lambda data: WeightedRandomSampler(range(1, N + 1), 40)),
    "weighted-generator": over(lambda data: WeightedRandomSampler(range(1, N + 1), 19, False, seeded(5))),
    "subset": over(lambda data: SubsetRandomSampler(range(0, N))),
    "subset-generator": over(lambda data: SubsetRandomSampler(range(0, N), seeded(5))),
    "distributed": over(lambda data: TorchSampler(data, 1, 0, seed=4)),
    "distributed-unshuffled": over(lambda data: TorchSampler(data, 1, 0, shuffle=False)),
    "ours": over(lambda data: feedline.torch.DistributedSampler(data, 1, 0, seed=4)),
    "ours-exact": over(lambda data: feedline.torch.DistributedSampler(data, 1, 0, tail="exact", permutation="feistel")),
    "ours-weighted": over(lambda data: feedline.torch.DistributedWeightedSampler(range(1, N + 1), 40, 1, 0)),
}
# Orders that are iterated as they are: with the same batches, and any number of workers.
FOREIGN = {
    "list": lambda: {"sampler": [*range(3, 21)]},
    "subclass": over(Reversed),
    "own": lambda: {"sampler": Rotated(N)},
    "own-with-state": lambda: {"sampler": Stateful(N)},
    "batches": lambda: {"batch_sampler": [[0, 1], [2, 3, 4], [5], [6, 7], [8], [9, 10]]},
    "batches-of-own": lambda: {"batch_sampler": BatchSampler(Rotated(N), 4, False)},
    "batches-of-subclass": lambda: {"batch_sampler": BatchSampler(Reversed(Numbers(N)), 5, True)},
}


def made(orders, name, size, workers, data=Draws, **options):
    options = orders[name]() | {"num_workers": workers} | options
    if "batch_sampler" not in options:
        options["batch_size"] = size
    return OURS(data(N), **options)


def rows(batches):
    """The samples of all batches, one after the other. Those of Draws have four columns."""
    return [row.view(-1).tolist() for batch in batches for row in (batch if batch.dim() == 2 else [batch])]


def begin_epoch(loader, epoch):
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


def epochs(loader, first, last):
    seen = []
    for epoch in range(first, last):
        begin_epoch(loader, epoch)
        seen.append(rows(loader))
    return seen


def interrupted(loader, epoch, taken):
    """Goes through `epoch` epochs and `taken` batches of the next; returns the state, and torch's state beside it."""
    epochs(loader, 0, epoch)
    begin_epoch(loader, epoch)
    if taken is not None:
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
    return json.loads(json.dumps(loader.state_dict())), torch.get_rng_state()


# --- Restarts


@pytest.mark.parametrize("name", ELASTIC)
def test_a_state_goes_on_in_another_process_with_other_workers_and_batches(name):
    """The rest of the epoch and the next epoch, with each sample's draws, are those of a run that never ended."""
    seed_everything(1)
    expected = epochs(made(ELASTIC, name, 4, 0), 0, 3)
    pick, wrong = random.Random(name), []
    for epoch, workers, again in ((0, 0, 2), (1, 2, 0), (0, 3, 1)):
        for taken in (None, 0, pick.randint(1, len(expected[0]) // 4)):
            seed_everything(1)
            state, torchs = interrupted(made(ELASTIC, name, 4, workers), epoch, taken)
            seed_everything(99)
            loader = made(ELASTIC, name, pick.choice([1, 3, 4, 7]), again)
            loader.load_state_dict(state)
            torch.set_rng_state(torchs)
            if epochs(loader, epoch, epoch + 2) != [expected[epoch][4 * (taken or 0) :], expected[epoch + 1]]:
                wrong.append({"epoch": epoch, "workers": (workers, again), "batches taken": taken})
    assert not wrong


@pytest.mark.parametrize("name", ELASTIC)
@WORKERS
def test_a_resumed_pass_draws_nothing_and_needs_no_seed_of_the_new_process(name, workers):
    seed_everything(1)
    (expected,) = epochs(made(ELASTIC, name, 4, 0), 0, 1)
    seed_everything(1)
    state, _ = interrupted(made(ELASTIC, name, 4, workers), 0, 2)
    seed_everything(99)
    loader = made(ELASTIC, name, 4, 2 - workers)
    before = generators()
    loader.load_state_dict(state)
    assert rows(loader) == expected[8:]
    assert generators() == before


@pytest.mark.parametrize("name", FOREIGN)
def test_an_order_of_ones_own_goes_on_after_the_batches_that_were_delivered(name):
    loader = made(FOREIGN, name, 4, 0, Numbers)
    begin_epoch(loader, 1)
    expected = [plain(batch) for batch in loader]
    begin_epoch(loader, 2)
    following = [plain(batch) for batch in loader]
    for workers, taken in itertools.product((0, 2), (None, 0, 1, 4, len(expected))):
        loader = made(FOREIGN, name, 4, workers, Numbers)
        begin_epoch(loader, 1)
        batches = None if taken is None else iter(loader)
        assert [plain(next(batches)) for _ in range(taken or 0)] == expected[: taken or 0]
        state = json.loads(json.dumps(loader.state_dict()))
        again = made(FOREIGN, name, 4, 2 - workers, Numbers)
        begin_epoch(again, 2 if taken == len(expected) and name != "own-with-state" else 1)
        again.load_state_dict(state)
        rest = [plain(batch) for batch in again]
        assert rest == (following if taken == len(expected) else expected[taken or 0 :]), (workers, taken)
        if name == "own-with-state" and taken == 4:
            assert again.sampler.asked == N - 16, "the sampler itself goes on, and repeats nothing"


@WORKERS
def test_what_was_delivered_before_is_not_made_again(workers, tmp_path):
    for name, options in {"elastic": {"shuffle": True}, "own": {"sampler": Rotated(40)}}.items():
        loader = OURS(Numbers(40), 4, num_workers=2, **options)
        seen = numbers_of(batch for _, batch in zip(range(3), loader))
        data = Logged(40, tmp_path / name)
        again = OURS(data, 4, num_workers=workers, **options)
        again.load_state_dict(loader.state_dict())
        rest = numbers_of(again)
        assert sorted(data.made()) == sorted(rest) and sorted(seen + rest) == list(range(40))


def dealt(kind, replicas, length):
    """A sampler for each rank."""
    options = {"tail": "exact"} if kind is not TorchSampler else {}
    return [kind(Numbers(length), replicas, rank, seed=7, **options) for rank in range(replicas)]


@pytest.mark.parametrize("kind", [TorchSampler, feedline.torch.DistributedSampler], ids=["torchs", "ours"])
def test_any_chain_of_ranks_workers_and_batch_sizes_gives_one_sequence(kind):
    """Three epochs; every part begins with the state of any one rank, and says of each sample the same draws."""
    length, pick = 83, random.Random(5)
    whole = epochs(OURS(Draws(length), 5, sampler=dealt(kind, 1, length)[0]), 0, 3)
    assert len({str(rows) for rows in whole}) == 3
    for _ in range(4):
        seen, state, epoch = [[], [], []], None, 0
        while epoch < 3:
            replicas, size = pick.randint(1, 4), pick.randint(1, 6)
            seed_everything(pick.randrange(100))
            workers = [pick.choice([0, 0, 2]) for _ in range(replicas)]
            shares = zip(dealt(kind, replicas, length), workers)
            ranks = [OURS(Draws(length), size, sampler=sampler, num_workers=count) for sampler, count in shares]
            for loader in ranks:
                if state is not None:
                    loader.load_state_dict(state)
                begin_epoch(loader, epoch)
            passes = [iter(loader) for loader in ranks]
            for _ in range(pick.randint(1, 1 + 60 // (replicas * size))):
                given = [next(one, None) for one in passes]
                given = [[] if batch is None else batch.tolist() for batch in given]
                for place in range(size):
                    seen[epoch] += [batch[place] for batch in given if place < len(batch)]
            states = [json.dumps(loader.state_dict()) for loader in ranks]
            if all(given):
                assert len(set(states)) == 1
            if len(seen[epoch]) >= length:
                epoch, state = epoch + 1, None
                # At the end of an epoch the state begins the next one.
                state = json.loads(states[0]) if pick.random() < 0.5 else None
            else:
                state = json.loads(pick.choice(states))
        for epoch in range(3):
            assert seen[epoch][:length] == whole[epoch], epoch


@pytest.mark.parametrize("kind", [TorchSampler, feedline.torch.DistributedSampler], ids=["torchs", "ours"])
def test_the_epoch_of_a_state_is_the_samplers_until_another_is_set(kind):
    data = Draws(N)
    expected = epochs(OURS(data, 4, sampler=kind(data, 2, 1)), 0, 5)
    loader = OURS(data, 4, sampler=kind(data, 2, 1))
    state, _ = interrupted(loader, 2, 1)
    for said, first in ((None, expected[2][4:]), (2, expected[2][4:]), (3, expected[3]), (0, expected[0])):
        again = OURS(data, 4, sampler=kind(data, 2, 1), num_workers=2)
        again.load_state_dict(state)
        if said is not None:
            again.sampler.set_epoch(said)
        assert rows(again) == first, said
        again.sampler.set_epoch(4)
        assert rows(again) == expected[4]


# --- Iterable data sets


@pytest.mark.parametrize("kind", [Remembering, Shards], ids=["with-state", "without"])
@pytest.mark.parametrize("sizes, workers", [((14,), 0), ((9,), 1), ((9, 2, 7), 3)])
@pytest.mark.parametrize("size", [None, 2])
def test_an_iterable_data_set_goes_on_where_it_was(kind, sizes, workers, size):
    options = {"batch_size": size, "num_workers": workers}
    expected = [plain(batch) for batch in OURS(kind(*sizes), **options)]
    for taken in sorted({0, 1, 2, len(expected) // 2, len(expected) - 1}):
        loader = OURS(kind(*sizes), **options)
        batches = iter(loader)
        assert [plain(next(batches)) for _ in range(taken)] == expected[:taken]
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        assert [plain(batch) for batch in batches] == expected[taken:], "asking for the state disturbs nothing"
        data = kind(*sizes)
        again = OURS(data, **options)
        again.load_state_dict(state)
        assert [plain(batch) for batch in again] == expected[taken:]
        assert [plain(batch) for batch in again] == expected, "and then a whole epoch"
        if kind is Remembering and workers == 0:
            assert data.made == 2 * 14 - taken * (size or 1), "it goes on by itself, and repeats nothing"


@pytest.mark.parametrize("kind", [Remembering, Shards], ids=["with-state", "without"])
def test_the_state_of_an_iterable_data_set_belongs_to_its_workers_and_batches(kind):
    loader = OURS(kind(9, 9), 2, num_workers=2)
    next(iter(loader))
    state = loader.state_dict()
    for workers, size in ((1, 2), (0, 2), (2, 3), (2, None)):
        again = OURS(kind(9, 9), size, num_workers=workers)
        with pytest.raises(feedline.StateError, match="num_workers|batch_size"):
            again.load_state_dict(state)


@pytest.mark.parametrize("kind", [Remembering, Shards], ids=["with-state", "without"])
@WORKERS
def test_a_state_after_the_last_batch_of_an_iterable_data_set_is_no_empty_pass(kind, workers):
    options = {"batch_size": 2, "num_workers": workers}
    loader = OURS(kind(5, 4), **options)
    states = []
    expected = []
    for batch in loader:
        expected.append(plain(batch))
        states.append(loader.state_dict())
    for state in (states[-1], loader.state_dict()):
        again = OURS(kind(5, 4), **options)
        again.load_state_dict(state)
        assert [plain(batch) for batch in again] == expected


# --- The rules of a state


@WORKERS
def test_the_state_counts_what_was_handed_out_and_not_what_was_made_ahead(workers):
    seed_everything(1)
    loader = OURS(Numbers(N), 4, shuffle=True, num_workers=workers)
    seen, states = [], []
    for batch in loader:
        seen.append(batch.tolist())
        states.append(loader.state_dict())
        assert loader.state_dict() == states[-1], "asking twice changes nothing"
    saved = copy.deepcopy(states)
    for place, state in enumerate(states[:-1]):
        again = OURS(Numbers(N), 4, shuffle=True)
        again.load_state_dict(state)
        assert [batch.tolist() for batch in again] == seen[place + 1 :]
    assert states == saved, "a state is the caller's own"


@WORKERS
def test_a_state_at_the_end_of_an_epoch_begins_the_next_one(workers):
    # Behind a last batch that is full the sampler draws once more, when it is asked for another one.
    for taken_inside, size in itertools.product((True, False), (4, N // 2)):
        seed_everything(1)
        loader = OURS(Draws(N), size, shuffle=True, generator=seeded(2), num_workers=workers)
        for _ in loader:
            state = loader.state_dict()
        state = state if taken_inside else loader.state_dict()
        following = rows(loader), rows(loader)
        again = OURS(Draws(N), 4, shuffle=True, generator=seeded(77), num_workers=2 - workers)
        again.load_state_dict(state)
        assert (rows(again), rows(again)) == following, (taken_inside, size)


def test_a_dropped_rest_of_an_epoch_is_no_pass_of_its_own():
    loader = OURS(Numbers(N), 4, drop_last=True)
    batches = iter(loader)
    for _ in range(6):
        next(batches)
    for size in (4, 3, 25):
        again = OURS(Numbers(N), size, drop_last=True)
        again.load_state_dict(loader.state_dict())
        assert numbers_of(again)[:3] == [0, 1, 2], size


@WORKERS
def test_loops_that_end_early_leave_the_place_of_the_last_batch(workers):
    def early():
        loader = OURS(Numbers(N), 4, num_workers=workers)
        for _ in zip(range(3), loader):
            pass
        yield loader, 12
        loader = OURS(Numbers(N), 4, num_workers=workers)
        for _ in zip(loader, range(3)):
            pass
        yield loader, 16
        loader = OURS(Numbers(N), 4, num_workers=workers)
        for batch in loader:
            if batch[0] == 8:
                break
        yield loader, 12
        for _ in zip(range(2), loader):
            pass
        yield loader, 8

    for loader, place in early():
        again = OURS(Numbers(N), 4)
        again.load_state_dict(loader.state_dict())
        assert numbers_of(again) == list(range(place, N))


def test_a_state_is_small_and_survives_json_pickle_and_torch_save():
    dealt = {"sampler": TorchSampler(Numbers(100_000), 2, 0)}
    for options in ({"shuffle": True}, {"shuffle": True, "generator": seeded(3)}, dealt):
        loader = OURS(Numbers(100_000), 10, **options)
        batches = iter(loader)
        next(batches)
        state, following = loader.state_dict(), next(batches).tolist()
        saved = io.BytesIO()
        torch.save({"loader": state}, saved)
        saved.seek(0)
        assert len(json.dumps(state)) < (16_000 if "generator" in options else 2000)
        for one in (json.loads(json.dumps(state)), pickle.loads(pickle.dumps(state)), torch.load(saved)["loader"]):
            assert one == state
            again = OURS(Numbers(100_000), 10, **options)
            again.load_state_dict(one)
            assert next(iter(again)).tolist() == following


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_a_state_may_be_loaded_into_a_loader_that_is_in_use(options):
    seed_everything(1)
    loader = OURS(Draws(N), 4, shuffle=True, **options)
    batches = iter(loader)
    head = [next(batches) for _ in range(2)]
    state = loader.state_dict()
    older = [next(batches)]
    loader.load_state_dict(state)
    assert loader.state_dict() == state, "a state that was loaded and not used is the state"
    resumed = iter(loader)
    assert loader.state_dict() == state and len(loader) == 7
    seen = [next(resumed)]
    if not options.get("persistent_workers"):
        older += batches
        assert sorted(row[0] for row in rows(head + older)) == list(range(N)), "the older pass goes on"
    seen += resumed
    assert sorted(row[0] for row in rows(head + seen)) == list(range(N))
    assert rows(older) == rows(seen)[: len(rows(older))]
    loader.load_state_dict(state)
    assert rows(loader) == rows(seen), "as often as one likes"
    assert len(rows(loader)) == N, "and then a whole epoch"


def test_of_two_passes_at_once_the_state_is_the_newer_ones():
    seed_everything(1)
    loader = OURS(Numbers(N), 4, shuffle=True)
    older, newer = iter(loader), iter(loader)
    for _ in range(4):
        next(older)
    next(newer)
    state = loader.state_dict()
    again = OURS(Numbers(N), 4, shuffle=True)
    again.load_state_dict(state)
    next(older)
    assert loader.state_dict() == state
    assert numbers_of(again) == numbers_of(newer)


def test_a_chain_of_restarts_is_one_pass():
    seed_everything(1)
    expected = rows(OURS(Draws(N), 1, shuffle=True))
    seed_everything(1)
    seen, state = [], None
    for place in range(N):
        loader = OURS(Draws(N), 1 + place % 3 * (place < N - 3), shuffle=True)
        if state is not None:
            seed_everything(place)
            loader.load_state_dict(state)
        seen += next(iter(loader)).tolist()
        state = loader.state_dict()
        if len(seen) == N:
            break
    assert seen == expected


@WORKERS
def test_a_batch_that_failed_was_not_handed_out(workers):
    def failing(data):
        loader = OURS(data, 4, num_workers=workers)
        batches = iter(loader)
        next(batches)
        with pytest.raises(ValueError, match="six"):
            next(batches)
        return loader, batches

    loader, batches = failing(Failing(N, {6: ValueError("six")}))
    for place in (4, 12):
        again = OURS(Numbers(N), 4)
        again.load_state_dict(loader.state_dict())
        assert numbers_of(again) == list(range(place, N))
        if place == 4:
            assert next(batches).tolist() == [8, 9, 10, 11]


def test_a_worker_that_dies_moves_nothing(tmp_path):
    loader = OURS(Mortal(N, 6, tmp_path, times=99), 4, num_workers=2)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    with pytest.raises(RuntimeError):
        next(batches)
    assert loader.state_dict() == state
    again = OURS(Numbers(N), 4)
    again.load_state_dict(state)
    assert numbers_of(again) == list(range(4, N))


OTHERS = {
    "length": lambda: OURS(Numbers(N + 1), 4, shuffle=True),
    "unshuffled": lambda: OURS(Numbers(N), 4),
    "weighted": lambda: OURS(Numbers(N), 4, sampler=WeightedRandomSampler([1] * N, N)),
    "num_samples": lambda: OURS(Numbers(N), 4, sampler=RandomSampler(Numbers(N), num_samples=9)),
    "replacement": lambda: OURS(Numbers(N), 4, sampler=RandomSampler(Numbers(N), True)),
    "distributed": lambda: OURS(Numbers(N), 4, sampler=TorchSampler(Numbers(N), 1, 0, shuffle=False)),
    "own": lambda: OURS(Numbers(N), 4, sampler=Rotated(N)),
    "iterable": lambda: OURS(Shards(N), 4),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_other_data_or_another_order_is_refused_and_changes_nothing(other):
    loader = OURS(Numbers(N), 4, shuffle=True)
    next(iter(loader))
    state, before = OTHERS[other]().state_dict(), loader.state_dict()
    with pytest.raises(feedline.StateError) as refused:
        loader.load_state_dict(state)
    assert str(refused.value) and loader.state_dict() == before
    with pytest.raises(feedline.StateError):
        OTHERS[other]().load_state_dict(before)


@pytest.mark.parametrize("wrong", [None, {}, [], "state", {"position": 3}, {"tensor": torch.ones(1)}, 7], ids=repr)
def test_what_is_no_state_is_refused_and_changes_nothing(wrong):
    loader = OURS(Numbers(N), 4)
    next(iter(loader))
    before = loader.state_dict()
    with pytest.raises(feedline.FeedlineError, match="state"):
        loader.load_state_dict(wrong)
    assert loader.state_dict() == before


def test_a_state_of_other_seeds_or_another_distributed_order_is_refused():
    def loader(**options):
        return OURS(Numbers(N), 4, sampler=TorchSampler(Numbers(N), 2, 1, **options))

    state = loader(seed=1).state_dict()
    for other in ({"seed": 2}, {"seed": 1, "shuffle": False}):
        with pytest.raises(feedline.StateError):
            loader(**other).load_state_dict(state)


def test_other_batches_of_an_order_of_ones_own_are_refused_or_begin_at_the_same_sample():
    loader = OURS(Numbers(N), 4, sampler=Rotated(N))
    batches = iter(loader)
    next(batches), next(batches)
    again = OURS(Numbers(N), 2, sampler=Rotated(N))
    try:
        again.load_state_dict(loader.state_dict())
    except feedline.StateError as error:
        assert "batch_size" in str(error)
    else:
        assert numbers_of(again) == list(range(8, N))


# --- Seeds


def drawn(loader):
    """What each sample drew."""
    return {int(row[0]): tuple(row[1:]) for row in rows(loader)}


def test_a_samples_draws_are_equal_for_any_workers_and_batches():
    seen = []
    for options in (
        {},
        {"batch_size": 5},
        {"batch_size": None},
        {"num_workers": 1},
        {"num_workers": 2, "batch_size": 3, "prefetch_factor": 4},
        {"num_workers": 3, "batch_size": 2, "drop_last": True},
        {"num_workers": 2, "batch_size": None, "in_order": False},
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "fork"},
    ):
        seed_everything(6)
        loader = OURS(Draws(N), **{"batch_size": 1, "shuffle": True} | options)
        if not options.get("persistent_workers"):
            seen.append((drawn(loader), drawn(loader)))
        else:
            assert drawn(loader) == seen[0][0]
    assert all(one == seen[0] for one in seen)
    first, second = seen[0]
    values = [value for epoch in (first, second) for sample in epoch.values() for value in sample]
    assert len(set(values)) == len(values), "no two draws are equal: not of two generators, samples or epochs"
    seed_everything(7)
    assert not set(drawn(OURS(Draws(N), shuffle=True)).values()) & set(first.values())


@WORKERS
def test_a_collate_function_draws_by_its_batch(workers):
    def collated(workers, state=None):
        seed_everything(6)
        loader = OURS(Draws(N), 4, shuffle=True, collate_fn=with_draws, num_workers=workers)
        if state is not None:
            loader.load_state_dict(state)
        batches = iter(loader)
        head = [plain(next(batches)) for _ in range(2)]
        return head, loader.state_dict(), [plain(batch) for batch in batches]

    expected, state, rest = collated(0)
    assert collated(workers) == (expected, state, rest)
    assert collated(workers, state)[::2] == (rest[:2], rest[2:])
    values = [value for _, batch in expected + rest for value in batch]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("kind", [TorchSampler, feedline.torch.DistributedSampler, Dealt], ids=["torchs", "ours", "own"])
def test_all_ranks_agree_on_a_samples_draws_whatever_they_were_seeded_with(kind):
    def of_ranks(replicas, epoch, seed=0, times=1):
        seen = {}
        for rank in range(replicas):
            seed_everything(100 * replicas + rank)
            loader = OURS(Draws(24), 1 + rank, sampler=kind(Draws(24), replicas, rank, seed=seed), num_workers=2 * (rank % 2))
            loader.sampler.set_epoch(epoch)
            for _ in range(times):
                last = drawn(loader)
            seen |= last
        return seen

    one = of_ranks(1, 0)
    assert of_ranks(2, 0) == of_ranks(3, 0) == one and len(one) == 24
    others = [of_ranks(1, 1), of_ranks(1, 0, seed=5), of_ranks(1, 0, times=2)]
    assert others[2] == of_ranks(3, 0, times=2), "the second time that an epoch is delivered"
    assert len({value for seen in [one, *others] for value in seen.values()}) == 4 * 24


@pytest.mark.parametrize("kind", [TorchSampler, Dealt], ids=["torchs", "own"])
def test_a_state_knows_how_often_its_epoch_was_delivered(kind):
    def loader():
        return OURS(Draws(N), 4, sampler=kind(Draws(N), 2, 0))

    first = loader()
    rows(first)
    batches = iter(first)
    next(batches)
    again = loader()
    again.load_state_dict(first.state_dict())
    assert rows(again) == rows(batches)
    assert rows(again) == rows(first), "the third time"


@WORKERS
def test_the_generators_of_the_program_are_as_if_it_had_no_samples(workers):
    """What its training draws does not depend on how many draws the samples make."""
    seen = []
    for data in (Numbers(N), Draws(N)):
        seed_everything(3)
        seen.append([])
        for batch in OURS(data, 4, shuffle=True, num_workers=workers):
            torch.rand(2), random.random()
            seen[-1].append((len(batch), generators(), draws()))
    assert seen[0] == seen[1]


class Broken(Draws):
    def __getitem__(self, index):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        if index == 3:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=["error", "ctrl-c", "exit"])
def test_the_generators_are_put_back_when_a_sample_seeds_them_or_fails(error):
    data = Broken(8)
    data.error = error
    batches = iter(OURS(data, 2))
    before = generators()
    next(batches)
    assert generators() == before
    with pytest.raises(type(error)):
        next(batches)
    assert generators() == before
    with pytest.raises(type(error)):
        list(OURS(data, 2, collate_fn=lambda batch: draws(), sampler=[3]))


def test_an_order_that_draws_is_not_seeded_by_the_samples():
    """The sampler and the samples of one process alternate; each has its own stream."""
    sampler = [lambda data: RandomSampler(data, True, 200), lambda data: RandomSampler(data, True, 200, seeded(4))]
    for make in sampler:
        orders = []
        for kind, data in itertools.product((DataLoader, OURS), (Numbers(N), Draws(N))):
            if kind is OURS or isinstance(data, Numbers):
                seed_everything(3)
                batches = kind(data, 3, sampler=make(data))
                orders.append([int(row[0]) for batch in batches for row in batch.view(len(batch), -1)])
        assert orders[0] == orders[1] == orders[2]


def test_without_a_generator_two_loaders_have_seeds_of_their_own():
    seed_everything(3)
    one, other = (drawn(OURS(Draws(N))) for _ in range(2))
    assert not set(one.values()) & set(other.values())
