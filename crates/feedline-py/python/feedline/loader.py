"""The loader: delivers the batches of a source on this rank, epoch after epoch, in plan order.

A batch depends on (data, seed, epoch, position) alone, never on ``num_workers``. What Feedline itself makes is made by threads of
this process, in which steps of a user's own run one sample at a time (:mod:`feedline.own`). A user's Dataset is made by worker
processes (:mod:`feedline.workers`), if torch is installed.
"""

from __future__ import annotations

import atexit
import json
import logging
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from . import _native, own
from .batch import Batch, DictBatch, batch_of, batch_of_own
from .errors import ConfigError, as_json, whole_number
from .follow import Followed
from .ranks import Ranks
from .pictures import Images
from .source import Declared, Source, arrays, has_torch, of_torch
from .source import dataset as items

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("feedline")

# Engines with live threads. They must end before the interpreter does: a thread that needs it afterwards would wait
# for ever.
_engines: weakref.WeakSet[_native.Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    if not _native.settle(list(_engines), 5.0, True):
        # A thread that returns from a call while the interpreter ends would kill the process by a signal.
        own.interrupt_workers()
        _native.settle([], 1.0, False)


def _one_item(source: Declared, index: int, epoch: int, seed: int) -> Any:
    from .workers.engine import one_item

    return one_item(source, index, epoch, seed)


Declared.item = staticmethod(_one_item)


# Arguments of torch's DataLoader that are not supported, and their replacements.
_INSTEAD = {
    "batch_sampler": "Feedline batches by itself: give batch_size, and a sampler or shuffle",
    "collate_fn": "Fields of equal shape are stacked; change samples with .map(f) on the source, or the batch in the loop",
    "worker_init_fn": "Workers are threads of this process here: initialise before the loader is made",
    "generator": "The order follows from seed and the epoch: give seed=...",
    "multiprocessing_context": "Workers are threads of this process here: leave it out",
    "pin_memory_device": "Give pin_memory=True and move batches with non_blocking=True",
    "collate": "Fields of unequal shape are batched by feedline.torch.DataLoader",
}
# Arguments without effect on the batches; these values always apply here.
_HARMLESS = {"persistent_workers", "prefetch_factor"}
# Arguments for worker processes.
_OF_PROCESSES = ("worker_init_fn", "multiprocessing_context", "prefetch_factor")


class _Others(TypedDict, total=False):
    """The values that may be given for these arguments: a type checker sees what is refused, or is no argument at all."""

    source: Any
    persistent_workers: bool
    prefetch_factor: int | None
    batch_sampler: None
    collate_fn: Any
    worker_init_fn: Callable[[int], None] | None
    generator: None
    multiprocessing_context: Any
    pin_memory_device: Literal[""] | None
    collate: None


class DataLoader:
    """Delivers the batches of one rank, with the arguments of ``torch.utils.data.DataLoader``.

    ``dataset``: :func:`feedline.images`, :func:`feedline.arrays` or :func:`feedline.dataset`; arrays and map-style
    datasets are wrapped automatically.

    Args:
        batch_size: Samples a step on this rank.
        shuffle: The order of ``torch.utils.data.DistributedSampler`` with this seed, index for index.
        num_workers: Processes for a user's Dataset, else threads; 0 makes batches in the calling thread; None is one for each core
            of this rank's share. With threads it is 0 if a user's step draws from a global random generator; a warning says so.
        workers: "processes" is the default for a Dataset: ``worker_init_fn``, ``multiprocessing_context`` and ``prefetch_factor``
            are then as torch's. "threads" lets several threads run a user's Dataset or step at once, which must be thread-safe.
            Without it steps run one sample at a time, and so does a Dataset without torch.
        drop_last: Leaves out a last batch that is not full, and with several ranks the samples that do not divide evenly.
        seed: Decides the order and all augmentation.
        num_replicas, rank: By default from the process group or the launcher (:mod:`feedline.ranks`), read when batches are
            first asked for, so the group may be initialised after the loader was made.
        pin_memory: Delivers page-locked torch tensors, if CUDA is available.
        timeout: Seconds that a batch may take before :class:`feedline.LoaderTimeoutError`; 0 waits for ever.
        in_order: Batches always come in order; False is accepted and changes nothing.
        sampler: torch's ``DistributedSampler`` or one of :mod:`feedline.torch`; the loader follows its order, rank, epoch and
            loaded position. Subclasses of theirs with another order are refused.
        tail: Treatment of samples that do not divide evenly by the ranks: "pad" (torch's default), "drop", or "exact": each
            once, for evaluation; ``batch.valid`` is the number of real samples.
        permutation: "torch", or "feistel" for any length without memory.
        epoch_length: Samples of an epoch over all ranks; the default is the size of the data set.
        merge_epochs: Number of copies of the data set in one permutation, which is one epoch.
        weights: Draws with replacement, by one weight per sample.
        output: "torch", "numpy" or "dlpack"; None is torch if it is installed.
        on_bad_sample: "fail", or "replace" by another sample, up to ``max_bad_samples`` times. A sample is bad if its file is
            missing or cannot be decoded; failures of a network or a disk and missing rights are always errors.
        memory_budget_bytes: Most memory of batches in flight and samples being made.

    Every ``iter()`` is the next epoch: no call of :meth:`set_epoch` is needed. :meth:`state_dict` refers to the
    newest iterator; an older one that is still in use continues with threads of its own.
    """

    def __init__(
        self,
        dataset: Any = None,
        batch_size: int = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        *,
        num_workers: int | None = None,
        workers: Literal["processes", "threads"] | None = None,
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
        **others: Unpack[_Others],
    ) -> None:
        # The former name of this argument; the new one is torch's.
        given: dict[str, Any] = dict(others)
        source = given.pop("source", dataset)
        if source is None or (dataset is not None and source is not dataset):
            raise TypeError("DataLoader() needs one dataset: feedline.images(...), feedline.arrays(...) or a Dataset")
        self.dataset = _as_source(source)
        is_dataset = isinstance(self.dataset, Declared) and self.dataset.make is None
        if workers not in (None, "threads", "processes") or (workers == "processes" and not is_dataset):
            raise ConfigError(
                f'workers={workers!r}. Give "threads", or leave it out: one sample at a time then. "processes" is for a Dataset'
            )
        if on_bad_sample not in ("fail", "replace"):
            raise ConfigError(f'on_bad_sample={on_bad_sample!r}. Give "fail" or "replace"')
        self._by_processes = is_dataset and workers != "threads" and has_torch()
        if workers == "processes" and not self._by_processes:
            raise ConfigError('workers="processes" needs torch: pip install torch')
        self._of_processes = {name: given.pop(name, None) for name in _OF_PROCESSES if self._by_processes}
        for name in given:
            if name in _INSTEAD and given[name] not in (None, "") and not hasattr(given[name], "feedline_stacks"):
                raise ConfigError(f"{name} is not for Feedline's DataLoader. {_INSTEAD[name]}")
            if name not in _INSTEAD and name not in _HARMLESS:
                raise TypeError(f"DataLoader() got an unexpected keyword argument {name!r}")
        batch_size = whole_number("batch_size", batch_size, 1)
        if isinstance(timeout, str) or timeout < 0:
            raise ConfigError(f"timeout option should be non-negative, but got timeout={timeout!r}")
        if workers == "threads":
            if not isinstance(self.dataset, (Images, Declared)):
                raise ConfigError(f"workers={workers!r} has no effect here: no code of yours runs in workers. Leave it out")
            if not self.dataset.at_once:
                self.dataset = replace(self.dataset, at_once=True)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.timeout = timeout
        self.in_order = in_order
        self.batch_sampler = None  # torch's loader has one, and Lightning asks for it
        length = len(self.dataset) if self._by_processes else len(self.dataset.native)
        self.dataset.refuse_empty(length)
        self._length = length
        self._follows = Followed(sampler, length) if sampler is not None else None
        if self._follows is not None:
            if shuffle:
                raise ConfigError("sampler option is mutually exclusive with shuffle")
            order = {"num_replicas": num_replicas, "rank": rank, "seed": seed or None, "tail": tail, "weights": weights}
            order |= {"epoch_length": epoch_length, "merge_epochs": merge_epochs}
            order |= {"permutation": None if permutation == "torch" else permutation}
            for name, value in order.items():
                if value is not None:
                    raise ConfigError(f"{name}={value!r} beside a sampler has no effect: the sampler decides. Leave it out here")
            self._ranks = Ranks(sampler.num_replicas, sampler.rank)
            self._order: dict[str, Any] = {}
        else:
            if permutation != "torch" and not shuffle and weights is None:
                raise ConfigError(f"permutation={permutation!r} has no effect without shuffle=True. Leave it out, or shuffle")
            self._ranks = Ranks(num_replicas, rank)
            self._order = {
                "permutation": permutation if shuffle else "none",
                "seed": operator.index(seed) % 2**64,
                "tail": tail or ("drop" if drop_last else "pad"),
                "merge_epochs": None if merge_epochs is None else whole_number("merge_epochs", merge_epochs, 1),
                "epoch_length": None if epoch_length is None else whole_number("epoch_length", epoch_length, 1),
                "weights": None if weights is None else [float(weight) for weight in weights],
            }
        asked = _cores() if num_workers is None else whole_number("num_workers", num_workers, 0)
        self.num_workers = self._workers_that_may(asked)
        if timeout and not self.num_workers:
            log.warning("timeout=%s has no effect without workers: a batch is made when it is asked for", timeout)
        if output is None:
            output = "torch" if has_torch() else "numpy"
        self.pin_memory = pin_memory and _can_pin(output)
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "drop_last": drop_last,
            "num_workers": self.num_workers,
            "memory_budget_bytes": whole_number("memory_budget_bytes", memory_budget_bytes, 1),
            "on_bad_sample": on_bad_sample,
            "max_bad_samples": whole_number("max_bad_samples", max_bad_samples, 0),
            "form": output,
            "batch": batch_of_own if self._make_batch is batch_of and self.dataset.is_own else self._make_batch,
            "listener": _hear,
        }
        self._engine_now = self._start()
        self._newest: weakref.ref[_Pass] | None = None
        # The epoch of a loaded state, until a pass begins.
        self._loaded_epoch: int | None = None
        # True if the running pass was abandoned and its engine replaced.
        self._left_early = False
        if self._follows is not None:
            self._follows.lead(self)

    # Recipes replace this to deliver batches of their own kind.
    _make_batch: Callable[..., Any] = staticmethod(batch_of)

    def _workers_that_may(self, asked: int) -> int:
        """The number of workers asked for, or 0 if user code draws from global generators."""
        if asked == 0 or self._by_processes:
            return asked
        self.dataset.learn()
        told = own.told(self.dataset.own)
        if told and self.dataset.at_once:
            raise ConfigError(
                f'{told}, which threads would share with your program, so workers="threads" is not possible. Leave it out, or '
                "draw from rng: .map(f, rng=True)"
            )
        if told:
            warnings.warn(
                f"{told}, which worker threads would share with your program. So samples are made in the thread that asks for "
                "batches, with generators seeded from (seed, epoch, sample), and there are no workers: give num_workers=0 to "
                "say so. To have workers, draw from rng: .map(f, rng=True)",
                UserWarning,
                stacklevel=3,
            )
            return 0
        return asked

    def _make_pass(self) -> _Pass:
        return _Pass(self)

    def _start(self) -> _native.Loader:
        self._place = self._ranks.place()
        rank, num_replicas = self._place
        if self._follows is not None:
            self._plan = self._follows.plan(num_replicas)
        else:
            self._plan = _native.Plan(self._length, num_replicas, **self._order)
        if self._by_processes:
            from .workers.engine import Engine

            assert isinstance(self.dataset, Declared)
            made: Any = Engine(self.dataset, self._plan, rank=rank, **self._options, **self._of_processes)
            return made  # type: ignore[no-any-return]  # it has the methods of a native one
        engine = _native.Loader(self.dataset.native, self._plan, rank=rank, **self._options)
        _engines.add(engine)
        return engine

    @property
    def _engine(self) -> _native.Loader:
        """The engine for the present rank: the process group may have been initialised after the loader was made."""
        if self._ranks.place() != self._place and self._live() is None:
            place, before = self._engine_now.cursor(), self._place
            if self._engine_now.place()[1] > 0 and self._loaded_epoch is None:
                self._left_early = True
                now = self._ranks.place()
                warnings.warn(
                    f"batches of this epoch were delivered as rank {before[0]} of {before[1]}; from now on this process is rank "
                    f"{now[0]} of {now[1]}. Let the process group begin before the first batch",
                    UserWarning,
                    stacklevel=3,
                )
            self._engine_now.close()
            self._engine_now = self._start()
            self._engine_now.load_cursor(place)
        return self._engine_now

    @property
    def rank(self) -> int:
        """Rank of this process."""
        self._ranks.check()
        return self._ranks.place()[0]

    @property
    def num_replicas(self) -> int:
        """Number of ranks."""
        self._ranks.check()
        return self._ranks.place()[1]

    @property
    def sampler(self) -> Any:
        """The sampler that it follows; without one, a stand-in for programs that set the sampler's epoch."""
        return _Epochs(self) if self._follows is None else self._follows.sampler

    def _live(self) -> _Pass | None:
        """The newest iterator, if it is still in use. It is over once it has given all its batches, even before StopIteration."""
        live = self._newest() if self._newest else None
        if live is not None and not live.over and self._engine_now.left() == 0:
            live.over = True
        return None if live is None or live.over else live

    def _part_from_live_pass(self) -> None:
        """Leaves the engine to an iterator that is still in use, and continues from the same position with a new engine."""
        if self._live() is not None:
            place = self._engine_now.cursor()
            self._engine_now = self._start()
            self._engine_now.load_cursor(place)
        self._newest = None

    def __iter__(self) -> Iterator[Any]:  # a Batch, or a DictBatch; a type checker cannot know which
        self._ranks.check()
        self._engine_now.place()  # a closed loader, or one of another process, says so here
        return self._make_pass()

    def _begin(self, newest: _Pass) -> _native.Loader:
        """Begins a pass, when its first batch is asked for. Until then the epoch may still be set."""
        self._ranks.check()
        if self._follows is not None:
            self._follows.lead(self)
        if self._live() is not None:
            epoch, _ = self._engine_now.place()
            self._part_from_live_pass()
            self._engine.set_epoch(epoch + 1)
        engine = self._engine
        if self._left_early:
            # A pass that was left early is over, as with a single engine.
            engine.set_epoch(engine.place()[0] + 1)
        engine.begin()
        self._loaded_epoch, self._left_early = None, False
        self._newest = weakref.ref(newest)
        return engine

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        self._ranks.check()
        return self._engine.length()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iterator. The loader counts epochs itself, so no call is needed. After
        :meth:`load_state_dict` the loaded epoch continues from its saved position.
        """
        epoch = whole_number("epoch", epoch, 0)
        if epoch != self._loaded_epoch:
            self._part_from_live_pass()
            self._engine.set_epoch(epoch)
            self._loaded_epoch, self._left_early = None, False
        if self._follows is not None:
            self._follows.overrule()

    @property
    def epoch(self) -> int:
        """The epoch that is being delivered, or will be next."""
        return self._engine.place()[0]

    @property
    def batches_left(self) -> int:
        """Batches of this rank from here to the end of the epoch."""
        return self._engine.left()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the run: after the last batch that was handed out; prefetched ones do not count. A few
        hundred bytes, JSON-serialisable, the same on every rank, valid at any time. Any number of ranks and workers can resume
        from it.
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
        self._loaded_epoch, self._left_early = self._engine.place()[0], False
        if self._follows is not None:
            self._follows.overrule()

    def stats(self) -> dict[str, Any]:
        """The counters of the stages, and under "verdict" a text that names the bottleneck."""
        figures, verdict = self._engine_now.stats()
        stats: dict[str, Any] = json.loads(figures)
        return stats | {"verdict": verdict}

    def __repr__(self) -> str:
        rank, num_replicas = self._place
        options = f"batch_size={self.batch_size}, num_workers={self.num_workers}, rank={rank}, num_replicas={num_replicas}"
        return f"{type(self).__name__}({options}) of\n    " + repr(self.dataset).replace("\n", "\n    ")

    def close(self) -> None:
        """Stops the threads. Delivered batches stay valid; the loader cannot be used any more."""
        self._engine_now.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pass(Iterator[Any]):
    """One pass over an epoch, which begins when its first batch is asked for."""

    def __init__(self, loader: DataLoader) -> None:
        # Set until the pass begins.
        self._loader: DataLoader | None = loader
        self._timeout_s = float(loader.timeout)
        self._pin_memory = loader.pin_memory
        # True if workers run user code.
        self._is_watched = loader.num_workers > 0 and bool(loader.dataset.own)
        self.over = False
        # Threads may share a pass: a call after its end must not begin the next epoch.
        self._one_at_a_time = threading.Lock()

    def _next(self) -> Any:
        if self._loader is not None:
            self._engine = self._loader._begin(self)
            self._loader = None
        if not self._is_watched:
            return self._engine.next(self._timeout_s)
        if _native.inside():
            raise ConfigError(
                "your Dataset or step asks another DataLoader for a batch. One sample of your code runs at a time, so that "
                "loader's workers could never run. Make it with num_workers=0"
            )
        with own.waiting():
            return self._engine.next(self._timeout_s)

    def __next__(self) -> Any:
        with self._one_at_a_time:
            if self.over:
                raise StopIteration
            batch: Batch | DictBatch | None = self._next()
            if batch is None:
                self.over = True
                raise StopIteration
        return batch.pin_memory() if self._pin_memory else batch


class _Epochs:
    """``loader.sampler`` of a loader without a sampler. Programs that set its epoch (as Lightning) set the loader's epoch."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader._plan.num_samples(self._loader.rank, 0)

    @property
    def epoch(self) -> int:
        """As the loader's."""
        return self._loader.epoch

    def set_epoch(self, epoch: int) -> None:
        """As the loader's."""
        self._loader.set_epoch(epoch)


def _as_source(source: Any) -> Source:
    source = of_torch(source)
    if isinstance(source, Source):
        return source
    if hasattr(source, "__array_interface__"):
        return arrays(source)
    if isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"{os.fspath(source)} is a path. Say what is there: feedline.images(path) or feedline.arrays(path)"
        )
    return items(source)


def _cores() -> int:
    """Cores of this rank's share of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or "1"
    return max(1, cores // int(local)) if local.isdigit() and int(local) > 0 else cores


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

