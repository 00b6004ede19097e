"""A state goes on with another kind of sampler: shuffle=True on one process, and a DistributedSampler on several."""

import itertools
import json

import feedline
import feedline.torch
import pytest
import torch
from torch.utils.data import DistributedSampler as TorchSampler
from torch.utils.data import RandomSampler
from torch_datasets import Draws, Numbers, plain

# What is told is tested where it is.
pytestmark = pytest.mark.filterwarnings("ignore:the state is of another kind of sampler")
OURS = feedline.torch.DataLoader
N = 26
RANKS = [TorchSampler, feedline.torch.DistributedSampler]
TOLD = pytest.warns(UserWarning, match="the state is of another kind of sampler: what is left of its epoch")


def alone(batch_size=4, workers=0, shuffle=True, **options):
    return OURS(Draws(N), batch_size, shuffle, num_workers=workers, **options)


def shared(make, ranks, batch_size=2, workers=0, seed=7, drop_last=False, **options):
    return [
        OURS(Draws(N), batch_size, sampler=make(Draws(N), ranks, rank, seed=seed, **options), num_workers=workers, drop_last=drop_last)
        for rank in range(ranks)
    ]


def rows(batches):
    return [row for batch in batches for row in plain(batch)]


def dealt(ranks):
    """What all ranks delivered, in the order of the epoch."""
    return [row for turn in itertools.zip_longest(*ranks) for row in turn if row is not None]


def goes_on(loaders, state):
    """Loads the state as a file would hold it; the samples of each rank."""
    for loader in loaders:
        with TOLD:
            loader.load_state_dict(json.loads(json.dumps(state)))
    return [rows(loader) for loader in loaders]


def after(loaders, batches):
    """The samples that these ranks deliver of so many batches each, and their state, which is the same on each."""
    running = [iter(loader) for loader in loaders]
    seen = [rows(next(one) for _ in range(batches)) for one in running]
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    return dealt(seen), states[0]


@pytest.mark.parametrize(
    ("make", "options", "workers"),
    [
        (TorchSampler, {}, 2),
        (TorchSampler, {"generator": 3}, 0),
        (TorchSampler, {"shuffle": False}, 0),
        (feedline.torch.DistributedSampler, {}, 0),
        (feedline.torch.DistributedSampler, {"generator": 3}, 0),
        (feedline.torch.DistributedSampler, {"shuffle": False}, 0),
    ],
)
def test_ranks_share_the_rest_of_an_epoch_of_one_process(make, options, workers):
    if "generator" in options:
        options = {"generator": torch.Generator().manual_seed(options["generator"])}
    loader = alone(workers=workers, **options)
    rows(loader)
    whole, loader_state = [], {}
    for at, batch in enumerate(loader, 1):
        whole += plain(batch)
        if at == 2:
            loader_state = loader.state_dict()
    assert [row[0] for row in whole] != list(range(N)) or "shuffle" in options
    for ranks in (2, 3):
        more = {"shuffle": False} if "shuffle" in options else {}
        # 18 samples are left: 9 or 6 for each rank.
        assert dealt(goes_on(shared(make, ranks, workers=workers, **more), loader_state)) == whole[8:]
        loaders = shared(make, ranks, 1, **more)
        for one in loaders:
            one.load_state_dict(loader_state)
        seen, state = after(loaders, 1)
        # A state within the rest, which is taken up by one process, by other ranks, and by one process from these.
        assert seen == whole[8 : 8 + ranks]
        again = alone(5, **options)
        again.load_state_dict(json.loads(json.dumps(state)))
        assert rows(again) == whole[8 + ranks :]
        left = whole[8 + ranks :]
        for others, padding in ((2, len(left) % 2), (5, -len(left) % 5)):
            assert dealt(goes_on(shared(make, others, **more), state)) == left + whole[:padding], (ranks, others)
        loaders = shared(make, 4, 1, **more)
        for one in loaders:
            one.load_state_dict(state)
        _, state = after(loaders, 2)
        again.load_state_dict(state)
        assert rows(again) == left[8:]


@pytest.mark.parametrize("make", RANKS)
@pytest.mark.parametrize(("shuffle", "workers"), [(True, 2), (True, 0), (False, 0)])
def test_one_process_takes_up_the_rest_of_ranks(make, shuffle, workers):
    (single,) = shared(make, 1, shuffle=shuffle)
    single.set_epoch(3)
    whole = rows(single)
    loaders = shared(make, 2, workers=workers, shuffle=shuffle)
    for one in loaders:
        one.set_epoch(3)
    seen, state = after(loaders, 4)
    assert seen == whole[:16]
    loader = alone(5, workers, shuffle)
    assert goes_on([loader], state) == [whole[16:]]
    # Behind it come epochs of the program's own sampler, as if it had begun with them.
    torch.manual_seed(4)
    later = rows(loader)
    torch.manual_seed(4)
    assert later == rows(alone(5, workers, shuffle))
    # And it is killed within the rest.
    loader.load_state_dict(state)
    seen, state = after([loader], 1)
    assert seen == whole[16:21] and state["kind"] == "plan"
    loaders = shared(make, 5, shuffle=shuffle)
    for one in loaders:
        one.load_state_dict(state)
    assert dealt([rows(one) for one in loaders])[:5] == whole[21:]


