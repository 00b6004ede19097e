"""The metrics of TorchSSC's evaluation, from counts. Owns the counting; counts of several ranks are added."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError
from ...ranks import initialised_group


class SSCScores:
    """Counts voxels over all samples, and gives the metrics of completed classes (SSC) and of occupied space (SC).

    SSC covers voxels that count (``label_weight > 0``) and have a class. SC covers voxels that count, that no pixel
    shows (``mapping == no_pixel``) and whose label is not 255: occupied (any class but 0) against empty.
    """

    def __init__(self, num_classes: int = 12, no_pixel: int = 480 * 640) -> None:
        self.num_classes = num_classes
        self.no_pixel = no_pixel
        # (label, prediction) of SSC, then of SC.
        self._seen = np.zeros(num_classes * num_classes + 4, np.int64)
        self._all: Any = None

    def update(self, pred: Any, label: Any, label_weight: Any, mapping: Any) -> None:
        """Adds samples: the predicted class of each voxel, and the batch's ``label``, ``label_weight`` and
        ``depth_mapping_3d``; arrays or tensors of equally many elements, in any shape.
        """
        given = {"pred": pred, "label": label, "label_weight": label_weight, "mapping": mapping}
        shapes = {name: tuple(values.shape) for name, values in given.items()}
        if len({int(np.prod(shape)) for shape in shapes.values()}) > 1:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ConfigError(f"the number of voxels differs: {found}. Give the class of each voxel, not a score of each class")
        pred, label, label_weight, mapping = map(_flat, given.values())
        counts = label_weight > 0
        wrong = pred[(pred < 0) | (pred >= self.num_classes)]
        if wrong.size:
            raise ConfigError(f"pred has the class {wrong[0]}. Classes are from 0 to {self.num_classes - 1}")
        known = counts & (label >= 0) & (label < self.num_classes)
        pairs = label[known].astype(np.int64) * self.num_classes + pred[known].astype(np.int64)
        ssc = np.bincount(pairs, minlength=self.num_classes**2)
        hidden = counts & (mapping == self.no_pixel) & (label != 255)
        sc = np.bincount(2 * (label[hidden] > 0) + (pred[hidden] > 0), minlength=4)
        self._seen += np.concatenate([ssc, sc])
        self._all = None

    def all_reduce(self) -> None:
        """Adds the counts of all ranks of torch's process group, if there is one: from here on the metrics are those of
        all samples, until the next :meth:`update`. Collective: every rank must call it.
        """
        group = initialised_group()
        if group is None or group[1] == 1:
            return
        import torch
        import torch.distributed as dist

        seen = torch.from_numpy(self._seen.copy())
        if dist.get_backend() == "nccl":
            seen = seen.cuda()
        dist.all_reduce(seen)
        self._all = seen.cpu().numpy()

    @property
    def _counts(self) -> Any:
        return self._seen if self._all is None else self._all

    @property
    def confusion(self) -> Any:
        """int64 (classes, classes): voxels of each label (row) that were predicted as each class (column)."""
        return self._counts[:-4].reshape(self.num_classes, self.num_classes).copy()

    @property
    def ssc_iou(self) -> Any:
        """float64 (classes,): IoU of each class; NaN for a class that does not occur."""
        seen = self.confusion
        right = np.diag(seen)
        return _ratio(right, seen.sum(0) + seen.sum(1) - right)

    @property
    def ssc_miou(self) -> float:
        """Mean over the classes that occur, without 0; NaN if none does."""
        iou = self.ssc_iou[1:]
        iou = iou[~np.isnan(iou)]
        return float(iou.mean()) if iou.size else float("nan")

    @property
    def sc_iou(self) -> float:
        """IoU of occupied space: voxels occupied in both label and prediction, divided by those occupied in either."""
        _, false, missed, right = self._counts[-4:]
        return float(_ratio(right, right + false + missed))

    @property
    def sc_precision(self) -> float:
        """Voxels occupied in both label and prediction, divided by those predicted as occupied."""
        _, false, _, right = self._counts[-4:]
        return float(_ratio(right, right + false))

    @property
    def sc_recall(self) -> float:
        """Voxels occupied in both label and prediction, divided by those that are occupied in the label."""
        _, _, missed, right = self._counts[-4:]
        return float(_ratio(right, right + missed))


def _flat(values: Any) -> Any:
    """A tensor or an array as a flat array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values).reshape(-1)


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)
