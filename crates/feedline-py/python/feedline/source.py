"""Sources: a declaration of the samples and of the steps applied to them. Nothing is read before a loader is made.

A source is immutable: every method returns a new one. The content of a sample depends only on the run's seed, the epoch
and the sample, never on workers, ranks or batches.
"""

from __future__ import annotations

import importlib.util
import json
import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from types import FrameType
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from . import _native, labels as labelled, shown
from .errors import ConfigError, DatasetError, UnsupportedError, whole_number
from .own import Own, for_v2
from .passthrough import watched

S = TypeVar("S", bound="Source")

Path = str | os.PathLike[str]


def name_of(function: Callable[..., Any]) -> str:
    if not callable(function):
        raise ConfigError(f"map({function!r}): a step is a function")
    return str(getattr(function, "__name__", type(function).__name__))


_warned: set[str] = set()


def _warn(messages: list[str]) -> None:
    """Warns of omitted data, at the caller's line: once, and not again from each worker process."""
    processes = sys.modules.get("multiprocessing.process")  # loaded in every worker of it
    if processes is not None and processes.parent_process() is not None:
        return
    level, ours = 1, os.path.dirname(__file__)
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    for message in messages:
        if message not in _warned:
            warnings.warn(message, UserWarning, stacklevel=level)
            _warned.add(message)


