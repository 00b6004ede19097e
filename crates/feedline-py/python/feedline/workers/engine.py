"""Delivers a Dataset for ``feedline.DataLoader``, with the worker processes and the arena of this package.

Order, ranks, epochs and states are the native engine's. It is asked for one random number a sample instead of the sample: one native
loader runs ahead and says which batches to make, and another, which keeps the place, follows what is handed out.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.multiprocessing
from torch.utils.data import default_collate

from .. import _native
from ..errors import ConfigError, FeedlineError, SampleError, TooManyBadSamplesError
from ..source import Declared, facts_of
from . import worker
from .fetch import BadSamples, Begin, Fetcher, Replaced, Task
from .pool import PARTS_BYTES, Job, Pool
from .ragged import REMEDY
from .rows import Rows, fields_of
from .seeds import Kept

# The number of a sample is its seed already.
_KEY = 0


class Engine:
    """The methods of the native engine, over a Dataset."""

    def __init__(
        self,
        source: Declared,
        plan: _native.Plan,
        *,
        rank: int,
        batch_size: int,
        drop_last: bool,
        num_workers: int,
        memory_budget_bytes: int,
        on_bad_sample: Literal["fail", "replace"],
        max_bad_samples: int,
        form: str,
        batch: Callable[..., Any],
        listener: Callable[[str, str], None],
        worker_init_fn: Callable[[int], None] | None,
        multiprocessing_context: Any,
        prefetch_factor: int | None,
    ) -> None:
        self._rows, seeds = _rows_of(source), source.seeds()
        self._name, _ = facts_of(*source.arguments)

        def numbers(hear: Callable[[str, str], None]) -> _native.Loader:
            return _native.Loader(
                seeds,
                plan,
                rank=rank,
                batch_size=batch_size,
                drop_last=drop_last,
                num_workers=0,
                memory_budget_bytes=memory_budget_bytes,
                on_bad_sample="fail",
                max_bad_samples=max_bad_samples,
                form="numpy",
                batch=lambda fields, names, facts: (fields[0], facts),
                listener=hear,
            )

        self._place = numbers(listener)
        self._ahead = numbers(lambda kind, text: None)
        self._bad = BadSamples(max_bad_samples)
        self._form = form
        self._batch = batch
        self._budget_bytes = memory_budget_bytes
        self._most_ahead = max(1, num_workers) * (prefetch_factor or 2)
        # Until the first batch has told its size.
        self._may_be_ahead = max(1, num_workers)
        self._setup = worker.Setup(
            dataset=self._rows,
            is_iterable=False,
            auto_collation=True,
            collate_fn=default_collate,
            drop_last=drop_last,
            batch_size=batch_size,
            base_seed=0,
            init_fn=worker_init_fn,
            num_workers=num_workers,
            replaces_bad=on_bad_sample == "replace",
        )
        if isinstance(multiprocessing_context, str):
            methods = torch.multiprocessing.get_all_start_methods()
            if multiprocessing_context not in methods:
                raise ConfigError(f"multiprocessing_context={multiprocessing_context!r} is no start method. Give one of {methods}")
            multiprocessing_context = torch.multiprocessing.get_context(multiprocessing_context)
        self._context = multiprocessing_context
        self._pool: Pool | None = None
        self._fetcher: Fetcher | None = None
        # The batches that are being made, each with its facts. The first one is due at this place.
        self._jobs: deque[Job] = deque()
        self._due: tuple[int, int] | None = None
        self._is_drawn, self._is_first = False, True
        self._turn = 0
        self._batch_bytes = 0
        self._one_at_a_time = threading.RLock()
        self._began = time.monotonic()
        self._waited_s, self._batches = 0.0, 0

    # What the place-keeper does alone.

    def begin(self) -> None:
        """Begins a pass."""
        self._place.begin()

    def place(self) -> tuple[int, int]:
        """(epoch, position) up to which samples were delivered."""
        return self._place.place()

    def length(self) -> int:
        """Batches of a whole epoch."""
        return self._place.length()

    def left(self) -> int:
        """Batches to the end of the epoch."""
        return self._place.left()

    def set_epoch(self, epoch: int) -> None:
        """Moves to the beginning of an epoch."""
        self._place.set_epoch(epoch)

    def cursor(self) -> str:
        """The cursor as JSON."""
        return json.dumps(json.loads(self._place.cursor()) | {"bad_samples": self._bad.count})

    def load_cursor(self, text: str) -> None:
        """Moves to the place of a cursor."""
        self._place.load_cursor(text)
        self._bad.count = json.loads(text)["bad_samples"]
        self._due = None

    def next(self, timeout_s: float) -> Any:
        """The next batch; None at the end of the epoch."""
        with self._one_at_a_time:
            if self._place.left() == 0:
                return self._place.next(0.0)
            asked = time.monotonic()
            if self._setup.num_workers == 0:
                made, indices, replaced = self._made_here()
            else:
                made, indices, replaced = self._made_by_workers(timeout_s)
            _, facts = self._place.next(0.0)
            if self._pool is not None:
                self._due = self._place.place()
                self._top_up(self._pool)
            self._waited_s += time.monotonic() - asked
            self._batches += 1
            if replaced:
                facts = SimpleNamespace(epoch=facts.epoch, step=facts.step, valid=facts.valid, indices=_delivered(indices, replaced))
            values, names = fields_of(made)
            return self._batch(tuple(_formed(value, self._form) for value in values), names, facts)

    def _draw(self) -> Task | None:
        """What the batch after those that were drawn is made of; None at the end of the epoch."""
        if self._due != self._place.place():
            # Another epoch, a loaded state, or a batch that failed.
            if self._pool is not None:
                for job in self._jobs:
                    self._pool.drop(job)
                self._pool.begin([Begin(_KEY)] * self._setup.num_workers)
            self._jobs.clear()
            self._ahead.load_cursor(self._place.cursor())
            self._due, self._is_drawn, self._is_first = self._place.place(), False, True
        if self._is_drawn:
            return None
        drawn = self._ahead.next(0.0)
        if drawn is None:
            self._is_drawn = True
            return None
        numbers, facts = drawn
        return Task(facts.indices, numbers.tolist())

    def _made_here(self) -> tuple[Any, list[int], list[Replaced]]:
        setup = self._setup
        self._due = None  # nothing is made ahead
        task = self._draw()
        assert task is not None
        if self._fetcher is None:
            self._fetcher = Fetcher(setup.dataset, False, True, default_collate, False, setup.replaces_bad)
            self._fetcher.begin(Begin(_KEY))
        try:
            with Kept():
                made = self._fetcher.fetch(task, default_collate)
        except Exception as error:
            raise self._failure(error, self._fetcher.at, task) from error
        self._bad.add(self._fetcher.replaced)
        return made, task.keys, self._fetcher.replaced

    def _made_by_workers(self, timeout_s: float) -> tuple[Any, list[int], list[Replaced]]:
        if self._pool is None:
            self._pool, self._due = Pool(self._setup, self._context), None
        pool = self._pool
        pool.check_process()
        self._top_up(pool)
        job = pool.wait(self._jobs, True, timeout_s)
        answer = job.answer
        try:
            if isinstance(answer, worker.Failed):
                try:
                    pickle.loads(answer.error).reraise()
                except Exception as error:
                    raise self._failure(error, answer.at, job.task) from error
            assert isinstance(answer, worker.Made)
            self._bad.add(answer.replaced)
        except FeedlineError:
            self._due = None  # the batch is not delivered; a retry makes it anew
            raise
        self._jobs.popleft()
        self._batch_bytes = answer.used_bytes
        if answer.used_bytes:
            # Two keep the workers busy while one is consumed.
            self._may_be_ahead = min(self._most_ahead, max(2, self._budget_bytes // answer.used_bytes))
        return pool.taken(job), job.task.keys, answer.replaced

    def _top_up(self, pool: Pool) -> None:
        """Hands out tasks, each to the worker that has the fewest."""
        workers = pool.workers
        while (task := None if len(self._jobs) >= self._may_be_ahead else self._draw()) is not None:
            turns = [(self._turn + step) % len(workers) for step in range(len(workers))]
            number = min(turns, key=lambda number: len(workers[number].jobs))
            self._turn = (number + 1) % len(workers)
            if self._is_first and len(task.keys) >= 2 * len(workers) > 2 and self._batch_bytes <= PARTS_BYTES:
                self._jobs.append(pool.submit_parts(task, None))
            else:
                self._jobs.append(pool.submit(number, task, None))
            self._is_first = False

    def _failure(self, error: Exception, at: Any, task: Task) -> Exception:
        return _failure(self._name, self._rows, error, at, task)

    def stats(self) -> tuple[str, str]:
        """The counters as JSON, and the bottleneck in words."""
        passed_s = time.monotonic() - self._began
        share = self._waited_s / passed_s if passed_s else 0.0
        workers = self._setup.num_workers
        figures = {"batches": self._batches, "waited_s": self._waited_s, "passed_s": passed_s, "num_workers": workers}
        if not self._batches:
            return json.dumps(figures), "No batch was delivered yet."
        if share < 0.1:
            return json.dumps(figures), f"The program waited {share:.0%} of its time for batches: {self._name} keeps up with it."
        who = f"{workers} workers" if workers else "this process, since there are no workers"
        return json.dumps(figures), (
            f"The program waited {share:.0%} of its time for batches, which {who} made of {self._name}. Raise num_workers while cores "
            "are idle, or make a sample cheaper"
        )

    def close(self) -> None:
        """Ends the processes. Delivered batches stay valid."""
        self._place.close()
        self._ahead.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def one_item(source: Declared, index: int, epoch: int, seed: int) -> Any:
    """Sample ``index`` of a Dataset, as :class:`Engine` delivers it in a batch with this seed in this epoch."""
    rows = _rows_of(source)
    number = int(np.asarray(source.seeds().sample(index, epoch, seed)[0]))
    fetcher = Fetcher(rows, False, True, default_collate, False)
    fetcher.begin(Begin(_KEY))
    task = Task([index], [number])
    try:
        with Kept():
            item, batch = fetcher.fetch(task, lambda made: (made[0], default_collate(made)))
    except Exception as error:
        raise _failure(facts_of(*source.arguments)[0], rows, error, fetcher.at, task) from error
    return tuple(_first(part, of_batch) for part, of_batch in zip(fields_of(item)[0], fields_of(batch)[0]))


def _rows_of(source: Declared) -> Rows:
    (items,) = source.arguments
    return Rows(items, source.steps, source.chosen)


def _first(item: Any, batch: Any) -> Any:
    """The first sample of a batch that ``default_collate`` made; ``item`` is what it was made of."""
    if isinstance(batch, torch.Tensor):
        return batch[0]
    if isinstance(item, dict):
        return {name: _first(value, batch[name]) for name, value in item.items()}
    if isinstance(item, (tuple, list)):
        made = [_first(value, of_batch) for value, of_batch in zip(item, batch)]
        return type(item)(*made) if hasattr(item, "_fields") else type(item)(made)
    return item


def _failure(name: str, rows: Rows, error: Exception, at: Any, task: Task) -> Exception:
    """The error for a sample that could not be made, or samples that could not be collated."""
    if isinstance(error, (MemoryError, TooManyBadSamplesError)):
        return error
    # A worker's exception has the whole traceback as its text. The remedy is that of feedline.torch.DataLoader.
    said = (str(error).replace(REMEDY, "").strip().splitlines() or [""])[-1]
    kind = type(error).__name__
    problem = said if said.startswith(kind) else f"{kind}: {said}"
    if at is None:
        return SampleError(
            f"failed to collate samples {task.keys}: {problem}. feedline.torch.DataLoader takes a collate function, and batches fields "
            "of unequal shape (collate=)",
            stage="collate",
            index=task.keys[0],
            location=f"item {rows.item(task.keys[0])}",
            problem=problem,
        )
    return SampleError(
        f"step {name} failed on sample {at} (item {rows.item(at)}): {problem}",
        stage="augment",
        index=at,
        location=f"item {rows.item(at)}",
        problem=problem,
        step=name,
    )


def _delivered(indices: list[int], replaced: list[Replaced]) -> list[int]:
    """The indices of the samples that a batch really has."""
    found, left = [], list(replaced)
    for index in indices:
        while left and left[0].index == index:
            index = left.pop(0).replaced_by
        found.append(index)
    return found


def _formed(value: Any, form: str) -> Any:
    """The value with NumPy's arrays instead of tensors, if they are asked for."""
    if form != "numpy":
        return value
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, (tuple, list)):
        made = [_formed(one, form) for one in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if isinstance(value, dict):
        return {name: _formed(one, form) for name, one in value.items()}
    return value
