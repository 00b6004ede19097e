"""Samples to a batch in NumPy, and a batch to the device, by OpenPCDet's rules. The native half collates the loader's own
batches; this is for samples that a program makes itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import ConfigError

# The collate rule of each key; all others are stacked.
_JOINED = ("voxels", "voxel_num_points")
_NUMBERED = ("points", "voxel_coords")
_PADDED = ("gt_boxes", "gt_boxes2d", "roi_boxes", "roi_scores", "roi_labels", "points_2d")
_PICTURES = ("images", "depth_maps")
# Axes that are padded to the longest; roi_* have frames before their boxes.
_LONG_AXIS = {"roi_boxes": 1, "roi_scores": 1, "roi_labels": 1}
# Keys that are not converted to tensors.
_KEPT = ("frame_id", "metadata", "calib", "image_paths", "ori_shape", "img_process_infos")


def collate_batch(batch_list: Sequence[dict[str, Any]], _unused: bool = False) -> dict[str, Any]:
    """Collates samples to one batch: points and voxels joined, with their sample's number; boxes padded with 0; pictures padded
    at the right and below; ``calib`` as a list; all else stacked. Adds ``batch_size``.

    Raises :class:`feedline.ConfigError` with key, samples and shapes if samples do not fit together. A key that only some
    samples have is an error too, because its rows would be assigned to other samples.
    """
    if not batch_list:
        raise ConfigError("an empty batch cannot be collated. Give a sample")
    batch: dict[str, Any] = {}
    ratio = 1
    for key in dict.fromkeys(key for sample in batch_list for key in sample):
        lacking = [at for at, sample in enumerate(batch_list) if key not in sample]
        if lacking:
            raise ConfigError(
                f"cannot collate {key!r}: samples {_who(batch_list, lacking)} lack it. Give it to all samples, or to none"
            )
        values = [sample[key] for sample in batch_list]
        try:
            if key in (*_JOINED, *_NUMBERED) and isinstance(values[0], list):
                ratio = len(values[0])
                if any(len(value) != ratio for value in values):
                    raise ValueError("the lists differ in length")
                values = [part for value in values for part in value]
            batch[key] = _collate(key, values)
        except (ValueError, TypeError, IndexError) as error:
            shapes = ", ".join(str(getattr(value, "shape", type(value).__name__)) for value in values)
            raise ConfigError(
                f"cannot collate {key!r} of samples {_who(batch_list, range(len(batch_list)))}: {error}; shapes are {shapes}"
            ) from error
    batch["batch_size"] = len(batch_list) * ratio
    return batch


def _who(samples: Sequence[dict[str, Any]], numbers: Any) -> str:
    """Names samples by their frames, or by their numbers in the batch."""
    return ", ".join(str(samples[at].get("frame_id", at)) for at in numbers)


def _collate(key: str, values: list[Any]) -> Any:
    if key == "calib":
        return values
    if key in _JOINED:
        return np.concatenate(values, axis=0)
    if key in _NUMBERED:
        return np.concatenate(
            [np.pad(value, ((0, 0), (1, 0)), constant_values=number) for number, value in enumerate(values)], axis=0
        )
    if key in _PADDED:
        return padded(values, _LONG_AXIS.get(key, 0))
    if key in _PICTURES:
        return padded_pictures(values)
    if key == "camera_imgs":
        import torch

        return torch.stack([torch.stack(list(value), dim=0) for value in values], dim=0)
    return np.stack(values, axis=0)


def padded(values: list[Any], axis: int = 0) -> Any:
    """Stacks arrays that differ along one axis, padded with 0, as float32 with a first axis of samples."""
    longest = max(value.shape[axis] for value in values)
    shape = list(values[0].shape)
    shape[axis] = longest
    full = np.zeros((len(values), *shape), dtype=np.float32)
    for row, value in zip(full, values):
        if value.ndim != row.ndim or any(a != b for at, (a, b) in enumerate(zip(value.shape, shape)) if at != axis):
            raise ValueError(f"only axis {axis} may differ")
        row[(slice(None),) * axis + (slice(value.shape[axis]),)] = value
    return full


def padded_pictures(values: list[Any]) -> Any:
    """Pictures (H, W) or (H, W, C) in one array, with 0 at the right and below."""
    height, width = (max(value.shape[axis] for value in values) for axis in (0, 1))
    if any(value.shape[2:] != values[0].shape[2:] for value in values):
        raise ValueError("the channels differ")
    full = np.zeros((len(values), height, width, *values[0].shape[2:]), dtype=values[0].dtype)
    for row, value in zip(full, values):
        row[: value.shape[0], : value.shape[1]] = value
    return full


def load_data_to_gpu(batch_dict: dict[str, Any], device: Any = None) -> None:
    """Converts the arrays of a batch to float32 tensors on ``device`` (by default CUDA if available, else the CPU), in place;
    ``image_shape`` to int32, ``images`` with channels first. Names, calibrations and numbers are not changed.
    """
    import torch

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for key, value in batch_dict.items():
        if key in _KEPT or key == "camera_imgs" or not isinstance(value, (np.ndarray, torch.Tensor)):
            if key == "camera_imgs":
                batch_dict[key] = value.to(device)
            continue
        tensor = torch.as_tensor(value)
        if key == "images":
            tensor = tensor.permute(0, 3, 1, 2).contiguous()
        kind = torch.int32 if key == "image_shape" else torch.float32
        batch_dict[key] = tensor.to(device, non_blocking=True).to(kind)
