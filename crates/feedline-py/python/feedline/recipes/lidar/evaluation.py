"""Predictions in OpenPCDet's form, their label files, their metrics, and the merging of several ranks' results. Owns
the conversion; the native half computes the metrics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ... import _native
from ...errors import ConfigError
from ...ranks import initialised_group

NO_GROUND_TRUTH = "No ground-truth boxes for evaluation"


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def boxes_to_camera(boxes: Any, calib: Any) -> Any:
    """Converts lidar boxes (N, 7) to rectified camera coordinates: x y z of the bottom's centre, l h w, rotation_y."""
    boxes = np.asarray(boxes)
    bottom = boxes[:, :3].copy()
    bottom[:, 2] -= boxes[:, 5] / 2
    return np.concatenate(
        [calib.lidar_to_rect(bottom), boxes[:, 3:4], boxes[:, 5:6], boxes[:, 4:5], -boxes[:, 6:7] - np.pi / 2], axis=1
    )


def boxes_to_image(boxes_camera: Any, calib: Any, image_shape: Any) -> Any:
    """(N, 4) left, top, right, bottom of boxes in camera coordinates, clipped to the picture."""
    x, z = (np.array([1, 1, -1, -1] * 2) / 2, np.array([1, -1, -1, 1] * 2) / 2)
    y = np.array([0] * 4 + [-1] * 4)
    length, height, width = (boxes_camera[:, at : at + 1] for at in (3, 4, 5))
    sin, cos = np.sin(boxes_camera[:, 6:7]), np.cos(boxes_camera[:, 6:7])
    corners = np.stack(
        [
            boxes_camera[:, 0:1] + x * length * cos + z * width * sin,
            boxes_camera[:, 1:2] + y * height,
            boxes_camera[:, 2:3] - x * length * sin + z * width * cos,
        ],
        axis=2,
    )
    around = calib.corners3d_to_img_boxes(corners)[0]
    height_px, width_px = (int(side) for side in image_shape)
    return np.clip(around, 0, [width_px - 1, height_px - 1] * 2)


def prediction_dicts(
    batch_dict: Mapping[str, Any],
    pred_dicts: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    output_path: str | os.PathLike[str] | None,
) -> list[dict[str, Any]]:
    """See ``LidarDataset.generate_prediction_dicts``."""
    annos = []
    names = np.array(class_names)
    if len(pred_dicts) != len(batch_dict["frame_id"]):
        raise ConfigError(f"there are predictions for {len(pred_dicts)} samples of a batch of {len(batch_dict['frame_id'])}")
    for at, said in enumerate(pred_dicts):
        scores, boxes, labels = (_array(said[name]) for name in ("pred_scores", "pred_boxes", "pred_labels"))
        labels = labels.astype(np.int64)
        if labels.size and not 1 <= labels.min() <= labels.max() <= len(names):
            raise ConfigError(
                f"pred_labels are from {labels.min()} to {labels.max()}: they must be from 1 to {len(names)}, the place of the "
                "class in class_names, counted from 1"
            )
        anno: dict[str, Any] = {"name": names[labels - 1] if labels.size else np.array([], dtype="<U1"), "score": scores}
        boxes = boxes[:, :7] if len(scores) else np.zeros((0, 7), dtype=np.float32)
        anno["boxes_lidar"] = boxes
        if "calib" in batch_dict:
            shape = _array(batch_dict["image_shape"][at])
            anno |= _camera(boxes, batch_dict["calib"][at], shape)
        else:
            anno["pred_labels"] = labels
        anno["frame_id"] = str(batch_dict["frame_id"][at])
        annos.append(anno)
        if output_path is not None:
            _write(Path(output_path) / f"{anno['frame_id']}.txt", anno)
    return annos


def _camera(boxes: Any, calib: Any, shape: Any) -> dict[str, Any]:
    """The numbers of a KITTI label."""
    camera = boxes_to_camera(boxes, calib)
    return {
        "truncated": np.zeros(len(boxes)),
        "occluded": np.zeros(len(boxes)),
        "alpha": -np.arctan2(-boxes[:, 1], boxes[:, 0]) + camera[:, 6],
        "bbox": boxes_to_image(camera, calib, shape),
        "dimensions": camera[:, 3:6],
        "location": camera[:, 0:3],
        "rotation_y": camera[:, 6],
    }


def _write(path: Path, anno: dict[str, Any]) -> None:
    """Detections as a KITTI label file: sizes as height, width, length."""
    lines = []
    for at, name in enumerate(anno["name"]):
        if "bbox" in anno:
            length, height, width = anno["dimensions"][at]
            numbers = [
                anno["alpha"][at], *anno["bbox"][at], height, width, length,
                *anno["location"][at], anno["rotation_y"][at], anno["score"][at],
            ]  # fmt: skip
            lines.append(f"{name} -1 -1 " + " ".join(f"{number:.4f}" for number in numbers) + "\n")
        else:
            numbers = [*anno["boxes_lidar"][at], anno["score"][at]]
            lines.append(" ".join(f"{number:.4f}" for number in numbers) + f" {name}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8")


