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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, process
from typing import Any

import torch.multiprocessing
from torch.utils.data import default_collate

from ..errors import LoaderTimeoutError, WorkerError
from . import shared, worker
from .fetch import Begin, Task
from .pickled import Pickled
from .worker import Ended, Failed, Made

# Longest wait in one piece: Python handles signals in between.
_WAIT_S = 1.0
# Batches up to this size are made in parts at the beginning of a pass; their parts are copied once more.
PARTS_BYTES = 32 << 20
# How long workers may take to finish their sample when the loader is done with them, and after SIGTERM.
_END_S = 5.0
_TERMINATED_S = 1.0
# Newer than any task.
_NONE_WANTED = 2**62
# What the fork server imports before it forks a worker, unless the program has named modules of its own.
_PRELOADED = ["torch", worker.__name__]


@dataclass
class Job:
    """A task on its way through a worker."""

    number: int
    task: Task
    worker: int
    snapshot: Any = None
    is_done: bool = False
    answer: Made | Failed | Ended | None = None
    """None of a batch that nobody wants any more."""
    parts: list[Job] = field(default_factory=list)
    """Set if every worker makes a part of the batch."""
    batch: Any = None
    """The batch, if it was made of parts."""


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
            self._start(range(setup.num_workers), self.workers.append)
        except BaseException:
            self.close()
            raise

    def _start(self, numbers: Iterable[int], add: Callable[[Worker], None]) -> None:
        """Starts workers, and adds each when it is started."""
        method = self._context.get_start_method()
        if method == "fork":
            for number in numbers:
                add(self._started(number, self._setup, self.arena.map))
            return
        if method == "forkserver":
            _preload()
        try:
            setup = self._pickled()
            try:
                for number in numbers:
                    add(self._started(number, setup, _Sent(self.arena.fd, len(self.arena.map))))
            finally:
                if isinstance(setup, Pickled):
                    setup.close()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            warnings.warn(
                f"Got pickle error when a DataLoader worker was started by {method}: {error}. The dataset, collate_fn and "
                'worker_init_fn must be picklable (no lambda, no local function); or give multiprocessing_context="fork"',
                UserWarning,
                stacklevel=7,
            )
            raise

    def _pickled(self) -> Pickled | worker.Setup:
        try:
            return Pickled(self._setup)
        except RuntimeError:
            # Something in it can be pickled only while a process is being started: then it is pickled for each.
            return self._setup

    def _started(self, number: int, setup: Any, arena: Any) -> Worker:
        ours, theirs = socket.socketpair()
        _ends.add(ours)
        try:
            region = self.arena.new_region()
            place = worker.Place(number, arena, region)
            started = self._context.Process(target=worker.main, args=(setup, place, theirs), daemon=True)
            started.start()
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
        job = Job(self._next_number(), task, number, snapshot)
        self._give(job)
        return job

    def submit_parts(self, task: Task, snapshot: Any) -> Job:
        """Gives every worker a part of a task, so that its batch comes early."""
        count = len(self.workers)
        cuts = [len(task.keys) * at // count for at in range(count + 1)]
        whole = Job(self._next_number(), task, 0, snapshot)
        for number, (start, end) in enumerate(zip(cuts, cuts[1:])):
            numbers = None if task.numbers is None else task.numbers[start:end]
            whole.parts.append(self.submit(number, Task(task.keys[start:end], numbers, True), None))
        return whole

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _give(self, job: Job) -> None:
        one = self.workers[job.worker]
        one.jobs.append(job)
        if not one.is_dead:
            self._send(job.worker, (job.number, job.task))

    def _join(self, whole: Job) -> None:
        """Makes a batch of its parts, if all are done."""
        if not all(part.is_done for part in whole.parts):
            return
        parts, whole.parts = whole.parts, []
        answers = [part.answer for part in parts if isinstance(part.answer, Made)]
        try:
            if len(answers) == len(parts):
                whole.batch = default_collate([sample for part in parts for sample in self.taken(part)])
                used_bytes = sum(answer.used_bytes for answer in answers)
                replaced = [one for answer in answers for one in answer.replaced]
                whole.answer = Made(b"", [], None, used_bytes, None, False, replaced)
                whole.is_done = True
                return
        except Exception:
            pass  # one worker makes all of it, so that the error is told as any other
        for part in parts:
            self.drop(part)
        whole.number = self._next_number()
        self._give(whole)

    def drop(self, job: Job) -> None:
        """Nobody wants the batch of this job any more."""
        for part in job.parts:
            self.drop(part)
        if isinstance(job.answer, Made) and job.answer.slot is not None:
            self.arena.give(job.answer.slot)

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

    def wait(self, jobs: deque[Job], in_order: bool, timeout_s: float) -> Job:
        """The first job that is done, or with ``in_order=False`` any that is; waits for it.

        Raises WorkerError if a worker has died, which is then started anew, and LoaderTimeoutError. The jobs stay as they are.
        """
        began = time.monotonic()
        while True:
            if jobs[0].parts:
                self._join(jobs[0])
            if jobs[0].is_done:
                return jobs[0]
            if not in_order:
                done = next((job for job in jobs if job.is_done), None)
                if done is not None:
                    return done
            wait_s = _WAIT_S
            if timeout_s > 0:
                wait_s = min(wait_s, max(0.0, began + timeout_s - time.monotonic()))
            dead = self.pump(wait_s)
            if dead is not None:
                text = self.obituary(dead)
                self.restart(dead)
                raise WorkerError(text)
            if timeout_s > 0 and not jobs[0].is_done and time.monotonic() - began >= timeout_s:
                making = ", ".join(f"worker {number}: sample {key!r}" for number, key in self.making())
                raise LoaderTimeoutError(
                    f"DataLoader timed out after {timeout_s:g} seconds. Being made now: {making or 'nothing'}. Ask again to "
                    "go on waiting; raise timeout, or 0 to wait for ever"
                )

    def taken(self, job: Job) -> Any:
        """The batch of a job that is done, over the memory that it was made in."""
        made = job.answer
        assert isinstance(made, Made)
        if job.batch is not None:
            return job.batch
        base = None if made.slot is None else self.arena.lend(made.slot, made.used_bytes)
        return shared.unpack(made.structure, base, made.buffers)

    @property
    def is_of_this_process(self) -> bool:
        """False in a process that was forked from the pool's."""
        return self._process == os.getpid()

    def check_process(self) -> None:
        """Raises a RuntimeError in a process that was forked from the pool's."""
        if not self.is_of_this_process:
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
            job.is_done, job.answer = True, answer
            if isinstance(answer, Made) and answer.slot is not None:
                self.arena.hold(answer.slot)
            if job.number < self.arena.words[0]:
                self.drop(job)
            elif isinstance(answer, Made) and self._setup.is_iterable and one.begin is not None:
                # Where a worker that takes its place would have to begin.
                batches = one.begin.batches + 1
                one.begin = replace(one.begin, batches=batches, state=answer.state, is_behind=False, has_ended=answer.has_ended)
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

        def put(one: Worker) -> None:
            self.workers[number] = one

        self._start([number], put)
        one = self.workers[number]
        one.begin = begin
        self._send(number, begin)
        wanted = self.arena.words[0]
        for job in jobs:
            if job.number >= wanted:
                one.jobs.append(job)
                self._send(number, (job.number, job.task))

    def close(self) -> None:
        """Ends the processes. Batches that were delivered stay valid."""
        self._end()


def _preload() -> None:
    """Has the fork server import torch once, instead of each worker. A server that runs already stays as it is."""
    pythons = ["__main__"]
    if getattr(forkserver._forkserver, "_preload_modules", None) == pythons:
        forkserver.set_forkserver_preload([*pythons, *_PRELOADED])


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
