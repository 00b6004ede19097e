"""TorchSSC's engine: arguments, ranks, checkpoints that go on with the next sample, schedules, figures; the example."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes.scene_completion import (
    Config,
    Engine,
    NYUv2,
    PolyLR,
    SSCScores,
    get_train_loader,
    group_weight,
)
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "examples/python/train_scene_completion.py"
LAUNCHER = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SLURM_PROCID SLURM_NTASKS SLURM_STEP_ID "
    "SLURM_LOCALID OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE"
).split()


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def small(folder, **settings):
    sizes = {"image_height": 24, "image_width": 32, "grid": (6, 4, 6), "batch_size": 1, "niters_per_epoch": 5}
    return Config(**({"dataset_path": str(folder)} | sizes | settings))


def begun(scenes, argv=(), engine=None, loader_engine=None, **settings):
    """An engine with a loader, a small model and an optimizer."""
    engine = engine or Engine(argv=list(argv))
    loader, _ = get_train_loader(loader_engine or engine, NYUv2, config=small(scenes, **settings), num_workers=1)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine.register_state(dataloader=loader, model=model, optimizer=optimizer)
    return engine, loader, model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()


def test_alone_it_needs_no_launcher_and_makes_no_group():
    with Engine(argv=[]) as engine:
        assert (engine.distributed, engine.rank, engine.local_rank, engine.world_size) == (False, 0, 0, 1)
        assert not torch.distributed.is_initialized() and engine.continue_state_object is None
        assert (engine.state.epoch, engine.state.iteration, engine.args.port) == (0, 0, "16001")
        engine.update_iteration(3, 4)
        assert (engine.state.epoch, engine.state.iteration) == (3, 4)
        with pytest.raises(feedline.ConfigError, match="no 'loss'. It has epoch, iteration, dataloader, model, optimizer"):
            engine.register_state(loss=1)
        with pytest.raises(feedline.ConfigError, match="-c FILE"):
            engine.restore_checkpoint()


def test_arguments_are_torchsscs_and_the_persons_own(tmp_path, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--own", type=int)
    monkeypatch.setattr(sys, "argv", ["train.py", "--own", "5", "-p", "10097", "--local-rank", "2"])
    engine = Engine(custom_parser=parser)
    assert (engine.args.own, engine.args.port, engine.local_rank) == (5, "10097", 2)
    assert Engine(argv=["--local_rank", "1"]).local_rank == 1
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Engine(argv=[]).local_rank == 3
    (tmp_path / "there.pth").touch()
    assert Engine(argv=["-c", str(tmp_path / "there.pth")]).continue_state_object == str(tmp_path / "there.pth")
    with pytest.raises(SystemExit):
        Engine(argv=["-c", "none.pth"])
    assert "none.pth does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Engine(argv=["--unknown", "1"])
    other = argparse.ArgumentParser()
    other.add_argument("--devices")
    with pytest.raises(feedline.ConfigError, match="Engine's own arguments.*devices"):
        Engine(custom_parser=other, argv=[])
    with pytest.raises(feedline.ConfigError, match="argparse.ArgumentParser"):
        Engine(custom_parser=5)


def test_devices_are_named_by_ranges_and_lists(monkeypatch):
    from feedline.recipes.scene_completion.engine import _devices

    cases = {"": [0], "*": [0, 1, 2, 3], "0-1": [0, 1], "0,2": [0, 2], "3": [3], "0-1,3": [0, 1, 3]}
    assert {text: _devices(text, 4) for text in cases} == cases
    assert _devices("", 0) == _devices("*", 0) == []
    for text in ("4", "0-7", "a", "1-", "2-1", "-1", "0,"):
        with pytest.raises(feedline.ConfigError, match="--devices is"):
            _devices(text, 4)


def test_one_rank_of_torchrun_makes_a_group_and_takes_it_down(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with Engine(argv=[]) as engine:
        assert engine.distributed and torch.distributed.get_world_size() == 1 and engine.devices == [0]
        with Engine(argv=[]) as inner:
            assert inner.distributed, "the group that is there is taken"
        assert torch.distributed.is_initialized(), "and left to whom it belongs"
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(feedline.ConfigError, match="RANK is 2"):
        Engine(argv=[])
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(feedline.ConfigError, match="4 ranks, but MASTER_ADDR"):
        Engine(argv=[])


def test_an_exception_goes_through_and_is_told(caplog):
    with pytest.raises(ZeroDivisionError), Engine(argv=[]):
        _ = 1 / 0
    assert "A exception occurred during Engine initialization, give up running process" in caplog.text
    caplog.clear()
    with Engine(argv=[]):
        pass
    assert "exception" not in caplog.text


def test_a_checkpoint_from_mid_epoch_goes_on_with_exactly_the_next_sample(scenes, tmp_path):
    whole = [batch.indices for loader in [begun(scenes)[1]] for _ in range(3) for batch in loader]
    for epoch, taken in [(0, 2), (1, 1), (1, 4)]:
        engine, loader, model, optimizer = begun(scenes)
        for passing in range(epoch + 1):
            dataloader = iter(loader)
            for idx in range(taken if passing == epoch else 5):
                dataloader.next()
                engine.update_iteration(passing, idx)
                step(model, optimizer)
        engine.save_and_link_checkpoint(tmp_path)
        expect = torch.rand(3)

        again, loader, other, optimizer = begun(scenes, ["-c", str(tmp_path / "epoch-last.pth")])
        again.restore_checkpoint()
        assert torch.equal(torch.rand(3), expect), "torch's random state is restored"
        assert (again.state.epoch, again.state.iteration, loader.batches_left) == (epoch, taken, 5 - taken)
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
        rest, steps = [], []
        for epoch_now in range(again.state.epoch, 3):
            loader.set_epoch(epoch_now)
            batches_left = loader.batches_left
            dataloader = iter(loader)
            for _ in range(batches_left):
                batch = dataloader.next()
                assert batch.epoch == epoch_now
                rest.append(batch.indices)
                steps.append(batch.step)
        assert rest == whole[5 * epoch + taken:]
        assert steps == [*range(taken, 5), *[*range(5)] * (2 - epoch)]


def test_a_checkpoint_from_an_epochs_end_goes_on_with_the_next_epoch(scenes, tmp_path):
    for by_next in (True, False):
        engine, loader, *_ = begun(scenes)
        expect = [[batch.indices for batch in loader] for loader in [begun(scenes)[1]] for _ in range(2)]
        passing = iter(loader)
        for idx in range(5):
            batch = passing.next() if by_next else next(passing)
            engine.update_iteration(batch.epoch, idx)
        engine.save_and_link_checkpoint(tmp_path)
        again, loader, *_ = begun(scenes, ["-c", str(tmp_path / "epoch-0.pth")])
        again.restore_checkpoint()
        assert (again.state.epoch, again.state.iteration, loader.batches_left) == (1, 0, 5)
        assert [batch.indices for batch in loader] == expect[1]


def test_feedlines_own_loader_and_torchsscs_checkpoints_go_on_too(scenes, tmp_path):
    engine, _, model, optimizer = begun(scenes)
    source = feedline.arrays(np.arange(6))
    plain = feedline.DataLoader(source, batch_size=2, shuffle=True)
    engine.register_state(dataloader=plain)
    batches = iter(plain)
    for _ in range(3):
        next(batches)
    engine.save_checkpoint(tmp_path / "plain.pth")
    again, *_ = begun(scenes, ["-c", str(tmp_path / "plain.pth")])
    plain = feedline.DataLoader(source, batch_size=2, shuffle=True)
    again.register_state(dataloader=plain)
    again.restore_checkpoint()
    assert (again.state.epoch, plain.batches_left) == (1, 3) and next(iter(plain)).epoch == 1

    theirs = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4, "iteration": 4}
    torch.save(theirs, tmp_path / "theirs.pth")
    again, loader, *_ = begun(scenes, ["-c", str(tmp_path / "theirs.pth")])
    again.restore_checkpoint()
    assert (again.state.epoch, again.state.iteration) == (5, 0) and next(iter(loader)).epoch == 5


def test_a_run_goes_on_with_another_number_of_ranks(scenes, tmp_path):
    engine, loader, *_ = begun(scenes, batch_size=2)
    expect = [batch.indices for batch in loader]
    engine, loader, *_ = begun(scenes, batch_size=2)
    passing = iter(loader)
    for _ in range(2):
        passing.next()
    engine.save_checkpoint(tmp_path / "half.pth")
    shares = []
    for rank in range(2):
        place = SimpleNamespace(distributed=True, rank=rank, world_size=2)
        again, loader, *_ = begun(scenes, ["-c", str(tmp_path / "half.pth")], loader_engine=place, batch_size=2)
        again.restore_checkpoint()
        assert (again.state.iteration, loader.batches_left) == (2, 3)
        shares.append([index for batch in loader for index in batch.indices])
    assert [list(together) for together in zip(*shares)] == expect[2:]


def test_checkpoints_are_there_as_a_whole_or_not_at_all(scenes, tmp_path, monkeypatch):
    engine, loader, model, _ = begun(scenes)
    snapshots = tmp_path / "log/snapshot"
    snapshots.mkdir(parents=True)
    (snapshots / ".epoch-0.pth.1.tmp").write_bytes(b"half of one that was killed")
    engine.save_and_link_checkpoint(snapshots, tmp_path / "log", tmp_path / "link")
    assert os.readlink(snapshots / "epoch-last.pth") == "epoch-0.pth" and (tmp_path / "link").resolve() == tmp_path / "log"
    first = (snapshots / "epoch-0.pth").read_bytes()
    save = torch.save

    def fails(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        engine.save_and_link_checkpoint(snapshots)
    assert (snapshots / "epoch-0.pth").read_bytes() == first
    monkeypatch.setattr(torch, "save", save)
    with open(snapshots / "epoch-0.pth", "rb") as reading:
        engine.update_iteration(0, 3)
        engine.save_and_link_checkpoint(snapshots)
        assert reading.read() == first, "who reads the file before has all of it"
    assert torch.load(snapshots / "epoch-0.pth")["iteration"] == 3
    engine.update_iteration(7, 0)
    engine.save_and_link_checkpoint(snapshots, tmp_path / "log", tmp_path / "link")
    assert os.readlink(snapshots / "epoch-last.pth") == "epoch-7.pth"
    assert sorted(os.listdir(snapshots)) == [".epoch-0.pth.1.tmp", "epoch-0.pth", "epoch-7.pth", "epoch-last.pth"]
    assert sorted(torch.load(snapshots / "epoch-last.pth", weights_only=True)) == [
        "dataloader", "epoch", "iteration", "model", "optimizer", "rng", "world_size",
    ]  # fmt: skip
    engine.rank = 1
    engine.save_and_link_checkpoint(tmp_path / "other")
    assert not (tmp_path / "other").exists(), "only rank 0 writes"


def test_a_link_to_the_records_is_replaced_and_a_folder_is_not(tmp_path):
    engine = Engine(argv=[])
    for name in ("first", "second"):
        engine.link_tb(tmp_path / name, tmp_path / "tb")
        assert (tmp_path / "tb").is_symlink() and (tmp_path / "tb").resolve() == tmp_path / name
    (tmp_path / "folder").mkdir()
    with pytest.raises(feedline.ConfigError, match="folder is there and is no link"):
        engine.link_tb(tmp_path / "first", tmp_path / "folder")


class Wrapped(nn.Module):
    """Names as DistributedDataParallel has them."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_weights_fit_wrapped_models_and_what_does_not_fit_is_named(scenes, tmp_path):
    engine, _, model, optimizer = begun(scenes)
    engine.register_state(model=Wrapped(model))
    engine.save_checkpoint(tmp_path / "a.pth")
    assert sorted(torch.load(tmp_path / "a.pth")["model"]) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    for wrap in (Wrapped, lambda model: model):
        again, _, other, _ = begun(scenes, ["-c", str(tmp_path / "a.pth")])
        again.register_state(model=wrap(other))
        again.restore_checkpoint()
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    again, loader, other, _ = begun(scenes, ["-c", str(tmp_path / "a.pth")])
    other.append(nn.Linear(1, 1))
    del other[0].bias
    other[0].register_parameter("bias", None)
    before = other[0].weight.clone()
    with pytest.raises(feedline.StateError, match=r"missing: 2.weight, 2.bias; not of the model: 0.bias.*strict=False"):
        again.restore_checkpoint()
    assert torch.equal(other[0].weight, before)
    again.state.optimizer = None
    again.restore_checkpoint(strict=False)
    assert torch.equal(other[0].weight, model[0].weight)
    again.register_state(model=nn.Sequential(nn.Linear(3, 5), nn.Linear(2, 1)))
    for strict in (True, False):
        with pytest.raises(feedline.StateError, match=r"of another shape: 0.weight \(2, 3\), not \(5, 3\)"):
            again.restore_checkpoint(strict)
    again, loader, *_ = begun(scenes, ["-c", str(tmp_path / "a.pth")])
    place = loader.state_dict()
    again.register_state(optimizer=torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(2)]}], lr=1))
    with pytest.raises(feedline.StateError, match="does not fit the optimizer"):
        again.restore_checkpoint()
    assert loader.state_dict() == place


