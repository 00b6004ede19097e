"""Data sets, samplers and functions for the tests of feedline.torch.DataLoader. They stand in a module, since workers that are
spawned import what they are given; the tests of torch's loader and of ours share them."""

import collections
import hashlib
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path

import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, DistributedSampler, IterableDataset, RandomSampler, Sampler, get_worker_info

LOADERS = [torch.utils.data.DataLoader, feedline.torch.DataLoader]
BOTH = pytest.mark.parametrize("kind", LOADERS, ids=["torch", "feedline"])
WORKERS = pytest.mark.parametrize("workers", [0, 2])

Point = collections.namedtuple("Point", ["x", "label"])


class Row(dict):
    """A mapping of one's own."""


class Names(list):
    """A sequence of one's own."""


class Measured(torch.Tensor):
    """A tensor class of one's own."""


class Numbers(Dataset):
    """The sample is its index."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Items(Dataset):
    """Given samples."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Shared(Numbers):
    """As people write them: one file for all samples, open since before the workers, and the sample under way in `self`."""

    def __init__(self, path, length):
        super().__init__(length)
        path.write_bytes(np.arange(length, dtype="<i8").tobytes())
        self.file = open(path, "rb")

    def __getitem__(self, index):
        self.now = index
        self.file.seek(8 * index)
        time.sleep(0.0002)  # lets others run, as reading from a disk does
        value = int.from_bytes(self.file.read(8), "little")
        return np.array([value, self.now])


def draws():
    """A draw from each of the three global generators."""
    return torch.rand((), dtype=torch.float64).item(), np.random.random(), random.random()


class Draws(Numbers):
    """Each sample is its index and a draw from each of the three global generators."""

    def __getitem__(self, index):
        return torch.tensor([index, *draws()], dtype=torch.float64)


class Batched(Numbers):
    """Makes a whole batch at once."""

    def __getitems__(self, indices):
        return [-index for index in indices]


class Places(Numbers):
    """Each sample is its index, the worker that made it (-1: none) and that worker's process."""

    def __getitem__(self, index):
        info = get_worker_info()
        return torch.tensor([index, -1 if info is None else info.id, os.getpid()])


class Known(Numbers):
    """What a worker is told; `mark` is set by its worker_init_fn alone."""

    def __getitem__(self, index):
        info = get_worker_info()
        assert info.dataset is self
        return [info.id, info.num_workers, info.seed, self.mark, os.getpid()]


def mark(worker):
    info = get_worker_info()
    assert (info.id, info.seed) == (worker, torch.initial_seed())
    assert all(f"{name}=" in repr(info) for name in ("id", "num_workers", "seed", "dataset"))
    for name in ("id", "other"):
        try:
            setattr(info, name, 3)
        except (AttributeError, RuntimeError, TypeError):
            continue
        raise AssertionError("the information can be changed")
    info.dataset.mark = 70 + worker


class Settings(Numbers):
    def __getitem__(self, index):
        return [torch.get_num_threads(), len(os.sched_getaffinity(0)), int(multiprocessing.current_process().daemon)]


def one_core(_):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


class Nested(Numbers):
    def __getitem__(self, index):
        return sum(int(batch.sum()) for batch in self.kind(Numbers(index), 2))


class Init:
    """A worker_init_fn that writes which workers it began."""

    def __init__(self, file):
        self.file = str(file)

    def __call__(self, worker):
        with open(self.file, "a", encoding="ascii") as file:
            file.write(f"{worker} ")


class Cached(Numbers):
    """Counts what this copy of it has made."""

    count = 0

    def __getitem__(self, index):
        self.count += 1
        return index, self.count


class Mapped(Numbers):
    def __getitem__(self, index):
        return torch.full((1000,), index), len(shared_files())


class Failing(Numbers):
    """Some samples are exceptions."""

    def __init__(self, length, errors):
        super().__init__(length)
        self.errors = errors

    def __getitem__(self, index):
        if index in self.errors:
            raise self.errors[index]
        return index


class TwoArguments(Exception):
    def __init__(self, what, where):
        super().__init__(what, where)


class HasMessage(Exception):
    message = "a class attribute"

    def __init__(self, message):
        super().__init__(message)


class Logged(Numbers):
    """Writes the index of each sample that is made into a file, which other processes may read."""

    def __init__(self, length, file):
        super().__init__(length)
        self.file = str(file)

    def __getitem__(self, index):
        with open(self.file, "a", encoding="ascii") as file:
            file.write(f"{index}\n")
        return index

    def made(self):
        return [int(line) for line in Path(self.file).read_text("ascii").split()] if Path(self.file).exists() else []


class Gated(Numbers):
    """One sample waits until a file is there."""

    def __init__(self, length, index, gate):
        super().__init__(length)
        self.index, self.gate = index, str(gate)

    def __getitem__(self, index):
        while index == self.index and not os.path.exists(self.gate):
            time.sleep(0.005)
        return torch.tensor([index, os.getpid()])


