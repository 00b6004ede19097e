"""``get_train_loader`` and its loader: batches as dicts with TorchSSC's keys. Owns the rules by which batch sizes and epochs
follow from the settings; order, threads and resuming are :class:`feedline.DataLoader`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import ConfigError, whole_number
from ...ranks import discover_and_tell
from ...source import Source, has_torch
from ..epochs import EpochLoader, EpochSampler, Minibatch
from .data import TrainPre, ValPre
from .settings import Config, settings_of


def _minibatch(values: tuple[Any, ...], names: list[str], facts: Any) -> Minibatch:
    batch = Minibatch(zip(names, values))
    if "fn" in batch:
        batch["fn"] = [name.decode() for name in batch["fn"]]
    batch._facts = facts
    return batch


class SceneLoader(EpochLoader):
    """:class:`feedline.DataLoader` with its arguments, whose batches are :class:`Minibatch` (``fn`` is a list of str, all else
    has a first axis of samples) and whose iterators have ``.next()``.
    """

    _make_batch: Callable[..., Any] = staticmethod(_minibatch)


def data_setting(config: Any = None) -> dict[str, Any]:
    """The part of the settings that describes the data set: the first argument of :class:`NYUv2`."""
    said = settings_of(config)
    return {
        "img_root": said.img_root_folder,
        "gt_root": said.gt_root_folder,
        "hha_root": said.hha_root_folder,
        "mapping_root": said.mapping_root_folder,
        "train_source": said.train_source,
        "eval_source": said.eval_source,
        "dataset_path": said.dataset_path,
        "image_height": said.image_height,
        "image_width": said.image_width,
        "grid": said.grid,
        "num_classes": said.num_classes,
        "hha_order": said.hha_order,
    }


def get_train_loader(
    engine: Any,
    dataset: Any,
    s3client: Any = None,
    *,
    config: Any = None,
    seed: int = 0,
    num_workers: int | None = None,
    upstream_random_names: bool = False,
    output: Any = None,
    **others: Any,
) -> tuple[SceneLoader, EpochSampler | None]:
    """(loader, sampler) for training; the sampler is None if there is one process.

    An epoch has ``config.batch_size * config.niters_per_epoch`` samples over all ranks, shuffled; passes over the data
    are joined and cut into epochs, so every sample occurs before any repeats. ``batch_size`` is that of all
    ranks together and must be a multiple of their number.

    Args:
        engine: :class:`Engine`, or an object with its ``distributed`` and ``world_size``; None uses the existing process
            group or launcher.
        dataset: :class:`NYUv2`, or a class or function that makes one from TorchSSC's arguments ``(setting, "train",
            preprocess, file_length, s3client=s3client)``; or an instance.
        s3client: Location of data that is not on the disk. A URL replaces ``config.dataset_path``. A mapping has keys of
            ``[storage]``, and ``url`` as before. From a boto3 client endpoint, region and keys are copied;
            ``config.dataset_path`` must then be a URL.
        config: Settings, an object or mapping with TorchSSC's names; the default is :data:`config`.
        seed: Decides the order and all augmentation.
        num_workers: Threads of this process; None is ``config.num_workers``, and if that is None too, one for each core.
        upstream_random_names: Draws each sample anew from all, as TorchSSC does if an epoch has fewer samples than
            there are files: an epoch then has about 63 % of them. If it has as many or more, TorchSSC uses
            whole passes and draws the rest; that is not supported.
        output, others: As :class:`feedline.DataLoader`'s: ``on_bad_sample``, ``memory_budget_bytes``, ...
    """
    said = settings_of(config)
    rank, world_size = _place(engine)
    batch_size = whole_number("config.batch_size", said.batch_size, 1)
    per_rank = _share(batch_size, world_size)
    samples = batch_size * whole_number("config.niters_per_epoch", said.niters_per_epoch, 1)
    scales = None if said.train_scale_array is None else [float(scale) for scale in said.train_scale_array]
    scales = None if scales == [1.0] else scales
    preprocess = TrainPre(said.image_mean, said.image_std, mirror=bool(scales), scales=scales)
    source = _source(dataset, (data_setting(said), "train", preprocess, samples), s3client)
    weights = None
    if upstream_random_names:
        if samples >= len(source):
            raise ConfigError(
                f"upstream_random_names is for epochs shorter than the data set: an epoch has {samples} samples and the list "
                f"{len(source)}. Lower config.niters_per_epoch, or leave it out"
            )
        weights = [1.0] * len(source)
    loader = SceneLoader(
        source,
        per_rank,
        shuffle=True,
        seed=seed,
        num_replicas=world_size,
        rank=rank,
        drop_last=True,
        epoch_length=samples,
        weights=weights,
        **_options(said, num_workers, output, others),
    )
    distributed = getattr(engine, "distributed", world_size > 1)
    return loader, EpochSampler(loader, samples // world_size) if distributed else None


def get_val_loader(
    engine: Any,
    dataset: Any,
    s3client: Any = None,
    *,
    config: Any = None,
    batch_size: int = 1,
    num_workers: int | None = None,
    output: Any = None,
    **others: Any,
) -> SceneLoader:
    """The samples of ``config.eval_source`` in order, each on one rank and once; normalised, unlike TorchSSC's. Arguments as
    those of :func:`get_train_loader`; ``batch_size`` is that of each rank.
    """
    said = settings_of(config)
    rank, world_size = _place(engine)
    preprocess = ValPre(said.image_mean, said.image_std)
    source = _source(dataset, (data_setting(said), "val", preprocess, None), s3client)
    return SceneLoader(
        source,
        batch_size,
        num_replicas=world_size,
        rank=rank,
        tail="exact",
        **_options(said, num_workers, output, others),
    )


def _place(engine: Any) -> tuple[int | None, int]:
    """(rank, number of ranks); the rank is None if the process group determines it."""
    if engine is None:
        return discover_and_tell()
    if not getattr(engine, "distributed", False):
        return 0, 1
    return getattr(engine, "rank", None), whole_number("engine.world_size", engine.world_size, 1)


def _share(batch_size: int, world_size: int) -> int:
    """Samples per step of each rank."""
    if batch_size % world_size == 0:
        return batch_size // world_size
    below, above = batch_size // world_size * world_size, (batch_size // world_size + 1) * world_size
    nearest = f"{below} or {above}" if below else str(above)
    raise ConfigError(
        f"config.batch_size is {batch_size}, for all of engine.world_size, which is {world_size} ranks, and does not divide by "
        f"them. Set it to {nearest}"
    )


def _source(dataset: Any, arguments: tuple[Any, ...], s3client: Any) -> Source:
    if isinstance(dataset, Source):
        if s3client is not None:
            raise ConfigError("dataset is made already, so s3client comes too late. Give it to the dataset, or give its class")
        return dataset
    made = dataset(*arguments, s3client=s3client) if callable(dataset) else dataset
    if not isinstance(made, Source):
        raise ConfigError(
            f"dataset gives {type(made).__name__}, which is no source of Feedline's. "
            "Give NYUv2 of feedline.recipes.scene_completion, or a class that is derived from it"
        )
    return made


def _options(said: Config, num_workers: int | None, output: Any, others: dict[str, Any]) -> dict[str, Any]:
    if output is None:
        output = "torch" if has_torch() else "numpy"
    pin_memory = False
    if output == "torch":
        import torch

        pin_memory = torch.cuda.is_available()
    workers = said.num_workers if num_workers is None else num_workers
    return {"pin_memory": pin_memory, "num_workers": workers, "output": output} | others