def has_torch() -> bool:
    """True if torch is installed."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):  # something stands in its way
        return False


class Skipped(dict[str, int]):
    """What was skipped among the samples: how many of each kind (``{"*.webp": 40}``); ``first`` has the first three names of each."""

    def __init__(self, found: Iterable[tuple[str, int, list[str]]] = ()) -> None:
        super().__init__()
        self.first: dict[str, list[str]] = {}
        for kind, count, first in found:
            self[kind] = self.get(kind, 0) + count
            self.first[kind] = [*self.first.get(kind, []), *first][:3]


class Source:
    """Samples that a :class:`feedline.DataLoader` can deliver. Made by :func:`images`, :func:`arrays` or :func:`dataset`.

    It is also a map-style dataset: ``source[i]``, ``len(source)``, iteration; in threads, and in forked and spawned processes.
    """

    # The process that opened it (connections do not survive a fork), the pipeline, and the user's code in it.
    _ready: tuple[int, _native.Source, tuple[Own, ...]] | None = None
    # The numbers of the samples, if they are a part of the whole, and the length and fingerprint that the whole had then.
    chosen: Any = None
    whole: tuple[int, int] | None = None
    # True if the user's code may run in several threads at once.
    at_once: bool = False
    # How many samples source[i] has made, and in which process.
    _made = (0, 0)

    def _open(self, own: list[Own]) -> _native.Source:
        """Opens the pipeline, and adds the user's code in it to ``own``."""
        raise NotImplementedError

    def _wrapped(self, own: list[Own], name: str, function: Callable[..., Any]) -> Own:
        own.append(Own(name, watched(name, function), self.at_once))
        return own[-1]

    def _opened(self) -> tuple[int, _native.Source, tuple[Own, ...]]:
        ready = self._ready
        if ready is None or ready[0] != os.getpid():
            # Two threads may both open it; each of the two is complete, and the later one stays.
            own: list[Own] = []
            native = self._open(own)
            ready = (os.getpid(), native, tuple(own))
            object.__setattr__(self, "_ready", ready)
            _warn(native.warnings)
        return ready

    def part(self, native: _native.Source) -> _native.Source:
        """The samples of this source among those of the whole."""
        if self.chosen is None:
            return native
        now = (len(native), native.fingerprint)
        if now != self.whole:
            assert self.whole is not None
            raise DatasetError(
                f"the data are not those that this part was taken from: {self.whole[0]} samples then and {now[0]} now, or other "
                "names or labels. Make the part anew: .subset(...) or .split(...)",
                path="",
            )
        return native.subset(self.chosen.tolist())

    @property
    def is_own(self) -> bool:
        """True if a user's code makes the fields: its dict is one in a batch, too."""
        return False

    def learn(self) -> None:
        """Makes the first sample, if the user's code has not run yet, to learn if it draws from global generators."""
        native = self.native
        if not all(own.is_known for own in self.own):
            # If the sample cannot be made, the loader raises the error later.
            native.try_first()

    @property
    def native(self) -> _native.Source:
        """The pipeline; opened on first use, and again in another process."""
        return self._opened()[1]

    @property
    def own(self) -> tuple[Own, ...]:
        """The user's code in it, known once it is opened."""
        return self._ready[2] if self._ready else ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.native) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        """Sample ``index``, as a tuple of its fields: tensors if torch is installed, else NumPy arrays. It is :meth:`sample` of
        epoch 0 and seed 0, so random steps give the same each time.
        """
        sample = self.sample(index)
        self._count()
        return sample

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Any:
        """Sample ``index`` as a loader with this ``seed`` delivers it in this ``epoch``, as ``source[index]`` otherwise. Errors
        are those of the loader.
        """
        made = self.native.sample(*self._place(index, epoch, seed))
        if sys.modules.get("torch") is None and not has_torch():
            return tuple(np.asarray(value) for value in made)
        from torch.utils.dlpack import from_dlpack

        return tuple(from_dlpack(value) for value in made)

    def _place(self, index: int, epoch: int, seed: int) -> tuple[int, int, int]:
        """The arguments of :meth:`sample` as the engine takes them."""
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(f"source[{index!r}] is not the number of a sample. For several samples: source.subset(...)") from None
        length = len(self)
        if not -length <= number < length:
            raise IndexError(f"there is no sample {number} among {length}")
        return number % length, whole_number("epoch", epoch, 0), operator.index(seed) % 2**64

    def __iter__(self) -> Iterator[Any]:
        """Its samples in order."""
        for number in range(len(self)):
            yield self[number]

    @property
    def _is_random(self) -> bool:
        """True if a step draws random numbers."""
        return any(own.drew for own in self.own)

    def _count(self) -> None:
        """Warns if ``source[i]`` is asked for in more than one epoch."""
        data = sys.modules.get("torch.utils.data")
        worker = None if data is None else data.get_worker_info()
        process, made = self._made
        made = made + 1 if process == os.getpid() else 1
        object.__setattr__(self, "_made", (os.getpid(), made))
        # A worker may live for one epoch only, and need not be told twice.
        is_time = made == len(self) + 1 if worker is None else made == 1 and worker.id == 0
        if is_time and self._is_random:
            warnings.warn(
                "source[i] is augmented as in epoch 0, alike in every epoch. Give the source itself to feedline.DataLoader, or a "
                "part of it: source.subset(indices), source.split(0.8), source + other; or make samples by source.sample(i, epoch)",
                UserWarning,
                stacklevel=3,
            )

    def subset(self: S, indices: Iterable[int]) -> S:
        """A source of the samples with these numbers, in this order; negative ones count from the end.

        Sample i of it is sample ``indices[i]`` of this one, random steps included; where a number stands again, its sample is
        augmented anew. Steps may be added afterwards.
        """
        if not is_dataclass(self):
            raise UnsupportedError(
                f"no part of a {type(self).__name__} can be taken. Name the samples in its list, or give the loader a sampler"
            )
        given = np.asarray(indices if hasattr(indices, "__array__") else list(indices))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ConfigError("subset(indices) takes the numbers of samples. For a mask give numpy.flatnonzero(mask)")
        whole = self._measured() if self.whole is None else self.whole
        length = whole[0] if self.chosen is None else len(self.chosen)
        numbers = given.astype(np.int64)
        for number in numbers[(numbers < -length) | (numbers >= length)]:
            raise IndexError(f"there is no sample {number} among {length}")
        numbers = np.where(numbers < 0, numbers + length, numbers)
        return cast("S", replace(self, chosen=numbers if self.chosen is None else self.chosen[numbers], whole=whole))

    def _measured(self) -> tuple[int, int]:
        """Length and fingerprint of the samples. Custom steps change neither, and do not run for it."""
        return len(self.native), self.native.fingerprint

    def split(self: S, fraction: float, *, seed: int = 0, stratify: bool | Iterable[Any] | None = None) -> tuple[S, S]:
        """Two sources: one with ``fraction`` of the samples, at random, and one with the others; both in the order of this one.

        By default each class is split alike, if :attr:`labels` are classes. ``stratify=True`` is an error without classes,
        ``False`` takes no account of them, and one value a sample is taken in place of labels. The side of a picture follows from
        (seed, its name below the common folder, which samples of its class there are), not from the order; the name of any
        other sample is its number.
        """
        labels = self.labels if stratify is None or stratify is True else None
        if stratify is True and not labelled.are_classes(labels):
            raise ConfigError("split(stratify=True): the samples have no classes. Leave stratify out, or give one value a sample")
        strata = np.asarray(labels).tolist() if labelled.are_classes(labels) else None
        if stratify is not None and not isinstance(stratify, bool):
            strata = np.asarray(stratify if hasattr(stratify, "__array__") else list(stratify)).tolist()
            if len(strata) != len(self) or any(isinstance(stratum, list) for stratum in strata):
                raise ConfigError(f"split(stratify=...): there are {len(self)} samples. Give one value for each")
        first, second = labelled.split(self._names(), fraction, seed, strata)
        return self.subset(first), self.subset(second)

    def _names(self) -> list[str]:
        return [str(number) for number in range(len(self))]

    def __add__(self, other: Source) -> Joined:
        """The samples of this source and then those of the other, whose fields must be equal; of pictures also the classes.

        Samples of the other source draw random numbers of their own, so that ``source + source`` has each sample twice, augmented
        differently. A step that is added to a sum of pictures is added to each part; of other sources it gets all fields.
        """
        if not isinstance(other, Source):
            return NotImplemented
        parts: list[Source] = []
        for part in (self, other):
            parts += part.arguments if isinstance(part, Joined) and part.chosen is None and not part.steps else [part]
        return joined(parts)

    def refuse_empty(self, length: int) -> None:
        """Raises the error for a source without samples, if this is one: of none there is neither a batch nor a first sample."""
        if not length:
            what = "a part of " if self.chosen is not None else ""
            raise ConfigError(
                f"{what}{self._title()} has no samples, so there are no batches. "
                f"{'Give .subset(indices) one or more' if what else 'Give data that have some'}, or make no loader of it"
            )

    # The class of a sum of such sources; None if it is Joined. Set by the module that has it.
    sum_of: ClassVar[type[Joined] | None] = None

    @property
    def fields(self) -> list[str]:
        """Names of the fields of a batch, in order."""
        return self.native.fields

    @property
    def labels(self) -> Any:
        """The label of each sample, if it is known without making the sample; else None."""
        return None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; a label is an index in this list. Empty if there are none."""
        return []

    @property
    def files(self) -> list[str] | None:
        """Path or URL of each picture; None of sources of another kind, which have :meth:`location`."""
        return None

    @property
    def warnings(self) -> list[str]:
        """Warnings about the data: files that were found among the samples and left out, with their number and names.
        Each is also given to Python's ``warnings``, once per process, when the source is opened.
        """
        return self.native.warnings

    @property
    def skipped(self) -> Skipped:
        """What lies among the pictures and is none: how many of each kind. Empty of sources of another kind."""
        return Skipped(self.native.skipped)

    def location(self, index: int) -> str:
        """The file or row of a sample."""
        return self.native.location(index)

    def _title(self) -> str:
        return type(self).__name__

    def _known_length(self) -> int | None:
        """The number of samples, if it is known without reading anything."""
        return len(self.chosen) if self.chosen is not None else len(self._ready[1]) if self._ready else None

    def __repr__(self) -> str:
        ready = self._ready
        fields = [(name, *spec) for name, spec in zip(ready[1].fields, ready[1].specs)] if ready else []
        whole = None if self.whole is None else self.whole[0]
        steps = [shown.step(step) for step in getattr(self, "steps", ())]
        return shown.described(self._title(), (self._known_length(), whole), None, steps, fields)

    def __getstate__(self) -> dict[str, Any]:
        # The copy opens its own pipeline on first use.
        return {key: value for key, value in self.__dict__.items() if key not in ("_ready", "_sized_list", "_kept_size", "_made")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False, repr=False)
class Declared(Source):
    """Any other source: arrays, or a user's dataset, through custom steps."""

    make: Callable[..., _native.Source] | None
    arguments: tuple[Any, ...]
    steps: tuple[Any, ...] = ()
    at_once: bool = False
    chosen: Any = None
    whole: tuple[int, int] | None = None

    def _open(self, own: list[Own]) -> _native.Source:
        # The first sample of this source tells the fields; others may be bad.
        first = int(self.chosen[0]) if self.chosen is not None and len(self.chosen) else 0
        source = self._open_whole(own, first)
        if self.steps:
            self.refuse_empty(len(source))  # the first sample tells what a step returns
        for name, function, rng in self.steps:
            source = source.map(name, self._wrapped(own, name, for_v2(function, is_picture=False)), rng, first)
        return self.part(source)

    def _open_whole(self, own: list[Own], first: int) -> _native.Source:
        """Opens the samples before the steps."""
        if self.make is not None:
            return self.make(*self.arguments)
        (items,) = self.arguments
        self.refuse_empty(len(items))
        name, fingerprint = facts_of(items)
        item = self._wrapped(own, name, lambda index: items[int(index)])
        return _native.Source.items(len(items), fingerprint, item, name, first)

    @property
    def is_own(self) -> bool:
        """True if a user's code makes the fields."""
        return self.make is None or bool(self.steps)

    def seeds(self) -> _native.Source:
        """The random numbers that seed the items of a dataset, which other processes make."""
        return self.part(_native.Source.seeds(*self._measured()))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.arguments[0]) if self.make is None and self.chosen is None else super().__len__()

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Any:
        """As :meth:`Source.sample`. The item of a dataset is made as worker processes make it, if torch is installed."""
        if self.make is not None or not has_torch():
            return super().sample(index, epoch, seed)
        return Declared.item(self, *self._place(index, epoch, seed))

    # Makes an item of a dataset; set by the loader, which knows how.
    item: ClassVar[Callable[[Declared, int, int, int], Any]]

    def _measured(self) -> tuple[int, int]:
        if self.make is None:
            return len(self.arguments[0]), facts_of(self.arguments[0])[1]
        native = replace(self, steps=()).native if self.steps else self.native
        return len(native), native.fingerprint

    @property
    def _is_random(self) -> bool:
        """True if a step draws random numbers."""
        return super()._is_random or any(rng for _, _, rng in self.steps)

    def _known_length(self) -> int | None:
        known = super()._known_length()
        if known is not None or self.make not in (None, _open_arrays):
            return known
        rows = [items for _, items in self.arguments[0]] if self.make else [*self.arguments]
        lengths = {None if getattr(items, "shape", None) == () else len(items) for items in rows}
        return lengths.pop() if len(lengths) == 1 else None

    def _title(self) -> str:
        if self.make is None:
            return f"feedline.dataset({type(self.arguments[0]).__name__})"
        if self.make is not _open_arrays:
            return f"feedline.arrays({shown.place(self.arguments[0])})"
        return f"feedline.arrays({', '.join(f'{name} {column.dtype} {column.shape}' for name, column in self.arguments[0])})"

    @property
    def labels(self) -> Any:
        """The array named ``label``, of arrays without steps; else None."""
        if self.make is not _open_arrays or self.steps:
            return None
        column = dict(self.arguments[0]).get("label")
        return column if column is None or self.chosen is None else column[self.chosen]

    def map(self, function: Callable[..., Any], *, rng: bool = False) -> Declared:
        """Adds a custom step, which runs in the workers, one sample at a time. It gets the fields of a sample as arrays
        (as tensors, if it is a v2 transform of torchvision) and returns one value, a tuple or list, or a dict of names
        and values. Types and shapes must be the same for all samples; the first sample is made at once to learn them.
        ``rng`` and global generators are as in :meth:`Images.map`.
        """
        return replace(self, steps=(*self.steps, (name_of(function), function, rng)))


