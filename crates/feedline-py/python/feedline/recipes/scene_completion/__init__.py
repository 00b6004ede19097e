"""The names of TorchSSC (3D Sketch-aware Semantic Scene Completion) and of its RGB-D siblings, on Feedline's engine.

``examples/python/train_scene_completion.py`` is its training loop, ``docs/scene_completion.md`` tells of the files and
of what differs. Faults of the original are corrected: an epoch has every sample before any repeats,
ranks share none, one process needs no launcher, and a stopped run resumes with exactly the next sample.
"""

from ..epochs import EpochSampler, Minibatch
from .data import NYUv2, TrainPre, ValPre
from .engine import Engine, PolyLR, State, group_weight
from .loader import SceneLoader, data_setting, get_train_loader, get_val_loader
from .scores import SSCScores
from .settings import Config, config

C = cfg = config

__all__ = [
    "C",
    "Config",
    "Engine",
    "EpochSampler",
    "Minibatch",
    "NYUv2",
    "PolyLR",
    "SSCScores",
    "SceneLoader",
    "State",
    "TrainPre",
    "ValPre",
    "cfg",
    "config",
    "data_setting",
    "get_train_loader",
    "get_val_loader",
    "group_weight",
]
