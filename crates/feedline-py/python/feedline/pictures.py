"""Labelled pictures as sources: where they are, and the steps from a file to the network's input. Owns these declarations; the work
is done by the engine.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Literal, ParamSpec, cast

import numpy as np

from . import _native, labels as labelled, shown
from .errors import ConfigError, whole_number
from .own import Own, for_v2
from .source import Joined, Path, Skipped, Source, has_torch, name_of, storage_json

P = ParamSpec("P")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = int | tuple[int, int]


def _size_px(size: Size) -> tuple[int, int]:
    """(height, width)."""
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(sides) != 2:
        raise ConfigError(f"the size {size!r} is neither a number nor (height, width)")
    return whole_number("height", sides[0], 1, 2**32 - 1), whole_number("width", sides[1], 1, 2**32 - 1)


class _Pictures(Source):
    """What is known of pictures before a step fixes their size: the list, and each picture at a size of its own."""

    _sized_list: Any = None
    _kept_size: Any = None

    @property
    def _is_sized(self) -> bool:
        """True if a step fixes the size of the pictures."""
        raise NotImplementedError

    def _bare(self) -> _Pictures:
        """The same pictures without their steps, at any size that is fixed."""
        raise NotImplementedError

    @property
    def _listed(self) -> _native.Source:
        """The pipeline; as long as no step fixes the size of the pictures, one that only knows the list."""
        if self._is_sized or self._ready is not None:
            return self.native
        if self._sized_list is None:
            object.__setattr__(self, "_sized_list", self._bare())
        return cast("_Pictures", self._sized_list).native

    def _measured(self) -> tuple[int, int]:
        return len(self._listed), self._listed.fingerprint

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._listed) if self.chosen is None else len(self.chosen)

    def _known_length(self) -> int | None:
        listed = self._sized_list
        return len(self) if self._ready or (listed is not None and listed._ready) else super()._known_length()

    def location(self, index: int) -> str:
        """The file of a sample."""
        return self._listed.location(index)

    @property
    def warnings(self) -> list[str]:
        """As :attr:`Source.warnings`."""
        return self._listed.warnings

    @property
    def skipped(self) -> Skipped:
        """As :attr:`Source.skipped`."""
        return Skipped(self._listed.skipped)

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Any:
        """As :meth:`Source.sample`. As long as no step fixes a size, a picture comes at its own: uint8 (3, H, W)."""
        if self._is_sized:
            return super().sample(index, epoch, seed)
        if self._kept_size is None:
            object.__setattr__(self, "_kept_size", self._keeping_size())
        _, *others = cast("_Pictures", self._kept_size).sample(index, epoch, seed)
        picture = np.array(_last.picture.transpose(2, 0, 1), order="C")
        del _last.picture
        if not has_torch():
            return picture, *others
        from torch import from_numpy

        return from_numpy(picture), *others

    def _keeping_size(self) -> _Pictures:
        """The same pictures with a last step that keeps each as it is, and returns one of a size that is fixed."""
        raise NotImplementedError


# The picture that this thread has made last, at its own size.
_last = threading.local()


def _keep(picture: Any) -> Any:
    _last.picture = picture.copy()
    return np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Images(_Pictures):
    """Labelled pictures: batches have ``image`` (B, 3, H, W) and ``label`` int64 (B,), or labels as they were given.

    ``image`` is float32 after :meth:`normalize`, else uint8. Steps are applied in the order of declaration. The first
    one that resizes is fused with decoding: only the part that it needs is decoded.
    """

    given: Path | tuple[tuple[str, int], ...]
    class_names: tuple[str, ...] | None = None
    values: Any = None
    steps: tuple[Any, ...] = ()
    floats: tuple[Any, ...] | None = None
    size_px: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    storage: str = "{}"
    at_once: bool = False
    chosen: Any = None
    whole: tuple[int, int] | None = None

    def _open(self, own: list[Own]) -> _native.Source:
        if self.steps and self.steps[-1] == "shorter":
            raise ConfigError("resize(n) keeps the aspect ratio, so pictures would differ in size. Add .center_crop(n)")
        files = list(self.given) if isinstance(self.given, tuple) else os.fspath(self.given)
        classes = None if self.class_names is None else list(self.class_names)
        options: dict[str, Any] = {"max_pixels": None, "decode": "fused", "cache_bytes": 0, "exif": "ignore"} | self.options
        steps = [self._engines(own, step) for step in self.steps if step != "shorter"]
        floats = None
        if self.floats is not None:
            floats = (self.floats[0], self.floats[1], [self._engines(own, step) for step in self.floats[2:]])
        return self.part(
            _native.Source.images(files, classes, self.values, steps, floats, self.size_px, **options, storage=self.storage)
        )

    def _engines(self, own: list[Own], step: Any) -> Any:
        """A step in the engine's form."""
        if isinstance(step, str):
            return step
        name, function, rng = step
        return name, self._wrapped(own, name, for_v2(function, is_picture=True)), rng

    @property
    def _is_sized(self) -> bool:
        return self.size_px is not None

    def _bare(self) -> Images:
        return replace(self, steps=(), floats=None).resize((1, 1))

    def _keeping_size(self) -> Images:
        if self.floats is not None:
            raise ConfigError(
                "a sample that normalize() makes needs a step that fixes its size: add .resize((224, 224)), "
                ".resize(256).center_crop(224) or .random_resized_crop(224) before. Without normalize() it comes at its own size"
            )
        return self.map(_keep, size=1)

    @property
    def _is_random(self) -> bool:
        """True if a step draws random numbers."""
        steps = [step for step in (*self.steps, *(self.floats or ())[2:]) if step != "shorter"]
        drawn = [json.loads(step)["op"] not in ("resize", "resize_center_crop") for step in steps if isinstance(step, str)]
        return super()._is_random or any(drawn) or any(step[-1] is True for step in steps if isinstance(step, tuple))

    def _title(self) -> str:
        return f"feedline.images({f'{len(self.given)} files' if isinstance(self.given, tuple) else shown.place(self.given)})"

    def __repr__(self) -> str:
        listed = self if self._ready else self._sized_list
        known = listed is not None and listed._ready is not None
        steps = [f"resize({step[1]})" if step[0] == "shorter" else shown.step(step) for step in self.steps if step != "shorter"]
        fields: list[Any] = []
        if self.floats is not None:
            steps += [f"normalize(mean={self.floats[0]}, std={self.floats[1]})", *map(shown.step, self.floats[2:])]
        if self.size_px is not None:
            label = ("int64", ()) if self.values is None else (self.values.dtype, self.values.shape[1:])
            fields = [("image", "uint8" if self.floats is None else "float32", (3, *self.size_px)), ("label", *label)]
        whole = None if self.whole is None else self.whole[0]
        return shown.described(self._title(), (self._known_length(), whole), self.classes if known else None, steps, fields)

    def _names(self) -> list[str]:
        return self._listed.names or []

    @property
    def classes(self) -> list[str]:
        """Names of the classes; a label is an index in this list. Empty if the labels given are values."""
        return self._listed.classes or [] if self.values is None else []

    @property
    def labels(self) -> Any:
        """The label of each sample: a list of the numbers of classes, or an array of the values that were given as labels."""
        if self.values is not None:
            return self.values if self.chosen is None else self.values[self.chosen]
        return self._listed.labels or []

    @property
    def files(self) -> list[str]:
        """Path or URL of each picture."""
        return self._listed.files or []

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
        options = {"decode": mode, "max_pixels": max_pixels, "cache_bytes": cache_bytes}
        return replace(self, options=self.options | options)

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
        own = (name_of(function), function, rng)
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