def facts_of(items: Any) -> tuple[str, int]:
    """Name and fingerprint of a Python dataset."""
    name = type(items).__name__
    return name, _hash([name, len(items)])


class Joined(Declared):
    """The samples of several sources, its ``arguments``, one after the other."""

    def _open_whole(self, own: list[Own], first: int) -> _native.Source:
        natives = []
        for part in self.arguments:
            if self.at_once and not part.at_once and is_dataclass(part):
                part = replace(cast("Any", part), at_once=True)
            _, native, owns = part._opened()
            natives.append(native)
            own.extend(owns)
        _ = self.classes  # which are compared
        return _native.Source.concat(natives)

    @property
    def is_own(self) -> bool:
        """True if a user's code makes the fields of all parts, or all fields in a step."""
        return bool(self.steps) or all(part.is_own for part in self.arguments)

    def __getattr__(self, name: str) -> Any:
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        if not name.startswith("_") and any(hasattr(type(part), name) for part in self.arguments):
            text += f". Some of its parts have it: call .{name}(...) on each before they are added"
        raise AttributeError(text)

    def _known_length(self) -> int | None:
        known, lengths = super()._known_length(), [part._known_length() for part in self.arguments]
        return sum(lengths) if known is None and None not in lengths else known

    def _title(self) -> str:
        named = [part._title() for part in self.arguments[:3]] + ["..."] * (len(self.arguments) > 3)
        return " + ".join(named)

    @property
    def _is_random(self) -> bool:
        return super()._is_random or any(part._is_random for part in self.arguments)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty if a part has none."""
        named = [part.classes for part in self.arguments]
        longest: list[str] = max(named, key=len)
        for names in filter(None, named):
            if names != longest[: len(names)]:
                raise ConfigError(
                    f"a label means another class in each part: {names[:9]} and {longest[:9]}. Give both the same classes="
                )
        return longest if all(named) else []

    @property
    def labels(self) -> Any:
        """The labels of the parts, if all have some; else None."""
        return self._of_parts([part.labels for part in self.arguments])

    @property
    def files(self) -> list[str] | None:
        """The files of the parts, if all are pictures; else None."""
        return cast("list[str] | None", self._of_parts([part.files for part in self.arguments]))

    def _of_parts(self, facts: list[Any]) -> Any:
        if any(fact is None for fact in facts) or self.steps:
            return None
        if not all(isinstance(fact, list) for fact in facts):
            values = np.concatenate([np.asarray(fact) for fact in facts])
            return values if self.chosen is None else values[self.chosen]
        every = [value for fact in facts for value in fact]
        return every if self.chosen is None else [every[number] for number in self.chosen]


def of_torch(dataset: Any) -> Any:
    """torch's ``Subset`` and ``ConcatDataset`` of sources, as sources; anything else unchanged."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and type(dataset) is data.Subset:
        inner = of_torch(dataset.dataset)
        return inner.subset(dataset.indices) if isinstance(inner, Source) and is_dataclass(inner) else dataset
    if data is not None and type(dataset) is data.ConcatDataset:
        parts = [of_torch(part) for part in dataset.datasets]
        return joined(parts) if all(isinstance(part, Source) for part in parts) else dataset
    return dataset


