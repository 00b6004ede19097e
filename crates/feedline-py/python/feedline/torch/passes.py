"""Passes over the data: the iterators that a loader gives, in the calling thread or with worker processes."""

from __future__ import annotations

import contextlib
import pickle
import threading
import warnings
import weakref
from collections import deque
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import default_collate
from torch.utils.data._utils import pin_memory
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from ..errors import TooManyBadSamplesError, UnsupportedError
from ..workers import worker
from ..workers.fetch import BadSamples, Begin, Fetcher, Task
from ..workers.pool import PARTS_BYTES, Job, Pool
from ..workers.seeds import Kept, key_of_pass
from .order import Order
from .streams import Streams

# Most bytes of batches that are made ahead if the program gives no prefetch_factor; one a worker is always allowed.
PREFETCH_BYTES = 128 << 20


class Loader(Protocol):
    """What a pass asks of its loader: torch's attributes, and where the pass begins."""

    dataset: Any
    batch_size: int | None
    num_workers: int
    prefetch_factor: int | None
    pin_memory: bool
    pin_memory_device: str
    drop_last: bool
    timeout: float
    in_order: bool
    persistent_workers: bool
    worker_init_fn: Any
    collate_fn: Any
    multiprocessing_context: Any
    seeds: Any
    on_bad_sample: Any
    is_prefetch_bounded: Any
    _IterableDataset_len_called: Any

    @property
    def _auto_collation(self) -> Any: ...
    @property
    def _index_sampler(self) -> Any: ...
    def _begin_place(self, has_new_workers: bool) -> Place: ...


class Early(NamedTuple):
    """Batches that were handed out before earlier ones (in_order=False)."""

    numbers: list[int]
    """Counted from the first one that was not."""
    batch_size: int | None
    epoch: int | None
    """What the sampler's epoch was, if it has one: in another one they are not."""


class Place:
    """How far a pass has come: what it has handed out, and what its random numbers are made of."""

    def __init__(self, order: Order, base_seed: int, passes: int, before: int | None, bad: BadSamples, early: set[int]) -> None:
        self.order = order
        self.replace = bad.add
        # A checksum of the main generator before the draws of the pass.
        self.before = before
        self.base_seed = base_seed
        # Passes since the seed was drawn: persistent workers keep theirs.
        self.passes = passes
        self.batches = 0
        self.samples = 0
        self.snapshot: Any = None
        self.has_ended = False
        # Samples and snapshots of batches behind the first one that is not handed out (in_order=False), and of those that failed
        # since a batch was handed out, by their numbers in the pass.
        self._early: dict[int, tuple[int, Any]] = {}
        self._failed: dict[int, tuple[int, Any]] = {}
        # Numbers of batches to come that were handed out before the state was taken that was loaded.
        self.skipped = early
        # The epoch of the sampler when the pass began; see Early.
        self.epoch: int | None = None
        # What the pass is one of, and what was loaded for it.
        self.source: Order | None = None
        self.loaded: tuple[tuple[int, int] | None, int | None, Early | None] = (None, None, None)
        # Whether that is what another kind of order had left of its epoch.
        self.is_rest = False
        # Whether a batch was asked for, and whether a newer pass began at the same place before that.
        self.is_asked = False
        self.is_taken_back = False

    @property
    def key(self) -> int:
        """What seeds the samples of the pass."""
        own = self.order.key()
        return own if own is not None else key_of_pass(2, self.base_seed, self.passes)

    @property
    def is_over(self) -> bool:
        """Whether every batch was handed out, as far as is known."""
        return self.has_ended or self.order.is_over(self.batches, self.samples)

    def deliver(self, number: int, samples: int, snapshot: Any) -> None:
        """Counts a batch, and those that failed before it: the pass has gone on without them."""
        self._early |= self._failed
        self._failed = {}
        self._count(number, samples, snapshot)

    def skip(self, number: int, samples: int, snapshot: Any) -> None:
        """Counts a batch that was handed out before the state was taken that was loaded."""
        self.skipped.discard(number)
        self._count(number, samples, snapshot)

    def _count(self, number: int, samples: int, snapshot: Any) -> None:
        self._early[number] = samples, snapshot
        while self.batches in self._early:
            samples, self.snapshot = self._early.pop(self.batches)
            self.batches += 1
            self.samples += samples

    def fail(self, number: int, samples: int, snapshot: Any) -> None:
        """A batch failed. A state that is taken now still begins with it."""
        self._failed[number] = samples, snapshot

    def state(self) -> tuple[dict[str, Any], Early | None]:
        """The place for a state: that of the first batch that is not handed out, and the later ones that are."""
        place, numbers = self.order.place(self.batches, self.samples, self.snapshot), sorted({*self._early, *self.skipped})
        if not numbers:
            return place, None
        if self.order.ranks() > 1:
            raise UnsupportedError(
                "earlier batches are not handed out yet (in_order=False), and each process has others, so that there is no place "
                "for all of them. Ask for the state at the end of an epoch, or give in_order=True"
            )
        return place, Early([number - self.batches for number in numbers], self.order.batch_size, self.epoch)


