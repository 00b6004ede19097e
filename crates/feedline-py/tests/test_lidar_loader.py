"""The order of OpenPCDet's batches: torch's, the same on any number of workers and ranks, after a stop, and merged; its loop as
it is; evaluation over ranks; other processes.
"""

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes import lidar
from feedline.recipes.lidar import KittiDataset, build_dataloader, get_dist_info
from lidar_reference import CLASSES, FLIP, ROTATION, SCALING, config, sampling, write_kitti
from torch.utils.data import DistributedSampler

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/python/train_lidar.py"
ALL = [sampling(), FLIP, ROTATION, SCALING]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """13 frames to train on and 5 to validate on."""
    return write_kitti(tmp_path_factory.mktemp("frames"), train=13, val=5, seed=7)


def build(folder, batch_size=2, augment=ALL, workers=0, rank=None, world=1, monkeypatch=None, **options):
    if rank is not None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
    return build_dataloader(config(folder, augment=augment), CLASSES, batch_size, rank is not None, workers=workers, **options)


def content(batches):
    """All that is in batches, by sample: comparable, and in order."""
    samples = []
    for batch in batches:
        for at in range(batch["batch_size"]):
            own = [batch["points"][batch["points"][:, 0] == at][:, 1:].tobytes()]
            own.append(batch["voxels"][batch["voxel_coords"][:, 0] == at].tobytes())
            boxes = batch["gt_boxes"][at]
            own.append(boxes[boxes[:, 7] > 0].tobytes())
            own += [batch[key][at] for key in ("frame_id", "flip_x", "noise_rot", "noise_scale") if key in batch]
            samples.append(tuple(own))
    return samples


def passes(loader, epochs):
    return [batch for _ in range(epochs) for batch in loader]


def names(batches):
    return [name for batch in batches for name in batch["frame_id"]]


def test_batches_do_not_depend_on_the_number_of_workers(frames):
    expect = content(passes(build(frames)[1], 2))
    assert len(expect) == 26 and len(set(expect)) == 26, "each frame is another one in another epoch"
    for workers in (1, 3):
        assert content(passes(build(frames, workers=workers)[1], 2)) == expect
    assert content(passes(build(frames, seed=1)[1], 2)) != expect
    assert content(passes(build(frames, seed=0)[1], 2)) == expect