def _on_each(method: Callable[Concatenate[Images, P], Images]) -> Callable[Concatenate[JoinedImages, P], JoinedImages]:
    """The method of a sum that calls this one on each part."""

    def on_each(self: JoinedImages, /, *args: P.args, **options: P.kwargs) -> JoinedImages:
        return self._each(lambda part: getattr(part, method.__name__)(*args, **options))

    functools.update_wrapper(on_each, method)
    return on_each


class JoinedImages(_Pictures, Joined):
    """The pictures of several sources, one after the other. A step is added to each of them: ``(a + b).hflip()`` is
    ``a.hflip() + b.hflip()``, draw for draw, and so is a step of its parts.
    """

    def _each(self, made: Callable[[Any], Any]) -> JoinedImages:
        return replace(self, arguments=tuple(made(part) for part in self.arguments))

    @property
    def _is_sized(self) -> bool:
        return all(part._is_sized for part in self.arguments)

    def _bare(self) -> JoinedImages:
        return self._each(lambda part: part._bare())

    def _keeping_size(self) -> JoinedImages:
        return self._each(lambda part: part._keeping_size())

    decode = _on_each(Images.decode)
    random_resized_crop = _on_each(Images.random_resized_crop)
    resize = _on_each(Images.resize)
    center_crop = _on_each(Images.center_crop)
    hflip = _on_each(Images.hflip)
    autoaugment = _on_each(Images.autoaugment)
    color_jitter = _on_each(Images.color_jitter)
    random_affine = _on_each(Images.random_affine)
    normalize = _on_each(Images.normalize)
    map = _on_each(Images.map)


