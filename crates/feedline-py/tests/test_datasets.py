"""A Dataset of the user's under feedline.DataLoader: worker processes make its batches, and the native engine keeps its place."""

import copy
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
import zipfile

import feedline
import feedline.torch
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import Dataset, default_collate
from torch_datasets import Draws, Items, Numbers, Places, Shared, alive, eventually

HERE = {"num_replicas": 1, "rank": 0}


def workers_of(loader):
    """The processes of its workers."""
    pool = loader._engine._pool
    return [] if pool is None else [one.process.pid for one in pool.workers]


def flat(batches):
    """(index, values) of every sample, in order."""
    return [(index, row.tolist()) for batch in batches for index, row in zip(batch.indices, batch[0])]


@pytest.fixture(scope="module")
def whole():
    """Two epochs of samples that draw, made in the calling thread."""
    ours = feedline.DataLoader(Draws(31), 4, True, seed=5, num_workers=0, **HERE)
    return [flat(ours), flat(ours)]


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_batches_are_those_of_the_calling_thread_however_workers_are_started(whole, context):
    ours = feedline.DataLoader(Draws(31), 7, True, seed=5, num_workers=2, multiprocessing_context=context, **HERE)
    assert [flat(ours), flat(ours)] == whole
    assert whole[0] != whole[1]
    with ours, pytest.raises(AssertionError):
        assert flat(ours) == whole[1]


def test_the_order_is_torchs_and_every_draw_belongs_to_the_sample(whole):
    torchs = torch.utils.data.DistributedSampler(range(31), 1, 0, seed=5)
    for epoch in (0, 1):
        torchs.set_epoch(epoch)
        assert [index for index, _ in whole[epoch]] == list(torchs)
        assert len({value for _, row in whole[epoch] for value in row[1:]}) == 3 * 31
    other = dict(flat(feedline.DataLoader(Draws(31), 4, num_workers=0, seed=5, **HERE)))
    assert other == dict(whole[0]), "the draws of a sample do not depend on the order"


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
@pytest.mark.parametrize("ranks, workers, size", [(1, 2, 3), (3, 0, 2), (2, 1, 5)])
def test_any_ranks_and_workers_go_on_with_exactly_the_next_sample(whole, stop, ranks, workers, size):
    ours = feedline.DataLoader(Draws(31), 4, True, seed=5, num_workers=2, **HERE)
    batches = iter(ours)
    before = flat(next(batches) for _ in range(stop))
    state = json.loads(json.dumps(ours.state_dict()))
    parts = []
    for rank in range(ranks):
        part = feedline.DataLoader(
            Draws(31), size, True, seed=5, num_workers=workers, num_replicas=ranks, rank=rank, tail="pad"
        )
        part.load_state_dict(state)
        parts.append(flat(part))
    after = [sample for together in zip(*parts) for sample in together]
    assert (before + after)[:31] == whole[0]


def test_a_state_of_threads_is_one_of_processes():
    threads = feedline.DataLoader(Numbers(20), 3, True, seed=2, num_workers=2, workers="threads", **HERE)
    next(iter(threads))
    processes = feedline.DataLoader(Numbers(20), 4, True, seed=2, num_workers=1, **HERE)
    processes.load_state_dict(threads.state_dict())
    assert threads.state_dict() == processes.state_dict()
    rest = [index for batch in processes for index in batch.indices]
    assert rest == list(torch.utils.data.DistributedSampler(range(20), 1, 0, seed=2))[3:]
    with pytest.raises(feedline.StateError, match="data set"):
        feedline.DataLoader(Numbers(21), 4, True, seed=2, **HERE).load_state_dict(threads.state_dict())


def test_workers_are_processes_that_live_for_all_epochs_and_end_with_the_loader():
    ours = feedline.DataLoader(Places(24), 2, num_workers=2, **HERE)
    assert not workers_of(ours)
    seen = [{tuple(row[1:].tolist()) for batch in ours for row in batch[0]} for _ in range(2)]
    assert seen[0] == seen[1] and len(seen[0]) == 2 and os.getpid() not in {pid for _, pid in seen[0]}
    pids = workers_of(ours)
    assert {pid for _, pid in seen[0]} == set(pids)
    ours.close()
    assert eventually(lambda: not any(map(alive, pids)))
    with pytest.raises(RuntimeError, match="closed"):
        next(iter(ours))


