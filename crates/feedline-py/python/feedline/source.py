"""Sources: a declaration of the samples and of the steps applied to them. Nothing is read before a loader is made.

A source is immutable: every method returns a new one. The content of a sample depends only on the run's seed, the epoch
and the sample, never on workers, ranks or batches.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Literal

import numpy as np

from . import _native
from .errors import ConfigError, whole_number
from .own import Own, for_v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = int | tuple[int, int]
Path = str | os.PathLike[str]


def _size_px(size: Size) -> tuple[int, int]:
    """(height, width)."""
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(sides) != 2:
        raise ConfigError(f"the size {size!r} is neither a number nor (height, width)")
    return whole_number("height", sides[0], 1, 2**32 - 1), whole_number("width", sides[1], 1, 2**32 - 1)


def _name(function: Callable[..., Any]) -> str:
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


class Source:
    """Samples that a :class:`feedline.DataLoader` can deliver. Made by :func:`images`, :func:`arrays` or :func:`dataset`."""

    _opened: _native.Source | None = None
    _process = 0
    # The user's code in it, known once it is opened.
    own: tuple[Own, ...] = ()
    # True if that code may run in several threads at once.
    at_once: bool = False

    def _open(self) -> _native.Source:
        raise NotImplementedError

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Own:
        own = Own(name, function, self.at_once)
        object.__setattr__(self, "own", (*self.own, own))
        return own

    def learn(self) -> None:
        """Makes the first sample, if the user's code has not run yet, to learn if it draws from global generators."""
        native = self.native
        if not all(own.is_known for own in self.own):
            # If the sample cannot be made, the loader raises the error later.
            native.try_first()

    @property
    def native(self) -> _native.Source:
        """The pipeline; opened on first use, and again after a fork, because connections do not survive a fork."""
        if self._opened is None or self._process != os.getpid():
            object.__setattr__(self, "own", ())
            object.__setattr__(self, "_opened", self._open())
            object.__setattr__(self, "_process", os.getpid())
            assert self._opened is not None
            _warn(self._opened.warnings)
        assert self._opened is not None
        return self._opened

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.native)

    @property
    def fields(self) -> list[str]:
        """Names of the fields of a batch, in order."""
        return self.native.fields

    @property
    def warnings(self) -> list[str]:
        """Warnings about the data: files that were found among the samples and left out, with their number and names.
        Each is also given to Python's ``warnings``, once per process, when the source is opened.
        """
        return self.native.warnings

    def location(self, index: int) -> str:
        """The file or row of a sample."""
        return self.native.location(index)

    def __getstate__(self) -> dict[str, Any]:
        # The copy opens its own pipeline on first use.
        return {key: value for key, value in self.__dict__.items() if key not in ("_opened", "own", "_sized_list")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True)