def test_checkpoints_that_are_damaged_or_of_other_data_are_refused(scenes, tmp_path):
    engine, loader, *_ = begun(scenes)
    engine.save_checkpoint(tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    for name, damaged in [("cut", content[:-100]), ("text", b"no checkpoint"), ("empty", b"")]:
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(feedline.StateError, match=f"{name} cannot be read"):
            begun(scenes, ["-c", str(tmp_path / name)])[0].restore_checkpoint()
    torch.save({"model": {}, "odd": SimpleNamespace()}, tmp_path / "pickled")
    with pytest.raises(feedline.StateError, match="pickled cannot be read"):
        begun(scenes, ["-c", str(tmp_path / "pickled")])[0].restore_checkpoint()
    torch.save([1], tmp_path / "list")
    with pytest.raises(feedline.StateError, match="no model"):
        begun(scenes, ["-c", str(tmp_path / "list")])[0].restore_checkpoint()
    other = begun(scenes, ["-c", str(tmp_path / "a.pth")], niters_per_epoch=4)[0]
    with pytest.raises(feedline.StateError):
        other.restore_checkpoint()
    other.state.dataloader = None
    with pytest.raises(feedline.ConfigError, match="register_state.dataloader"):
        other.restore_checkpoint()


def test_the_learning_rate_falls_as_in_torchssc():
    policy = PolyLR(0.1, 0.9, 250 * 198)
    found = [policy.get_lr(iteration) for iteration in (0, 198, 24750, 49499, 49500)]
    np.testing.assert_allclose(found, [0.1, 0.09963992789, 0.05358867313, 5.954637402e-6, 0.0], rtol=1e-9)
    for wrong in (-1, 49501):
        with pytest.raises(feedline.ConfigError, match="total_iters"):
            policy.get_lr(wrong)
    with pytest.raises(feedline.ConfigError, match="at least 1"):
        PolyLR(0.1, 0.9, 0)


def test_weights_decay_and_biases_and_norms_do_not():
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Linear(2, 2, bias=False), nn.GroupNorm(1, 2), nn.ReLU())
    model.append(model[2])
    before = [{"params": []}]
    groups = group_weight(before, model, lr=0.5)
    assert groups is before and [len(group["params"]) for group in groups] == [0, 2, 5]
    assert groups[1]["params"][0] is model[0].weight and groups[1]["params"][1] is model[2].weight
    assert "weight_decay" not in groups[1] and groups[2]["weight_decay"] == 0.0 and groups[2]["lr"] == 0.5

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    assert len(group_weight([], nn.Sequential(model, Norm()), Norm)[1]["params"]) == 6
    with pytest.raises(feedline.ConfigError, match="5.0.scale|1.scale"):
        group_weight([], nn.Sequential(model, Norm()))


