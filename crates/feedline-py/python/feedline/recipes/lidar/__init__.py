"""The names of OpenPCDet's data loading, on Feedline's engine: ``build_dataloader``, its data sets, ``cfg``, and the other
functions that training and evaluation scripts need.

``examples/python/train_lidar.py`` is a training loop, ``docs/lidar.md`` tells of the files and of what differs. Batches have
OpenPCDet's keys, shapes and types, so its networks accept them. Faults of the original are corrected: ranks and epochs draw
different augmentation, ``calib`` has as many entries as the batch, a data set without boxes is an error with its reason,
evaluation counts every sample once, and a stopped run resumes with exactly the next sample.
"""

from typing import TYPE_CHECKING, Any

from ..epochs import EpochSampler, Minibatch
from .calibration import Calibration
from .collate import collate_batch, load_data_to_gpu
from .config import Config, cfg, cfg_from_list, cfg_from_yaml_file
from .dataset import CustomDataset, KittiDataset, LidarDataset
from .evaluation import merge_results_dist
from .loader import LidarLoader, build_dataloader, get_dist_info

if TYPE_CHECKING:
    from .sampler import DistributedSampler

__all__ = [
    "Calibration",
    "Config",
    "CustomDataset",
    "DistributedSampler",
    "EpochSampler",
    "KittiDataset",
    "LidarDataset",
    "LidarLoader",
    "Minibatch",
    "build_dataloader",
    "cfg",
    "cfg_from_list",
    "cfg_from_yaml_file",
    "collate_batch",
    "get_dist_info",
    "load_data_to_gpu",
    "merge_results_dist",
]


def __getattr__(name: str) -> Any:
    # Imported on demand: only this needs torch.
    if name == "DistributedSampler":
        from .sampler import DistributedSampler

        return DistributedSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