class Images(Source):
    """Labelled pictures: batches have ``image`` (B, 3, H, W) and ``label`` int64 (B,).

    ``image`` is float32 after :meth:`normalize`, else uint8. Steps are applied in the order of declaration. The first
    one that resizes is fused with decoding: only the part that it needs is decoded.
    """

    files: Path | tuple[tuple[str, int], ...]
    class_names: tuple[str, ...] | None = None
    steps: tuple[Any, ...] = ()
    floats: tuple[Any, ...] | None = None
    size_px: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    storage: str = "{}"
    at_once: bool = False

    def _open(self) -> _native.Source:
        if self.steps and self.steps[-1] == "shorter":
            raise ConfigError("resize(n) keeps the aspect ratio, so pictures would differ in size. Add .center_crop(n)")
        files = self.files if isinstance(self.files, tuple) else os.fspath(self.files)
        classes = None if self.class_names is None else list(self.class_names)
        options: dict[str, Any] = {"max_pixels": None, "decode": "fused", "cache_bytes": 0} | self.options
        steps = [self._engines(step) for step in self.steps if step != "shorter"]
        floats = None
        if self.floats is not None:
            floats = (self.floats[0], self.floats[1], [self._engines(step) for step in self.floats[2:]])
        return _native.Source.images(
            list(files) if isinstance(files, tuple) else files, classes, steps, floats, self.size_px, **options, storage=self.storage
        )

    def _engines(self, step: Any) -> Any:
        """A step in the engine's form."""
        if isinstance(step, str):
            return step
        name, function, rng = step
        return name, self._wrapped(name, for_v2(function, is_picture=True)), rng

    @property
    def _listed(self) -> _native.Source:
        """The pipeline; as long as no step fixes the size of the pictures, one that only knows the list."""
        if self.size_px is not None or self._opened is not None:
            return self.native
        if self._sized_list is None:
            object.__setattr__(self, "_sized_list", replace(self, steps=(), floats=None).resize((1, 1)))
        assert self._sized_list is not None
        return self._sized_list.native

    _sized_list = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._listed)

    def location(self, index: int) -> str:
        """The file of a sample."""
        return self._listed.location(index)

    @property
    def warnings(self) -> list[str]:
        """As :attr:`Source.warnings`."""
        return self._listed.warnings

    @property
    def classes(self) -> list[str]:
        """Names of the classes; a label is an index in this list."""
        return self._listed.classes or []

    @property
    def labels(self) -> list[int]:
        """The label of each sample."""
        return self._listed.labels or []

    def decode(
        self,
        mode: Literal["fused", "region", "whole"] = "fused",
        *,
        max_pixels: int | None = None,
        cache_bytes: int = 0,
    ) -> Images:
        """Sets the options of decoding; a source without this call behaves as after ``decode()``.

        ``fused`` decodes only what the first resizing step needs, at 1/2, 1/4 or 1/8 of the size if that is large enough
        for its result; ``region`` gives the pixels of ``whole`` but decodes only the part. A picture of more than
        ``max_pixels`` is an error. Up to ``cache_bytes`` of decoded pictures are kept in memory; that changes speed only.
        """
        return replace(self, options={"decode": mode, "max_pixels": max_pixels, "cache_bytes": cache_bytes})

    def random_resized_crop(
        self,
        size: Size,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> Images:
        """A random part, resized to ``size``; torchvision's ``RandomResizedCrop`` with ``antialias=True``."""
        op = {"op": "random_resized_crop", "scale": scale, "ratio": ratio, "filter": interpolation}
        return self._sized(op, _size_px(size))

    def resize(self, size: Size, interpolation: Literal["bilinear", "bicubic"] = "bilinear") -> Images:
        """Resizes to (height, width) = ``size``. If ``size`` is one number, resizes the shorter side to it;
        :meth:`center_crop` must then follow. Antialiased, as torchvision's ``Resize`` and Pillow.
        """
        if not isinstance(size, Iterable):
            return self._add(("shorter", _size_px(size)[0], interpolation), "shorter")
        return self._sized({"op": "resize", "filter": interpolation}, _size_px(size))

    def center_crop(self, size: Size) -> Images:
        """Cuts ``size`` from the centre, after ``resize(n)``; both are computed in one pass."""
        if not self.steps or self.steps[-1] != "shorter":
            raise ConfigError("center_crop has to follow resize(n), for example .resize(256).center_crop(224)")
        _, shorter_px, interpolation = self.steps[-2]
        op = {"op": "resize_center_crop", "shorter_px": shorter_px, "filter": interpolation}
        return replace(self, steps=self.steps[:-2])._sized(op, _size_px(size))

    def hflip(self, p: float = 0.5) -> Images:
        """Mirrors left and right with probability ``p``."""
        return self._op({"op": "horizontal_flip", "p": p})

    def autoaugment(self) -> Images:
        """One of AutoAugment's 25 ImageNet policies."""
        return self._op({"op": "autoaugment_imagenet"})

    def color_jitter(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Images:
        """Multiplies brightness, contrast and saturation, in this order, by factors drawn from 1 - v to 1 + v."""
        return self._op({"op": "color_jitter", "brightness": brightness, "contrast": contrast, "saturation": saturation})

    def random_affine(self, degrees: float, translate: float = 0.0) -> Images:
        """Rotates by up to ``degrees`` and shifts by up to ``translate`` of each side, either way."""
        return self._op({"op": "random_affine", "degrees": degrees, "translate": translate})

    def normalize(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> Images:
        """Converts to float32: ``(x / 255 - mean) / std``; the defaults are ImageNet's numbers."""
        if self.floats is not None:
            raise ConfigError("normalize() stands twice. Leave one out")
        if len(mean) != 3 or len(std) != 3:
            raise ConfigError(f"normalize(mean={mean}, std={std}): give three numbers each, for red, green and blue")
        return replace(self, floats=(tuple(mean), tuple(std)))

    def map(self, function: Callable[..., Any], *, rng: bool = False, size: Size | None = None) -> Images:
        """Adds a custom step, which runs in the workers, one sample at a time.

        Before :meth:`normalize` it gets and returns a uint8 array (H, W, 3) of any size; give ``size`` if no later step
        fixes one. After :meth:`normalize` it gets and returns float32 (3, H, W). A v2 transform of torchvision gets
        a ``tv_tensors.Image`` (3, H, W) in both places. With ``rng=True`` it also gets ``rng``, a
        ``numpy.random.Generator`` that belongs to the sample in this epoch. For a step that draws from torch's, NumPy's or
        Python's global generator instead, these are seeded for each sample, but the loader then has no workers.
        """
        own = (_name(function), function, rng)
        if self.floats is not None and size is not None:
            raise ConfigError(f"map(size={size!r}) after normalize(): the size is fixed by then. Leave it out")
        if self.floats is not None:
            return replace(self, floats=(*self.floats, own))
        added = self._add(own)
        return added if size is None else replace(added, size_px=_size_px(size))

    def _op(self, op: dict[str, Any]) -> Images:
        if self.floats is not None:
            raise ConfigError(f"{op['op']} comes after normalize(). Steps on pictures come before it")
        return self._add(json.dumps(op))

    def _sized(self, op: dict[str, Any], size_px: tuple[int, int]) -> Images:
        return replace(self._op(op | {"size_px": size_px}), size_px=size_px)

    def _add(self, *steps: Any) -> Images:
        if self.steps and self.steps[-1] == "shorter":
            raise ConfigError("resize(n) keeps the aspect ratio: .center_crop(n) has to follow it")
        return replace(self, steps=(*self.steps, *steps))


def images(
    files: Path | Iterable[Path],
    labels: Iterable[int] | None = None,
    *,
    classes: Sequence[str] | Path | None = None,
    storage: Mapping[str, Any] | None = None,
) -> Images:
    """Labelled pictures (JPEG, PNG) from

    - a folder with a folder for each class, as torchvision's ``ImageFolder``;
    - a list file with lines ``label;path``; ``classes`` are the names, or the file with one name a line;
    - paths and their ``labels``; without labels all of them are 0.

    Any path may be a URL: ``s3://bucket/folder``, ``gs://``, ``az://``, ``http(s)://`` or ``file://``. ``storage`` sets
    the options of reading, with the keys of ``[storage]`` in the settings: ``endpoint``, ``region``, ``anonymous``,
    ``requests_in_flight``, ``timeout_s``, ``retry_s``, ``cache_dir``, ``cache_bytes``, ``cache_mode``, ``map``,
    ``listings_dir``. It changes no batch. Credentials come from the environment.
    """
    how = _storage(storage)
    names: tuple[str, ...] | None = None
    if classes is not None:
        names = tuple(_native.classes_of(os.fspath(classes), how) if isinstance(classes, (str, os.PathLike)) else classes)
    if isinstance(files, (str, os.PathLike)):
        if labels is not None:
            raise ConfigError("labels are given for one path. Give a list of paths, or leave labels out")
        return Images(files, names, storage=how)
    paths = [os.fspath(path) for path in files]
    if labels is None and paths and all(path.endswith((".tar", ".zip", ".mds", ".parquet")) for path in paths):
        raise ConfigError(f"{paths[0]} and others are archives. Name their folder, or all by one pattern: train-{{000..146}}.tar")
    numbers = [0] * len(paths) if labels is None else [whole_number("label", label, 0, 2**32 - 1) for label in labels]
    if len(numbers) != len(paths):
        raise ConfigError(f"there are {len(paths)} paths and {len(numbers)} labels. Give one label for each path")
    return Images(tuple(zip(paths, numbers)), names, storage=how)


@dataclass(frozen=True)
class Declared(Source):
    """Samples of arrays or of a Python dataset; see :func:`arrays` and :func:`dataset`."""

    # None for the items of a dataset.
    make: Callable[..., _native.Source] | None
    arguments: tuple[Any, ...]
    steps: tuple[tuple[str, Callable[..., Any], bool], ...] = ()
    at_once: bool = False

    def _open(self) -> _native.Source:
        source = self._open_items(*self.arguments) if self.make is None else self.make(*self.arguments)
        for name, function, rng in self.steps:
            source = source.map(name, self._wrapped(name, for_v2(function, is_picture=False)), rng)
        return source

    def _open_items(self, items: Any) -> _native.Source:
        name, fingerprint = facts_of(items)
        item = self._wrapped(name, lambda index: items[int(index)])
        return _native.Source.items(len(items), fingerprint, item, name)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.native) if self.make is not None else len(self.arguments[0])

    def map(self, function: Callable[..., Any], *, rng: bool = False) -> Declared:
        """Adds a custom step, which runs in the workers, one sample at a time. It gets the fields of a sample as arrays
        (as tensors, if it is a v2 transform of torchvision) and returns one value, a tuple or list, or a dict of names
        and values. Types and shapes must be the same for all samples; the first sample is made at once to learn them.
        ``rng`` and global generators are as in :meth:`Images.map`.
        """
        return replace(self, steps=(*self.steps, (_name(function), function, rng)))


def facts_of(items: Any) -> tuple[str, int]:
    """Name and fingerprint of a Python dataset."""
    name = type(items).__name__
    return name, _hash([name, len(items)])


def _storage(storage: Mapping[str, Any] | None) -> str:
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
        files = (os.fspath(columns[0]), None if shape is None else list(shape), _storage(storage))
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
    if not hasattr(items, "__getitem__") or not hasattr(items, "__len__"):
        raise ConfigError(
            f"{type(items).__name__} has no __getitem__ and __len__. Feedline delivers by number; a stream has none"
        )
    return Declared(None, (items,))


def _hash(facts: Any) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "little")