def counted(pred, label, weight, mapping, no_pixel, classes):
    """The figures by their definitions, voxel by voxel."""
    pairs = [(p, t) for p, t, w in zip(pred, label, weight) if w > 0 and t < classes]
    iou = []
    for kind in range(classes):
        right = sum(p == t == kind for p, t in pairs)
        either = sum(p == kind or t == kind for p, t in pairs)
        iou.append(right / either if either else math.nan)
    hidden = [(p > 0, t > 0) for p, t, w, m in zip(pred, label, weight, mapping) if w > 0 and m == no_pixel and t != 255]
    right = sum(p and t for p, t in hidden)
    return iou, [right / sum(of) for of in zip(*[(p or t, p, t) for p, t in hidden])]


def test_the_figures_are_those_of_their_definitions_over_all_samples():
    rng = np.random.default_rng(0)
    scores, everything = SSCScores(5, 99), []
    for number in range(3):
        pred, label = rng.integers(0, 4, (2, 50)), rng.choice([0, 1, 2, 3, 255], (2, 50))
        weight, mapping = rng.choice([0.0, 1.0], (2, 50)), rng.choice([3, 99], (2, 50))
        parts = (pred, label.reshape(2, 5, 10), weight.astype(np.float32), mapping)
        scores.update(*(map(torch.from_numpy, parts) if number else parts))
        everything.append([part.ravel() for part in (pred, label, weight, mapping)])
    scores.all_reduce()
    iou, sc = counted(*np.concatenate(everything, 1), 99, 5)
    np.testing.assert_allclose(scores.ssc_iou, iou)
    assert math.isnan(scores.ssc_iou[4]) and math.isclose(scores.ssc_miou, np.nanmean(iou[1:]))
    np.testing.assert_allclose([scores.sc_iou, scores.sc_precision, scores.sc_recall], sc)
    assert math.isnan(SSCScores().ssc_miou) and math.isnan(SSCScores().sc_iou)
    with pytest.raises(feedline.ConfigError, match=r"pred \(2, 5, 50\).*not a score of each class"):
        scores.update(np.zeros((2, 5, 50)), label, weight, mapping)
    with pytest.raises(feedline.ConfigError, match="pred has the class 7"):
        scores.update(np.full((2, 50), 7), label, weight, mapping)


