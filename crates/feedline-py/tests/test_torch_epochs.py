"""feedline.torch.DataLoader from one pass to the next: epochs after a restart, the end of a pass, states out of order, and memory
that is used again."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import feedline
import feedline.torch
import pytest
import torch
from torch.utils.data import DistributedSampler as TorchSampler
from torch.utils.data import WeightedRandomSampler
from torch_datasets import Dealt, Draws, Gated, GatedShards, Numbers, Shards, Stateful, numbers_of

OURS = feedline.torch.DataLoader
N = 26


def epochs(loader, count):
    return [torch.cat(list(loader)).tolist() for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_that_seeds_itself_anew_does_not_get_the_same_order_twice(workers):
    """Restarted in its first epoch without torch's state, it goes on to the orders that it would have had."""
    options = {"num_workers": workers, "shuffle": True}
    torch.manual_seed(1)
    expected = epochs(OURS(Numbers(N), 4, **options), 3)
    torch.manual_seed(1)
    loader = OURS(Numbers(N), 4, **options)
    batches = iter(loader)
    head = torch.cat([next(batches), next(batches)]).tolist()
    state = loader.state_dict()
    torch.manual_seed(1)
    again = OURS(Numbers(N), 3, **options)
    again.load_state_dict(state)
    rest = epochs(again, 3)
    assert [head + rest[0], *rest[1:]] == expected


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}], ids=["0", "2"])
@pytest.mark.parametrize(
    "order", [{"shuffle": True}, {"sampler": WeightedRandomSampler(range(1, N + 1), N)}, {}], ids=["shuffled", "weighted", "none"]
)
def test_a_state_between_two_epochs_has_the_next_one(order, options):
    """Whatever the program that goes on was seeded with; if it stands where the state was taken, those after it, too."""
    for first in (0, 1):
        torch.manual_seed(1)
        loader = OURS(Draws(N), 4, **options, **order)
        epochs(loader, first)
        stood, state = torch.get_rng_state(), json.loads(json.dumps(loader.state_dict()))
        assert torch.equal(torch.get_rng_state(), stood)
        expected = epochs(loader, 3)
        again, exact = (OURS(Draws(N), 4, **options, **order) for _ in range(2))
        torch.manual_seed(1 if first else 7)  # a program that seeds itself as before must not begin with its first epoch again
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert epochs(again, 1) == expected[:1]
        torch.set_rng_state(stood)
        exact.load_state_dict(state)
        assert epochs(exact, 3) == expected


def test_a_distributed_epoch_that_is_complete_is_not_delivered_again():
    loader, again = (OURS(Numbers(N), 4, sampler=TorchSampler(Numbers(N), 1, 0, seed=2)) for _ in range(2))
    loader.set_epoch(3)
    assert len(epochs(loader, 1)[0]) == N
    again.load_state_dict(loader.state_dict())
    again.set_epoch(3)
    with pytest.warns(UserWarning, match="all of epoch 3 had been handed out"):
        assert list(again) == []
    for one in (loader, again):
        one.set_epoch(4)
    assert epochs(again, 1) == epochs(loader, 1)


def test_an_epoch_that_is_delivered_twice_is_told_once():
    loader = OURS(Numbers(N), 4, sampler=TorchSampler(Numbers(N), 1, 0))
    first = epochs(loader, 1)
    with pytest.warns(UserWarning, match="epoch 0 is delivered a second time"):
        assert epochs(loader, 1) == first


