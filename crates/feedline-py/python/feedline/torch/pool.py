"""The worker processes of a loader: starts them, hands out tasks, collects answers, and starts anew what was killed."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import pickle
import select
import signal
import socket
import time
import warnings
import weakref
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing import process
from typing import Any

import torch.multiprocessing

from . import shared, worker
from .fetch import Begin, Task

# How long workers may take to finish their sample when the loader is done with them, and after SIGTERM.
_END_S = 5.0
_TERMINATED_S = 1.0
# Newer than any task.
_NONE_WANTED = 2**62


@dataclass
class Job:
    """A task on its way through a worker."""

    number: int
    task: Task
    worker: int
    snapshot: Any = None
    answer: Any = None


@dataclass
class Worker:
    """The loader's side of one worker process."""

    process: Any
    sock: socket.socket
    region: shared.Slot
    begin: Begin | None = None
    jobs: deque[Job] = field(default_factory=deque)
    unsent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    is_dead: bool = False


# The pools of this process, and its ends of all sockets to workers.
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _forked() -> None:
    """In a forked process: the workers are the parent's. While a copy of a socket to one is open, that worker would not learn that
    the parent is gone; and at its normal end this process would kill what multiprocessing takes for its children."""
    for end in list(_ends):
        end.close()
    for pool in list(_pools):
        for one in pool.workers:
            process._children.discard(one.process)  # type: ignore[attr-defined]


_is_exiting = False


@atexit.register
def _exit() -> None:
    global _is_exiting
    _is_exiting = True


