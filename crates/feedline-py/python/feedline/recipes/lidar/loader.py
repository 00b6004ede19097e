"""``build_dataloader`` and its loader: batches as dicts with OpenPCDet's keys. Owns the conversion of its arguments to an
order and of native fields to a batch; order, threads and resuming are :class:`feedline.DataLoader`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ...errors import ConfigError
from ...ranks import discover, discover_and_tell
from ..epochs import EpochLoader, EpochSampler, Minibatch
from . import collate
from .dataset import LidarDataset, dataset_class, picture, pictures

_BOOLS = ("use_lead_xyz", "flip_x", "flip_y")


class _Maker:
    """Makes the batch from native fields, and counts frames that were replaced."""

    def __init__(self, dataset: LidarDataset, output: str) -> None:
        self._dataset = dataset
        self._torch = output == "torch"
        self.redrawn = 0

    def __call__(self, values: tuple[Any, ...], names: list[str], facts: Any) -> Minibatch:
        batch = Minibatch(
            (name, value[0] if isinstance(value, tuple) else value) for name, value in zip(names, values)
        )
        batch._facts = facts
        batch.pop("gt_pasted", None)
        frames = batch.pop("frame_index").tolist()
        self.redrawn += sum(frame != index for frame, index in zip(frames, batch.indices))
        batch["frame_id"] = np.array([name.decode() for name in batch["frame_id"]])
        for name in _BOOLS:
            if name in batch:
                batch[name] = batch[name].view(_torch_bool() if self._torch else np.bool_)
        for name in ("images", "depth_maps"):
            if name in batch:
                shapes = [pictures(shape)[name] for shape in batch["image_shape"].tolist()]
                batch[name] = self._own(
                    collate.padded_pictures([picture(name, *one) for one in zip(batch[name], shapes)])
                )
        calibs = [self._dataset.calib_of(frame) for frame in frames]
        if calibs[0] is not None:
            batch["calib"] = calibs
        batch["batch_size"] = len(frames)
        return batch

    def _own(self, array: Any) -> Any:
        if not self._torch:
            return array
        import torch

        return torch.from_numpy(array)


def _torch_bool() -> Any:
    import torch

    return torch.bool


class LidarLoader(EpochLoader):
    """:class:`feedline.DataLoader` with its arguments, whose batches are OpenPCDet's: dicts (:class:`Minibatch`) of NumPy arrays,
    unless ``output="torch"``.
    """

    def __init__(self, source: LidarDataset, batch_size: int = 1, *args: Any, output: str = "numpy", **others: Any) -> None:
        if output not in ("numpy", "torch"):
            raise ConfigError(f'output is {output!r}. Use "numpy", as in OpenPCDet, or "torch"')
        if not isinstance(source, LidarDataset):
            raise ConfigError(f"{type(source).__name__} is no LidarDataset. Give KittiDataset or CustomDataset")
        self._maker = _Maker(source, output)
        self._make_batch: Callable[..., Any] = self._maker
        super().__init__(source, batch_size, *args, output=output, **others)  # type: ignore[arg-type]
        self._native = source.native

    @property
    def redrawn(self) -> int:
        """Number of frames replaced so far because they had no box left."""
        return self._maker.redrawn

    def __iter__(self) -> Iterator[Minibatch]:
        """Begins the next epoch only when its first batch is asked for: OpenPCDet's loop makes an iterator that it discards."""
        live = self._newest() if self._newest else None
        if self.dataset.native is not self._native:
            # The augmentation was changed, so new threads take over from here.
            self._native, place = self.dataset.native, self._engine_now.cursor()
            epoch, _ = self._engine_now.place()
            self._engine_now = self._start()
            self._engine_now.load_cursor(place)
            if live is not None and not live.over:
                self._engine_now.set_epoch(epoch + 1)
            self._newest = None
        return super().__iter__()


def get_dist_info(return_gpu_per_machine: bool = False) -> tuple[int, ...]:
    """(rank, number of ranks) of torch's process group, else of the launcher's variables, else (0, 1); and, if asked for, the
    number of GPUs of this machine.
    """
    rank, world_size, _ = discover()
    if not return_gpu_per_machine:
        return rank, world_size
    import torch

    return rank, world_size, torch.cuda.device_count()


def build_dataloader(
    dataset_cfg: Mapping[str, Any],
    class_names: Sequence[str],
    batch_size: int,
    dist: bool,
    root_path: str | os.PathLike[str] | None = None,
    workers: int = 4,
    seed: int | None = None,
    logger: Any = None,
    training: bool = True,
    merge_all_iters_to_one_epoch: bool = False,
    total_epochs: int = 0,
    *,
    s3client: Any = None,
    hook: Mapping[str, Any] | None = None,
    merge_order: Literal["upstream", "passes"] = "upstream",
    tail: Literal["pad", "exact"] | None = None,
    output: Literal["numpy", "torch"] = "numpy",
    **others: Any,
) -> tuple[LidarDataset, LidarLoader, EpochSampler | None]:
    """(data set, loader, sampler), with OpenPCDet's arguments; the sampler is None unless ``dist``.

    For training the order is that of torch's ``DistributedSampler`` with this seed; else that of the data set.

    Args:
        dataset_cfg, class_names, root_path, logger, s3client, hook, total_epochs: See :class:`LidarDataset`.
        batch_size: Samples a step of each rank.
        dist: True shares the data among the ranks of torch's process group or the launcher; False gives this process all.
        workers: Threads; 0 makes batches in the calling thread.
        seed: Decides order and augmentation, for any number of ranks and workers; None is 0.
        merge_all_iters_to_one_epoch: One epoch of ``total_epochs`` times the data. ``merge_order`` is its order:
            "upstream" is one permutation of all, so a sample may repeat before others occur; "passes" has each sample
            once in each pass.
        tail: Treatment of evaluation samples that do not divide evenly by the ranks: "exact" gives each once; "pad" repeats
            some, as OpenPCDet's own evaluation script expects. Training always pads.
        output: "numpy", for ``load_data_to_gpu``; or "torch".
        others: As of :class:`feedline.DataLoader`: ``drop_last``, ``on_bad_sample``, ``max_bad_samples``,
            ``memory_budget_bytes``, ``pin_memory``, ``timeout``.
    """
    kind = dataset_class(dataset_cfg)
    if merge_order not in ("upstream", "passes"):
        raise ConfigError(f'merge_order is {merge_order!r}. Use "upstream" or "passes"')
    if tail not in (None, "pad", "exact") or training and tail == "exact":
        raise ConfigError(f'tail is {tail!r}. Use "exact" or "pad", and for training leave it out: ranks take equally many steps')
    rank, world_size = discover_and_tell() if dist else (0, 1)
    dataset = kind(
        dataset_cfg, class_names, training, root_path, logger, s3client=s3client, hook=hook, total_epochs=total_epochs
    )
    order: dict[str, Any] = {}
    if merge_all_iters_to_one_epoch:
        dataset.merge_all_iters_to_one_epoch(merge=True, epochs=total_epochs)
        frames = len(dataset.native)
        order = {"merge_epochs": total_epochs} if merge_order == "upstream" else {"epoch_length": frames * total_epochs}
    loader = LidarLoader(
        dataset,
        batch_size,
        shuffle=bool(training),
        seed=0 if seed is None else seed,
        num_workers=workers,
        num_replicas=world_size,
        rank=rank,
        tail="pad" if training else tail or "exact",
        output=output,
        **order,
        **others,
    )
    sampler = EpochSampler(loader, loader._plan.num_samples(rank, 0)) if dist else None
    return dataset, loader, sampler