PROGRAM = '''
import json, os, sys
import torch
import torch.distributed as dist
from feedline.recipes.scene_completion import Config, Engine, NYUv2, SSCScores, get_train_loader, get_val_loader

port = os.environ["MASTER_PORT"]
folder, out = sys.argv[1:3]
with Engine(argv=["-p", "1", *sys.argv[3:]]) as engine:
    assert engine.distributed and os.environ["MASTER_PORT"] == port
    assert (engine.rank, engine.world_size) == (dist.get_rank(), dist.get_world_size()) and engine.devices == [0, 1]
    config = Config(dataset_path=folder, image_height=24, image_width=32, grid=(6, 4, 6), batch_size=2, niters_per_epoch=5)
    loader, sampler = get_train_loader(engine, NYUv2, config=config, num_workers=1)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    engine.register_state(dataloader=loader, model=model, optimizer=optimizer)
    if engine.continue_state_object:
        engine.restore_checkpoint()
    seen = []
    for epoch in range(engine.state.epoch, 2):
        sampler.set_epoch(epoch)
        left = loader.batches_left
        dataloader = iter(loader)
        for _ in range(left):
            batch = dataloader.next()
            engine.update_iteration(epoch, batch.step)
            seen.append(batch.indices)
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            # As TorchSSC: only one rank calls it, and the others go on meanwhile.
            if (epoch, batch.step) == (0, 2) and engine.local_rank == 0 and not engine.continue_state_object:
                engine.save_checkpoint(os.path.join(out, "half.pth"))
    scores = SSCScores(12, 24 * 32)
    for batch in get_val_loader(engine, NYUv2, config=config, num_workers=0):
        pred = batch["label"] % 2
        scores.update(pred, batch["label"], batch["label_weight"], batch["depth_mapping_3d"])
    scores.all_reduce()
    scores.all_reduce()
    json.dump([seen, scores.confusion.tolist(), scores.sc_iou], open(f"{out}/{engine.rank}.json", "w"))
assert not dist.is_initialized()
'''