def test_the_program_keeps_its_generators():
    for workers in (0, 2):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        list(feedline.DataLoader(Draws(9), 2, True, num_workers=workers, **HERE))
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


SAMPLES = {
    "tuple": [(np.full((2, 3), at, np.float32), at, True) for at in range(5)],
    "list": [[np.float64(at), str(at)] for at in range(5)],
    "dict": [{"image": torch.full((3,), at), "box": {"x": at, "y": [1.5, at]}} for at in range(5)],
    "tensor": [torch.tensor(at) for at in range(5)],
    "number": [at / 2 for at in range(5)],
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("workers", [0, 1])
def test_fields_are_what_torchs_collate_function_makes_of_them(kind, workers):
    samples = SAMPLES[kind]
    (batch,) = feedline.DataLoader(Items(samples), 5, num_workers=workers, **HERE)
    expect = default_collate(samples)
    if kind == "dict":
        assert repr(batch) == repr(expect) and batch.names == ["image", "box"]
    else:
        values = expect if kind in ("tuple", "list") else [expect]
        assert repr(list(batch)) == repr(list(values)) and batch.names == [str(at) for at in range(len(values))]
    assert (batch.epoch, batch.step, batch.valid, batch.indices) == (0, 0, 5, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("workers", [0, 1, "threads"])
def test_a_batch_of_dicts_is_a_dict_as_torchs(workers):
    samples = [{"image": np.full((2, 3), at, np.float32), "label": at} for at in range(5)]
    options = {"num_workers": 1, "workers": "threads"} if workers == "threads" else {"num_workers": workers}
    batches = list(feedline.DataLoader(Items(samples), 2, **HERE, **options))
    for batch, theirs in zip(batches, torch.utils.data.DataLoader(Items(samples), 2), strict=True):
        assert isinstance(batch, dict) and type(batch) is feedline.DictBatch
        assert repr([list(batch), list(batch.keys()), list(batch.values()), list(batch.items()), len(batch), {**batch}]) == repr(
            [list(theirs), list(theirs.keys()), list(theirs.values()), list(theirs.items()), len(theirs), theirs]
        )
        assert "label" in batch and "x" not in batch and batch.get("x", 3) == 3 and batch.get("label") is batch["label"] is batch[1] is batch[-1]
        assert batch == dict(batch) and batch != {}
    assert (batches[1].step, batches[1].valid, batches[1].indices, batches[1].names) == (1, 2, [2, 3], ["image", "label"])
    for key in ("x", 2, None):
        with pytest.raises(KeyError, match=r"has no field .*; it has \['image', 'label'\]"):
            batches[0][key]
    for copied in (pickle.loads(pickle.dumps(batches[1])), copy.deepcopy(batches[1]), batches[1].to("cpu")):
        assert repr(copied) == repr(batches[1]) and (copied.indices, type(copied)) == ([2, 3], feedline.DictBatch)
    # Of keys that are numbers, too; of a step that gives a dict; of arrays with names the batch is a tuple.
    (batch,) = feedline.DataLoader(Items([{1: at, 0: -at} for at in range(3)]), 3, num_workers=0, **HERE)
    assert repr(batch) == "{1: tensor([0, 1, 2]), 0: tensor([ 0, -1, -2])}" and batch[0].tolist() == [0, -1, -2]
    rows = feedline.arrays(x=np.arange(3))
    (batch,) = feedline.DataLoader(rows.map(lambda x: {"twice": 2 * x}), 3, num_workers=0, **HERE)
    (plain,) = feedline.DataLoader(rows, 3, num_workers=0, **HERE)
    assert batch.items() == {"twice": batch["twice"]}.items() and isinstance(plain, tuple) and pickle.loads(pickle.dumps(plain)).indices == [0, 1, 2]


def test_what_is_within_a_field_is_moved_with_the_batch():
    samples = [{"box": {"x": torch.ones(2), "y": [torch.ones(1), "name"]}} for _ in range(2)]
    for of in (samples, [(sample, 1) for sample in samples]):
        (batch,) = feedline.DataLoader(Items(of), 2, num_workers=0, **HERE)
        box = batch.to(torch.float64)[0] if of is samples else batch.to(torch.float64)[0]["box"]
        assert box["x"].dtype == box["y"][0].dtype == torch.float64 and box["y"][1] == ("name", "name")


def test_pictures_of_pillow_become_arrays_and_output_may_be_numpy():
    pictures = [(PIL.Image.new("RGB", (4, 2), (at, 0, 9)), {"label": at}) for at in range(3)]
    for workers in (0, 1):
        (batch,) = feedline.DataLoader(Items(pictures), 3, num_workers=workers, output="numpy", **HERE)
        assert type(batch[0]) is np.ndarray and batch[0].shape == (3, 2, 4, 3) and batch[0][2, 0, 0].tolist() == [2, 0, 9]
        assert type(batch[1]["label"]) is np.ndarray and batch[1]["label"].tolist() == [0, 1, 2]


def add_noise(x, rng):
    return x + rng.random()


def test_steps_run_in_the_workers_and_draw_from_rng_or_the_global_generators():
    def values(workers, seed=1, **options):
        source = feedline.dataset(Numbers(12)).map(add_noise, rng=True).map(lambda x: (x, torch.rand(()).item()))
        ours = feedline.DataLoader(source, 3, True, seed=seed, num_workers=workers, **HERE, **options)
        return [[(index, *row) for batch in ours for index, *row in zip(batch.indices, *(f.tolist() for f in batch))] for _ in "ab"]

    first = values(0)
    assert first == values(2) and first != values(0, seed=2)
    assert len({value for epoch in first for _, *row in epoch for value in row}) == 2 * 2 * 12
    assert all(0 <= noisy - index < 1 for epoch in first for index, noisy, _ in epoch)


class Bad(Numbers):
    """Some samples cannot be made."""

    def __init__(self, length, bad, error):
        super().__init__(length)
        self.bad, self.error = bad, error

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_fails_is_named_and_asking_again_makes_it_again(workers):
    ours = feedline.DataLoader(Bad(8, {5}, ValueError("no such colour")), 2, num_workers=workers, **HERE)
    batches = iter(ours)
    assert [next(batches).indices, next(batches).indices] == [[0, 1], [2, 3]]
    state = ours.state_dict()
    for _ in range(2):
        with pytest.raises(feedline.SampleError, match=r"step Bad failed on sample 5 \(item 5\): ValueError: no such colour") as caught:
            next(batches)
        error = caught.value
        assert (error.index, error.location, error.step, error.stage) == (5, "item 5", "Bad", "augment")
        assert isinstance(error.__cause__, ValueError) and "no such colour" in str(error.__cause__)
        assert ours.state_dict() == state
    with pytest.raises(feedline.SampleError, match="failed to collate samples .*0, 1.*feedline.torch.DataLoader takes a collate function"):
        next(iter(feedline.DataLoader(Items([torch.ones(1), torch.ones(2)]), 2, num_workers=workers, **HERE)))


def test_bad_samples_are_replaced_the_same_way_by_any_workers_and_counted(caplog):
    seen = []
    for workers, size in ((0, 4), (2, 3)):
        ours = feedline.DataLoader(
            Bad(40, {3, 11, 12}, OSError("image file is truncated")),
            size, True, num_workers=workers, on_bad_sample="replace", max_bad_samples=6, seed=1, **HERE,
        )  # fmt: skip
        with caplog.at_level(logging.WARNING, "feedline"):
            caplog.clear()
            seen.append([(index, row.item()) for batch in ours for index, row in zip(batch.indices, batch[0])])
        assert all(index == value for index, value in seen[-1]) and not {3, 11, 12} & dict(seen[-1]).keys()
        assert sorted(record.args[0] for record in caplog.records) == sorted([3, 11, 12])[: len(caplog.records)]
        assert "was replaced by sample" in caplog.text and "image file is truncated" in caplog.text
        assert ours.state_dict()["bad_samples"] == len(caplog.records) == 3
        with pytest.raises(feedline.TooManyBadSamplesError, match="more than the 6 allowed"):
            for _ in range(3):
                list(ours)
    assert seen[0] == seen[1]
    ours = feedline.DataLoader(Bad(4, {2}, NameError("typo")), 2, num_workers=1, on_bad_sample="replace", **HERE)
    with pytest.raises(feedline.SampleError, match="NameError: typo"):
        list(ours)


def test_a_killed_worker_is_an_error_and_the_loader_goes_on(whole):
    ours = feedline.DataLoader(Draws(31), 4, True, seed=5, num_workers=2, **HERE)
    batches = iter(ours)
    got = [next(batches), next(batches)]
    for pid in workers_of(ours):
        os.kill(pid, signal.SIGKILL)
    errors = 0
    while len(got) < 8:
        try:
            got.append(next(batches))
        except feedline.WorkerError as error:
            errors += 1
            assert "is killed by signal: Killed" in str(error)
    assert flat(got) == whole[0] and 1 <= errors <= 2


def test_what_workers_are_started_with_is_torchs_and_the_budget_bounds_what_is_made_ahead():
    def init(worker):
        os.environ["MARK"] = str(worker)

    class Marked(Numbers):
        def __getitem__(self, index):
            return int(os.environ["MARK"])

    ours = feedline.DataLoader(Marked(8), 1, num_workers=2, worker_init_fn=init, prefetch_factor=1, **HERE)
    assert {batch[0].item() for batch in ours} == {0, 1} and "MARK" not in os.environ
    large = feedline.DataLoader(Items([torch.zeros(1 << 18)] * 40), 1, num_workers=4, memory_budget_bytes=1 << 20, **HERE)
    batches = iter(large)
    for _ in range(6):
        next(batches)
    assert len(large._engine._jobs) == 2
    for argument in ("collate_fn", "batch_sampler", "generator"):
        with pytest.raises(feedline.ConfigError, match=argument):
            feedline.DataLoader(Numbers(3), **{argument: default_collate})
    with pytest.raises(feedline.ConfigError, match="worker_init_fn"):
        feedline.DataLoader(feedline.arrays(np.arange(4)), worker_init_fn=init)
    with pytest.raises(feedline.ConfigError, match='"processes" is for a Dataset'):
        feedline.DataLoader(feedline.arrays(np.arange(4)), workers="processes")


class Archive(Numbers):
    """Members of a zip file that is open since before the workers."""

    def __init__(self, path, length):
        super().__init__(length)
        with zipfile.ZipFile(path, "w") as archive:
            for index in range(length):
                archive.writestr(str(index), np.full(2, index).tobytes())
        self.archive = zipfile.ZipFile(path)

    def __getitem__(self, index):
        return np.frombuffer(self.archive.read(str(index)), np.int64).copy()


@pytest.mark.parametrize("loader", [feedline.DataLoader, feedline.torch.DataLoader], ids=["feedline", "torch"])
@pytest.mark.parametrize("make", [Shared, Archive])
def test_a_file_that_was_open_before_the_workers_is_read_by_each_at_a_place_of_its_own(tmp_path, loader, make):
    """torch's forked workers share the position of such a file, and mix up its samples."""
    dataset = make(tmp_path / "numbers", 1500)
    batches = loader(dataset, 10, num_workers=3, multiprocessing_context="fork")
    rows = [row.tolist() for batch in batches for row in (batch[0] if loader is feedline.DataLoader else batch)]
    assert rows == [[index, index] for index in range(1500)]
    assert dataset[7].tolist() == [7, 7]


def test_bad_samples_are_replaced_by_torchs_face_too_and_counted_in_its_state():
    seen = []
    for workers in (0, 2):
        ours = feedline.torch.DataLoader(
            Bad(20, {4, 9}, FileNotFoundError("gone")), 3, num_workers=workers, on_bad_sample="replace", max_bad_samples=3,
            sampler=feedline.torch.DistributedSampler(range(20), 1, 0),
        )  # fmt: skip
        seen.append([batch.tolist() for batch in ours])
        state = ours.state_dict()
        assert state["bad_samples"] == 2
        again = feedline.torch.DataLoader(
            Bad(20, {4, 9}, FileNotFoundError("gone")), 3, num_workers=workers, on_bad_sample="replace", max_bad_samples=3,
            sampler=feedline.torch.DistributedSampler(range(20), 1, 0),
        )  # fmt: skip
        again.load_state_dict(state)
        with pytest.raises(feedline.TooManyBadSamplesError, match="bad samples, more than the 3 allowed"):
            list(again)
    assert seen[0] == seen[1] and len(sum(seen[0], [])) == 20 and not {4, 9} & set(sum(seen[0], []))
    stream = torch.utils.data.ChainDataset([])
    for options in ({"dataset": stream}, {"dataset": Numbers(3), "seeds": "worker"}):
        with pytest.raises(feedline.ConfigError, match='on_bad_sample="replace" takes another sample by its seed'):
            feedline.torch.DataLoader(**options, on_bad_sample="replace")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("loader", [feedline.DataLoader, feedline.torch.DataLoader], ids=["feedline", "torch"])
def test_where_all_samples_are_bad_the_first_one_is_named_and_how_many_were_tried(loader, workers):
    bad = Bad(40, set(range(40)), ValueError("no picture"))
    with pytest.raises(feedline.TooManyBadSamplesError, match="sample 0 is bad, and so are the 16 samples that were tried .*no picture"):
        next(iter(loader(bad, 2, num_workers=workers, on_bad_sample="replace")))
    with pytest.raises(feedline.ConfigError, match="on_bad_sample='skip'"):
        loader(bad, on_bad_sample="skip")


def test_what_is_for_datasets_alone_is_refused_of_a_source():
    source = feedline.arrays(np.arange(4))
    assert type(feedline.torch.DataLoader(source, 2, False)) is feedline.DataLoader
    for argument in ({"seeds": "worker"}, {"collate": "list"}, {"collate_fn": list}, {"generator": torch.Generator()}):
        with pytest.raises(feedline.ConfigError, match="is for a Dataset. The samples of a Declared are made by feedline.DataLoader"):
            feedline.torch.DataLoader(source, **argument)


def test_a_sampler_leads_and_evaluation_is_exact():
    sampler = torch.utils.data.DistributedSampler(range(11), 2, 1, seed=3)
    for epoch in (0, 4):
        sampler.set_epoch(epoch)
        ours = feedline.DataLoader(Numbers(11), 2, sampler=sampler, num_workers=1)
        assert [value for batch in ours for value in batch[0].tolist()] == list(sampler)
    seen = []
    for rank in range(3):
        ours = feedline.DataLoader(Numbers(11), 2, tail="exact", num_workers=1, num_replicas=3, rank=rank)
        seen += [value for batch in ours for value in batch[0][: batch.valid].tolist()]
    assert sorted(seen) == list(range(11))
    assert "keeps up" in ours.stats()["verdict"] or "waited" in ours.stats()["verdict"]


def test_a_left_pass_gives_the_next_epoch_and_iterators_live_side_by_side(whole):
    ours = feedline.DataLoader(Draws(31), 4, True, seed=5, num_workers=1, **HERE)
    one = iter(ours)
    first = [next(one)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two = iter(ours)
        second = [next(two)]
        first += list(one)
        second += list(two)
    assert [flat(first), flat(second)] == whole


def test_no_process_outlives_a_program_that_ends_in_the_middle():
    code = """
import feedline
from torch_datasets import Numbers, children
batches = iter(feedline.DataLoader(Numbers(50), 2, num_workers=2, num_replicas=1, rank=0))
next(batches)
print(*children())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2 and eventually(lambda: not any(map(alive, pids)))


def test_a_dataset_without_numbers_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(feedline.ConfigError, match="a stream has none"):
        feedline.DataLoader(Stream())

    class NoLength(Dataset):
        def __getitem__(self, index):
            return index

    with pytest.raises(feedline.ConfigError, match="__len__"):
        feedline.DataLoader(NoLength())