SHUFFLED = {
    "torch's distributed": lambda: {"sampler": TorchSampler(Numbers(N), 1, 0, seed=2)},
    "ours": lambda: {"sampler": feedline.torch.DistributedSampler(Numbers(N), 1, 0, seed=2)},
    "own": lambda: {"sampler": Dealt(Numbers(N), 1, 0, seed=2)},
    "generator": lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(2)},
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", SHUFFLED)
@pytest.mark.filterwarnings("error")
def test_an_iterator_that_nobody_asks_loses_no_place(kind, workers):
    # OpenPCDet's loop makes an iterator before its first epoch, and another one in each.
    def loop(loader, first=0):
        iter(loader)
        for epoch in range(first, 3):
            loader.set_epoch(epoch)
            for batch in loader:
                yield epoch, batch.tolist()

    def make(workers):
        return OURS(Draws(N), 4, num_workers=workers, **SHUFFLED[kind]())

    whole = list(loop(make(workers)))
    assert len({str(batch) for _, batch in whole}) == 21
    # Between two epochs an iterator draws from the generator, as under torch, whether anybody asks it or not.
    for stop in (1, 9) if kind == "generator" else (1, 7, 9):
        loader = make(workers)
        running = loop(loader)
        head = [next(running) for _ in range(stop)]
        again = make(0)
        again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert head + list(loop(again, stop // 7)) == whole, stop


def test_a_distributed_sampler_of_ones_own_goes_on_with_its_epoch_on_as_many_ranks():
    def make(ranks, rank):
        return OURS(Draws(N), 4, sampler=Dealt(Numbers(N), ranks, rank))

    loader = make(3, 1)
    loader.set_epoch(3)
    running = iter(loader)
    next(running)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [batch.tolist() for batch in running]
    again = make(3, 1)
    again.load_state_dict(state)
    assert [batch.tolist() for batch in again] == rest, "the epoch is the state's"
    again.load_state_dict(state)
    again.set_epoch(4)
    assert [int(index) for batch in again for index in batch[:, 0]] == list(again.sampler), "another epoch begins at its first sample"
    with pytest.raises(feedline.StateError, match="num_replicas is 3, this loader's is 2"):
        make(2, 1).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [TorchSampler, feedline.torch.DistributedSampler, Dealt], ids=["torchs", "ours", "own"])
def test_the_epoch_of_a_pass_is_the_one_when_its_iterator_is_made(kind, workers):
    # OpenPCDet makes one iterator for all epochs, and sets the epoch that it goes on with after that.
    def make(loader=OURS, **options):
        return loader(Draws(N), 4, sampler=kind(Numbers(N), 2, 1), **options)

    def late(loader):
        batches = iter(loader)
        loader.sampler.set_epoch(3)
        first = next(batches)
        assert loader.sampler.epoch == 3
        state = json.loads(json.dumps(loader.state_dict())) if isinstance(loader, OURS) else None
        return torch.cat([first, *batches]), state

    of_torch, _ = late(make(torch.utils.data.DataLoader, num_workers=2))
    batches, state = late(make(num_workers=workers))
    assert batches[:, 0].tolist() == of_torch[:, 0].tolist() == list(kind(Numbers(N), 2, 1))
    assert torch.equal(batches, torch.cat(list(make()))), "the draws are of the same epoch"
    again = make(num_workers=2 - workers)
    again.load_state_dict(state)
    rest = iter(again)
    again.sampler.set_epoch(3)
    assert torch.equal(torch.cat(list(rest)), batches[4:])


def test_two_iterators_that_begin_at_the_same_place_are_told():
    loader = OURS(Draws(N), 4, sampler=TorchSampler(Numbers(N), 1, 0))
    older, newer = iter(loader), iter(loader)
    first = next(newer)
    with pytest.warns(UserWarning, match="began at the same place"):
        assert next(older).tolist() == first.tolist()


def test_a_sampler_that_fails_loses_none_of_the_batches_before():
    def indices():
        yield from range(10)
        raise LookupError("no more indices")

    class Fails:
        def __iter__(self):
            return indices()

    for workers in (0, 2):
        batches, seen = iter(OURS(Numbers(N), 4, sampler=Fails(), num_workers=workers)), []
        with pytest.raises(LookupError, match="no more indices"):
            seen += (batch.tolist() for batch in batches)
        assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_memory_is_used_again_without_the_garbage_collector():
    gc.disable()
    try:
        batches = iter(OURS(torch.zeros(64, 100_000), 4, num_workers=2))
        lent = []
        for batch in batches:
            lent.append(len(batches._pool.arena._lent))
        assert max(lent) <= 2 and len(lent) == 16
        del batch
    finally:
        gc.enable()


def test_a_pass_ends_at_once():
    began = time.monotonic()
    for _ in range(3):
        assert len(list(OURS(Numbers(N), 4, num_workers=2))) == 7
    assert time.monotonic() - began < feedline.workers.pool._END_S


def test_a_source_gives_the_native_loader():
    loader = OURS(feedline.arrays(torch.arange(10).numpy()), 5, True, num_workers=0)
    assert type(loader) is feedline.DataLoader and len(loader) == 2


FIT = '''
import json, sys
import feedline.torch, lightning, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch_datasets import Draws


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, at):
        with open(f"{name}.{self.global_rank}", "a") as file:
            file.write(json.dumps([self.current_epoch, batch.tolist()]) + "\\n")
        return (self.weight - batch.float().mean()) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self):
        data = Draws(40)
        sampler = feedline.torch.DistributedSampler(data, 1, 0, seed=5) if devices == 1 else None
        return feedline.torch.DataLoader(data, 4, sampler=sampler, shuffle=devices > 1, num_workers=devices - 1)


name, checkpoint, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
lightning.seed_everything(5)
saves = ModelCheckpoint(".", filename="{step}", every_n_train_steps=1, save_top_k=-1)
options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
strategy = "ddp" if devices > 1 else "auto"
trainer = lightning.Trainer(max_epochs=2, callbacks=[saves], devices=devices, strategy=strategy, **options)
trainer.fit(Recorder(), ckpt_path=None if checkpoint == "none" else checkpoint)
'''


def test_lightning_on_two_processes_goes_on_alone_with_the_same_samples_and_draws(tmp_path):
    """Lightning starts the processes, and gives the loader torch's DistributedSampler."""
    (tmp_path / "fit.py").write_text(FIT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "CUDA_VISIBLE_DEVICES": ""}

    def fit(*words):
        command = [sys.executable, "-W", "ignore", "fit.py", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]

    def samples(file, epoch):
        lines = map(json.loads, (tmp_path / file).read_text().splitlines())
        return [sample for at, batch in lines if at == epoch for sample in batch]

    fit("both", "none", "2")
    fit("alone", "step=3.ckpt", "1")
    for epoch, left in ((0, 16), (1, 40)):
        whole = [sample for pair in zip(samples("both.0", epoch), samples("both.1", epoch)) for sample in pair]
        assert len(whole) == 40 and samples("alone.0", epoch) == whole[40 - left :]


class Counted(Numbers):
    calls = 0

    def __getitem__(self, index):
        self.calls += 1
        return index


def test_a_dataset_that_draws_nothing_makes_each_sample_once():
    data = Counted(200)
    assert epochs(OURS(data, 8), 1) == [list(range(200))] and data.calls == 200


class Halves(torch.utils.data.IterableDataset):
    """The second worker has the shorter half, and is killed behind its end."""

    def __init__(self, file):
        self.file = file

    def __iter__(self):
        worker = torch.utils.data.get_worker_info().id
        if worker == 1:
            self.file.write_text(str(os.getpid()))
        yield from range(100 * worker, 100 * worker + (5 if worker else 40))


def test_a_worker_that_is_killed_behind_its_end_has_nothing_more_to_deliver(tmp_path):
    batches = iter(OURS(Halves(tmp_path / "pid"), 2, num_workers=2, prefetch_factor=1))
    seen = [next(batches).tolist() for _ in range(5)]
    worker = int((tmp_path / "pid").read_text())
    time.sleep(0.3)  # until its last batch is made
    os.kill(worker, signal.SIGSTOP)  # so that the task behind the end is not answered
    seen.append(next(batches).tolist())
    assert seen[5] == [104]
    os.kill(worker, signal.SIGKILL)
    batches._workers[1].join(10)
    with pytest.raises(RuntimeError, match="killed by signal"):
        for batch in batches:
            seen.append(batch.tolist())
    seen += [batch.tolist() for batch in batches]
    assert sorted(sum(seen, [])) == [*range(40), *range(100, 105)]


class Drawn(torch.utils.data.Sampler):
    """Draws from the loader's generator: batches when it is asked ("eager"), samples when they are asked for ("lazy"), or both."""

    def __init__(self, how, generator):
        self.how, self.generator = how, generator

    def __len__(self):
        return 4 if self.how == "eager" else 12

    def __iter__(self):
        if self.how == "eager":
            return iter(torch.randperm(12, generator=self.generator).view(4, 3).tolist())
        first = int(torch.randint(12, (), generator=self.generator)) if self.how == "both" else 0
        return ((first + int(torch.randint(12, (), generator=self.generator))) % 12 for _ in range(12))


@pytest.mark.parametrize("how", ["eager", "lazy", "both"])
def test_a_sampler_that_shares_the_loaders_generator_goes_on_as_torch_would_have(how):
    def loader(kind, workers, seed=3):
        generator = torch.Generator().manual_seed(seed)
        sampler = Drawn(how, generator)
        how_many = {"batch_sampler": sampler} if how == "eager" else {"sampler": sampler, "batch_size": 3}
        return kind(range(12), generator=generator, num_workers=workers, **how_many)

    for workers in (0, 1):
        torchs = loader(torch.utils.data.DataLoader, workers)
        expect = [[batch.tolist() for batch in torchs] for _ in range(3)]
        ours, found, states = loader(feedline.torch.DataLoader, workers), [], []
        for _ in range(3):
            found.append([(batch.tolist(), states.append(ours.state_dict()))[0] for batch in ours])
        assert found == expect and expect[0] != expect[1]
        # Begun in epoch 1 without workers or with one; behind the last batch of epoch 0.
        for at, others in ((3, workers), (4, 1 - workers), (5, workers)):
            again = loader(feedline.torch.DataLoader, others, seed=8)
            again.load_state_dict(json.loads(json.dumps(states[at])))
            rest = [batch.tolist() for batch in again]
            assert rest == sum(expect, [])[at + 1 : 8]
            assert others != workers or [batch.tolist() for batch in again] == expect[2]


# --- Out of order

# Out of order the first batch waits at a gate, while others are handed out.
OUT_OF_ORDER = {
    "drawn": lambda: {"batch_size": 2, "shuffle": True, "generator": torch.Generator().manual_seed(3)},
    "plan": lambda: {"batch_size": 2, "sampler": feedline.torch.DistributedSampler(Numbers(N), 1, 0, seed=4)},
    "own-with-state": lambda: {"batch_size": 2, "sampler": Stateful(N)},
    "batches": lambda: {"batch_sampler": [[0, 1], [2, 3, 4], [5], [6, 7], [8], [9, 10]]},
}


@pytest.mark.parametrize("orders", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_a_state_out_of_order_goes_on_with_every_batch_that_is_missing(orders, tmp_path):
    expected = [batch.tolist() for batch in OURS(Numbers(N), **orders())]
    batches = iter(loader := OURS(Gated(N, expected[0][0], tmp_path / "gate"), num_workers=2, in_order=False, **orders()))
    seen = [next(batches)[:, 0].tolist() for _ in range(3)]
    missing = [batch for batch in expected if batch not in seen]
    assert len(missing) == len(expected) - 3 and missing[0] == expected[0]
    state = json.loads(json.dumps(loader.state_dict()))
    again, third = (OURS(Numbers(N), **orders()) for _ in range(2))
    again.load_state_dict(state)
    assert again.state_dict() == state
    first = next(iter(again)).tolist()
    assert again.state_dict()["early"] is not None, "later batches were handed out before the state, too"
    third.load_state_dict(again.state_dict())
    assert [first, *(batch.tolist() for batch in third)] == missing
    ahead = OURS(Numbers(N), num_workers=2, in_order=False, **orders())
    ahead.load_state_dict(state)
    assert sorted(batch.tolist() for batch in ahead) == sorted(missing)
    (tmp_path / "gate").touch()
    assert sorted(batch[:, 0].tolist() for batch in batches) == sorted(missing)


def test_a_state_out_of_order_is_for_one_process_and_the_same_batches(tmp_path):
    def gapped(**options):
        batches = iter(loader := OURS(Gated(N, 0, tmp_path / "gate"), 2, num_workers=2, in_order=False, **options))
        next(batches)
        return batches, loader

    unshuffled = {"shuffle": False}
    batches, loader = gapped(sampler=TorchSampler(Numbers(N), 1, 0, **unshuffled))
    state = loader.state_dict()
    for size, ranks, field in ((3, 1, "batch_size"), (2, 2, "num_replicas")):
        again = OURS(Numbers(N), size, sampler=TorchSampler(Numbers(N), ranks, 0, **unshuffled))
        with pytest.raises(feedline.StateError) as raised:
            again.load_state_dict(state)
        assert raised.value.field == field
        assert numbers_of(again) == list(range(0, N, ranks))
    again = OURS(Numbers(N), 2, sampler=TorchSampler(Numbers(N), 1, 0, **unshuffled))
    again.load_state_dict(state)
    again.set_epoch(1)
    assert numbers_of(again) == list(range(N)), "in another epoch nothing was handed out"
    shared, loader = gapped(sampler=TorchSampler(Numbers(N), 2, 0, **unshuffled))
    with pytest.raises(feedline.UnsupportedError, match="in_order"):
        loader.state_dict()
    (tmp_path / "gate").touch()
    assert len(list(batches)) == 12 and len(list(shared)) == 6
    assert loader.state_dict()["place"]["done"]


def test_out_of_order_each_worker_of_an_iterable_data_set_has_its_own_place(tmp_path):
    batches = iter(loader := OURS(GatedShards(tmp_path / "gate", 5, 5), 1, num_workers=2, in_order=False))
    assert [next(batches).item() for _ in range(2)] == [1000, 1001]
    state = json.loads(json.dumps(loader.state_dict()))
    again = OURS(Shards(5, 5), 1, num_workers=2)
    again.load_state_dict(state)
    assert numbers_of(again) == [0, 1002, 1, 1003, 2, 1004, 3, 4]
    (tmp_path / "gate").touch()
    assert sorted(numbers_of(batches)) == [0, 1, 2, 3, 4, 1002, 1003, 1004]