def torchrun(processes, *command, timeout=150):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(part) for part in (*start, *command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def test_two_processes_of_torchrun_share_the_batches_and_go_on_from_half_an_epoch(scenes, tmp_path, forks):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    whole, _ = get_train_loader(Engine(argv=[]), NYUv2, config=small(scenes, batch_size=2), num_workers=0)
    whole = [batch.indices for _ in range(2) for batch in whole]
    figures = SSCScores(12, 24 * 32)
    for number in range(3):
        name = f"{1 + 3 * (7 + number):04}"
        label = np.load(scenes / f"Label/{name}.npz")["arr_0"].astype(np.int64)
        mapping = np.load(scenes / f"Mapping/{name}.npz")["arr_0"]
        figures.update(label % 2, label, np.load(scenes / f"TSDF/{name}.npz")["arr_1"], mapping)
    done = torchrun(2, program, scenes, tmp_path)
    assert done.returncode == 0, done.stderr
    for first in (0, 3):
        if first:
            done = forks(program, scenes, tmp_path, "-c", tmp_path / "half.pth", ranks=2)
            assert done.code == 0, done.stderr
        ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
        together = [[index for place in zip(*step) for index in place] for step in zip(ranks[0][0], ranks[1][0])]
        assert together == whole[first:]
        assert ranks[0][1:] == ranks[1][1:] == [figures.confusion.tolist(), figures.sc_iou]


def test_the_example_killed_in_one_process_goes_on_with_two(scenes, tmp_path, forks):
    arguments = [EXAMPLE, "--data", scenes, "--epochs", 3, "--batch-size", 2, "--lr", 0.01, "--num-workers", 1]
    arguments += ["--log-dir", tmp_path / "log", "--checkpoint-steps", 1, "--image", 24, 32, "--grid", 6, 4, 6]
    arguments = [str(argument) for argument in arguments]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("Epoch1/3 Iter2/3"):
                process.send_signal(signal.SIGKILL)
                break
    last = tmp_path / "log/snapshot/epoch-last.pth"
    state = torch.load(last)["dataloader"]
    done = forks(*arguments, "-c", last, ranks=2)
    assert done.code == 0, done.stderr
    epoch, iteration = state["epoch"], state["position"] // 2
    assert f"Go on at epoch {epoch}, iteration {iteration} of it" in done.stdout and (epoch, iteration) >= (1, 1)
    shown = [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("Epoch")]
    places = [f"Epoch{epoch}/3 Iter{step}/3" for epoch in range(3) for step in (1, 2, 3)]
    assert shown == places[3 * epoch + iteration:]
    figures = done.stdout.splitlines()[-1]
    assert figures.startswith("SSC mIoU 0.") and "recall" in figures
    assert torch.load(last)["epoch"] == 2