def _leave_quietly() -> None:
    """Ends a daemon thread that waits for a batch while the interpreter ends, which ends the workers, too: that is no failure."""
    if _is_exiting:
        raise SystemExit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Pool:
    """Workers with one arena. ``setup`` says what they are started with."""

    def __init__(self, setup: worker.Setup, context: Any) -> None:
        self._setup = setup
        self._context = context if context is not None else torch.multiprocessing
        self.arena = shared.Arena()
        self.workers: list[Worker] = []
        self._poll = select.poll()
        self._by_fd: dict[int, int] = {}
        self._numbers = 0
        self._process = os.getpid()
        _pools.add(self)
        # Ends the processes when the pool is forgotten, and before the interpreter ends.
        self._end = weakref.finalize(self, _end, os.getpid(), self.workers, self.arena.words)
        try:
            for number in range(setup.num_workers):
                self.workers.append(self._started(number))
        except BaseException:
            self.close()
            raise

    def _started(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        _ends.add(ours)
        try:
            method = self._context.get_start_method()
            arena: Any = self.arena.map
            if method != "fork":
                arena = _Sent(self.arena.fd, len(self.arena.map))
            region = self.arena.new_region()
            setup = replace(self._setup, worker_id=number, arena=arena, region=region)
            started = self._context.Process(target=worker.main, args=(setup, theirs), daemon=True)
            try:
                started.start()
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                if method != "fork":
                    warnings.warn(
                        f"Got pickle error when a DataLoader worker was started by {method}: {error}. The dataset, collate_fn and "
                        'worker_init_fn must be picklable (no lambda, no local function); or give multiprocessing_context="fork"',
                        UserWarning,
                        stacklevel=6,
                    )
                raise
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._poll.register(ours, select.POLLIN)
        self._by_fd[ours.fileno()] = number
        return Worker(started, ours, region)

    def begin(self, begins: list[Begin]) -> None:
        """Begins a pass in every worker. Tasks of earlier passes are dropped."""
        self.arena.words[0] = self._numbers
        for number, (one, begin) in enumerate(zip(self.workers, begins)):
            one.begin = begin
            if one.is_dead:
                self.restart(number)
            else:
                self._send(number, begin)

    def submit(self, number: int, task: Task, snapshot: Any) -> Job:
        """Gives a worker a task."""
        job = Job(self._numbers, task, number, snapshot)
        self._numbers += 1
        one = self.workers[number]
        one.jobs.append(job)
        if not one.is_dead:
            self._send(number, (job.number, self.arena.freed(one.region), task))
        return job

    def drop(self, job: Job) -> None:
        """Nobody wants the batch of this job any more."""
        if job.answer is not None and job.answer[0] == "batch" and job.answer[3] is not None:
            self.arena.give(job.answer[3])

    def _send(self, number: int, message: Any) -> None:
        one = self.workers[number]
        one.unsent += worker.framed(message)
        self._flush(number)

    def _flush(self, number: int) -> None:
        """Sends what the socket takes. A worker that is busy with a long answer must not keep the loader from reading it."""
        one = self.workers[number]
        if one.is_dead or not one.unsent:
            return
        # An error means that the worker is dead or the pool closed, by another thread: pump() sees it, and tells it.
        with contextlib.suppress(OSError, ValueError):
            with contextlib.suppress(BlockingIOError):
                while one.unsent:
                    sent = one.sock.send(one.unsent)
                    del one.unsent[:sent]
            self._poll.modify(one.sock, select.POLLIN | (select.POLLOUT if one.unsent else 0))

    def pump(self, timeout_s: float) -> int | None:
        """Waits for answers, and takes those that are there. Returns the number of a worker that has died, if one has."""
        if self.arena.words[0] == _NONE_WANTED:
            _leave_quietly()
            raise RuntimeError("the workers of this pass were ended while a batch was waited for. Begin a new pass")
        for number, one in enumerate(self.workers):
            if one.is_dead:  # it could not be started anew when it died
                self.restart(number)
        for fd, event in self._poll.poll(timeout_s * 1000):
            number = self._by_fd[fd]
            if event & select.POLLOUT:
                self._flush(number)
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._receive(number):
                _leave_quietly()
                return number
        return None

    def check_process(self) -> None:
        """Raises a RuntimeError in a process that was forked from the pool's."""
        if self._process != os.getpid():
            raise RuntimeError(
                f"this pass was begun in process {self._process} and is used in process {os.getpid()} after a fork: its workers "
                "belong to the first. Begin a pass in each process"
            )

    def _receive(self, number: int) -> bool:
        one = self.workers[number]
        try:
            data = one.sock.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._forget(one)
            return False
        one.received += data
        for message in worker.messages(one.received):
            told, answer = pickle.loads(message)
            job = one.jobs.popleft()
            assert job.number == told
            job.answer = answer
            if job.number < self.arena.words[0]:
                self.drop(job)
            elif answer[0] == "batch" and self._setup.is_iterable and one.begin is not None:
                # Where a worker that takes its place would have to begin.
                batches = one.begin.batches + 1
                one.begin = replace(one.begin, batches=batches, state=answer[5], is_behind=False, has_ended=answer[6])
        return True

    def _forget(self, one: Worker) -> None:
        one.is_dead = True
        with contextlib.suppress(KeyError, ValueError):  # closed meanwhile, by another thread
            self._poll.unregister(one.sock)
            del self._by_fd[one.sock.fileno()]
        one.sock.close()

    def making(self) -> list[tuple[int, Any]]:
        """(worker, index of the sample) for the workers that are making one."""
        found = []
        for number, one in enumerate(self.workers):
            if not one.jobs:
                continue
            at = shared.progress_of(number)
            told, sample = self.arena.words[at], self.arena.words[at + 1]
            job = next((job for job in one.jobs if job.number == told), None)
            if job is not None:
                keys = job.task.keys
                found.append((number, keys[sample] if hasattr(keys, "__getitem__") and not isinstance(keys, str) else keys))
        return found

    def obituary(self, number: int) -> str:
        """Why a worker died, over which sample, and what may help."""
        one = self.workers[number]
        making = dict(self.making()).get(number)
        one.process.join(_END_S)
        if one.process.exitcode is None:
            one.process.kill()
            one.process.join(_TERMINATED_S)
        code, pid = one.process.exitcode, one.process.pid
        if code is not None and code < 0:
            name = signal.strsignal(-code) or f"signal {-code}"
            text = f"DataLoader worker (pid {pid}) is killed by signal: {name}."
        else:
            text = f"DataLoader worker (pid(s) {pid}) exited unexpectedly with exit code {code}."
        text += f" This was worker {number}; it was " + ("between two samples" if making is None else f"making sample {making!r}")
        remedy = {
            -signal.SIGKILL: "The system may have run out of memory: lower num_workers, prefetch_factor or batch_size",
            -signal.SIGBUS: "Memory may have run out, or a file that is mapped was cut short",
        }.get(code, "Make this sample with num_workers=0 to see what happens there")
        return f"{text}. {remedy}. The worker is started anew, and asking again gives the batch that is missing"

    def restart(self, number: int) -> None:
        """Starts a dead worker anew, with the tasks that it had."""
        jobs, begin = self.workers[number].jobs, self.workers[number].begin
        self.arena.forget(self.workers[number].region)
        self.workers[number] = self._started(number)
        one = self.workers[number]
        one.begin = begin
        self._send(number, begin)
        wanted = self.arena.words[0]
        for job in jobs:
            if job.number >= wanted:
                one.jobs.append(job)
                self._send(number, (job.number, [], job.task))

    def close(self) -> None:
        """Ends the processes. Batches that were delivered stay valid."""
        self._end()


class _Sent:
    """The arena, to be pickled for a process that is being started."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (worker.sent(self._fd), self._size)


def _received(fd: Any, size: int) -> mmap.mmap:
    own = fd.detach()
    try:
        return mmap.mmap(own, size)
    finally:
        os.close(own)


def _end(owner: int, workers: list[Worker], words: Any) -> None:
    if owner != os.getpid():
        return  # a copy of the pool in a process that was forked
    words[0] = _NONE_WANTED
    for one in workers:
        if not one.is_dead:
            one.is_dead = True
            one.sock.close()
    for patience_s, push in ((_END_S, None), (_TERMINATED_S, "terminate"), (_TERMINATED_S, "kill")):
        deadline = time.monotonic() + patience_s
        for one in workers:
            with contextlib.suppress(AssertionError, OSError, ValueError):
                if push is not None and one.process.is_alive():
                    getattr(one.process, push)()
                one.process.join(max(0.0, deadline - time.monotonic()))
