"""``DataLoader`` in place of torch's: the same arguments, batches, orders and errors, by Feedline's worker processes and arena."""

from __future__ import annotations

import inspect
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.utils.data
from torch.utils.data import BatchSampler, Dataset, IterableDataset, IterDataPipe, MapDataPipe, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..errors import ConfigError, StateError, UnsupportedError, as_json, whole_number
from ..loader import DataLoader as NativeLoader
from ..source import Source
from ..workers.fetch import BadSamples
from ..workers.ragged import Rule, collate_fn_of
from .iterated import Iterated
from .order import DISTRIBUTED, DRAWN, Drawn, Order, Planned, differs, generator_of, text_of
from .passes import Early, Place, SinglePass, WorkerPass
from .rest import behind_rest, rest_of
from .samplers import DistributedBatchSampler
from .streams import Streams

T = TypeVar("T", covariant=True)

_FORMAT = 1
_context: Any = torch.utils.data.DataLoader.multiprocessing_context
# What has no meaning for a Feedline source.
_OF_DATASETS = ("batch_sampler", "collate_fn", "worker_init_fn", "multiprocessing_context", "generator", "seeds", "collate")


def order_of(loader: Any) -> Order:
    """The kind of order that a loader has."""
    if isinstance(loader.dataset, IterableDataset):
        return Streams(loader)
    sampler, batches = loader.sampler, loader.batch_sampler
    size, drop_last = loader.batch_size, loader.drop_last
    if type(batches) is BatchSampler or type(batches) is DistributedBatchSampler:
        sampler, size, drop_last = batches.sampler, batches.batch_size, batches.drop_last
    elif batches is not None:
        return Iterated(batches, None, None, False, loader.generator)
    if type(sampler) in DISTRIBUTED:
        return Planned(sampler, size, drop_last)
    if type(sampler) in DRAWN:
        return Drawn(sampler, size, drop_last)
    return Iterated(loader._index_sampler, sampler, size, drop_last, loader.generator)