class Pass(_BaseDataLoaderIter):
    """One pass. Threads may share it. It is one of torch's iterators by name only: programs ask for their class."""

    def __init__(self, loader: Loader) -> None:
        self._dataset = loader.dataset
        self._num_workers = loader.num_workers
        self._timeout_s = float(loader.timeout)
        self._index_sampler = loader._index_sampler
        self._auto_collation = loader._auto_collation
        self._one_at_a_time = threading.Lock()
        self._pins = _device_that_pins(loader)
        self._profile_name = f"enumerate(DataLoader)#{type(self).__name__}.__next__"
        self._begin(loader)

    # Whether the pass starts its workers.
    _has_new_workers = False

    def _begin(self, loader: Loader) -> None:
        """Begins a pass; again with persistent workers."""
        self._place = loader._begin_place(self._has_new_workers)
        self._length_told = loader._IterableDataset_len_called
        self._tasks = self._place.order.tasks()
        self._drawn = 0
        # Weak: with persistent workers the loader has its pass, and should go when the program lets go of it.
        self._loader = weakref.ref(loader)
        self._num_yielded = 0

    def _count(self, task: Task) -> int:
        return len(task.keys) if self._auto_collation and not isinstance(self._place.order, Streams) else 1

    def _draw(self) -> tuple[Task, tuple[int, Any]]:
        """The next task, with its number in the pass and the sampler's state behind it. Raises StopIteration."""
        place, task = self._place, next(self._tasks)
        drawn = self._drawn, place.order.snapshot()
        self._drawn += 1
        while self._drawn in place.skipped and (other := next(self._tasks, None)) is not None:
            place.skip(self._drawn, self._count(other), place.order.snapshot())
            self._drawn += 1
        return task, drawn

    def _next_batch(self) -> Any:
        raise NotImplementedError

    def _rest(self) -> None:
        """The pass is over."""
        self._place.has_ended = True

    def __next__(self) -> Any:
        if torch._C._autograd._profiler_enabled():
            with torch.autograd.profiler.record_function(self._profile_name):
                return self._next()
        return self._next()

    def _next(self) -> Any:
        with self._one_at_a_time:
            self._ask()
            try:
                batch = self._next_batch()
            except StopIteration:
                place = self._place
                fruitless = place.order.has_unknown_end and place.order.is_resumed and not (place.batches or place.has_ended)
                self._rest()
                loader = self._loader()
                if not fruitless or loader is None:
                    raise
                # The state was taken behind the last batch, when nobody could know yet that it was the last.
                self._begin(loader)
                self._ask()
                batch = self._next_batch()
            self._num_yielded += 1
        self._warn_of_length()
        return batch if self._pins is None else pin_memory.pin_memory(batch, self._pins)  # type: ignore[no-untyped-call]

    def _ask(self) -> None:
        """Notes that a batch is asked for."""
        place = self._place
        if place.is_taken_back and not place.is_asked:
            warnings.warn(
                "another iterator was made before a batch of this one was asked for, and began at the same place. So both give "
                "the same samples with the same draws. Ask for the first batch of the one before you make the other",
                UserWarning,
                stacklevel=4,
            )
        place.is_asked = True

    def _warn_of_length(self) -> None:
        told = self._length_told
        if told is None or not isinstance(self._place.order, Streams) or self._num_yielded <= told:
            return
        text = (
            f"Length of IterableDataset {self._dataset} was reported to be {told} (when accessing len(dataloader)), but "
            f"{self._num_yielded} samples have been fetched. "
        )
        if self._num_workers > 0:
            text += (
                "For multiprocessing data-loading, this could be caused by not properly configuring the IterableDataset replica at "
                "each worker. Let each worker deliver its part: torch.utils.data.get_worker_info()"
            )
        warnings.warn(text, stacklevel=4)

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __getstate__(self) -> Any:
        raise NotImplementedError("{} cannot be pickled", type(self).__name__)


