"""Random topologies: whatever ranks, workers and batch sizes deliver the parts of an epoch, in the order of its positions they are
one sequence, byte for byte that of a run with one rank that never stopped.

FEEDLINE_TOPOLOGIES says how many stops are tried, FEEDLINE_SEED which; a failure names the number of its chain, which
FEEDLINE_CHAIN repeats alone.
"""

import itertools
import json
import os
import random
from dataclasses import dataclass
from typing import Any

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler as TorchSampler
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch_datasets import Numbers, seed_everything

OURS = feedline.torch.DataLoader
STOPS = int(os.environ.get("FEEDLINE_TOPOLOGIES", "400"))
SEED = int(os.environ.get("FEEDLINE_SEED", "0"))
CHAIN = os.environ.get("FEEDLINE_CHAIN")
EPOCHS = 2


class Augmented(Numbers):
    """Draws a random number of random numbers, by ways that leave something behind in a generator: halves of pairs of normal
    numbers, and blocks that are used up in part. Only the samples whose index divides by `every` draw from NumPy and Python."""

    def __init__(self, length, every):
        super().__init__(length)
        self.every = every

    def __getitem__(self, index):
        row = torch.zeros(9, dtype=torch.float64)
        row[0] = index
        row[1 : 2 + int(torch.randint(3, ()))] = torch.randn((), dtype=torch.float64)
        row[4] = torch.rand(3).sum()
        if index % self.every == 0:
            row[5] = random.gauss(0, 1)
            row[6] = np.random.standard_normal()
            row[7] = sum(random.random() for _ in range(random.randint(1, 5)))
            row[8] = np.random.permutation(7)[0]
        return row


@dataclass
class Order:
    """How the samples of an epoch are ordered, and dealt to ranks."""

    name: str
    data: Any
    make: Any
    """Gives the loader's options; called with the number of ranks, the rank and the batch size."""
    total: int
    tail: str = "exact"
    is_elastic: bool = True
    batches: bool = False
    by_position: bool = False
    """A sample that comes twice in an epoch is augmented in another way."""


def an_order(pick):
    # A loader learns from its first 64 samples.
    length = pick.randint(1, 70) if pick.random() < 0.85 else pick.randint(90, 140)
    data = Augmented(length, pick.choice([1, 1, 3, 1000]))
    seed = pick.choice([0, pick.randrange(100), 2**40 + pick.randrange(100)])
    tail = pick.choice(["pad", "drop", "exact"])
    kind = pick.choice(["torch", "torch", "ours", "ours", "weighted", "mixture", "batches", "drawn", "drawn"])
    if kind == "torch":
        drop, shuffle = tail == "drop", pick.random() < 0.8
        tail = "drop" if drop else "pad"
        return Order(kind, data, lambda n, r, _: {"sampler": TorchSampler(data, n, r, shuffle, seed, drop)}, length, tail)
    if kind == "ours":
        more = {"tail": tail, "permutation": pick.choice(["torch", "feistel"])}
        total = length
        if (how := pick.choice(["", "", "epoch_length", "merge_epochs"])):
            more[how] = pick.randint(1, 100) if how == "epoch_length" else pick.randint(2, 3)
            total = more[how] if how == "epoch_length" else more[how] * length


        def make(n, r, _):
            return {"sampler": feedline.torch.DistributedSampler(data, n, r, True, seed, **more)}

        return Order(f"{kind} {more}", data, make, total, tail)
    if kind == "weighted":
        weights, total = [pick.random() for _ in range(length)], pick.randint(1, 100)

        def make(n, r, _):
            return {"sampler": feedline.torch.DistributedWeightedSampler(weights, total, n, r, seed, tail=tail)}
        return Order(kind, data, make, total, tail, by_position=True)
    if kind == "mixture":
        lengths, total = [length, pick.randint(1, 30)], pick.randint(1, 100)
        data.length = sum(lengths)

        def make(n, r, _):
            options = {"lengths": lengths, "tail": tail}
            return {"sampler": feedline.torch.DistributedMixtureSampler(None, [2, 1], total, n, r, seed, **options)}

        return Order(kind, data, make, total, tail)
    if kind == "batches":


        def make(n, r, size):
            options = {"drop_last": tail == "drop", "tail": tail}
            return {"batch_sampler": feedline.torch.DistributedBatchSampler(data, size, n, r, seed=seed, **options)}

        return Order(kind, data, make, length, tail, batches=True)
    return a_drawn_order(pick, data, length, seed)


def a_drawn_order(pick, data, length, seed):
    kind = pick.choice(["sequential", "shuffle", "random", "replacement", "weighted", "subset"])
    has_generator = pick.random() < 0.6
    total = pick.randint(1, 100)
    weights = [0.1 + pick.random() for _ in range(length)]
    part = pick.sample(range(length), pick.randint(1, length))
    to_loader = pick.random() < 0.5

    def make(*_: int):
        generator = torch.Generator().manual_seed(seed) if has_generator else None
        options = {"generator": generator} if to_loader and has_generator else {}
        if kind == "sequential":
            return options
        if kind == "shuffle":
            return {"shuffle": True, "generator": generator}
        if kind == "subset":
            return options | {"sampler": SubsetRandomSampler(part, generator)}
        if kind == "weighted":
            return options | {"sampler": WeightedRandomSampler(weights, total, True, generator)}
        return options | {"sampler": RandomSampler(data, kind == "replacement", total, generator)}

    size = {"sequential": length, "shuffle": length, "subset": len(part)}.get(kind, total)
    name = f"{kind}{' with a generator' * has_generator}{' of the loader, too' * to_loader}"
    return Order(name, data, make, size, is_elastic=False, by_position=kind in ("weighted", "replacement"))


