"""The workers of feedline.torch.DataLoader: what they know, how they die, and that nothing of them is left."""

import copy
import gc
import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset, get_worker_info
from torch_datasets import (
    BOTH,
    LOADERS,
    WORKERS,
    Cached,
    Draws,
    Gated,
    Init,
    Items,
    Known,
    Logged,
    Mapped,
    Mortal,
    MortalInit,
    Nested,
    Numbers,
    Places,
    Settings,
    Shards,
    alive,
    children,
    collect,
    eventually,
    generators,
    gone,
    mark,
    numbers_of,
    one_core,
    plain,
    seed_everything,
    shared_files,
    with_draws,
    with_pid,
    workers_of,
)

OURS = feedline.torch.DataLoader
TESTS = str(Path(__file__).parent)


# --- What a worker knows


@BOTH
def test_a_worker_knows_itself_and_its_copy_of_the_data_set(kind):
    data = Known(8)
    torch.manual_seed(2)
    base_seed = torch.empty((), dtype=torch.int64).random_().item()
    torch.manual_seed(2)
    loader = kind(data, batch_size=2, num_workers=2, worker_init_fn=mark)
    for ids, counts, seeds, marks, pids in loader:
        assert ids.unique().numel() == 1 and counts.tolist() == [2, 2] and os.getpid() not in pids.tolist()
        assert marks.tolist() == [70 + int(ids[0])] * 2 and seeds.tolist() == [base_seed + int(ids[0])] * 2
        assert get_worker_info() is None
    assert not hasattr(data, "mark"), "the data set of the program is not changed"


@BOTH
def test_a_worker_has_one_thread_and_keeps_what_its_init_fn_sets(kind):
    for batch in kind(Settings(6), num_workers=2, worker_init_fn=one_core):
        assert plain(batch)[:2] == [[1], [1]]


@BOTH
@WORKERS
def test_a_data_set_may_use_a_loader_of_its_own(kind, workers):
    data = Nested(6)
    data.kind = kind
    assert numbers_of(kind(data, batch_size=3, num_workers=workers)) == [0, 0, 1, 3, 6, 10]