@pytest.mark.parametrize("seed", [None, 666])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_torchs_order_and_together_what_one_gets(frames, world, seed, monkeypatch):
    shares = []
    for rank in range(world):
        dataset, loader, sampler = build(frames, rank=rank, world=world, monkeypatch=monkeypatch, seed=seed)
        theirs = DistributedSampler(range(13), world, rank, seed=seed or 0)
        assert (sampler.num_replicas, sampler.rank, len(sampler), len(loader)) == (world, rank, len(theirs), -(-len(theirs) // 2))
        share = []
        for epoch in range(2):
            theirs.set_epoch(epoch)
            sampler.set_epoch(epoch)
            batches = list(loader)
            assert [index for batch in batches for index in batch.indices] == list(theirs)
            share.append(content(batches))
        shares.append(share)
    whole = content(passes(build(frames, seed=seed)[1], 2))
    for epoch in range(2):
        together = [sample for place in zip(*(share[epoch] for share in shares), strict=True) for sample in place]
        assert together[:13] == whole[13 * epoch :][:13], "and augmented as on one rank"


def test_samples_for_evaluation_come_in_order_and_once(frames, monkeypatch):
    expect = [f"{number:06}" for number in range(13, 18)]
    assert names(build(frames, training=False)[1]) == expect
    for world in (2, 3):
        shares = [
            names(build(frames, training=False, rank=rank, world=world, monkeypatch=monkeypatch)[1]) for rank in range(world)
        ]
        assert sorted(sum(shares, [])) == expect and all(share == expect[rank::world] for rank, share in enumerate(shares))
        padded = [
            names(build(frames, training=False, tail="pad", rank=rank, world=world, monkeypatch=monkeypatch)[1])
            for rank in range(world)
        ]
        theirs = [[*lidar.DistributedSampler(range(5), world, rank, shuffle=False)] for rank in range(world)]
        assert padded == [[expect[index] for index in share] for share in theirs]


@pytest.mark.parametrize("merge_order", [None, "upstream", "passes"])
def test_a_run_goes_on_with_exactly_the_next_sample(frames, merge_order, monkeypatch):
    merged = {} if merge_order is None else {"merge_all_iters_to_one_epoch": True, "total_epochs": 3, "merge_order": merge_order}
    whole = content(passes(build(frames, 1, **merged)[1], 1 if merged else 3))
    assert len(whole) == 39
    for taken in (0, 5, 13, 17):
        _, loader, _ = build(frames, 1, workers=2, **merged)
        batches, left = iter(loader), taken
        while left:
            for _ in batches:
                left -= 1
                if not left:
                    break
            else:
                batches = iter(loader)
        state = loader.state_dict()
        loader.close()
        _, other, _ = build(frames, 1, workers=1, **merged)
        other.load_state_dict(state)
        rest = content(passes(other, 1 if merged else 3 - other.epoch))
        assert rest == whole[taken:]
    # On another number of ranks: 17 are gone, 9 of this epoch are left.
    if merge_order is None:
        shares = []
        for rank in range(3):
            _, other, _ = build(frames, 1, rank=rank, world=3, monkeypatch=monkeypatch)
            other.load_state_dict(state)
            shares.append(content(other))
        assert [sample for place in zip(*shares, strict=True) for sample in place] == whole[17:26]


def test_merged_epochs_are_openpcdets_permutation_or_pass_after_pass(frames):
    dataset, loader, _ = build(frames, 4, merge_all_iters_to_one_epoch=True, total_epochs=3)
    assert len(dataset) == 39 and len(loader) == 10
    indices = [index for batch in loader for index in batch.indices]
    theirs = DistributedSampler(range(39), 1, 0)
    assert indices == [index % 13 for index in theirs]
    assert set(Counter(indices).values()) == {3} and len(set(indices[:13])) < 13
    _, loader, _ = build(frames, 4, merge_all_iters_to_one_epoch=True, total_epochs=3, merge_order="passes")
    batches = list(loader)
    indices = [index for batch in batches for index in batch.indices]
    assert len(loader) == 10 and [batch.epoch for batch in batches] == [0] * 10
    assert all(sorted(indices[at : at + 13]) == list(range(13)) for at in (0, 13, 26))
    assert content(batches) == content(passes(build(frames, 1)[1], 3))
    hook = {"DisableAugmentationHook": {"NUM_LAST_EPOCHS": 1, "DISABLE_AUG_LIST": ["random_world_rotation"]}}
    # The last of all steps, in either order.
    for merge_order in ("upstream", "passes"):
        _, late, _ = build(frames, 1, merge_all_iters_to_one_epoch=True, total_epochs=3, merge_order=merge_order, hook=hook)
        turns = [float(batch["noise_rot"][0]) for batch in late]
        assert all(turns[:26]) and not any(turns[26:])


def run_epochs(train_loader, sampler, total_epochs, merged):
    """The loops of OpenPCDet's train_model and train_one_epoch, in short."""
    seen = []
    total_it_each_epoch = len(train_loader)
    if merged:
        total_it_each_epoch = len(train_loader) // max(total_epochs, 1)
    dataloader_iter = iter(train_loader)
    for cur_epoch in range(total_epochs):
        if sampler is not None:
            sampler.set_epoch(cur_epoch)
        if total_it_each_epoch == len(train_loader):
            dataloader_iter = iter(train_loader)
        for _ in range(total_it_each_epoch):
            try:
                batch = next(dataloader_iter)
            except StopIteration:
                dataloader_iter = iter(train_loader)
                batch = next(dataloader_iter)
            seen.append(batch)
    return seen


def test_openpcdets_loop_runs_as_it_is(frames, monkeypatch):
    expect = content(passes(build(frames)[1], 3))
    _, loader, sampler = build(frames, workers=2)
    engine = loader._engine
    assert sampler is None and content(run_epochs(loader, sampler, 3, False)) == expect
    assert loader._engine is engine, "no threads are thrown away"
    _, loader, sampler = build(frames, workers=2, rank=0, world=1, monkeypatch=monkeypatch)
    engine = loader._engine
    assert content(run_epochs(loader, sampler, 3, False)) == expect and loader._engine is engine
    merged = {"merge_all_iters_to_one_epoch": True, "total_epochs": 3}
    whole = content(build(frames, **merged)[1])
    for rank in (None, 0):
        _, loader, sampler = build(frames, workers=2, rank=rank, world=1, monkeypatch=monkeypatch, **merged)
        assert content(run_epochs(loader, sampler, 3, True)) == whole[:36]


def test_get_dist_info_is_the_groups_or_the_launchers(monkeypatch):
    assert get_dist_info() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert get_dist_info() == (2, 4) and get_dist_info(return_gpu_per_machine=True) == (2, 4, torch.cuda.device_count())


def in_another_process(dataset, queue):
    loader = lidar.LidarLoader(dataset, 2, shuffle=True, num_workers=2)
    queue.put([name for batch in loader for name in batch["frame_id"]])


def test_data_sets_go_to_spawned_processes(frames):
    dataset = KittiDataset(config(frames), CLASSES)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=in_another_process, args=(dataset, queue))
    process.start()
    found = queue.get(timeout=60)
    process.join()
    assert found == names(build(frames)[1])


def perfect(dataset, batch):
    """Predictions that are the labels."""
    found = []
    for at in range(batch["batch_size"]):
        boxes = batch["gt_boxes"][at]
        boxes = boxes[boxes[:, 7] > 0]
        found.append({"pred_boxes": boxes[:, :7], "pred_scores": np.linspace(0.9, 0.5, len(boxes)), "pred_labels": boxes[:, 7]})
    return dataset.generate_prediction_dicts(batch, found, dataset.class_names)


def test_evaluation_takes_frames_in_any_order_and_wants_each_of_them(frames):
    dataset, loader, _ = build(frames, training=False)
    annos = [anno for batch in loader for anno in perfect(dataset, batch)]
    text, figures = dataset.evaluation(annos, dataset.class_names)
    assert "Car AP" in text and figures["Car_3d/easy_R40"] > 0
    assert dataset.evaluation([*annos[::-1], annos[0]], dataset.class_names, eval_metric="kitti") == (text, figures)
    shifted = [anno | {"boxes_lidar": anno["boxes_lidar"] + 5, "location": anno["location"] + 5, "bbox": anno["bbox"] * 0} for anno in annos]
    worse = dataset.evaluation(shifted, dataset.class_names)[1]
    assert worse["Car_3d/easy_R40"] < figures["Car_3d/easy_R40"]
    with pytest.raises(feedline.ConfigError, match="1 of 5 frames have no prediction: 000014.*merge_results_dist"):
        dataset.evaluation([annos[0], *annos[2:]], dataset.class_names)
    assert lidar.merge_results_dist(annos, 5) == annos


RANKS = """
import sys
import torch.distributed as dist
from feedline.recipes.lidar import build_dataloader, get_dist_info, merge_results_dist
sys.path.insert(0, sys.argv[2])
from lidar_reference import CLASSES, config
dist.init_process_group("gloo")
rank, world = get_dist_info()
dataset, loader, sampler = build_dataloader(config(sys.argv[1]), CLASSES, 2, True, training=False, workers=1)
parts = [name for batch in loader for name in batch["frame_id"].tolist()]
merged = merge_results_dist(parts, len(dataset), tmpdir="nowhere")
assert (merged is None) == (rank > 0)
if rank == 0:
    print(merged == dataset.sample_id_list, len(merged), (sampler.rank, sampler.num_replicas) == (0, world))
dist.destroy_process_group()
"""


def test_results_of_ranks_come_together_in_order(frames, tmp_path, forks):
    (tmp_path / "program.py").write_text(RANKS)
    done = forks(tmp_path / "program.py", frames, Path(__file__).parent, ranks=2, cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "True 5 True\n"), done.stderr


def example(folder, tmp_path, *words, forks=None, ranks=None):
    """What the example says: started as a person starts it, or in processes of `forks`."""
    args = ["--data", folder, "--workers", 1, "--output", tmp_path / "out", *words]
    # Coarse pillars: fast.
    grid = "DATA_CONFIG.POINT_CLOUD_RANGE 0,-32,-3,64,32,1".split()
    args += ["--set", *grid]
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    if forks:
        done = forks(EXAMPLE, *args, ranks=ranks, cwd=tmp_path, **environment)
        assert done.code == 0, done.stdout + done.stderr
        return done.stdout
    command = [sys.executable, str(EXAMPLE), *map(str, args)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_trains_alone_and_goes_on_on_two_processes(frames, tmp_path, forks):
    said = example(frames, tmp_path, "--epochs", 1, "--batch_size", 4, "--use_amp")
    assert "13 frames to train on, 4 steps" in said and "Car AP" in said and "evaluated 5 frames" in said
    whole = example(frames, tmp_path, "--epochs", 2, "--batch_size", 2, forks=forks, ranks=2)
    assert "step 8/8" in whole and "evaluated 5 frames" in whole
    state = torch.load(tmp_path / "out/checkpoint.pth", weights_only=True)
    assert state["step"] == 8 and state["loader"]["epoch"] >= 1
    on = example(frames, tmp_path, "--epochs", 3, "--batch_size", 4, "--ckpt", tmp_path / "out/checkpoint.pth", forks=forks)
    assert "epoch 2 step" in on and "epoch 0" not in on
    merged = example(frames, tmp_path, "--epochs", 2, "--batch_size", 4, "--merge_all_iters_to_one_epoch", forks=forks)
    assert "26 frames to train on, 7 steps" in merged and "step 7/7" in merged
