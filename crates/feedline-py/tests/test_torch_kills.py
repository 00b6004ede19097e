"""Workers of feedline.torch.DataLoader that are killed at random places: what is delivered afterwards is what would have been.

FEEDLINE_KILLS says how many places are tried, FEEDLINE_SEED which.
"""

import gc
import multiprocessing.resource_tracker
import os
import random
import re
import signal
import threading
import time

import feedline.torch
import pytest
import torch
from torch.utils.data import DistributedSampler, get_worker_info
from torch_datasets import Draws, alive, children, collect, draws, eventually, plain, shared_files

PLACES = int(os.environ.get("FEEDLINE_KILLS", "20"))
SEED = int(os.environ.get("FEEDLINE_SEED", "0"))
STAGES = ["starting", "worker_init_fn", "sample", "collate_fn", "packing", "any moment", "idle", "between passes"]
LENGTH, SIZE = 60, 3


class Doom:
    """Kills the worker that comes to this place first; a file is there until then."""

    def __init__(self, file, stage, number):
        self.file, self.stage, self.number = str(file), stage, number

    def strike(self, stage, numbers):
        if get_worker_info() is None or stage != self.stage or self.number not in numbers:
            return
        try:
            os.unlink(self.file)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Doomed(Draws):
    def __init__(self, length, doom):
        super().__init__(length)
        self.doom = doom

    def __getitem__(self, index):
        row = super().__getitem__(index)
        if self.doom.stage == "any moment":
            time.sleep(0.005 * (get_worker_info() is not None))
        self.doom.strike("sample", [index])
        return row


class Fuse(str):
    """A part of a batch; pickling it is the place."""

    def __reduce__(self):
        self.strike()
        return str, (str(self),)


class Joined:
    """A collate function. Its batches are written to shared memory in part, and in part too long for one piece of a message."""

    def __init__(self, doom, extra_bytes):
        self.doom, self.extra_bytes = doom, extra_bytes

    def __call__(self, batch):
        rows = torch.stack(batch)
        numbers = [int(row[0]) for row in batch]
        self.doom.strike("collate_fn", numbers)
        fuse = Fuse("fuse")
        fuse.strike = lambda: self.doom.strike("packing", numbers)
        return rows, draws(), bytes(numbers) * (self.extra_bytes // SIZE), rows.flip(0), fuse, rows * 2


class Init:
    def __init__(self, doom):
        self.doom = doom

    def __call__(self, worker):
        self.doom.strike("worker_init_fn", [worker])


def loader_of(doom, extra_bytes, **options):
    data = Doomed(LENGTH, doom)
    sampler = DistributedSampler(data, 1, 0, seed=5)
    return feedline.torch.DataLoader(
        data, SIZE, sampler=sampler, collate_fn=Joined(doom, extra_bytes), worker_init_fn=Init(doom), **options
    )


class Killer(threading.Thread):
    """Kills one of the processes that this one has begun since, after a time."""

    def __init__(self, before, delay_s, pick):
        super().__init__(daemon=True)
        self.before, self.delay_s, self.pick, self.victim = before, delay_s, pick, None

    def run(self):
        until_s = time.monotonic() + 20
        while not children() - self.before and time.monotonic() < until_s:
            time.sleep(0.0005)
        time.sleep(self.delay_s)
        # In between two passes there may be none for a while.
        while self.victim is None and time.monotonic() < until_s:
            self.strike(children() - self.before)

    def strike(self, pids):
        for pid in self.pick.sample(sorted(pids), len(pids)):
            try:
                os.kill(pid, signal.SIGKILL)
                self.victim = pid
                return
            except ProcessLookupError:
                continue


def resources():
    """What this process has; and the files of shared memory, which torch names by processes, of those that are gone."""
    files = [re.match(r"torch_(\d+)_", name) for name in os.listdir("/dev/shm")]
    orphans = {file[0] for file in files if file and not alive(int(file[1]))}
    return len(os.listdir("/proc/self/fd")), children(), shared_files(), orphans, threading.active_count()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(PLACES))
def test_a_worker_may_be_killed_anywhere_and_every_batch_is_delivered_once(number, tmp_path):
    pick = random.Random(f"{SEED}/{number}")
    stage = STAGES[number % len(STAGES)]
    # Each spawned worker imports torch, which takes seconds.
    method = "spawn" if number % 10 == 9 else "fork"
    persistent = stage == "between passes" or pick.random() < 0.5
    options = {"num_workers": pick.randint(1, 3) if method == "fork" else 2, "prefetch_factor": pick.choice([1, 2, 4])}
    options |= {"persistent_workers": persistent, "in_order": pick.random() < 0.5, "multiprocessing_context": method}
    extra_bytes = pick.choice([0, 300, 3_000_000]) // (1 if stage == "any moment" else 10)
    place = pick.randrange(options["num_workers"] if stage == "worker_init_fn" else LENGTH)
    doom = Doom(tmp_path / "doom", stage, place)
    (tmp_path / "doom").touch()
    told = {"stage": stage, "place": place, "extra_bytes": extra_bytes} | options

    undisturbed = loader_of(doom, extra_bytes)
    multiprocessing.resource_tracker.ensure_running()
    gc.collect()
    before = resources()
    loader = loader_of(doom, extra_bytes, **options)
    killer = Killer(before[1], 0, pick)
    if stage == "starting":
        killer.delay_s = pick.uniform(0, 0.05 if method == "fork" else 4)
        killer.start()
    kills = 0
    for epoch in range(2):
        loader.set_epoch(epoch)
        undisturbed.set_epoch(epoch)
        batches = iter(loader)
        seen, errors = [], []
        if stage == "any moment" and epoch == 0:
            seen.append(next(batches))
            killer.delay_s = pick.uniform(0, 0.1)
            killer.start()
        if stage == "idle" and epoch == 0:
            seen = [next(batches) for _ in range(pick.randint(0, 15))]
            time.sleep(pick.uniform(0.02, 0.2))  # what is to be made ahead is made
            killer.strike(children() - before[1])
        while len(errors) < 5:
            more, failed = collect(batches, errors=1)
            seen += more
            if not failed:
                break
            errors.append(str(failed.pop()))  # the error itself has the pass in its traceback
        kills += len(errors)
        assert all("is killed by signal: Killed" in error for error in errors), (told, errors)
        expected = [plain(batch) for batch in undisturbed]
        found = [plain(batch) for batch in seen]
        if not options["in_order"]:
            expected, found = sorted(expected), sorted(found)
        assert found == expected, told
        if stage == "between passes" and epoch == 0:
            killer.strike(children() - before[1])
    if killer.ident is not None:
        killer.join()
    struck = killer.victim is not None or not (tmp_path / "doom").exists()
    assert struck and kills <= 1, (told, kills)
    # Who dies once it has nothing to do any more may go unnoticed.
    assert kills == 1 or stage in ("starting", "any moment", "idle"), told
    del batches, loader, seen, more
    gc.collect()
    assert eventually(lambda: resources() == before), (told, resources(), before)
