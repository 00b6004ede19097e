"""The event file of a run, read with TensorBoard's own package."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

EPOCHS = [1, 2, 3]
# Tag of a curve, and where the same number stands in the record of an epoch.
CURVES = {
    "loss/train": lambda record: record["train_loss"],
    "loss/val": lambda record: record["val_loss"],
    "accuracy/val": lambda record: record["val_metrics"][0],
    "lr": lambda record: record["lr"],
    "data_wait": lambda record: record["data_wait_share"],
}


@pytest.fixture(scope="module")
def events(demo_run):
    files = list(demo_run.rglob("events.out.tfevents.*"))
    assert len(files) == 1 and files[0].parent == demo_run, files
    accumulator = EventAccumulator(str(demo_run), size_guidance={SCALARS: 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def records(demo_run):
    lines = (demo_run / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "epoch_end"]


def test_the_curves_are_these(events):
    assert set(events.Tags()["scalars"]) == set(CURVES)


@pytest.mark.parametrize("tag", CURVES)
def test_a_curve_has_one_point_for_each_epoch(events, records, tag):
    scalars = events.Scalars(tag)
    assert [scalar.step for scalar in scalars] == [record["epoch"] for record in records] == EPOCHS
    times = [scalar.wall_time for scalar in scalars]
    assert times == sorted(times)
    # Event files hold 32-bit floats.
    expected = [float(np.float32(CURVES[tag](record))) for record in records]
    assert [scalar.value for scalar in scalars] == expected


@pytest.mark.parametrize("name, tag", [("epoch_loss.txt", "loss/train"), ("epoch_val_loss.txt", "loss/val")])
def test_the_losses_are_those_of_the_text_files(demo_run, events, records, name, tag):
    lines = [float(line) for line in (demo_run / name).read_text().splitlines()]
    assert lines == [CURVES[tag](record) for record in records]
    assert [scalar.value for scalar in events.Scalars(tag)] == [float(np.float32(line)) for line in lines]


def test_the_curves_are_not_flat(events):
    """Five constant curves would pass the tests above."""
    for tag in ("loss/train", "loss/val", "lr"):
        values = [scalar.value for scalar in events.Scalars(tag)]
        assert len(set(values)) == len(EPOCHS), (tag, values)
    losses = [scalar.value for scalar in events.Scalars("loss/train")]
    assert losses[-1] < losses[0]