def _drawn_seed(generator: torch.Generator | None) -> int:
    """The seed of a pass's workers, drawn as torch draws it."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _checksum() -> int:
    """Of the state of the main generator."""
    return zlib.crc32(torch.default_generator.get_state().numpy().tobytes())


class _Course:
    """Where a loader is. One object, made with it: Lightning sets attributes that a loader got later on its copies, too."""

    def __init__(self, max_bad_samples: int) -> None:
        self.bad = BadSamples(max_bad_samples)
        self._limit = max_bad_samples
        self.order: Order | None = None
        self.samplers: tuple[Any, Any, Any] = (None, None, None)
        # What is left of an epoch of another kind of order, until a pass begins with it.
        self.rest: Order | None = None
        # The newest pass.
        self.place: Place | None = None
        # The drawn seed and number of the next pass, if no seed is to be drawn for it.
        self.seed: tuple[int, int] | None = None
        # The checksum of a loaded state, and the batches that were handed out before earlier ones; see Place.
        self.before: int | None = None
        self.early: Early | None = None

    def __reduce__(self) -> Any:
        return _Course, (self._limit,)


class DataLoader(torch.utils.data.DataLoader[T]):
    """``torch.utils.data.DataLoader`` with a place: the same arguments, defaults, batches, orders and errors, and besides
    :meth:`state_dict`, random numbers that belong to the sample, and batches that cross processes without a copy.

    Args:
        seeds: "sample" seeds the global generators of torch, NumPy and Python before each sample from (seed, epoch, sample), so
            that augmentation is equal for any number of workers, ranks and restarts, and the program's own generators are not
            touched. "worker" is torch's scheme: a worker's generators are seeded once, and without workers the samples draw
            from the program's generators.
        prefetch_factor: If it is not given, it is 2, but no more than 128 MiB of batches are made ahead, or one a worker.
        on_bad_sample: "fail", or "replace" by another sample, drawn by the bad one's seed, up to ``max_bad_samples`` times; each
            is logged. A sample is bad if its file is missing or cannot be used; failures of a network or a disk, missing rights,
            lack of memory and a NameError or ImportError are always errors. ``__getitems__`` is then not called.
        collate: What becomes of tensors and NumPy arrays of at least one dimension where ``default_collate`` stacks them, and fails
            if their shapes differ. "pad" stacks them with zeros at the end of each axis, up to the longest of the batch; "list"
            leaves them as a list of tensors; "nested" makes a ``torch.nested`` tensor of the layout ``torch.jagged``. Everything
            else is collated as by ``default_collate``.

    All others are torch's. A Feedline source instead of a Dataset gives a :class:`feedline.DataLoader`.
    """

    if not TYPE_CHECKING:  # what takes and gives anything would keep a type checker from looking at the arguments

        def __new__(cls, dataset: Any = None, *args: Any, **options: Any) -> Any:
            if not isinstance(dataset, Source):
                return super().__new__(cls)
            given = dict(zip(list(inspect.signature(DataLoader.__init__).parameters)[2:], args)) | options
            for name in [name for name in given if name in _OF_DATASETS]:
                if given.pop(name) is not None:
                    raise ConfigError(
                        f"{name} is for a Dataset. The samples of a {type(dataset).__name__} are made by feedline.DataLoader, which "
                        "this call gives; see its arguments. Leave this one out"
                    )
            return NativeLoader(dataset, **given)

    def __init__(
        self,
        dataset: Dataset[T],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[T]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: str | BaseContext | None = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seeds: Literal["sample", "worker"] = "sample",
        on_bad_sample: Literal["fail", "replace"] = "fail",
        max_bad_samples: int = 100,
        collate: Rule | None = None,
    ) -> None:
        if seeds not in ("sample", "worker"):
            raise ConfigError(f'seeds={seeds!r}. Give "sample", or "worker" for torch\'s scheme')
        if on_bad_sample not in ("fail", "replace"):
            raise ConfigError(f'on_bad_sample={on_bad_sample!r}. Give "fail" or "replace"')
        if on_bad_sample == "replace" and (seeds == "worker" or isinstance(dataset, IterableDataset)):
            what = 'seeds="worker"' if seeds == "worker" else "an IterableDataset"
            raise ConfigError(f'on_bad_sample="replace" takes another sample by its seed, which {what} has not. Leave it out')
        self.seeds = seeds
        self.on_bad_sample = on_bad_sample
        self.is_prefetch_bounded = prefetch_factor is None
        if collate is not None:
            if collate_fn is not None:
                raise ConfigError(f"collate={collate!r} and collate_fn both say how samples become a batch. Leave one out")
            if batch_size is None and batch_sampler is None:
                raise ConfigError(f"collate={collate!r} has no effect with batch_size=None: there are no batches. Leave it out")
            # No attribute of its own: programs that make a loader anew from its attributes give collate_fn.
            collate_fn = collate_fn_of(collate)
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        self._course = _Course(whole_number("max_bad_samples", max_bad_samples, 0))

    def __iter__(self) -> _BaseDataLoaderIter:
        if isinstance(self.dataset, (IterDataPipe, MapDataPipe)):
            return super().__iter__()
        if not (self.persistent_workers and self.num_workers):
            return self._get_iterator()
        live = self._iterator
        if isinstance(live, WorkerPass) and live._pool is not None and live._pool.is_of_this_process:
            live._begin(self)
        else:
            self._iterator = live = self._get_iterator()
        return live

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if isinstance(self.dataset, (IterDataPipe, MapDataPipe)):
            return super()._get_iterator()
        if self.num_workers == 0:
            if self.timeout:
                raise ConfigError(f"timeout={self.timeout} has no effect with num_workers=0: nobody waits for a worker. Leave it out")
            return SinglePass(self)
        if self.prefetch_factor == 0:
            raise ConfigError("prefetch_factor=0 leaves the workers without work. Give 1 or more")
        self.check_worker_number_rationality()
        return WorkerPass(self)

    @property
    def _order(self) -> Order:
        """The order of the samplers that the loader has now: some programs put others in their place."""
        course, batches = self._course, self.batch_sampler
        samplers = self.sampler, batches, getattr(batches, "sampler", None)
        if course.order is None or any(one is not other for one, other in zip(course.samplers, samplers)):
            course.order, course.samplers = order_of(self), samplers
        return course.order

    def _begin_place(self, has_new_workers: bool) -> Place:
        """The place of a pass that begins now; draws from the generators what torch draws, in its order."""
        course = self._course
        idle = course.place
        if idle is not None and not idle.is_asked and (idle.is_rest or idle.source is self._order) and idle.source is not None:
            # OpenPCDet's loop makes an iterator before its first epoch, and another one in it. Only the second is asked.
            idle.is_taken_back = idle.source.take_back(idle.order)
            if idle.is_rest and idle.is_taken_back:
                course.rest = idle.source
            if idle.order.is_resumed and idle.is_taken_back:
                course.seed, course.before, course.early = idle.loaded
        loaded = course.seed, course.before, course.early
        source = course.rest or self._order
        is_rest, course.rest = course.rest is not None, None
        order = source.begin()
        early: set[int] = set()
        if course.early is not None and order.is_resumed and source.epoch() == course.early.epoch:
            early.update(course.early.numbers)
        before = None if self.generator is not None else _checksum()
        if order.is_resumed:
            if course.before is not None and before == course.before:
                # The program was seeded as before and stands where the pass began: its draws are made, as they were then.
                if course.seed is None or course.seed[1] == 0:
                    _drawn_seed(None)
                order.draw_again()
            # A sampler with a seed of its own has no drawn one in its state: the workers begin with what the samples have.
            base_seed, passes = course.seed or ((order.key() or 0) >> 1, 0)
            order.catch_up()
        elif course.seed is not None and self.persistent_workers:
            base_seed, passes = course.seed
        else:
            base_seed = _drawn_seed(self.generator)
            passes, order.has_drawn_seed = 0, True
            if has_new_workers:
                order.again()
        # torch's persistent workers keep the seed that they began with.
        course.seed = (base_seed, passes + 1) if self.persistent_workers else None
        course.place = Place(order, base_seed, passes, course.before if order.is_resumed else before, course.bad, early)
        course.place.source, course.place.epoch, course.place.loaded = source, source.epoch(), loaded
        course.place.is_rest = is_rest
        course.before = course.early = None
        return course.place

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the sampler, of the sampler of batches, and of the dataset, of those that have one."""
        told: list[Any] = []
        inner = getattr(self.batch_sampler, "sampler", None)
        candidates: list[Any] = [self.sampler, self.batch_sampler, inner, self.dataset]
        for one in candidates:
            if hasattr(one, "set_epoch") and not any(one is other for other in told):
                one.set_epoch(epoch)
                told.append(one)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the newest pass: behind the last batch that it has handed out; prefetched ones do not count. At the
        end of a pass it is the beginning of the next one. JSON-serialisable, except for states of a user's own sampler or
        iterable dataset, which are kept as they are.
        """
        self._refuse_pipes()
        place = self._course.place
        is_in_pass = place is not None and not place.is_over
        if place is not None and not is_in_pass:
            # The next epoch is then the same whether the loop has asked for one batch more or has not.
            place.order.finish()
        order = place.order if place is not None and is_in_pass else self._course.rest or self._order
        state: dict[str, Any] = {"feedline_loader": _FORMAT, "kind": order.kind, "bad_samples": self._course.bad.count}
        if place is not None and is_in_pass:
            state["place"], early = place.state()
            state["seed"] = None if place.order.key() is not None else [place.base_seed, place.passes]
            state["before"] = None if place.order.key() is not None else place.before
        else:
            seed, state["before"], early = self._course.seed, self._course.before, self._course.early
            behind = None if place is None else behind_rest(self._order) if place.is_rest else place.order.behind()
            if self.generator is None and order.kind == "drawn" and not (place is None and order.is_loaded):
                # What the next pass would draw if it began now, of a copy: a program that goes on may be seeded anew.
                main = torch.Generator()
                main.set_state(torch.default_generator.get_state())
                seed, state["before"] = seed or (_drawn_seed(main), 0), _checksum()
                behind = order.coming(main)
            state["place"] = behind or order.at_rest()
            state["seed"] = None if seed is None or order.kind == "plan" else list(seed)
        if early is not None:
            state["early"] = list(early)
        if self.generator is not None and order.kind != "plan":
            state["generator"] = text_of(self.generator.get_state())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next pass begins where the state was taken, with exactly the next sample.

        Raises :class:`feedline.StateError` if the state is of another order; nothing changes then.
        """
        self._refuse_pipes()
        if not isinstance(state_dict, dict) or state_dict.get("feedline_loader") != _FORMAT:
            as_json(state_dict)
            raise StateError("this is no state of feedline.torch.DataLoader. Give what its state_dict() returned")
        course, own, kind = self._course, self._order, state_dict["kind"]
        early = None if state_dict.get("early") is None else Early(*state_dict["early"])
        if early is not None and kind != own.kind:
            raise differs("kind", kind, own.kind)
        if early is not None and early.batch_size != own.batch_size:
            raise differs("batch_size", early.batch_size, own.batch_size)
        if early is not None and own.ranks() > 1:
            raise differs("num_replicas", 1, own.ranks())
        try:
            seed = state_dict["seed"]
            if kind == own.kind:
                own.load(state_dict["place"])
                course.rest = None
            else:
                course.rest = rest_of(own, kind, state_dict["place"])
                seed = None if course.rest is None else seed
                # Nothing is left of what was loaded before.
                course.order = None
        except (KeyError, IndexError, TypeError) as error:
            raise StateError(f"this state is not whole: {error!r}. Give what state_dict() returned, unchanged") from None
        course.seed = None if seed is None else (seed[0], seed[1])
        # The draws of another kind of sampler are not those that this program makes.
        course.before, course.early = state_dict.get("before") if kind == own.kind else None, early
        course.bad.count = state_dict.get("bad_samples", 0)
        if state_dict.get("generator") is not None and self.generator is not None:
            self.generator.set_state(generator_of(state_dict["generator"]))
        course.place = None

    @property
    def _is_accelerate_prepared(self) -> bool:
        """accelerate asks for this name before it makes a loader of its own out of this one: what is lost by that is told."""
        self._tell_what_accelerate_loses("do not prepare the loader")
        return False

    @property
    def multiprocessing_context(self) -> Any:
        """As torch's. accelerate's ``skip_first_batches`` asks for it, too, and makes another loader: what is lost by that is told."""
        asking: Any = sys._getframe(1)
        while asking is not None and asking.f_globals.get("__name__") == "accelerate.data_loader":
            if asking.f_code.co_name == "skip_first_batches":
                self._tell_what_accelerate_loses("go on with loader.load_state_dict(state) in place of skip_first_batches")
                break
            asking = asking.f_back
        return _context.fget(self)

    @multiprocessing_context.setter
    def multiprocessing_context(self, multiprocessing_context: Any) -> None:
        _context.fset(self, multiprocessing_context)

    def _tell_what_accelerate_loses(self, remedy: str) -> None:
        """Warns if the class that accelerate makes loaders of is not of ours, or has other seeds."""
        made = getattr(sys.modules.get("accelerate.data_loader"), "DataLoader", None)
        if made is None or not issubclass(made, DataLoader):
            warnings.warn(
                "accelerate makes torch's DataLoader out of this one, without a state and without what a sample is seeded with. Call "
                f"feedline.torch.patch() before, or {remedy}",
                UserWarning,
                stacklevel=4,
            )
        elif made.patched_seeds != self.seeds:
            warnings.warn(
                f'accelerate makes a loader with the seeds of feedline.torch.patch(), "{made.patched_seeds}", out of this one with '
                f'"{self.seeds}". Give patch() the same seeds',
                UserWarning,
                stacklevel=4,
            )

    def _refuse_pipes(self) -> None:
        if isinstance(self.dataset, (IterDataPipe, MapDataPipe)):
            raise UnsupportedError(
                "a DataPipe is delivered by torch's own iterator, which keeps no place. Give a Dataset or an IterableDataset"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_iterator": None}