def joined(parts: Sequence[Source]) -> Joined:
    """The samples of the parts, one after the other. If all are pictures, so is the sum."""
    kinds = {part.sum_of for part in parts}
    return ((kinds.pop() if len(kinds) == 1 else None) or Joined)(_native.Source.concat, tuple(parts))


def storage_json(storage: Mapping[str, Any] | None) -> str:
    return json.dumps({key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in (storage or {}).items()})


def arrays(
    *columns: Any, shape: Sequence[int] | None = None, storage: Mapping[str, Any] | None = None, **named: Any
) -> Declared:
    """Samples from rows of arrays: row i of every array belongs to sample i.

    ``arrays(x, y)`` or ``arrays(image=x, label=y)``: NumPy arrays or memory maps, read without a copy, so do not write
    to them meanwhile. ``arrays("rows.npy")``: a ``.npy`` file of rows, an array in a ``.npz`` file (``"rows.npz/x.npy"``,
    or ``"rows.npz"`` if it is the only one), a ``.bin`` file of float32 with ``shape``, or a folder with a ``.npy``,
    ``.bin`` or 16-bit grey ``.png`` file a sample. The path may be a URL, with ``storage`` as for :func:`images`.
    """
    if len(columns) == 1 and not named and isinstance(columns[0], (str, os.PathLike)):
        files = (os.fspath(columns[0]), None if shape is None else list(shape), storage_json(storage))
        return Declared(_native.Source.array_files, files)
    if shape is not None or storage is not None:
        raise ConfigError("shape and storage are for files: arrays have their own. Leave them out")
    given = {str(at): column for at, column in enumerate(columns)} | named
    for name, column in given.items():
        if isinstance(column, (str, os.PathLike)):
            raise ConfigError(f"array {name} is the path {column}: one file at a time. Give arrays, numpy.load(path, mmap_mode='r')")
        if isinstance(column, np.ma.MaskedArray):
            raise ConfigError(f"array {name} is masked, and masks are not delivered. Give column.filled(...), and column.mask beside it")
    if not given:
        raise ConfigError("arrays() was given none. Give NumPy arrays, or the path of a file")
    return Declared(_open_arrays, (tuple((name, np.asarray(column)) for name, column in given.items()),))


def _open_arrays(columns: tuple[tuple[str, Any], ...]) -> _native.Source:
    facts = [(name, column.shape, column.dtype.str) for name, column in columns]
    return _native.Source.arrays(list(columns), _hash(facts))


def dataset(items: Any) -> Declared:
    """A map-style dataset (``__getitem__`` and ``__len__``), such as a torch ``Dataset``.

    Its items are made by worker processes, as those of :class:`feedline.torch.DataLoader`: torch's, NumPy's and Python's global
    generators are seeded for each from (seed, epoch, sample), and torch's ``default_collate`` makes batches of them. An item is one
    value, or a tuple, list or dict of fields. With ``DataLoader(workers="threads")``, and without torch, threads make them:
    numbers and arrays of one type and shape only, and nothing may be drawn from a global generator.
    """
    if isinstance(items, Source):
        raise ConfigError("this is a source already. Give it to the loader as it is")
    if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
        raise ConfigError(
            f"{type(items).__name__} has no __getitem__ and __len__. Feedline delivers by number; a stream has none"
        )
    return Declared(None, (items,))


def _hash(facts: Any) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "little")
