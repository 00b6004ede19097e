"""A worker process: takes tasks from a socket, makes their batches and writes them into the arena."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import pickle
import random
import select
import signal
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NamedTuple

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data._utils import collate
from torch.utils.data._utils import worker as torch_worker

from . import shared
from .fetch import Begin, Dropped, Fetcher, Replaced, Task

log = logging.getLogger("feedline")

# How often a worker that waits looks whether its parent is still there.
_PARENT_S = 5
_LENGTH = struct.Struct("<Q")


@dataclass
class Setup:
    """What all workers are started with. It is pickled if the start method is not fork."""

    dataset: Any
    is_iterable: bool
    auto_collation: bool
    collate_fn: Callable[..., Any]
    drop_last: bool
    batch_size: int
    base_seed: int
    init_fn: Callable[[int], None] | None
    num_workers: int
    replaces_bad: bool = False


@dataclass
class Place:
    """What is one worker's own."""

    worker_id: int
    arena: Any
    """The mapping of the arena."""
    region: shared.Slot


class Made(NamedTuple):
    """A batch that a worker has made."""

    structure: bytes
    buffers: list[tuple[int, int]]
    slot: shared.Slot | None
    used_bytes: int
    state: Any
    has_ended: bool
    replaced: list[Replaced]


@dataclass
class Failed:
    """An exception, pickled, and the index of the sample that it was raised for."""

    error: bytes
    at: Any = None


@dataclass
class Ended:
    """A worker's part of an iterable dataset has come to its end."""

    state: Any


def send(sock: socket.socket, message: bytes) -> None:
    """Sends one message; the length comes first."""
    sock.sendall(_LENGTH.pack(len(message)) + message)


def messages(buffer: bytearray) -> list[bytes]:
    """Takes the whole messages out of what was received."""
    found = []
    start = 0
    while len(buffer) - start >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(buffer, start)
        if len(buffer) - start - _LENGTH.size < size:
            break
        found.append(bytes(buffer[start + _LENGTH.size : start + _LENGTH.size + size]))
        start += _LENGTH.size + size
    del buffer[:start]
    return found


def framed(message: Any) -> bytes:
    """A message to be sent, with its length."""
    data = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(data)) + data


def main(setup: Setup, place: Place, sock: socket.socket) -> None:
    """The whole life of a worker."""
    # Ctrl-C goes to every process of the terminal. The parent decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _Worker(setup, place, sock).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the loader is gone