# Keys of a prediction that the native half reads.
_READ = ("name", "truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y", "score")


class Evaluated(Protocol):
    """The members of ``LidarDataset`` that an evaluation reads."""

    dataset_cfg: Mapping[str, Any]

    @property
    def clouds(self) -> _native.Clouds: ...
    @property
    def infos(self) -> list[dict[str, Any]]: ...
    @property
    def sample_id_list(self) -> list[str]: ...
    @property
    def _facts(self) -> dict[str, Any]: ...
    @property
    def _has_calib(self) -> bool: ...


def evaluate(
    dataset: Evaluated, det_annos: Sequence[Mapping[str, Any]], class_names: Sequence[str], eval_metric: str = "kitti", **_: Any
) -> tuple[str, dict[str, float]]:
    """See ``LidarDataset.evaluation``."""
    if eval_metric != "kitti":
        raise ConfigError(f"eval_metric is {eval_metric!r}. There is kitti")
    ids = dataset.sample_id_list
    if not dataset._facts["has_annos"]:
        return NO_GROUND_TRUTH, {}
    found: dict[str, Mapping[str, Any]] = {}
    for at, anno in enumerate(det_annos):
        found.setdefault(str(anno["frame_id"]) if "frame_id" in anno else ids[at % len(ids)], anno)
    missing = [frame for frame in ids if frame not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ConfigError(
            f"{len(missing)} of {len(ids)} frames have no prediction: {shown}. Each frame needs one, be it without boxes; those of "
            "several ranks come together by merge_results_dist of feedline.recipes.lidar"
        )
    said, names, truth = [found[frame] for frame in ids], list(class_names), None
    if not dataset._has_calib:
        kinds = dataset.dataset_cfg.get("MAP_CLASS_TO_KITTI") or {}
        said = [_of_no_camera(anno["name"], anno["boxes_lidar"], anno["score"], kinds) for anno in said]
        labels = [info["annos"] for info in dataset.infos]
        truth = [_of_no_camera(label["name"], label["gt_boxes_lidar"], None, kinds) for label in labels]
        names = list(dict.fromkeys(kinds.get(name, name) for name in names))
    for frame, anno in zip(ids, said):
        if "bbox" not in anno:
            raise ConfigError(f"the prediction of frame {frame} has no bbox. Give what generate_prediction_dicts returned")
    text, figures = dataset.clouds.evaluate(_json(said), names, None if truth is None else _json(truth))
    return text, dict(figures)


def _json(annos: list[Any]) -> str:
    read = (*_READ, "difficulty")
    return json.dumps([{name: _array(anno[name]).tolist() for name in read if name in anno} for anno in annos])


def _of_no_camera(names: Any, boxes: Any, scores: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Boxes as seen by a virtual camera at the lidar that sees all of them equally, as OpenPCDet does for custom data."""
    boxes = _array(boxes).reshape(-1, 7).astype(np.float64)
    x, y, z, _, _, height, heading = boxes.T
    turn, count = -heading - np.pi / 2, len(boxes)
    return {
        "name": [kinds.get(str(name), str(name)) for name in names],
        "truncated": np.zeros(count),
        "occluded": np.zeros(count),
        "alpha": turn - np.arctan2(-y, x),
        "bbox": np.tile([0.0, 0.0, 50.0, 50.0], (count, 1)),
        "dimensions": boxes[:, [3, 5, 4]],
        "location": np.column_stack([-y, height / 2 - z, x]),
        "rotation_y": turn,
        "score": np.full(count, -1.0) if scores is None else scores,
        "difficulty": np.zeros(count, dtype=np.int32),
    }


def merge_results_dist(result_part: Sequence[Any], size: int, tmpdir: Any = None) -> list[Any] | None:
    """Merges the ranks' results: in the order of the data set on rank 0, None on others. ``size`` is the number of samples.

    Uses torch's process group, so no shared folder (``tmpdir``) is needed. Ranks may differ by one sample.
    """
    group = initialised_group()
    if group is None or group[1] == 1:
        return list(result_part)[:size]
    import torch.distributed

    rank, world_size = group
    parts: list[Any] | None = [None] * world_size if rank == 0 else None
    torch.distributed.gather_object(list(result_part), parts)
    if parts is None:
        return None
    nothing = object()
    ordered = chain.from_iterable(zip_longest(*parts, fillvalue=nothing))
    return [result for result in ordered if result is not nothing][:size]
