"""KITTI's average precision against a second implementation, on made-up data sets."""

import json

import numpy as np
import pytest
from feedline.recipes.lidar import KittiDataset
from kitti_reference import figures, made_up
from lidar_reference import CLASSES, config, write_kitti


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Any data set: the labels are given with the detections."""
    return KittiDataset(config(write_kitti(tmp_path_factory.mktemp("kitti"), train=2, val=1, test=1)), CLASSES, training=False).clouds


@pytest.mark.parametrize("seed", range(6))
def test_all_figures_are_those_of_a_second_implementation(clouds, seed):
    rng = np.random.default_rng(seed)
    truths, founds = made_up(rng, frames=12)
    if seed == 5:
        # One class is never found, another never there.
        for found, truth in zip(founds, truths):
            found["name"] = ["Car" if name == "Cyclist" else name for name in found["name"]]
            truth["name"] = ["Van" if name == "Pedestrian" else name for name in truth["name"]]
    _, found = clouds.evaluate(json.dumps(founds), CLASSES, json.dumps(truths))
    found, expect = dict(found), figures(truths, founds, CLASSES)
    assert found.keys() == expect.keys()
    for key, value in expect.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    assert seed == 5 or sum(value > 0 for value in expect.values()) > 40