def _own_files() -> None:
    """Gives the files that were open for reading when this process was forked a position of their own: the parent and all workers
    share the old one, so that one's seek would move the others' next read."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            continue  # the descriptor of the list itself, which is closed by now
        if flags & os.O_ACCMODE != os.O_RDONLY or not stat.S_ISREG(os.fstat(fd).st_mode):
            continue
        try:
            position = os.lseek(fd, 0, os.SEEK_CUR)
            own = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError as error:
            name = os.readlink(f"/proc/self/fd/{fd}")
            log.warning("a worker cannot open %s anew (%s): it shares the file's position with the program and other workers", name, error)
            continue
        os.lseek(own, position, os.SEEK_SET)
        os.dup2(own, fd, inheritable=os.get_inheritable(fd))
        os.close(own)


class _Worker:
    def __init__(self, setup: Setup, place: Place, sock: socket.socket) -> None:
        self._setup = setup
        self._id = place.worker_id
        self._arena = place.arena
        self._sock = sock
        self._region = shared.Region(place.arena, place.region)
        self._parent = os.getppid()
        words = memoryview(place.arena)[: shared.HEADER_BYTES].cast("q")
        self._wanted = words[:1]
        self._progress = words[shared.progress_of(place.worker_id) :][:2]
        self._problem: Any = None
        self._task = 0
        self._is_default = setup.collate_fn is collate.default_collate
        self._has_large_fields = True
        self._prepare()

    def _prepare(self) -> None:
        """As torch's workers: one thread, generators seeded by worker, get_worker_info(), worker_init_fn."""
        setup = self._setup
        # The garbage collector writes to each object that it looks at. What this process was forked with would become its own copy.
        gc.freeze()
        _own_files()
        torch.set_num_threads(1)
        seed = setup.base_seed + self._id
        random.seed(seed)
        torch.manual_seed(seed)
        import numpy

        numpy.random.seed(torch_worker._generate_state(setup.base_seed, self._id))  # type: ignore[no-untyped-call]
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=self._id, num_workers=setup.num_workers, seed=seed, dataset=setup.dataset
        )
        try:
            if setup.init_fn is not None:
                setup.init_fn(self._id)
        except Exception:
            self._problem = self._wrapped("")
        stacks = collate.default_collate_fn_map
        self._stacks_itself = stacks.get(torch.Tensor) is collate.collate_tensor_fn
        if self._stacks_itself:
            # A collate function of the user's that calls torch's would get a segment of shared memory for each tensor.
            stacks[torch.Tensor] = shared.stack_in_private
        self._fetcher = Fetcher(
            setup.dataset, setup.is_iterable, setup.auto_collation, setup.collate_fn, setup.drop_last, setup.replaces_bad
        )
        self._fetcher.batch_of = setup.batch_size
        self._fetcher.watch = self._watch

    def _watch(self, at: int) -> None:
        if self._wanted[0] > self._task:
            raise Dropped
        self._progress[1] = at

    def run(self) -> None:
        """Until the socket ends or the parent is gone."""
        received = bytearray()
        waiting: deque[Any] = deque()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            while poll.poll(0 if waiting else _PARENT_S * 1000):
                data = self._sock.recv(1 << 18)
                if not data:
                    return
                received += data
                waiting.extend(map(pickle.loads, messages(received)))
            if waiting:
                self._answer(waiting.popleft())
            elif os.getppid() != self._parent:
                return

    def _answer(self, message: Any) -> None:
        if isinstance(message, Begin):
            self._begin(message)
            return
        number, task = message
        self._task = number
        self._progress[0], self._progress[1] = number, 0
        if self._wanted[0] > number:
            answer: Any = None
        elif self._problem is not None:
            answer, self._problem = Failed(self._problem), None
        else:
            answer = self._make(task)
        self._progress[0] = -1
        self._send(number, answer)

    def _begin(self, begin: Begin) -> None:
        try:
            self._fetcher.begin(begin, self._id)
        except Exception:
            self._problem = self._wrapped(" (at the beginning of a pass)")

    def _make(self, task: Task) -> Any:
        room = self._region.room()
        is_used = False
        try:
            batch = self._fetcher.fetch(task, self._collate_into(room, task))
            structure, buffers = shared.pack(batch, room)
            # Looking for large fields takes time that small samples have not.
            self._has_large_fields = room.asked_bytes > len(task.keys) * shared.LARGE_BYTES if self._is_default else False
            is_used = room.used_bytes > 0 and room.asked_bytes <= room.slot[1]
            if room.used_bytes and not is_used:
                # It did not fit as a whole. This one batch is copied through the socket; the next ones have larger slots.
                structure, buffers = shared.pack(batch, shared.Room(self._arena, (0, 0)))
            return Made(
                structure,
                buffers,
                room.slot if is_used else None,
                room.used_bytes,
                self._fetcher.state(),
                self._fetcher.has_ended,
                self._fetcher.replaced,
            )
        except Dropped:
            return None
        except StopIteration:
            return Ended(self._fetcher.state())
        except Exception:
            return Failed(self._wrapped(self._where(task)), self._fetcher.at)
        finally:
            if not is_used:
                self._region.leave(room)

    def _collate_into(self, room: shared.Room, task: Task) -> Callable[[Any], Any]:
        self._fetcher.stow = None
        if not (self._is_default and self._stacks_itself):
            return self._setup.collate_fn
        if self._has_large_fields and not task.is_part:
            self._fetcher.stow = room.stow

        def stack(batch: Any, *, collate_fn_map: Any = None) -> torch.Tensor:
            return shared.stack(room, batch)

        stacks: Any = {**collate.default_collate_fn_map, torch.Tensor: stack}
        return lambda data: collate.collate(data, collate_fn_map=stacks)

    def _where(self, task: Task) -> str:
        if self._fetcher.at is None:
            return f" (collating samples {_short(task.keys)})"
        return f" (sample {_short(self._fetcher.at)})"

    def _wrapped(self, where: str) -> bytes:
        """The exception in hand, for the parent to raise. It can always be pickled: at worst as a RuntimeError with its text."""
        wrapper: Any = ExceptionWrapper(  # type: ignore[no-untyped-call]
            where=f"in DataLoader worker process {self._id}{where}"
        )
        try:
            data = pickle.dumps(wrapper)
            pickle.loads(data)
        except Exception:
            wrapper.exc_type = RuntimeError
            data = pickle.dumps(wrapper)
        return data

    def _send(self, number: int, answer: Any) -> None:
        try:
            message = pickle.dumps((number, answer), protocol=5)
        except Exception:
            message = pickle.dumps((number, Failed(self._wrapped(" (a dataset's state_dict() must be picklable)"))), protocol=5)
        send(self._sock, message)


def _short(keys: Any) -> str:
    text = repr(keys)
    return text if len(text) <= 200 else text[:200] + "..."


def sent(fd: int) -> Any:
    """A file descriptor made ready to be pickled for a process that is being started."""
    return reduction.DupFd(fd)