class Mortal(Numbers):
    """Making one sample ends the worker, `times` times; `how` is a signal, or the exit code of a process that ends itself."""

    def __init__(self, length, index, folder, how=signal.SIGKILL, times=1):
        super().__init__(length)
        self.index, self.folder, self.how, self.times = index, Path(folder), how, times

    def __getitem__(self, index):
        if index == self.index and (deaths := len(list(self.folder.glob("death*")))) < self.times:
            (self.folder / f"death{deaths}").touch()
            end(self.how)
        return index


def end(how):
    if isinstance(how, signal.Signals):
        os.kill(os.getpid(), how)
        time.sleep(60)
    os._exit(how)


class MortalInit:
    """A worker_init_fn that ends worker 1, the first `times` times."""

    def __init__(self, folder, times=1):
        self.folder, self.times = Path(folder), times

    def __call__(self, worker):
        if worker == 1 and (deaths := len(list(self.folder.glob("death*")))) < self.times:
            (self.folder / f"death{deaths}").touch()
            os._exit(7)


class Shards(IterableDataset):
    """Worker i has sizes[i] items: 1000 i, 1000 i + 1, ... Without workers they come one after the other."""

    def __init__(self, *sizes, draws=False, broken=None):
        self.sizes, self.draws, self.broken = sizes, draws, broken

    def __iter__(self):
        info = get_worker_info()
        for place in range(len(self.sizes)) if info is None else [info.id]:
            for item in range(self.sizes[place]):
                if (place, item) == self.broken:
                    raise ValueError(f"item {item} of shard {place} is broken")
                yield torch.tensor([1000 * place + item] + [torch.rand(()) for _ in range(self.draws)])


class GatedShards(Shards):
    """Worker 0 waits until a file is there."""

    def __init__(self, gate, *sizes):
        super().__init__(*sizes)
        self.gate = str(gate)

    def __iter__(self):
        while get_worker_info().id == 0 and not os.path.exists(self.gate):
            time.sleep(0.005)
        yield from super().__iter__()


class Sized(Shards):
    def __init__(self, length, *sizes):
        super().__init__(*sizes)
        self.length = length

    def __len__(self):
        return self.length


class Unready(IterableDataset):
    def __iter__(self):
        raise ValueError("there is nothing to iterate")


class Remembering(Shards):
    """Shards that know where they are. The state counts all that was made, also what was not delivered."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.at, self.resumes, self.made = 0, False, 0

    def __iter__(self):
        if not self.resumes:
            self.at = 0
        self.resumes = False
        items = list(super().__iter__())
        while self.at < len(items):
            self.at += 1
            self.made += 1
            yield items[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": torch.tensor(self.at)}

    def load_state_dict(self, state):
        self.at = int(state["at"])
        self.resumes = self.at > 0


class Eager(Sampler):
    """Draws from the global generator when its iterator is made."""

    def __init__(self, data_source):
        self.data_source = data_source
        self.passes = 0

    def __len__(self):
        return len(self.data_source)

    def __iter__(self):
        self.passes += 1
        return iter(torch.randperm(len(self)).tolist())


class Lazy(Eager):
    """Draws from the global generator for every index."""

    def __iter__(self):
        self.passes += 1
        for _ in range(len(self)):
            yield int(torch.randint(len(self), ()))


class Pairs(Eager):
    """A batch sampler that draws from the global generator for every batch."""

    def __len__(self):
        return len(self.data_source) // 2

    def __iter__(self):
        for _ in range(len(self)):
            yield torch.randint(len(self.data_source), (2,)).tolist()


class Reversed(RandomSampler):
    """A subclass of one of torch's samplers, with an order of its own."""

    def __iter__(self):
        return reversed(range(len(self.data_source)))


class Dealt(DistributedSampler):
    """A distributed sampler of one's own: which rank gets what is its affair. Its order does not depend on its seed."""

    def __iter__(self):
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter((order + order)[self.rank : self.total_size : self.num_replicas])


class Rotated(Sampler):
    """Begins at another place in each epoch."""

    def __init__(self, length):
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        return ((index + 3 * self.epoch) % self.length for index in range(self.length))


