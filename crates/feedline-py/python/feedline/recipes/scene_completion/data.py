"""The data set with TorchSSC's arguments, as a source. Owns the conversion of a split's settings for the native half, which
reads, checks and normalises.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ... import _native
from ...errors import ConfigError, whole_number
from ...own import Own
from ...pictures import IMAGENET_MEAN, IMAGENET_STD
from ...source import Source
from ..s3client import Keys, is_url, storage_of

_ROOTS = ("img_root", "gt_root", "hha_root", "mapping_root", "train_source", "eval_source")
_SIZES = ("dataset_path", "image_height", "image_width", "grid", "num_classes", "hha_order")


def _three(name: str, values: Any) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != 3:
        raise ConfigError(f"{name} is {numbers}: give three numbers, for red, green and blue")
    return numbers


class TrainPre:
    """The preprocessing of training samples: ``x / 255 - img_mean``, ``/ img_std``, of RGB and HHA.

    With ``mirror`` half of the samples are mirrored; with ``scales`` pictures and labels are scaled by one of these
    factors. Both are for RGB-D segmentation lists only, which are then cropped to the size in the settings. This object
    only holds the numbers; the loader's threads do the work.
    """

    def __init__(
        self,
        img_mean: Sequence[float] = IMAGENET_MEAN,
        img_std: Sequence[float] = IMAGENET_STD,
        mirror: bool = False,
        scales: Sequence[float] | None = None,
    ) -> None:
        self.img_mean = _three("img_mean", img_mean)
        self.img_std = _three("img_std", img_std)
        self.mirror = bool(mirror)
        self.scales = [float(scale) for scale in (() if scales is None else scales)]


class ValPre(TrainPre):
    """As :class:`TrainPre`, without random changes. Samples arrive normalised; TorchSSC normalises them in evaluation."""

    def __init__(
        self, img_mean: Sequence[float] = IMAGENET_MEAN, img_std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__(img_mean, img_std)


class NYUv2(Source):
    """The samples of a list in TorchSSC's layout, or of an RGB-D segmentation list, for :class:`feedline.DataLoader`,
    :func:`get_train_loader` and :func:`get_val_loader`. ``docs/scene_completion.md`` tells of files and fields.

    Args:
        setting: ``img_root``, ``gt_root``, ``hha_root``, ``mapping_root``, ``train_source`` and ``eval_source``: paths or
            URLs; ``hha_root`` may be empty if there are no HHA pictures. Also, if they differ from TorchSSC's:
            ``image_height``, ``image_width``, ``grid``, ``num_classes``, ``hha_order`` ("bgr", "rgb"); and
            ``dataset_path``, the folder that an ``s3client`` URL replaces; the default is the folder common to all.
        split_name: "train" (``train_source``) or "val" (``eval_source``).
        preprocess: :class:`TrainPre` or :class:`ValPre`; None is ImageNet's mean and std.
        file_length: Accepted, but ``len()`` is the number of listed samples. In TorchSSC ``len()`` is ``file_length``, and
            each item is drawn from all samples, whatever its index. Here the loader's ``epoch_length`` makes an epoch longer
            or shorter, and every sample occurs before any repeats.
        s3client: Location of data that is not on the disk: see :func:`get_train_loader`.

    Nothing is read before first use. It can be pickled, unless it has the keys of an S3 client.
    """

    def __init__(
        self,
        setting: Mapping[str, Any],
        split_name: str,
        preprocess: TrainPre | None = None,
        file_length: int | None = None,
        s3client: Any = None,
    ) -> None:
        if split_name not in ("train", "val"):
            raise ConfigError(f"split_name is {split_name!r}. It must be train or val")
        if preprocess is not None and not isinstance(preprocess, TrainPre):
            raise ConfigError(
                f"preprocess is {type(preprocess).__name__}, which would not be called: samples are made in the loader's "
                "threads. Give TrainPre or ValPre of feedline.recipes.scene_completion"
            )
        for name in setting:
            if name not in _ROOTS + _SIZES:
                near = difflib.get_close_matches(name, _ROOTS + _SIZES)
                raise ConfigError(f"the settings have an unknown key {name!r}. Use {', '.join(near or _ROOTS + _SIZES)}")
        lists = {"train": "train_source", "val": "eval_source"}
        needed = ("img_root", "gt_root", lists[split_name])
        for name in needed:
            if not setting.get(name):
                raise ConfigError(f"the settings have no {name}. Give a path or URL for {', '.join(needed)}")
        if file_length is not None:
            file_length = whole_number("file_length", file_length, 1)
        pre = ValPre() if preprocess is None else preprocess
        roots = {name: os.fspath(setting[name]) for name in _ROOTS if setting.get(name)}
        storage, keys = storage_of(s3client, _folder(setting, roots), roots)
        order = setting.get("hha_order", "bgr")
        if order not in ("bgr", "rgb"):
            raise ConfigError(f"hha_order is {order!r}. It must be bgr, as in TorchSSC, or rgb")
        sides = [whole_number("a side of grid", side, 1) for side in setting.get("grid", (60, 36, 60))]
        if len(sides) != 3:
            raise ConfigError(f"grid is {sides}: give its three sides, such as (60, 36, 60)")
        self.setting = dict(setting)
        self.split_name = split_name
        self.preprocess = preprocess
        self.file_length = file_length
        self._keys: Keys | None = keys
        self._options: dict[str, Any] = {
            "img_root": roots["img_root"],
            "gt_root": roots["gt_root"],
            "hha_root": roots.get("hha_root", ""),
            "mapping_root": roots.get("mapping_root", ""),
            "list": roots[lists[split_name]],
            "split": split_name,
            "image_px": [
                whole_number("image_height", setting.get("image_height", 480), 1),
                whole_number("image_width", setting.get("image_width", 640), 1),
            ],
            "grid": sides,
            "num_classes": whole_number("num_classes", setting.get("num_classes", 12), 2, 255),
            "mean": pre.img_mean,
            "std": pre.img_std,
            "hha_order": order,
            "augment": {"mirror": pre.mirror, "scales": pre.scales} if pre.mirror or pre.scales else None,
            "storage": storage,
        }

    def _open(self, own: list[Own]) -> _native.Source:
        keys = None if self._keys is None else self._keys.reveal()
        return _native.Source.scenes(json.dumps(self._options), keys)

    def get_length(self) -> int:
        """Number of samples; TorchSSC's name for it."""
        return len(self)


def _folder(setting: Mapping[str, Any], roots: Mapping[str, str]) -> str:
    """The folder that a URL may replace."""
    if setting.get("dataset_path"):
        return str(os.fspath(setting["dataset_path"]))
    if any(is_url(root) for root in roots.values()) or len({os.path.isabs(root) for root in roots.values()}) > 1:
        return next(iter(roots.values()))
    # Lists are files in it, so the common path of a single folder and a file in it is the folder.
    return os.path.commonpath(list(roots.values()))