_Pictures.sum_of = JoinedImages


def images(
    files: Path | Iterable[Path],
    labels: Iterable[Any] | None = None,
    *,
    classes: Sequence[str] | Path | None = None,
    storage: Mapping[str, Any] | None = None,
    exif: Literal["ignore", "apply"] = "ignore",
) -> Images:
    """Labelled pictures (JPEG, PNG, WebP, BMP, GIF, TIFF, PBM, PGM, PPM) from

    - a folder with a folder for each class, as torchvision's ``ImageFolder``;
    - a list file with lines ``label;path``; ``classes`` are the names, or the file with one name a line;
    - paths and their ``labels``; without labels all of them are 0. One whole number a picture is its class. Names (str) are
      classes, too: those of ``classes``, or else all names, sorted, as ``ImageFolder`` numbers them. Any other labels (numbers with
      a fraction, rows of numbers) are delivered as ``numpy.asarray`` has them, in its type, and bool as uint8.

    Any path may be a URL: ``s3://bucket/folder``, ``gs://``, ``az://``, ``http(s)://`` or ``file://``. ``storage`` sets
    the options of reading, with the keys of ``[storage]`` in the settings: ``endpoint``, ``region``, ``anonymous``,
    ``requests_in_flight``, ``timeout_s``, ``retry_s``, ``cache_dir``, ``cache_bytes``, ``cache_mode``, ``map``,
    ``listings_dir``. It changes no batch. Credentials come from the environment.

    ``exif`` says what becomes of the orientation that a camera notes: ``"ignore"`` takes pictures as they are stored, as
    torchvision's ``ImageFolder``, and the first that asks for a turn is told by a ``UserWarning``; ``"apply"`` turns them upright,
    as ``PIL.ImageOps.exif_transpose``. It is a part of what the samples are, so that a state of the one does not fit the other.
    """
    how = storage_json(storage)
    names: tuple[str, ...] | None = None
    if classes is not None:
        names = tuple(_native.classes_of(os.fspath(classes), how) if isinstance(classes, (str, os.PathLike)) else classes)
    if isinstance(files, (str, os.PathLike)):
        if labels is not None:
            raise ConfigError("labels are given for one path. Give a list of paths, or leave labels out")
        return Images(files, names, storage=how, options={"exif": exif})
    paths = [os.fspath(path) for path in files]
    if labels is None and paths and all(path.endswith((".tar", ".zip", ".mds", ".parquet")) for path in paths):
        raise ConfigError(f"{paths[0]} and others are archives. Name their folder, or all by one pattern: train-{{000..146}}.tar")
    numbers, names, values = labelled.given([0] * len(paths) if labels is None else labels, names, len(paths))
    return Images(tuple(zip(paths, numbers)), names, values, storage=how, options={"exif": exif})