def loader_of(order, ranks, rank, size, drop, workers):
    options = order.make(ranks, rank, size)
    if not order.batches:
        options |= {"batch_size": size, "drop_last": drop}
    return OURS(order.data, num_workers=workers, **options)


def rows(batch):
    """The samples of a batch, as bytes."""
    if batch is None:
        return []
    return [row.numpy().tobytes() for row in (batch if batch.dim() == 2 else [batch])]


def uninterrupted(order, seed):
    seed_everything(seed)
    loader = loader_of(order, 1, 0, 1, False, 0)
    whole = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        whole.append([row for batch in loader for row in rows(batch)])
    return whole


def shares(order, ranks, start, size, drop):
    """How many samples each rank gets of what is left of an epoch."""
    left = order.total - start
    counts = [len(range(rank, left, ranks)) for rank in range(ranks)]
    if order.tail != "exact":
        counts = [left // ranks if order.tail == "drop" else -(-left // ranks)] * ranks
    return [count // size * size for count in counts] if drop and size else counts


def follow(number, has_workers):
    """One chain of stops, each gone on with by another topology; gives their number."""
    pick = random.Random(f"{SEED}/{number}/{has_workers}")
    order, seed = an_order(pick), pick.randrange(1000)
    whole, said = uninterrupted(order, seed), [order.name]
    tells = pick.random() < 0.7 or not order.is_elastic
    epoch, start, seen, stops, state, torchs, loaders = 0, 0, {}, 0, None, None, []
    while epoch < EPOCHS:
        if not (loaders and pick.random() < 0.25):
            ranks = pick.randint(1, 5) if order.is_elastic else 1
            size = pick.choice([1, 2, 3, 4, 7, 16] if order.batches else [None, 1, 2, 3, 4, 7, 16])
            drop = order.tail == "drop" if order.batches else size is not None and pick.random() < 0.3
            workers = [pick.choice([0, 1, 2]) if has_workers else 0 for _ in range(ranks)]
            # What the program is seeded with has no influence on a pass that goes on.
            seed_everything(seed if state is None else pick.randrange(1000))
            loaders = [loader_of(order, ranks, rank, size, drop, workers[rank]) for rank in range(ranks)]
        if state is not None:
            for loader in loaders:
                loader.load_state_dict(state)
            if torchs is not None:
                torch.set_rng_state(torchs)
        if tells:
            for loader in loaders:
                loader.set_epoch(epoch)
        counts = shares(order, ranks, start, size, drop)
        batches = -(-max(counts) // (size or 1))
        steps = batches if pick.random() < 0.3 else pick.randint(0, batches)
        dealt = f"{ranks} ranks, workers {workers}, batch_size={size}, drop_last={drop}"
        said.append(f"epoch {epoch} from {start}: {dealt}, {steps} of {batches} steps")
        passes = [iter(loader) for loader in loaders]
        given = [[] for _ in loaders]
        # Rank by rank in each step, as they would go together.
        for _, (rank, one) in itertools.product(range(steps), enumerate(passes)):
            given[rank] += rows(next(one, None))
        states = {json.dumps(loader.state_dict()) for loader in loaders}
        assert len(states) == 1, ["the state differs between ranks", *said]
        is_over = steps >= batches
        for rank, samples in enumerate(given):
            assert len(samples) == (counts[rank] if is_over else steps * (size or 1)), [f"rank {rank} got {len(samples)}", *said]
            for place, row in enumerate(samples):
                position = start + place * ranks + rank
                assert position not in seen, [f"position {position} came twice", *said]
                seen[position] = row
        torchs = torch.get_rng_state()
        state, stops = json.loads(states.pop()), stops + 1
        if not is_over:
            start += steps * (size or 1) * ranks
            continue
        for position, row in seen.items():
            is_padding = position >= order.total
            expected = whole[epoch][position % order.total]
            if is_padding and order.by_position:
                row, expected = row[:8], expected[:8]  # the index
            assert row == expected, [f"position {position} is another sample, or another draw of it", *said]
        epoch, start, seen = epoch + 1, 0, {}
        if tells and order.is_elastic and pick.random() < 0.3:
            state = None  # with a distributed sampler an epoch may begin without a state
    return stops


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_workers", [False, True], ids=["in-this-process", "with-workers"])
def test_whatever_topologies_deliver_an_epoch_it_is_one_sequence(has_workers):
    if CHAIN is not None:
        follow(int(CHAIN), has_workers)
        return
    stops = 0
    for number in itertools.count():
        try:
            stops += follow(number, has_workers)
        except Exception as error:
            raise AssertionError(f"FEEDLINE_SEED={SEED} FEEDLINE_CHAIN={number}") from error
        if stops >= (STOPS // 20 if has_workers else STOPS):
            break