def test_between_two_epochs_nothing_is_left():
    loader = alone()
    fresh = loader.state_dict()
    rows(loader)
    ended = loader.state_dict()
    for state in (fresh, ended):
        for one, whole in zip(shared(TorchSampler, 2), shared(TorchSampler, 2)):
            # What was loaded before is gone.
            one.load_state_dict(after(shared(TorchSampler, 2), 2)[1])
            one.load_state_dict(state)
            assert rows(one) == rows(whole)
    loaders = shared(TorchSampler, 2)
    _, ended = after(loaders, 7)
    loader.load_state_dict(ended)
    assert len(rows(loader)) == N
    # An epoch whose rest was of another kind is over like any other.
    _, state = after([alone()], 3)
    for one in loaders:
        one.set_epoch(1)
        with TOLD:
            one.load_state_dict(state)
    goes_on(loaders, state)
    state = loaders[0].state_dict()
    again = shared(TorchSampler, 2)[0]
    again.load_state_dict(state)
    assert again.sampler.epoch == 2
    again.set_epoch(1)
    with pytest.warns(UserWarning, match="nothing is left of it"):
        assert rows(again) == []


def test_the_last_samples_are_dropped_where_they_are_dropped():
    _, state = after([alone()], 1)
    whole = rows(_continued(alone(), state))
    for loader in shared(TorchSampler, 2, 4, drop_last=True):
        # 22 are left: 11 for each rank, which are two batches of 4.
        loader.load_state_dict(state)
        assert len(rows(loader)) == 8
    ranks = shared(feedline.torch.DistributedSampler, 4, 4, tail="drop")
    assert dealt(goes_on(ranks, state)) == whole[:20]
    ranks = shared(feedline.torch.DistributedSampler, 4, 4, tail="exact")
    assert dealt(goes_on(ranks, state)) == whole


def _continued(loader, state):
    loader.load_state_dict(state)
    return loader


def test_an_iterator_that_nobody_asks_does_not_lose_the_rest():
    _, state = after([alone()], 2)
    whole = rows(_continued(alone(), state))
    loaders = [_continued(one, state) for one in shared(TorchSampler, 2, workers=1)]
    assert loaders[0].state_dict() == state | {"before": None}
    for one in loaders:
        iter(one)
    assert dealt([rows(one) for one in loaders]) == whole
    _, state = after(shared(TorchSampler, 2), 2)
    loader = alone()
    goes_on([loader], state)
    loader.load_state_dict(state)
    iter(loader)
    assert len(rows(loader)) == N - 8


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        (lambda: alone(shuffle=False), lambda: shared(TorchSampler, 2)[0]),
        (lambda: alone(), lambda: shared(TorchSampler, 2, shuffle=False)[0]),
        (lambda: alone(), lambda: shared(feedline.torch.DistributedSampler, 2, permutation="feistel")[0]),
        (lambda: alone(), lambda: shared(feedline.torch.DistributedSampler, 2, epoch_length=30)[0]),
        (lambda: alone(), lambda: OURS(Numbers(9), sampler=TorchSampler(Numbers(9), 2, 0))),
        (lambda: alone(), lambda: OURS(Numbers(N), sampler=feedline.torch.DistributedWeightedSampler([1.0] * N, N, 2, 0))),
        (lambda: alone(shuffle=None, sampler=RandomSampler(range(60), num_samples=N)), lambda: shared(TorchSampler, 2)[0]),
        (lambda: alone(shuffle=None, sampler=RandomSampler(range(N), True)), lambda: shared(TorchSampler, 2)[0]),
    ],
)
def test_other_orders_are_refused_and_nothing_changes(saved, now):
    """Both ways."""
    for give, take in ((saved, now), (now, saved)):
        loader, other = give(), take()
        next(iter(loader))
        state, before = loader.state_dict(), other.state_dict()
        with pytest.raises(feedline.StateError, match="if both have the same length and both shuffle or neither") as told:
            other.load_state_dict(json.loads(json.dumps(state)))
        assert told.value.field == "kind" and other.state_dict() == before


def test_a_state_with_batches_handed_out_early_is_of_its_own_kind_only():
    _, state = after([alone()], 2)
    loader = shared(TorchSampler, 1)[0]
    before = loader.state_dict()
    with pytest.raises(feedline.StateError, match="its kind is drawn, this loader's is plan"):
        loader.load_state_dict(state | {"early": [[1], 2, None]})
    assert loader.state_dict() == before