class SinglePass(Pass):
    """Makes batches in the calling thread."""

    def _begin(self, loader: Loader) -> None:
        super()._begin(loader)
        order = self._place.order
        self._seeds = loader.seeds == "sample"
        is_iterable = isinstance(order, Streams)
        self._collate_fn = loader.collate_fn
        self._fetcher = Fetcher(
            loader.dataset, is_iterable, self._auto_collation, loader.collate_fn, loader.drop_last, loader.on_bad_sample == "replace"
        )
        self._fetcher.batch_of = loader.batch_size or 1
        key = self._place.key if self._seeds else None
        begin = order.begins(key)[0] if isinstance(order, Streams) else Begin(key)
        with self._kept():
            self._fetcher.begin(begin)
        if isinstance(order, Streams):
            order.streams[0].state = self._fetcher.state()

    def _kept(self) -> Any:
        return Kept() if self._seeds else contextlib.nullcontext()

    def _next_batch(self) -> Any:
        place = self._place
        if place.has_ended:
            raise StopIteration
        task, (number, snapshot) = self._draw()  # outside: a sampler draws from the generators of the program
        order = place.order
        try:
            with self._kept():
                batch = self._fetcher.fetch(task, self._collate_fn)
            place.replace(self._fetcher.replaced)
        except StopIteration:
            assert isinstance(order, Streams)
            order.end(0, self._fetcher.state())
            raise
        except Exception as error:
            # As torch: the next call goes on behind the batch that failed.
            place.fail(number, self._count(task), snapshot)
            if hasattr(error, "add_note") and self._fetcher.at is not None:
                error.add_note(f"while the DataLoader was making sample {self._fetcher.at!r}")
            raise
        if isinstance(order, Streams):
            order.deliver(0, self._fetcher.state(), self._fetcher.has_ended)
        place.deliver(number, self._count(task), snapshot)
        return batch


