"""The settings of a run, with TorchSSC's keys and values. Owns the conversion of a user's own settings; reads no files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigError, whole_number
from ...pictures import IMAGENET_MEAN, IMAGENET_STD

_DEFAULTS: dict[str, Any] = {
    "seed": 12345,
    "dataset_path": os.path.join("DATA", "NYU"),
    "num_classes": 12,
    "background": 255,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "image_height": 480,
    "image_width": 640,
    "grid": [60, 36, 60],
    "hha_order": "bgr",
    "num_train_imgs": 795,
    "num_eval_imgs": 654,
    "train_scale_array": None,
    "lr": 0.1,
    "lr_power": 0.9,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 4,
    "nepochs": 250,
    "warm_up_epoch": 0,
    "bn_eps": 1e-5,
    "bn_momentum": 0.1,
    "num_workers": None,
    "snapshot_iter": 10,
    "sketch_weight": 1,
    "sketch_weight_gsnn": 1.5,
    "kld_weight": 2,
    "samples": 4,
    "lantent_size": 16,
    "empty_loss_weight": 1,
    "log_dir": "log",
    "log_dir_link": None,
}


def _niters(settings: Config) -> int:
    images = whole_number("config.num_train_imgs", settings.num_train_imgs, 1)
    batch = whole_number("config.batch_size", settings.batch_size, 1)
    if images < batch:
        raise ConfigError(
            f"config.num_train_imgs is {images}, fewer than config.batch_size, which is {batch}. "
            "Lower batch_size, or set config.niters_per_epoch"
        )
    return images // batch


# Settings that follow from others unless they are set.
_DERIVED: dict[str, Callable[[Config], Any]] = {
    "img_root_folder": lambda settings: settings.dataset_path,
    "gt_root_folder": lambda settings: settings.dataset_path,
    "hha_root_folder": lambda settings: os.path.join(settings.dataset_path, "HHA"),
    "mapping_root_folder": lambda settings: os.path.join(settings.dataset_path, "Mapping"),
    "train_source": lambda settings: os.path.join(settings.dataset_path, "train.txt"),
    "eval_source": lambda settings: os.path.join(settings.dataset_path, "test.txt"),
    "niters_per_epoch": _niters,
    "tb_dir": lambda settings: os.path.join(settings.log_dir, "tb"),
    "snapshot_dir": lambda settings: os.path.join(settings.log_dir, "snapshot"),
}

KEYS = (*_DEFAULTS, *_DERIVED)


class Config:
    """TorchSSC's settings as attributes; ``Config(batch_size=8)`` or ``config.batch_size = 8`` changes one.

    Paths follow ``dataset_path`` and ``log_dir``, and ``niters_per_epoch`` is ``num_train_imgs // batch_size``, unless they
    are set themselves. ``dataset_path`` may be a URL. In addition to TorchSSC's: ``grid``, the sides of the voxel grid, and
    ``hha_order``. Any other name may be set; reading one that was not set raises an :class:`AttributeError`.

    ``num_workers`` are threads of each process; None is one for each of its cores. ``train_scale_array``, other than None
    and ``[1]``, is for RGB-D segmentation lists: samples are scaled by one of these factors, mirrored and cropped.
    """

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _DERIVED:
            return _DERIVED[name](self)
        if name in _DEFAULTS:
            value = _DEFAULTS[name]
            if isinstance(value, list):
                # The value is kept, so that its elements can be changed.
                value = self.__dict__[name] = list(value)
            return value
        if name.startswith("__"):
            raise AttributeError(name)
        near = difflib.get_close_matches(name, {*KEYS, *self.__dict__})
        hint = f"Near it are {', '.join(near)}" if near else f"There are {', '.join(KEYS)}"
        raise AttributeError(f"config has no setting {name}. {hint}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *KEYS})

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


config = Config()
"""The default settings."""


def settings_of(given: Any) -> Config:
    """Converts ``given`` to a :class:`Config`: None is :data:`config`; otherwise its attributes or keys are used, such as
    those of an EasyDict, a namespace, a module or a dict. Missing ones are as in a new ``Config``.
    """
    if given is None:
        return config
    if isinstance(given, Config):
        return given
    missing = object()
    if isinstance(given, Mapping):
        found = {name: given.get(name, missing) for name in KEYS}
    else:
        found = {name: getattr(given, name, missing) for name in KEYS}
    found = {name: value for name, value in found.items() if value is not missing}
    if not found:
        raise ConfigError(
            f"config is {type(given).__name__}, which has none of TorchSSC's settings. "
            "Give an object or a mapping with names such as dataset_path, batch_size and niters_per_epoch"
        )
    return Config(**found)