class Stateful(Rotated):
    """Knows its own place, as samplers of other libraries do. Its iterator runs ahead of what is delivered."""

    def __init__(self, length):
        super().__init__(length)
        self.at = self.asked = 0
        self.resumes = False

    def __iter__(self):
        if not self.resumes:
            self.at = 0
        self.resumes = False
        while self.at < self.length:
            self.at += 1
            self.asked += 1
            yield (self.at - 1 + 3 * self.epoch) % self.length
        self.at, self.epoch = 0, self.epoch + 1

    def state_dict(self):
        return {"at": self.at, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.at, self.epoch = state["at"], state["epoch"]
        self.resumes = self.at > 0


def as_list(batch):
    return batch


def with_draws(batch):
    """The batch, and a draw of the collate function itself from each generator."""
    return torch.utils.data.default_collate(batch), torch.tensor(draws(), dtype=torch.float64)


def with_worker(batch):
    info = get_worker_info()
    return batch, -1 if info is None else info.id


def with_pid(batch):
    return torch.cat(batch), os.getpid()


def one_and_its_views(batch):
    base = torch.arange(6)
    return base, base, base[2:], base.view(2, 3)


def plain(value):
    """A batch with numbers for its tensors."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return {key: plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def difference(one, other, at="batch"):
    """Where two batches differ, in words; None if they have the same types, layouts and values."""
    if type(one) is not type(other):
        return f"{at}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, torch.Tensor):
        return _tensors_differ(one, other, at)
    if isinstance(one, np.ndarray):
        # Some ways of pickling change the order of bytes to that of the machine.
        facts = [(array.dtype.newbyteorder("="), array.shape, array.tolist()) for array in (one, other)]
        return None if facts[0] == facts[1] else f"{at}: {facts[0]} and {facts[1]}"
    if isinstance(one, dict | collections.UserDict):
        if list(one) != list(other):
            return f"{at}: keys {list(one)} and {list(other)}"
        parts = [(one[key], other[key], f"{at}[{key!r}]") for key in one]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{at}: {len(one)} and {len(other)} parts"
        parts = [(*pair, f"{at}[{place}]") for place, pair in enumerate(zip(one, other))]
    else:
        return None if one == other else f"{at}: {one!r} and {other!r}"
    return next((found for part in parts if (found := difference(*part))), None)


def _is_dense(tensor):
    by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(by_stride).is_contiguous()


def _tensors_differ(one, other, at):
    names = ["dtype", "device", "layout", "requires_grad", "is_nested", "is_quantized"]
    if not one.is_nested:
        names += ["shape"]
        # What has gaps or overlaps may be laid out anew.
        names += ["stride"] if one.layout == torch.strided and _is_dense(one) else []
    for name in names:
        facts = [getattr(value, name) for value in (one, other)]
        facts = [fact() if callable(fact) else fact for fact in facts]
        if facts[0] != facts[1]:
            return f"{at}: {name} {facts[0]} and {facts[1]}"
    if one.is_nested:
        return difference(list(one.unbind()), list(other.unbind()), at)
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    if one.is_meta:
        return None
    if one.dtype.itemsize == 1:  # some of the 8-bit types have no comparison
        one, other = one.view(torch.uint8), other.view(torch.uint8)
    return None if torch.equal(one.detach(), other.detach()) else f"{at}: {one} and {other}"


def seed_everything(seed):
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def generators():
    """The states of the three global generators of this process, shortened."""
    states = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1:], random.getstate())
    return [hashlib.sha256(repr(state).encode() if isinstance(state, tuple) else state).hexdigest()[:8] for state in states]


def outcomes(batches, most=100):
    """What each call of next gives: the batch, or the class and the first line of the error as torch's loader says it; ours
    adds which samples these are, in brackets before the full stop."""
    seen = []
    for _ in range(most):
        try:
            seen.append(plain(next(batches)))
        except StopIteration:
            return seen
        except Exception as error:
            first = str(error).strip("\n").split("\n")[0]
            first = re.sub(r" \([^()]*\)\.$", ".", re.sub(r"worker process \d+", "worker process N", first))
            seen.append((type(error).__name__, first))
    raise AssertionError(f"the pass has not ended after {most} batches: {seen}")


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids, within_s=10):
    """Waits until none of the processes runs."""
    until_s = time.monotonic() + within_s
    while left := [pid for pid in pids if alive(pid)]:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return not left


def workers_of(batches):
    """The processes that made batches of Places."""
    return {int(row[2]) for batch in batches for row in batch}


def numbers_of(batches):
    return [int(index) for batch in batches for index in batch]


def collect(batches, errors=5):
    """All batches, asking again after an error, and the errors."""
    seen, told = [], []
    while len(told) < errors:
        try:
            seen.append(next(batches))
        except StopIteration:
            break
        except RuntimeError as error:
            told.append(error)
    return seen, told


def eventually(condition, within_s=10):
    until_s = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < until_s:
        time.sleep(0.01)
    return met


def children():
    """The processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    below, found = {os.getpid()}, set()
    while new := {pid for pid, parent in parents.items() if parent in below} - found:
        found |= new
        below |= new
    return {pid for pid in found if alive(pid)}


def shared_files(pid="self"):
    """The files of /dev/shm that a process has mapped or open, but for semaphores."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            lines.append(os.readlink(link))
        except OSError:
            continue
    return {line.split()[-1].removesuffix("(deleted)") for line in lines if "/dev/shm/" in line and "/sem." not in line}
