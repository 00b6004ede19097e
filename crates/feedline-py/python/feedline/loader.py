"""The loader: batches of a source, epoch after epoch, on this rank, in plan order.

Feedline's workers are threads of this process: there is no ``worker_init_fn``, nothing is pickled and nothing has to be
persistent. A batch depends on (data, seed, epoch, position) alone, never on ``num_workers``.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

from . import _native
from .errors import ConfigError, as_json, whole_number
from .ranks import discover_and_tell
from .source import Source, arrays, dataset

log = logging.getLogger("feedline")

# Engines with live threads. They must be gone before the interpreter is: a thread that asks it for something would wait
# for ever.
_engines: weakref.WeakSet[_native.Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


class Batch(tuple):  # type: ignore[type-arg]
    """What a source declares, in order: ``images, labels = batch``. Also by name: ``batch["image"]``."""

    names: list[str] = []
    _facts: Any = None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"the batch has no field {key!r}; it has {self.names}")
            return tuple.__getitem__(self, self.names.index(key))
        return tuple.__getitem__(self, key)

    @property
    def epoch(self) -> int:
        """Epoch it belongs to, from 0."""
        return int(self._fact("epoch"))

    @property
    def step(self) -> int:
        """Number of the batch in its epoch on this rank, from 0."""
        return int(self._fact("step"))

    @property
    def valid(self) -> int:
        """How many leading samples are real; the rest fills up the ranks and must not count in a metric."""
        return int(self._fact("valid"))

    @property
    def indices(self) -> list[int]:
        """Number of each sample in the data set."""
        return list(self._fact("indices"))

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The same batch with every tensor's ``to(*args, **kwargs)``: ``batch.to("cuda", non_blocking=True)``."""
        return self._each("to", *args, **kwargs)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which is a copy of every tensor."""
        return self._each("pin_memory")

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            raise AttributeError(f"{name} is not known: this batch was made from the loader's by other code")
        return getattr(self._facts, name)

    def _each(self, method: str, *args: Any, **kwargs: Any) -> Batch:
        def call(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(call, value))
            return getattr(value, method)(*args, **kwargs) if hasattr(value, method) else value

        return _batch(tuple(map(call, self)), self.names, self._facts)


def _batch(fields: tuple[Any, ...], names: list[str], facts: Any) -> Batch:
    batch = Batch(fields)
    batch.names = names
    batch._facts = facts
    return batch


# What torch's DataLoader takes besides, and what to do instead.
_INSTEAD = {
    "batch_sampler": "Feedline batches by itself: give batch_size, and a sampler or shuffle",
    "collate_fn": "Fields of equal shape are stacked; change samples with .map(f) on the source, or the batch in the loop",
    "worker_init_fn": "Workers are threads of this process: initialise before the loader is made",
    "generator": "The order follows from seed and the epoch: give seed=...",
    "multiprocessing_context": "Workers are threads of this process: leave it out",
    "pin_memory_device": "Give pin_memory=True and move batches with non_blocking=True",
}
# Without effect on what is delivered, and always so here.
_HARMLESS = {"persistent_workers", "prefetch_factor"}


class DataLoader:
    """Delivers the batches of one rank, with the words of ``torch.utils.data.DataLoader``.

    ``source``: :func:`feedline.images`, :func:`feedline.arrays` or :func:`feedline.dataset`; arrays and map-style
    datasets are taken as they are.

    Args:
        batch_size: Samples a step on this rank.
        shuffle: The order of ``torch.utils.data.DistributedSampler`` with this seed, index for index.
        num_workers: Threads; 0 makes batches in the calling thread; None is one for each core of this rank's share.
        drop_last: Leaves out a last batch that is not full, and with several ranks what does not divide by them.
        seed: Decides the order and all augmentation.
        num_replicas, rank: Which share; without them the process group or the launcher tells (:mod:`feedline.ranks`).
        pin_memory: Page-locked torch tensors, where there is CUDA.
        timeout: Seconds that a batch may take before :class:`feedline.LoaderTimeoutError`; 0 waits for ever.
        in_order: Batches always come in order; False is accepted and changes nothing.
        sampler: A ``DistributedSampler`` (torch's or Feedline's) whose order, rank and epoch to follow.
        tail: What happens to samples that do not divide by the ranks: "pad" (torch's default), "drop", or "exact": each
            once, for evaluation; ``batch.valid`` says how many are real.
        permutation: "torch", or "feistel" for any length without memory.
        epoch_length: Samples of an epoch over all ranks, if not the data set's.
        merge_epochs: One permutation over so many times the data set.
        weights: Draws with replacement, by one weight a sample.
        output: "torch", "numpy" or "dlpack"; None is torch where it is installed.
        on_bad_sample: "fail", or "replace" by another sample, up to ``max_bad_samples`` times.
        memory_budget_bytes: Batches in flight and samples under way take so much at most.

    Every ``iter()`` is the next epoch: nobody has to call :meth:`set_epoch`. The iterator that was made last is the one
    that :meth:`state_dict` tells of; an older one that still lives goes on with threads of its own.
    """

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        *,
        num_workers: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        pin_memory: bool = False,
        timeout: float = 0,
        in_order: bool = True,
        tail: Literal["pad", "drop", "exact"] | None = None,
        permutation: Literal["torch", "feistel"] = "torch",
        epoch_length: int | None = None,
        merge_epochs: int | None = None,
        weights: Any = None,
        output: Literal["torch", "numpy", "dlpack"] | None = None,
        on_bad_sample: Literal["fail", "replace"] = "fail",
        max_bad_samples: int = 100,
        memory_budget_bytes: int = 256 << 20,
        **others: Any,
    ) -> None:
        for name in others:
            if name in _INSTEAD and others[name] is not None and not hasattr(others[name], "feedline_stacks"):
                raise ConfigError(f"{name} is not for Feedline's DataLoader. {_INSTEAD[name]}")
            if name not in _INSTEAD and name not in _HARMLESS:
                raise TypeError(f"DataLoader() got an unexpected keyword argument {name!r}")
        batch_size = whole_number("batch_size", batch_size, 1)
        if isinstance(timeout, str) or timeout < 0:
            raise ConfigError(f"timeout option should be non-negative, but got timeout={timeout!r}")
        self.dataset = _as_source(source)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.timeout = timeout
        self.in_order = in_order
        self.sampler = sampler
        self.batch_sampler = None  # torch's loader has one, and Lightning asks for it
        length = len(self.dataset.native)
        if sampler is not None:
            if shuffle is not None:
                raise ConfigError("sampler option is mutually exclusive with shuffle")
            self._plan, self.rank, self.num_replicas = _plan_of_sampler(sampler, length)
        else:
            self.rank, self.num_replicas = discover_and_tell(num_replicas, rank)
            tail = tail or ("drop" if drop_last else "pad")
            self._plan = _native.Plan(
                length,
                self.num_replicas,
                permutation=permutation if shuffle else "none",
                seed=operator.index(seed) % 2**64,
                tail=tail,
                merge_epochs=None if merge_epochs is None else whole_number("merge_epochs", merge_epochs, 1),
                epoch_length=None if epoch_length is None else whole_number("epoch_length", epoch_length, 1),
                weights=None if weights is None else [float(weight) for weight in weights],
            )
        self.num_workers = _cores() if num_workers is None else whole_number("num_workers", num_workers, 0)
        if output is None:
            output = "torch" if _has_torch() else "numpy"
        self.pin_memory = pin_memory and _can_pin(output)
        self._options: dict[str, Any] = {
            "rank": self.rank,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "num_workers": self.num_workers,
            "memory_budget_bytes": whole_number("memory_budget_bytes", memory_budget_bytes, 1),
            "on_bad_sample": on_bad_sample,
            "max_bad_samples": whole_number("max_bad_samples", max_bad_samples, 0),
            "form": output,
            "batch": self._make_batch,
            "listener": _hear,
        }
        self._engine = self._start()
        self._newest: weakref.ref[_Pass] | None = None
        # The epoch of a state that was loaded, until a pass begins.
        self._loaded_epoch: int | None = None
        self._seen_epoch = getattr(sampler, "epoch", None)

    # What recipes deliver instead.
    _make_batch: Callable[..., Any] = staticmethod(_batch)

    def _make_pass(self) -> _Pass:
        return _Pass(self._engine, self.timeout, self.pin_memory)

    def _start(self) -> _native.Loader:
        engine = _native.Loader(self.dataset.native, self._plan, **self._options)
        _engines.add(engine)
        return engine

    def _part_from_live_pass(self) -> None:
        """Leaves the engine to an iterator that is still in use, and goes on from the same place with another one."""
        live = self._newest() if self._newest else None
        if live is not None and not live.over:
            place = self._engine.cursor()
            self._engine = self._start()
            self._engine.load_cursor(place)
        self._newest = None

    def __iter__(self) -> Iterator[Batch]:
        follows = getattr(self.sampler, "epoch", None)
        if follows is not None and follows != self._seen_epoch:
            self.set_epoch(follows)
        live = self._newest() if self._newest else None
        if live is not None and not live.over:
            epoch, _ = self._engine.place()
            self._part_from_live_pass()
            self._engine.set_epoch(epoch + 1)
        self._engine.begin()
        self._loaded_epoch = None
        newest = self._make_pass()
        self._newest = weakref.ref(newest)
        return newest

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return self._engine.length()

    def set_epoch(self, epoch: int) -> None:
        """The next iterator begins this epoch; the loader counts by itself, so nobody has to call this. After
        :meth:`load_state_dict`, the epoch that was loaded goes on where it stood.
        """
        epoch = whole_number("epoch", epoch, 0)
        if epoch != self._loaded_epoch:
            self._part_from_live_pass()
            self._engine.set_epoch(epoch)
            self._loaded_epoch = None
        self._seen_epoch = getattr(self.sampler, "epoch", None)

    @property
    def epoch(self) -> int:
        """The epoch that is being delivered, or will be next."""
        return self._engine.place()[0]

    @property
    def batches_left(self) -> int:
        """Batches of this rank from here to the end of the epoch."""
        return self._engine.left()

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands: after the last batch that was handed out, whatever is prefetched. A few hundred bytes,
        fit for JSON, the same on every rank, valid at any time; any number of ranks and workers can go on from it.
        """
        state: dict[str, Any] = json.loads(self._engine.cursor())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iterator begins with exactly the next sample.

        Raises :class:`feedline.StateError` if the state belongs to other data or another order; nothing changes then.
        """
        cursor = as_json(state_dict)
        self._part_from_live_pass()
        self._engine.load_cursor(cursor)
        self._loaded_epoch = self._engine.place()[0]
        self._seen_epoch = getattr(self.sampler, "epoch", None)

    def stats(self) -> dict[str, Any]:
        """The counters of the stages, and under "verdict" what limits the loader, in words."""
        figures, verdict = self._engine.stats()
        stats: dict[str, Any] = json.loads(figures)
        return stats | {"verdict": verdict}

    def close(self) -> None:
        """Stops the threads. Batches stay valid; the loader does not."""
        self._engine.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pass(Iterator[Batch]):
    """One pass over an epoch."""

    def __init__(self, engine: _native.Loader, timeout_s: float, pin_memory: bool) -> None:
        self._engine = engine
        self._timeout_s = float(timeout_s)
        self._pin_memory = pin_memory
        self.over = False
        # Threads may share a pass: whoever asks after its end must not begin the next epoch.
        self._one_at_a_time = threading.Lock()

    def __next__(self) -> Batch:
        with self._one_at_a_time:
            if self.over:
                raise StopIteration
            batch: Batch | None = self._engine.next(self._timeout_s)
            if batch is None:
                self.over = True
                raise StopIteration
        return batch.pin_memory() if self._pin_memory else batch


def _as_source(source: Any) -> Source:
    if isinstance(source, Source):
        return source
    if hasattr(source, "__array_interface__"):
        return arrays(source)
    if isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"{os.fspath(source)} is a path. Say what is there: feedline.images(path) or feedline.arrays(path)"
        )
    return dataset(source)


def _plan_of_sampler(sampler: Any, length: int) -> tuple[_native.Plan, int, int]:
    """The plan of a DistributedSampler, torch's or ours, with its rank and number of ranks."""
    plan = getattr(sampler, "plan", None)
    if isinstance(plan, _native.Plan):
        return plan, sampler.rank, sampler.num_replicas
    facts = ("num_replicas", "rank", "shuffle", "seed", "drop_last")
    if type(sampler).__name__ != "DistributedSampler" or not all(hasattr(sampler, fact) for fact in facts):
        raise ConfigError(
            f"the sampler {type(sampler).__name__} is not one that can be resumed anywhere. Use "
            "feedline.torch.DistributedSampler, or shuffle, weights and the other arguments of this loader"
        )
    plan = _native.Plan(
        length,
        sampler.num_replicas,
        permutation="torch" if sampler.shuffle else "none",
        seed=sampler.seed,
        tail="drop" if sampler.drop_last else "pad",
    )
    return plan, sampler.rank, sampler.num_replicas


def _cores() -> int:
    """Cores of this rank's share of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or "1"
    return max(1, cores // int(local)) if local.isdigit() and int(local) > 0 else cores


def _has_torch() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):  # something stands in its way
        return False


def _can_pin(output: str) -> bool:
    if output == "torch":
        import torch

        if torch.cuda.is_available():
            return True
    log.warning("pin_memory=True has no effect: it needs torch tensors and a CUDA device")
    return False


def _hear(kind: str, text: str) -> None:
    if kind == "warning":
        warnings.warn(text, UserWarning, stacklevel=3)
    else:
        bad = json.loads(text)
        log.warning(
            "sample %d (%s) was replaced by sample %d: failed to %s it: %s",
            bad["index"], bad["location"], bad["replaced_by"], bad["stage"], bad["problem"],
        )  # fmt: skip