class WorkerPass(Pass, _MultiProcessingDataLoaderIter):
    """Lets worker processes make batches, ahead of time."""

    def __init__(self, loader: Loader) -> None:
        self._pool: Pool | None = None
        self._jobs: deque[Job] = deque()
        # Of the last batch.
        self._batch_bytes = 0
        super().__init__(loader)

    @property
    def _workers(self) -> list[Any]:  # type: ignore[override]  # an attribute in torch
        """The processes; programs look for them by torch's name."""
        return [] if self._pool is None else [one.process for one in self._pool.workers]

    def _begin(self, loader: Loader) -> None:
        self._has_new_workers = self._pool is None
        super()._begin(loader)
        order = self._place.order
        self._in_order = loader.in_order
        self._persistent = loader.persistent_workers
        self._most_ahead = max(1, (loader.prefetch_factor or 1)) * loader.num_workers
        # Without a prefetch_factor of the program's, the first batch of each worker tells how large they are.
        self._is_bounded = loader.is_prefetch_bounded and order.is_drawn_at_once
        self._ahead = loader.num_workers if self._is_bounded else self._most_ahead
        is_iterable = isinstance(order, Streams)
        # Who makes which batch matters where a worker has a state of its own.
        self._takes_turns = loader.in_order and (is_iterable or loader.seeds == "worker")
        if self._pool is None:
            setup = worker.Setup(
                dataset=loader.dataset,
                is_iterable=is_iterable,
                auto_collation=self._auto_collation,
                collate_fn=loader.collate_fn,
                drop_last=loader.drop_last,
                batch_size=loader.batch_size or 1,
                base_seed=self._place.base_seed,
                init_fn=loader.worker_init_fn,
                num_workers=loader.num_workers,
                replaces_bad=loader.on_bad_sample == "replace",
            )
            self._pool = Pool(setup, loader.multiprocessing_context)
        pool = self._pool
        for job in self._jobs:
            pool.drop(job)
        self._jobs.clear()
        key = self._place.key if loader.seeds == "sample" else None
        pool.begin(order.begins(key) if isinstance(order, Streams) else [Begin(key)] * loader.num_workers)
        streams = order.streams if isinstance(order, Streams) else []
        self._open = [not stream.has_ended for stream in streams] or [True] * loader.num_workers
        self._turn = order.next if isinstance(order, Streams) else 0
        self._is_drawn = False
        # All workers make the first batch together, where it does not matter who makes a sample.
        self._splits = (
            loader.num_workers > 1
            and self._auto_collation
            and not self._takes_turns
            and loader.in_order
            and loader.collate_fn is default_collate
            and not hasattr(loader.dataset, "__getitems__")
            and self._batch_bytes <= PARTS_BYTES
        )
        # What the sampler has raised, to be told in its turn.
        self._problem: Exception | None = None
        self._submit()

    def _submit(self) -> None:
        """Hands out as many tasks as may be made ahead."""
        while len(self._jobs) < self._ahead and self._submit_one():
            pass

    def _submit_one(self) -> bool:
        """Hands out one more task, if there is one."""
        if self._is_drawn or not any(self._open):
            return False
        assert self._pool is not None
        number = self._whose_turn()
        try:
            task, drawn = self._draw()
        except StopIteration:
            self._is_drawn = True
            return False
        except Exception as error:
            if not self._jobs:
                raise
            # The sampler fails after the batches that it has given: those come first.
            self._is_drawn, self._problem = True, error
            return False
        if self._splits and type(task.keys) is list and len(task.keys) >= 2 * self._num_workers:
            self._jobs.append(self._pool.submit_parts(task, drawn))
        else:
            self._turn = (number + 1) % self._num_workers
            self._jobs.append(self._pool.submit(number, task, drawn))
        self._splits = False
        return True

    def _whose_turn(self) -> int:
        assert self._pool is not None
        turns = [(self._turn + step) % self._num_workers for step in range(self._num_workers)]
        turns = [number for number in turns if self._open[number]]
        if self._takes_turns:
            return turns[0]
        # Out of turn if the one whose turn it is has fallen behind: a slow sample must not hold back what others could make.
        workers = self._pool.workers
        least = min(turns, key=lambda number: len(workers[number].jobs))
        is_behind = len(workers[turns[0]].jobs) > len(workers[least].jobs) + 1
        return least if is_behind or not self._in_order else turns[0]

    def _next_batch(self) -> Any:
        if self._place.has_ended or self._pool is None:
            raise StopIteration
        self._pool.check_process()
        while True:
            while not self._jobs:
                self._submit()
                if not self._jobs:
                    problem, self._problem = self._problem, None
                    raise problem or StopIteration
            job = self._pool.wait(self._jobs, self._in_order, self._timeout_s)
            self._jobs.remove(job)
            order, answer = self._place.order, job.answer
            if isinstance(answer, worker.Made):
                return self._delivered(job, answer)
            if isinstance(answer, worker.Ended):
                assert isinstance(order, Streams)
                order.end(job.worker, answer.state)
                self._open[job.worker] = False
            elif isinstance(answer, worker.Failed):
                if not isinstance(order, Streams):
                    self._fail(job)
                self._submit()
                pickle.loads(answer.error).reraise()
            if self._open[job.worker]:
                self._submit()

    def _delivered(self, job: Job, made: worker.Made) -> Any:
        assert self._pool is not None
        place, order = self._place, self._place.order
        if made.replaced:
            try:
                place.replace(made.replaced)
            except TooManyBadSamplesError:
                self._fail(job)
                self._pool.drop(job)
                self._submit()
                raise
        batch = self._pool.taken(job)
        self._batch_bytes = made.used_bytes
        if self._is_bounded:
            fitting = PREFETCH_BYTES // max(1, made.used_bytes)
            self._ahead = min(self._most_ahead, max(self._num_workers, fitting))
        if isinstance(order, Streams):
            order.deliver(job.worker, made.state, made.has_ended)
            # Each worker has a place of its own, so that none is early.
            place.deliver(place.batches, 1, None)
        else:
            number, snapshot = job.snapshot
            place.deliver(number, self._count(job.task), snapshot)
        self._submit()
        return batch

    def _fail(self, job: Job) -> None:
        number, snapshot = job.snapshot
        self._place.fail(number, self._count(job.task), snapshot)

    def _rest(self) -> None:
        super()._rest()
        if not self._persistent:
            self._shutdown_workers()

    def _shutdown_workers(self) -> None:
        """Ends the workers; Lightning calls it by torch's name."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._shutdown_workers()


def _device_that_pins(loader: Loader) -> str | None:
    """The type of the accelerator whose memory is pinned; None with torch's warning where there is none."""
    if not loader.pin_memory:
        return None
    if loader.pin_memory_device:
        warnings.warn(
            "pin_memory_device is deprecated, the current accelerator will be used as the device,"
            f"ignore pin_memory_device='{loader.pin_memory_device}'.",
            stacklevel=4,
        )
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None or found.type == "mps":
        what = "no accelerator is found" if found is None else "not supported on MPS now"
        text = f"'pin_memory' argument is set as true but {what}, then device pinned memory won't be used."
        warnings.warn(text if found is None else text.replace(", then", ","), stacklevel=4)
        return None
    return found.type