@BOTH
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_are_begun_anew_for_each_pass_or_stay(kind, persistent, tmp_path):
    loader = kind(Places(8), 2, num_workers=2, persistent_workers=persistent, worker_init_fn=Init(tmp_path / "begun"))
    passes = [workers_of(loader) for _ in range(3)]
    assert all(len(pids) == 2 for pids in passes)
    begun = (tmp_path / "begun").read_text().split()
    assert sorted(begun) == ["0"] * (len(begun) // 2) + ["1"] * (len(begun) // 2)
    assert len(begun) == (2 if persistent else 6)
    if persistent:
        assert passes[0] == passes[1] == passes[2] and all(map(alive, passes[0]))
        del loader
        gc.collect()
    else:
        assert not passes[0] & passes[1]
    assert gone(set.union(*passes))


@BOTH
def test_a_persistent_worker_keeps_what_its_data_set_has_cached(kind):
    data = Cached(5)
    loader = kind(data, num_workers=1, persistent_workers=True)
    assert [int(count) for _ in range(2) for _, count in loader] == list(range(1, 11)) and data.count == 0


@BOTH
@pytest.mark.parametrize("data", [Numbers(40), Shards(20, 20)], ids=["map", "iterable"])
def test_a_pass_of_persistent_workers_that_was_left_early_leaves_nothing_to_the_next(kind, data):
    loader = kind(data, batch_size=4, num_workers=2, persistent_workers=True)
    for taken in (1, 3, 0):
        for _ in zip(range(taken), loader):
            pass
        seen = sorted(numbers_of(loader))
        assert seen == (list(range(40)) if isinstance(data, Numbers) else [*range(20), *range(1000, 1020)])


@BOTH
def test_an_error_in_a_worker_init_fn_is_told(kind):
    with pytest.raises(ZeroDivisionError, match="Caught ZeroDivisionError in DataLoader worker process") as told:
        next(iter(kind(Numbers(4), num_workers=2, worker_init_fn=lambda worker: worker // 0)))
    assert "<lambda>" in str(told.value)


@BOTH
@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_made_ahead_than_prefetch_factor_says(kind, prefetch, tmp_path):
    data = Logged(60, tmp_path / "made")
    batches = iter(kind(data, batch_size=3, num_workers=2, prefetch_factor=prefetch))
    for taken in range(5):
        if taken:
            next(batches)
        most = 3 * (taken + 2 * prefetch)
        eventually(lambda: len(data.made()) >= most, within_s=0.5)
        assert 3 * taken < len(data.made()) <= most


def test_start_methods_give_the_same_batches_and_draws():
    def passes(context, workers):
        seed_everything(4)
        options = {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": context}
        loader = OURS(Draws(12), 3, True, collate_fn=with_draws, **options)
        return [(plain(list(loader)), generators()) for _ in range(2)]

    expected = passes("fork", 2)
    # One worker each: every one of them imports torch.
    assert passes("spawn", 1) == expected
    assert passes(multiprocessing.get_context("forkserver"), 1) == expected


class Started(Dataset):
    """Whether the process that started the worker has loaded torch, and whether the collector leaves alone what it began with."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return "libtorch" in Path(f"/proc/{os.getppid()}/maps").read_text(), gc.get_freeze_count() > 10_000


def test_workers_keep_what_they_share_with_the_process_that_forked_them():
    forkserver._forkserver._stop()  # a server that torch's loader has started stays as it is
    for context in ["fork", "forkserver"]:
        loader = OURS(Started(), num_workers=1, batch_size=None, multiprocessing_context=context)
        assert list(loader) == [[True, True]] * 2


@BOTH
@pytest.mark.filterwarnings("ignore")
def test_what_a_spawned_worker_cannot_be_given_is_an_error_at_once(kind):
    before = children()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        next(iter(kind(Numbers(4), num_workers=2, multiprocessing_context="spawn", collate_fn=lambda batch: batch)))
    assert eventually(lambda: len(children() - before) <= 1), "at most the resource tracker of multiprocessing"


# --- Samples that take long


@BOTH
def test_a_batch_that_takes_too_long_is_a_timeout_and_comes_when_it_is_asked_again(kind, tmp_path):
    gate = tmp_path / "gate"
    batches = iter(kind(Gated(8, 3, gate), batch_size=2, num_workers=2, timeout=0.5))
    assert next(batches)[:, 0].tolist() == [0, 1]
    for _ in range(2):
        began_s = time.monotonic()
        with pytest.raises(RuntimeError, match="^DataLoader timed out after 0.5 seconds") as late:
            next(batches)
        assert 0.4 < time.monotonic() - began_s < 5
    if kind is OURS:
        assert isinstance(late.value, feedline.LoaderTimeoutError) and re.search(r"\b3\b", str(late.value))
    gate.touch()
    assert [index for batch in batches for index in batch[:, 0].tolist()] == [2, 3, 4, 5, 6, 7]


@BOTH
def test_the_time_in_which_a_program_does_not_ask_is_not_counted(kind):
    batches = iter(kind(Numbers(8), batch_size=2, num_workers=2, timeout=3))
    next(batches)
    time.sleep(3.2)
    assert numbers_of(batches) == [2, 3, 4, 5, 6, 7]


@BOTH
def test_ctrl_c_ends_a_wait_and_the_pass_goes_on(kind, tmp_path):
    gate = tmp_path / "gate"
    batches = iter(kind(Gated(8, 2, gate), batch_size=2, num_workers=2))
    assert next(batches)[:, 0].tolist() == [0, 1]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    finally:
        signal.signal(signal.SIGINT, handler)
    gate.touch()
    assert [index for batch in batches for index in batch[:, 0].tolist()] == [2, 3, 4, 5, 6, 7]


# --- Workers that die


HOWS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, 3, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [signal.SIGKILL, 3], ids=["signal", "exit"])
def test_a_worker_that_dies_is_an_error_and_not_a_hang(how, tmp_path):
    """Under torch it may be an EOFError as well, from the message that was cut short."""
    with pytest.raises(RuntimeError, match=r"(?s)worker.*pid"):
        list(OURS(Mortal(12, 5, tmp_path, how), batch_size=2, num_workers=2))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("how", HOWS, ids=lambda how: str(getattr(how, "name", how)))
def test_the_sample_that_killed_a_worker_is_named_and_asking_again_delivers_it(how, persistent, tmp_path):
    loader = OURS(Mortal(5012, 5005, tmp_path, how), 2, sampler=range(5000, 5012), num_workers=2, persistent_workers=persistent)
    for turn in range(2):
        seen, told = collect(iter(loader))
        assert numbers_of(seen) == list(range(5000, 5012)) and len(told) == (turn == 0)
        for error in map(str, told):
            assert re.search(r"pid\D{0,5}\d+", error) and re.search(r"\b5005\b", error), error
            name = how.name if isinstance(how, signal.Signals) else f"{how}"
            assert name in error or signal.strsignal(how) in error, error
            assert "memory" in error or how is not signal.SIGKILL, "what usually kills so, and the remedy"


def test_a_sample_that_kills_every_worker_is_an_error_each_time_it_is_asked_for(tmp_path):
    batches = iter(OURS(Mortal(8, 3, tmp_path, times=99), batch_size=2, num_workers=2))
    assert numbers_of([next(batches)]) == [0, 1]
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"\b3\b"):
            next(batches)
    del batches
    gc.collect()


@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
def test_a_worker_that_dies_while_it_begins_is_an_error_and_not_a_hang(times, tmp_path):
    loader = OURS(Numbers(8), 2, num_workers=2, worker_init_fn=MortalInit(tmp_path, times))
    seen, told = collect(iter(loader), errors=3)
    assert told and "7" in str(told[0]), "its exit code"
    assert numbers_of(seen) == list(range(8)) or (times == 99 and len(told) == 3)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_killed_from_outside_lose_no_sample(persistent):
    loader = OURS(Places(60), batch_size=2, num_workers=2, persistent_workers=persistent)
    for victims in (1, 2):
        batches = iter(loader)
        head = [next(batches) for _ in range(4)]
        for pid in sorted(filter(alive, workers_of(head)))[:victims]:
            os.kill(pid, signal.SIGKILL)
        rest, told = collect(batches)
        assert [int(row[0]) for batch in head + rest for row in batch] == list(range(60)) and len(told) <= victims
    if persistent:
        for pid in filter(alive, workers_of(rest)):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        seen, told = collect(iter(loader))
        assert [int(row[0]) for batch in seen for row in batch] == list(range(60)) and len(told) <= 2


def test_a_killed_worker_of_an_iterable_data_set_is_never_passed_over():
    data = Shards(30, 30)
    batches = iter(OURS(data, batch_size=2, num_workers=2, collate_fn=with_pid))
    head = [next(batches) for _ in range(3)]
    os.kill(head[0][1], signal.SIGKILL)
    rest, told = collect(batches, errors=3)
    items = sorted(int(item) for batch, _ in head + rest for item in batch)
    assert items == [*range(30), *range(1000, 1030)] or len(told) == 3, "all items, or an error as often as it is asked"


@BOTH
def test_memory_that_a_sample_does_not_get_is_a_memoryerror(kind):
    with pytest.raises(MemoryError, match="Caught MemoryError in DataLoader worker process 0"):
        next(iter(kind(Items([0]), num_workers=1, collate_fn=lambda batch: bytearray(2**60))))


@BOTH
def test_other_child_processes_stay_the_programs_own(kind):
    """Nobody but the program may wait for them: it would not learn how they ended."""
    handled = []
    handler = signal.signal(signal.SIGCHLD, lambda *_: handled.append(1))
    try:
        batches = iter(kind(Numbers(40), batch_size=2, num_workers=2))
        next(batches)
        process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(9)"])
        time.sleep(0.3)
        assert len(list(batches)) == 19
        assert process.wait(10) == 9
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert kind is not OURS or handled, "the program's handler is not replaced"


# --- Nothing is left


def resources():
    return len(os.listdir("/proc/self/fd")), children(), threading.active_count()


class Holder:
    pass


def leave(kind, how, **options):
    """Begins a pass, and ends it in this way; returns the workers."""
    loader = kind(Places(40), batch_size=2, num_workers=2, **options)
    batches = iter(loader)
    pids = workers_of([next(batches) for _ in range(4)])
    if how == "exhausted":
        list(batches)
    elif how == "again":
        return pids | workers_of(loader)
    elif how == "cycle":
        holder = Holder()
        holder.me, holder.loader, holder.batches = holder, loader, batches
    elif how == "loader-first":
        del loader
        assert len(list(batches)) == 16
    elif how == "error":
        try:
            raise ValueError(batches)
        except ValueError:
            pass
    return pids


IDS = ["torch", "feedline", "feedline-persistent"]


@pytest.mark.parametrize("kind, persistent", [(LOADERS[0], False), (OURS, False), (OURS, True)], ids=IDS)
def test_however_a_pass_is_left_no_process_file_or_thread_stays(kind, persistent):
    leave(kind, "exhausted")
    gc.collect()
    eventually(lambda: threading.active_count() == 1)
    before = resources()
    # torch's loader waits for seconds in some of these.
    for how in ("exhausted", "dropped", "again", "cycle", "loader-first", "error")[: None if kind is OURS else 2]:
        pids = leave(kind, how, persistent_workers=persistent)
        gc.collect()
        assert gone(pids), how
        assert eventually(lambda: resources() == before), (how, resources(), before)


@BOTH
@pytest.mark.parametrize("persistent", [False, True])
def test_a_process_forked_meanwhile_does_not_hold_up_the_end_of_a_pass(kind, persistent):
    """It has a copy of every file descriptor, so that a worker does not see the last one closed."""
    loader = kind(Places(40), batch_size=2, num_workers=2, persistent_workers=persistent)
    batches = iter(loader)
    pids = workers_of([next(batches) for _ in range(4)])
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        began_s = time.monotonic()
        del batches, loader
        gc.collect()
        assert gone(pids) and time.monotonic() - began_s < 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_hung_sample_does_not_hold_up_the_end_of_a_pass(tmp_path):
    """The worker is asked to end, then ended."""
    batches = iter(OURS(Gated(8, 3, tmp_path / "never"), batch_size=2, num_workers=2))
    pids = {int(row[1]) for row in next(batches)}
    began_s = time.monotonic()
    del batches
    gc.collect()
    assert gone(pids) and time.monotonic() - began_s < 15


@BOTH
def test_many_indices_do_not_hold_up_the_end_of_a_pass(kind):
    batches = iter(kind(Items(range(10_000_000)), batch_size=40_000, num_workers=1))
    next(batches)
    began_s = time.monotonic()
    del batches
    gc.collect()
    assert time.monotonic() - began_s < 8


def test_batches_take_no_file_of_dev_shm_and_no_file_descriptor_each():
    """torch has a file descriptor open for each tensor that a program keeps."""
    before, files = shared_files(), len(os.listdir("/proc/self/fd"))
    kept = []
    for batch in OURS(Mapped(600), batch_size=2, num_workers=2):
        kept.append(batch)
        assert batch[1].tolist() == [len(before)] * 2, "in a worker"
    assert shared_files() == before and len(os.listdir("/proc/self/fd")) < files + 20
    assert [int(batch[0][1, 999]) for batch in kept] == list(range(1, 600, 2))


# --- Memory


def rows(length=4000, width=64, **options):
    data = torch.arange(length * width, dtype=torch.float32).reshape(length, width)
    return data, OURS(TensorDataset(data), **{"batch_size": 4, "num_workers": 2} | options)


def test_the_memory_of_dropped_batches_is_used_again_and_that_of_kept_ones_is_not():
    data, loader = rows()
    batches = iter(loader)
    kept = [next(batches)[0] for _ in range(3)]
    parts = [kept[0][1:3], kept[1].view(-1).numpy()[5:9], memoryview(kept[2].numpy())]
    kept_addresses = {tensor.data_ptr() for tensor in kept}
    del kept
    addresses = [next(batches)[0].data_ptr() for _ in range(900)]
    assert len(set(addresses)) < 100 and not kept_addresses & set(addresses)
    del batches, loader
    gc.collect()
    assert torch.equal(parts[0], data[1:3]) and parts[1].tolist() == data.view(-1)[256 + 5 : 256 + 9].tolist()
    assert np.array_equal(np.asarray(parts[2]), data[8:12].numpy())


def test_a_program_that_keeps_every_batch_gets_every_batch_and_they_outlive_the_loader():
    data, loader = rows()
    kept = [batch[0] for batch in loader]
    del loader
    gc.collect()
    assert torch.equal(torch.cat(kept), data) and len({tensor.data_ptr() for tensor in kept}) == 1000


def test_memory_stays_flat_over_many_large_batches():
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def large(batch):
        return torch.full((1_000_000,), float(batch[0]))

    batches = iter(OURS(Numbers(150), num_workers=2, collate_fn=large))
    next(batches)
    before = resident_bytes()
    for number, batch in enumerate(batches, 1):
        assert batch[0] == batch[-1] == number
    assert resident_bytes() - before < 100e6, "149 batches of 4 MB each"


@BOTH
def test_a_batch_can_be_pickled_copied_saved_and_sent_to_other_processes(kind):
    expected = [torch.arange(4.0), {"a": torch.tensor([1, 2])}]
    batches = iter(kind(Items([expected] * 8), batch_size=None, num_workers=2))
    saved = io.BytesIO()
    batch = next(batches)
    torch.save(batch, saved)
    saved.seek(0)
    copies = [pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), torch.load(saved)]
    queue = torch.multiprocessing.get_context("fork").SimpleQueue()
    queue.put(batch)
    copies.append(queue.get())
    batch[0].share_memory_()
    list(batches)
    for one in [*copies, batch]:
        assert torch.equal(one[0], expected[0]) and torch.equal(one[1]["a"], expected[1]["a"])
    copies[1][0].zero_()
    assert torch.equal(batch[0], expected[0])


@BOTH
def test_batches_of_one_loader_may_be_the_data_of_another(kind):
    data = [batch for batch in kind(TensorDataset(torch.arange(600.0).reshape(60, 10)), batch_size=3, num_workers=2)]
    again = [batch[0] for batch in kind(Items(data), batch_size=None, num_workers=2)]
    assert torch.equal(torch.cat(again), torch.arange(600.0).reshape(60, 10))


def test_what_a_forked_process_drops_is_not_dropped_here():
    """A pass of torch's loader that a forked process drops tells the workers to end, and then waits for them for ever."""
    batches = iter(OURS(TensorDataset(torch.arange(4000)), batch_size=4, num_workers=2))
    kept = [next(batches)[0] for _ in range(5)]
    child = os.fork()
    if child == 0:
        kept.clear()
        del batches
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert sum(len(batch[0]) for batch in batches) == 4000 - 20
    assert torch.cat(kept).tolist() == list(range(20))


@BOTH
def test_a_worker_that_collects_the_garbage_of_its_parent_harms_nobody(kind):
    """A forked worker has a copy of every iterator there is, also of those that only a cycle holds."""

    def collecting(batch):
        gc.collect()
        return batch

    gc.disable()
    try:
        holder = Holder()
        holder.me, holder.batches = holder, iter(kind(Places(400), batch_size=2, num_workers=2))
        pids = workers_of([next(holder.batches) for _ in range(4)])
        other, batches = iter(kind(Numbers(40), 2, num_workers=2, collate_fn=collecting)), holder.batches
        del holder
        assert len(list(other)) == 20 and len(list(batches)) == 196
    finally:
        gc.enable()
    del batches, other
    gc.collect()
    assert gone(pids)


# --- Threads, forks and ends


@BOTH
@WORKERS
def test_a_loader_may_be_used_in_a_thread(kind, workers):
    seen = {}

    def work(place):
        seen[place] = numbers_of(kind(Numbers(60), batch_size=4, num_workers=workers))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {place: list(range(60)) for place in range(3)}


ENDS = """
import gc, json, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from torch_datasets import LOADERS, Gated, Numbers, Places, gone, workers_of
kind, ends, results = LOADERS[int(sys.argv[2])], json.loads(sys.argv[3]), {}

def begin(data=None, **options):
    loader = kind(Places(200) if data is None else data, batch_size=2, num_workers=2, **options)
    batches = iter(loader)
    pids = {int(row[-1]) for _ in range(4) for row in next(batches)}
    with open(f"{name}.pids", "w") as file:
        file.write(json.dumps(list(pids)))
    return loader, batches

running = {}
for name, code in ends.items():
    running[name] = os.fork()
    if running[name] == 0:
        os.setsid()
        for stream, word in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{word}", os.O_CREAT | os.O_WRONLY), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec(code)
        sys.exit()
until_s = time.monotonic() + 60
for name, child in running.items():
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until_s:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    results[name] = ["does not end" if ended == (0, 0) else os.waitstatus_to_exitcode(ended[1])]
for name, said in results.items():
    said.append(not gone(json.loads(open(f"{name}.pids").read()), 12))
    said += [open(f"{name}.{word}").read() for word in ("out", "err")]
print(json.dumps(results))
"""
HANG = "loader, batches = begin(Gated(200, 13, 'never'))\n"
# What a program does, its exit code, the end of what it says, and how often an error is shown.
END = {
    "falls-off-the-end": ("kept = begin()", 0, "", 0),
    "exits": ("kept = begin()\nsys.exit(3)", 3, "", 0),
    "raises": ("loader, batches = begin()\nfor batch in batches:\n    raise ValueError('in the loop')", 1, "in the loop\n", 1),
    "has-finished": ("kept = begin()\nlist(kept[1])\nlist(kept[0])", 0, "", 0),
    "is-persistent": ("kept = begin(persistent_workers=True)\nlist(kept[1])", 0, "", 0),
    "is-persistent-midway": ("kept = begin(persistent_workers=True)", 0, "", 0),
    "has-a-cycle": ("gc.disable()\nkept = list(begin())\nkept.append(kept)\ndel kept", 0, "", 0),
    "exits-at-once": ("kept = begin()\nos._exit(4)", 4, "", 0),
    "is-killed": ("kept = begin()\nos.kill(os.getpid(), signal.SIGKILL)", -9, "", 0),
    "is-killed-while-a-fork-lives-on": (
        "kept = begin()\nif os.fork() == 0:\n    time.sleep(14)\n    os._exit(0)\nos.kill(os.getpid(), signal.SIGKILL)",
        -9,
        "",
        0,
    ),
    "is-terminated": ("kept = begin()\nos.kill(os.getpid(), signal.SIGTERM)", -15, "", 0),
    "has-a-hung-sample": (HANG, 0, "", 0),
    "is-interrupted": (
        HANG + "threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()\nlist(batches)",
        -2,
        "KeyboardInterrupt\n",
        1,
    ),
    "is-interrupted-with-its-workers": (
        HANG + "threading.Timer(0.2, os.killpg, [0, signal.SIGINT]).start()\nlist(batches)",
        -2,
        "KeyboardInterrupt\n",
        1,
    ),
}
# Where torch's loader does not end, loses its workers to the exit of a forked process, or shows an error now and then.
OURS_ALONE = {
    "iterates-in-a-thread": (
        "loader, batches = begin()\nthreading.Thread(target=lambda: [time.sleep(0.05) for _ in batches], daemon=True).start()",
        0,
        "",
        0,
    ),
    "forks": (
        "loader, batches = begin()\nchild = os.fork()\nif child == 0:\n    sys.exit(5)\n"
        "print(os.waitpid(child, 0)[1] >> 8, sum(len(batch) for batch in batches), flush=True)",
        0,
        "5 192\n",
        0,
    ),
    "forks-and-loads-there": (
        "loader, batches = begin()\nchild = os.fork()\nif child == 0:\n"
        "    sys.exit(len(list(loader)) + len(list(kind(Numbers(6), num_workers=1))))\n"
        "print(os.waitpid(child, 0)[1] >> 8, sum(len(batch) for batch in batches), flush=True)",
        0,
        "106 192\n",
        0,
    ),
    "has-a-deaf-sample": (
        "class Deaf(Gated):\n    def __getitem__(self, index):\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        return super().__getitem__(index)\n"
        "loader, batches = begin(Deaf(200, 13, 'never'))",
        0,
        "",
        0,
    ),
    "uses-the-pass-in-a-fork": (
        "loader, batches = begin()\nchild = os.fork()\nif child == 0:\n    try:\n        next(batches)\n"
        "    except RuntimeError as error:\n        print('fork' in str(error), flush=True)\n    os._exit(0)\n"
        "os.waitpid(child, 0)\nprint(sum(len(batch) for batch in batches), flush=True)",
        0,
        "True\n192\n",
        0,
    ),
}


@pytest.fixture(scope="module", params=[0, 1], ids=["torch", "feedline"])
def ended(request, tmp_path_factory):
    """How each of the programs ended. They are forks of one interpreter, so that torch is imported once."""
    ends = {name: code for name, (code, *_) in (END | (OURS_ALONE if request.param else {})).items()}
    command = [sys.executable, "-W", "ignore", "-c", ENDS, TESTS, str(request.param), json.dumps(ends)]
    process = subprocess.run(command, cwd=tmp_path_factory.mktemp("ends"), capture_output=True, text=True, timeout=150)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("name", END | OURS_ALONE)
def test_a_program_ends_and_takes_its_workers_along_when_it(name, ended):
    if name in OURS_ALONE and name not in ended:
        return
    _, code, says, errors = (END | OURS_ALONE)[name]
    said = ended[name]
    assert said[:2] == [code, False], said
    assert (said[2] + said[3]).endswith(says) and (bool(says) or said[2:] == ["", ""]), said
    assert said[3].count("Traceback") == errors, said[3]
