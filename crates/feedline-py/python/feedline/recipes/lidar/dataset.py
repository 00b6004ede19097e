"""``KittiDataset`` and ``CustomDataset`` with OpenPCDet's arguments and attributes, as sources. Owns the conversion of their
settings for the native half, which reads, augments and makes voxels, and the keys of a sample.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ... import _native
from ...errors import ConfigError, whole_number
from ...own import Own
from ...source import Source
from ..s3client import Keys, is_url, storage_of
from . import collate, evaluation
from .calibration import Calibration
from .config import plain


class LidarDataset(Source):
    """Point clouds with boxes, for :func:`build_dataloader` and :class:`feedline.DataLoader`; ``dataset[i]`` gives one sample.

    Args:
        dataset_cfg: ``DATA_CONFIG`` of OpenPCDet's YAML: a :class:`Config`, an EasyDict or any mapping.
        class_names: The classes to use; class i is label i + 1.
        training: True applies augmentation; False is for evaluation.
        root_path: The folder, or URL, of the data set; the default is ``DATA_PATH`` of the settings.
        logger: Logs the number of samples; this opens the data at once.
        s3client: Location of data that is not on the disk: a URL in place of the root, a mapping, or boto3's client.
        hook: ``HOOK`` of OpenPCDet's settings, for ``DisableAugmentationHook``; needs ``total_epochs``.
        total_epochs: Epochs of the run.

    Nothing is read before first use. It can be pickled, unless it has the keys of an S3 client.
    """

    kind = ""
    """``DATASET`` in the settings."""
    _clouds: _native.Clouds | None = None
    _kept: dict[str, Any]

    def __init__(
        self,
        dataset_cfg: Mapping[str, Any],
        class_names: Sequence[str],
        training: bool = True,
        root_path: str | os.PathLike[str] | None = None,
        logger: Any = None,
        *,
        s3client: Any = None,
        hook: Mapping[str, Any] | None = None,
        total_epochs: int = 0,
    ) -> None:
        if not isinstance(dataset_cfg, Mapping):
            raise ConfigError(f"dataset_cfg is {type(dataset_cfg).__name__}. Give DATA_CONFIG of the settings, a mapping")
        if isinstance(class_names, str) or not class_names:
            raise ConfigError(f"class_names is {class_names!r}. Give a list of names, such as cfg.CLASS_NAMES")
        said = dataset_cfg.get("DATASET", self.kind)
        if said != self.kind:
            raise ConfigError(f"DATASET is {said}, which is not for {type(self).__name__}. Use build_dataloader")
        root = dataset_cfg.get("DATA_PATH") if root_path is None else root_path
        if not root:
            raise ConfigError("it is not said where the data lies. Give root_path, or set DATA_PATH")
        root = os.fspath(root)
        storage, keys = storage_of(s3client, root, {"DATA_PATH": root}, "DATA_PATH or root_path")
        self.dataset_cfg = dataset_cfg
        self.class_names = list(class_names)
        self.training = bool(training)
        self.logger = logger
        self.root_path: Any = root if is_url(root) else Path(root)
        # OpenPCDet's name; parts of such a data set are those that its lists name.
        self.split = str((dataset_cfg.get("DATA_SPLIT") or {}).get(self.mode, self.mode))  # type: ignore[method-assign,assignment]
        self.epoch = 0
        """The epoch in which :meth:`__getitem__` draws; a loader counts epochs itself."""
        self.total_epochs = whole_number("total_epochs", total_epochs, 0)
        self._merge_all_iters_to_one_epoch = False
        self._keys: Keys | None = keys
        late_epoch, late_disabled = _late(hook, self.total_epochs)
        self._options: dict[str, Any] = {
            "config": plain(dataset_cfg),
            "class_names": self.class_names,
            "root": root,
            "training": self.training,
            "late_epoch": late_epoch,
            "late_disabled": late_disabled,
            "storage": storage,
        }
        self._kept = {}
        self.data_augmentor = DataAugmentor(self) if self.training else None
        if logger is not None:
            logger.info("Total samples for %s dataset: %d", self.kind, len(self))

    @property
    def mode(self) -> str:
        """``train`` or ``test``."""
        return "train" if self.training else "test"

    def _open(self, own: list[Own]) -> _native.Source:
        keys = None if self._keys is None else self._keys.reveal()
        self._clouds, self._kept = _native.Clouds(json.dumps(self._options), keys), {}
        return self._clouds.source()

    @property
    def clouds(self) -> _native.Clouds:
        """The native half."""
        _ = self.native
        assert self._clouds is not None
        return self._clouds

    def _once(self, name: str, make: Any) -> Any:
        """Calls ``make`` once and keeps its result as long as the data stays open."""
        clouds = self.clouds
        if name not in self._kept:
            self._kept[name] = make(clouds)
        return self._kept[name]

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in super().__getstate__().items() if key not in ("_clouds", "logger", "_kept")}
        return state | {"logger": None, "_kept": {}}

    # Facts that a network is built from.

    @property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self._once("facts", lambda clouds: json.loads(clouds.facts()))
        return facts

    @property
    def point_cloud_range(self) -> Any:
        """Smallest x, y, z and largest x, y, z, in metres: float32 (6,)."""
        return np.array(self._facts["point_cloud_range"], dtype=np.float32)

    @property
    def grid_size(self) -> Any:
        """Voxels along x, y, z: int64 (3,); None if no voxels are made."""
        size = self._facts["grid_size"]
        return None if size is None else np.array(size, dtype=np.int64)

    @property
    def voxel_size(self) -> list[float] | None:
        """Sides of a voxel in metres; None if no voxels are made."""
        size: list[float] | None = self._facts["voxel_size"]
        return size

    depth_downsample_factor = None

    @property
    def point_feature_encoder(self) -> Any:
        """Has ``num_point_features``, ``used_feature_list`` and ``src_feature_list``."""
        facts = self._facts
        return SimpleNamespace(
            num_point_features=len(facts["used_features"]),
            used_feature_list=facts["used_features"],
            src_feature_list=facts["src_features"],
        )

    @property
    def data_processor(self) -> Any:
        """Has ``grid_size``, ``voxel_size``, ``point_cloud_range``, ``mode`` and ``num_point_features``."""
        return SimpleNamespace(
            grid_size=self.grid_size,
            voxel_size=self.voxel_size,
            point_cloud_range=self.point_cloud_range,
            training=self.training,
            mode=self.mode,
            num_point_features=self.point_feature_encoder.num_point_features,
        )

    # Frames.

    @property
    def infos(self) -> list[dict[str, Any]]:
        """Information on each frame, with the keys and types of OpenPCDet's info files."""
        infos: list[dict[str, Any]] = self._once("infos", lambda clouds: [_info(info) for info in json.loads(clouds.infos())])
        return infos

    @property
    def sample_id_list(self) -> list[str]:
        """The frames' ids."""
        ids: list[str] = self._once("ids", lambda clouds: clouds.ids())
        return ids

    def calib_of(self, index: int) -> Calibration | None:
        """The calibration of a frame; None in data sets without one."""
        if not self._has_calib:
            return None
        matrices = self._once("calibs", lambda clouds: np.asarray(clouds.calibs()))[index]
        return Calibration({"P2": matrices[0], "R0": matrices[1], "Tr_velo2cam": matrices[2]})

    @property
    def _has_calib(self) -> bool:
        return bool(self._facts["has_calib"])

    def __len__(self) -> int:
        """Number of frames; times ``total_epochs`` after :meth:`merge_all_iters_to_one_epoch`."""
        return len(self.native) * (self.total_epochs if self._merge_all_iters_to_one_epoch else 1)

    def merge_all_iters_to_one_epoch(self, merge: bool = True, epochs: int | None = None) -> None:
        """Makes ``len()`` and loaders from :func:`build_dataloader` count all ``epochs`` as one; ``merge=False`` undoes it."""
        self._merge_all_iters_to_one_epoch = bool(merge)
        if merge:
            self.total_epochs = whole_number("epochs", epochs, 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, as OpenPCDet gives it to ``collate_batch``. Its augmentation depends on index and ``epoch``."""
        length = len(self)
        at = operator.index(index)
        if not -length <= at < length:
            raise IndexError(f"sample {at} of {length}")
        round_of, at = divmod(at % length, len(self.native))
        fields = {name: np.asarray(array) for name, array in self.clouds.sample(at, self.epoch + round_of, 0)}
        return self._sample(fields)

    def _sample(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Converts the native half's fields to a sample with OpenPCDet's keys."""
        frame, _ = int(fields.pop("frame_index")), fields.pop("gt_pasted", None)
        for name in ("points", "voxel_coords"):
            if name in fields:
                fields[name] = fields[name][:, 1:]
        fields["frame_id"] = bytes(fields["frame_id"]).decode()
        for name in ("use_lead_xyz", "flip_x", "flip_y"):
            if name in fields:
                fields[name] = bool(fields[name])
        if "image_shape" in fields:
            for name, shape in pictures(fields["image_shape"]).items():
                if name in fields:
                    fields[name] = picture(name, fields[name].tobytes(), shape)
        calib = self.calib_of(frame)
        if calib is not None:
            fields["calib"] = calib
        return fields

    # Evaluation.

    collate_batch = staticmethod(collate.collate_batch)

    def generate_prediction_dicts(
        self,
        batch_dict: Mapping[str, Any],
        pred_dicts: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        output_path: str | os.PathLike[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Converts ``pred_boxes`` (N, 7 or more), ``pred_scores`` (N,) and ``pred_labels`` (N,), arrays or tensors, per sample
        of a batch, to the input of :meth:`evaluation`. With ``output_path`` it also writes a KITTI label file per frame there.
        """
        return evaluation.prediction_dicts(batch_dict, pred_dicts, class_names, output_path)

    def evaluation(
        self, det_annos: Sequence[Mapping[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str, dict[str, float]]:
        """Average precisions by KITTI's rules from the results of :meth:`generate_prediction_dicts` for all frames, as a text and
        as numbers with OpenPCDet's names (``Car_3d/moderate_R40``). Frames are matched by ``frame_id``, in any order; a repeated
        one counts once, a missing one is an error.
        """
        return evaluation.evaluate(self, det_annos, class_names, **kwargs)


class KittiDataset(LidarDataset):
    """A data set in KITTI's layout; see :class:`LidarDataset`."""

    kind = "KittiDataset"

    @property
    def kitti_infos(self) -> list[dict[str, Any]]:
        """As :attr:`infos`."""
        return self.infos


class CustomDataset(LidarDataset):
    """A data set with ``points/ID.npy``; see :class:`LidarDataset`."""

    kind = "CustomDataset"

    @property
    def custom_infos(self) -> list[dict[str, Any]]:
        """As :attr:`infos`."""
        return self.infos


DATASETS: dict[str, type[LidarDataset]] = {kind.kind: kind for kind in (KittiDataset, CustomDataset)}


def dataset_class(dataset_cfg: Mapping[str, Any]) -> type[LidarDataset]:
    """The class that ``DATASET`` names."""
    name = dataset_cfg.get("DATASET") if isinstance(dataset_cfg, Mapping) else None
    if name in DATASETS:
        return DATASETS[name]
    raise ConfigError(f"DATASET is {name!r}. There are {', '.join(DATASETS)}: bring other data into the layout of one of them")


class DataAugmentor:
    """Replaces OpenPCDet's augmentor for programs that leave out some of its steps in the last epochs."""

    def __init__(self, dataset: LidarDataset) -> None:
        self._dataset = dataset

    def disable_augmentation(self, augmentor_configs: Mapping[str, Any]) -> None:
        """Leaves out the steps in ``DISABLE_AUG_LIST`` from the loader's next iterator on. A loader that was given ``hook`` does
        so itself, also after a resume.
        """
        disabled = list(augmentor_configs.get("DISABLE_AUG_LIST") or ())
        options = self._dataset._options
        if disabled == options["late_disabled"] and options["late_epoch"]:
            return
        config = options["config"]
        augmentor = {**(config.get("DATA_AUGMENTOR") or {}), "DISABLE_AUG_LIST": disabled}
        self._dataset._options = options | {"config": config | {"DATA_AUGMENTOR": augmentor}}
        self._dataset._ready = None


def _late(hook: Mapping[str, Any] | None, total_epochs: int) -> tuple[int, list[str]]:
    """The epoch from which on steps are left out, and the names of these steps."""
    for name in hook or ():
        if name != "DisableAugmentationHook":
            raise ConfigError(f"HOOK has {name}. There is DisableAugmentationHook")
    said = (hook or {}).get("DisableAugmentationHook")
    if not said:
        return 0, []
    last = whole_number("NUM_LAST_EPOCHS", said.get("NUM_LAST_EPOCHS"), 1)
    if not total_epochs > last:
        raise ConfigError(
            f"DisableAugmentationHook is for the last {last} epochs (NUM_LAST_EPOCHS) of total_epochs={total_epochs}. Give more "
            "total_epochs, or set DISABLE_AUG_LIST of DATA_AUGMENTOR for all of them"
        )
    return total_epochs - last, list(said.get("DISABLE_AUG_LIST") or ())


def _info(info: dict[str, Any]) -> dict[str, Any]:
    """A frame with NumPy arrays, as OpenPCDet pickles it."""
    if "image" in info:
        info["image"]["image_shape"] = np.array(info["image"]["image_shape"], dtype=np.int32)
    for name, matrix in info.get("calib", {}).items():
        info["calib"][name] = np.array(matrix, dtype=np.float32)
    annos = info.get("annos", {})
    widths = {"bbox": 4, "dimensions": 3, "location": 3, "gt_boxes_lidar": 7}
    labels = len(annos.get("name", ()))
    for name, values in list(annos.items()):
        if labels and not values and name != "gt_boxes_lidar":
            del annos[name]  # a custom data set has nothing of it
            continue
        kind = np.int32 if name in ("difficulty", "index", "num_points_in_gt") else np.float64
        array = np.array(values, dtype=(None if values else "<U1") if name == "name" else kind)
        annos[name] = array.reshape(-1, widths[name]) if name in widths else array
    return info


def pictures(shape: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of ``images`` and ``depth_maps`` of a frame whose picture is (height, width)."""
    height, width = (int(side) for side in shape)
    return {"images": (height, width, 3), "depth_maps": (height, width)}


def picture(name: str, content: bytes, shape: tuple[int, ...]) -> Any:
    """Decodes to float32: a picture from 0 to 1, or depth in metres."""
    if name == "images":
        return np.frombuffer(content, dtype=np.uint8).reshape(shape).astype(np.float32) / np.float32(255)
    return np.frombuffer(content, dtype=np.float32).reshape(shape).copy()
