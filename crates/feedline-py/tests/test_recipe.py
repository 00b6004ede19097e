"""The classification program: its functions against their formulas, and whole runs that are killed and go on."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes.classification import (
    DataGenerator,
    LossHistory,
    detection_collate,
    fit_lr,
    fit_one_epoch,
    get_classes,
    get_lr_scheduler,
    set_optimizer_lr,
)
from torch.utils.data import DistributedSampler

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "examples/python/train_classification.py"


def test_learning_rates_follow_their_formulas():
    cosine = get_lr_scheduler("cos", 0.01, 0.0001, 100)
    # Warm-up of 3 epochs from 0.001, the last 5 at the minimum, half a cosine over the 92 between.
    np.testing.assert_allclose([cosine(epoch) for epoch in (0, 3, 95, 99)], [0.001, 0.01, 0.0001, 0.0001])
    assert math.isclose(cosine(1), 0.001 + 0.009 / 9) and math.isclose(cosine(49), (0.01 + 0.0001) / 2)
    step = get_lr_scheduler("step", 0.01, 0.0001, 50)
    np.testing.assert_allclose([step(epoch) for epoch in (0, 4, 5, 49)], [0.01, 0.01, 0.01 * 0.01 ** (1 / 9), 0.0001])
    with pytest.raises(feedline.ConfigError, match="step_size must above 1"):
        get_lr_scheduler("step", 0.01, 0.0001, 9)
    np.testing.assert_allclose(fit_lr("sgd", 64, 0.01, 0.0001), (0.01, 0.0001))
    np.testing.assert_allclose(fit_lr("sgd", 6400, 0.01, 0.0001), (0.1, 0.001))
    np.testing.assert_allclose(fit_lr("adam", 1, 0.001, 0.00001), (1e-4, 1e-6))


def test_learning_rates_are_the_golden_ones():
    file = REPOSITORY.parent / "shared/golden/lr_schedules.json"
    if not file.is_file():
        pytest.skip("the golden values are not here")
    cases = json.loads(file.read_text("utf-8"))["classification"]
    for case in cases:
        fitted = fit_lr(case["optimizer"], case["batch"], case["init_lr"], case["init_lr"] * 0.01)
        np.testing.assert_allclose(fitted, [case["init_lr_fit"], case["min_lr_fit"]], rtol=1e-12)
        for kind in ("cos", "step"):
            if kind in case:
                schedule = get_lr_scheduler(kind, *fitted, case["total_epochs"])
                found = [schedule(epoch) for epoch in range(len(case[kind]))]
                np.testing.assert_allclose(found, case[kind], rtol=1e-12)
    assert len(cases) > 1


def test_the_learning_rate_reaches_every_parameter_group():
    parts = [torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)]
    optimizer = torch.optim.SGD([{"params": part.parameters(), "lr": 1.0} for part in parts])
    set_optimizer_lr(optimizer, lambda epoch: epoch / 8, 3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.375, 0.375]


@pytest.fixture
def lines(pictures, tmp_path):
    """Annotation lines of 60 pictures, one of which has spaces and a semicolon in its path."""
    odd = tmp_path / "a b;c.jpg"
    paths = sorted(pictures.rglob("*.jpg"))
    odd.write_bytes(paths[0].read_bytes())
    return [f"{number // 20};{path}" for number, path in enumerate([odd, *paths[1:]])]


def test_lines_become_pictures_and_labels(lines):
    random_ones = DataGenerator([*lines, "", "\n"], [24, 40], random=True)
    assert len(random_ones) == 60 and random_ones.location(0).endswith("a b;c.jpg")
    for source in (random_ones, DataGenerator(lines, [24, 40], False), DataGenerator(lines, (24, 24), True, False)):
        ours = feedline.DataLoader(source, batch_size=7, collate_fn=detection_collate)
        images, labels = next(iter(ours))
        assert images.shape[:3] == (7, 3, 24) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert labels.tolist() == [0] * 7 and 0.3 < float(images.std()) < 3
    fixed = DataGenerator(lines, [24, 40], False)
    twice = [torch.cat([batch[0] for batch in feedline.DataLoader(fixed, batch_size=20)]) for _ in range(2)]
    assert torch.equal(*twice)
    for wrong in ("no semicolon", "x;a.jpg", "1; "):
        with pytest.raises(feedline.ConfigError, match="line 2 .*class;path"):
            DataGenerator([lines[0], wrong], [24, 24])


def test_class_names_come_from_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\nhot dog\n", "utf-8")
    assert get_classes(tmp_path / "classes.txt") == (["cat", "hot dog"], 2)
    with pytest.raises(feedline.FeedlineError, match="none.txt"):
        get_classes(tmp_path / "none.txt")


def test_the_loss_history_writes_numbers_a_picture_and_tensorboard(tmp_path):
    history = LossHistory(tmp_path / "logs")
    for epoch, losses in enumerate([(2.0, 1.5), (1.0, 1.25), (0.5, 1.0)], 1):
        history.append_loss(epoch, *losses)
    folder = Path(history.log_dir)
    assert folder.parent == tmp_path / "logs"
    assert [float(line) for line in (folder / "epoch_loss.txt").read_text().split()] == [2.0, 1.0, 0.5]
    assert [float(line) for line in (folder / "epoch_val_loss.txt").read_text().split()] == [1.5, 1.25, 1.0]
    assert (folder / "epoch_loss.png").read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = EventAccumulator(str(folder))
    records.Reload()
    assert [(event.step, event.value) for event in records.Scalars("val_loss")] == [(1, 1.5), (2, 1.25), (3, 1.0)]
    history.writer.add_scalar("accuracy", torch.tensor(0.5), 1)
    # The last line of upstream's train.py, after the whole training.
    history.writer.close()
    records = EventAccumulator(str(folder))
    records.Reload()
    assert [(event.step, event.value) for event in records.Scalars("accuracy")] == [(1, 0.5)]
    again = LossHistory(tmp_path / "again")
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert (Path(again.log_dir) / "epoch_loss.txt").read_text() == (folder / "epoch_loss.txt").read_text()


def test_an_epoch_trains_and_validates_every_sample_once(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    train = feedline.DataLoader(feedline.arrays(x, y), batch_size=10, shuffle=True, drop_last=True)
    val = feedline.DataLoader(feedline.arrays(x[:25], y[:25]), batch_size=10, tail="exact")
    model = torch.nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    history, seen, losses = LossHistory(tmp_path), [], []
    for epoch in range(3):
        losses.append(
            fit_one_epoch(
                model, model, history, optimizer, epoch, len(train), len(val), train, val, 3, False, False, None,
                2, tmp_path / "weights", on_step=seen.append,
            )
        )  # fmt: skip
    assert seen == [*range(6)] * 3 and losses[2][0] < losses[0][0] < 1
    expect = torch.nn.functional.cross_entropy(model(torch.from_numpy(x[:25])), torch.from_numpy(y[:25]))
    assert math.isclose(losses[2][1], expect.item(), rel_tol=1e-5)
    assert history.val_loss == [loss for _, loss in losses] and train.epoch == 3
    written = sorted(path.name.split("-")[0] for path in (tmp_path / "weights").iterdir())
    assert written == ["best_epoch_weights.pth", "ep002", "ep003", "last_epoch_weights.pth"]
    torch.testing.assert_close(torch.load(tmp_path / "weights/last_epoch_weights.pth"), model.state_dict())


PROGRAM = '''
import json, os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
from feedline.recipes.classification import DataGenerator, fit_one_epoch
from feedline.torch import DataLoader

folder, kill_epoch, kill_step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
model_train = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
lines = (folder / "lines.txt").read_text().splitlines()
data = DataGenerator(lines, [16, 16])
gen = DataLoader(data, batch_size=12 // world, shuffle=True, drop_last=True, seed=3)
gen_val = DataLoader(DataGenerator(lines[::3], [16, 16], False), batch_size=4, tail="exact")
saved = folder / "checkpoint.pt"
if saved.exists():
    state = torch.load(saved)
    model.load_state_dict(state["model"])
    gen.load_state_dict(state["gen"])
log = open(folder / f"log-{sys.argv[4]}-{rank}", "w")
start = gen.state_dict()
print(json.dumps([start["epoch"], start["position"]]), file=log, flush=True)

def noted():
    for batch in gen:
        state = gen.state_dict()
        print(json.dumps([batch.epoch, state["position"], batch.indices]), file=log, flush=True)
        yield batch

for epoch in range(gen.epoch, 2):
    def on_step(step):
        if rank == 0:
            torch.save({"model": model.state_dict(), "gen": gen.state_dict()}, saved.with_suffix(".tmp"))
            os.replace(saved.with_suffix(".tmp"), saved)
        dist.barrier()
        if (epoch, step) == (kill_epoch, kill_step) and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    fit_one_epoch(
        model_train, model, None, optimizer, epoch, gen.batches_left, len(gen_val), noted(), gen_val, 2, False, False,
        None, 10, folder / "weights", on_step=on_step,
    )
dist.destroy_process_group()
'''


def test_a_run_killed_on_two_processes_goes_on_with_three_and_then_one_with_exactly_the_next_sample(lines, tmp_path, forks):
    (tmp_path / "lines.txt").write_text("\n".join(lines), "utf-8")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    attempts = [(2, 0, 2), (3, 1, 1), (1, -1, -1)]
    for number, (processes, epoch, step) in enumerate(attempts):
        done = forks(program, tmp_path, epoch, step, number, ranks=processes)
        assert (done.code == 0) == (epoch < 0), done.stderr
    logs = [
        [[json.loads(line) for line in (tmp_path / f"log-{number}-{rank}").open()] for rank in range(processes)]
        for number, (processes, *_) in enumerate(attempts)
    ]
    begins = [ranks[0][0] for ranks in logs] + [[2, 0]]
    assert begins[:3] == [[0, 0], [0, 36], [1, 24]], "36 of 60 samples were saved, then 24 of the second epoch"
    seen = {0: [], 1: []}
    for ranks, end in zip(logs, begins[1:]):
        assert all(rank[0] == ranks[0][0] for rank in ranks)
        for together in zip(*[rank[1:] for rank in ranks]):
            epoch, position, _ = together[0]
            if [epoch, position] <= end:
                seen[epoch] += [index for place in zip(*[indices for *_, indices in together]) for index in place]
    for epoch in (0, 1):
        order = DistributedSampler(range(60), 1, 0, seed=3)
        order.set_epoch(epoch)
        assert seen[epoch] == list(order)


@pytest.fixture
def example(lines, tmp_path):
    """Arguments of the example for a small run."""
    random.Random(0).shuffle(lines)
    (tmp_path / "train.txt").write_text("\n".join(lines[:36]), "utf-8")
    (tmp_path / "val.txt").write_text("\n".join(lines[36:]), "utf-8")
    (tmp_path / "classes.txt").write_text("disc\nsquare\nstripes\n", "utf-8")
    files = {"train": "train.txt", "val": "val.txt", "classes": "classes.txt", "save-dir": "logs"}
    sizes = {"input-shape": 32, "freeze-batch-size": 12, "unfreeze-batch-size": 6, "num-workers": 1}
    arguments = [str(EXAMPLE)]
    for name, value in ({name: tmp_path / file for name, file in files.items()} | sizes).items():
        arguments += [f"--{name}", str(value)]
    return arguments


def test_the_example_trains_alone_frozen_and_then_not(example, tmp_path):
    command = [sys.executable, *example, "--freeze-epoch", "1", "--unfreeze-epoch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Finish Train") == 2 and "Epoch:2/2" in done.stdout
    history = next((tmp_path / "logs").glob("loss_*"))
    losses = [float(line) for line in (history / "epoch_loss.txt").read_text().split()]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert (tmp_path / "logs/best_epoch_weights.pth").is_file()


def test_the_example_killed_under_torchrun_goes_on_with_other_processes(example, tmp_path, forks):
    run = ["--freeze-epoch", "1", "--unfreeze-epoch", "3", "--checkpoint-steps", "1", "--fp16"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *example, *run]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    checkpoint, began = tmp_path / "logs/checkpoint.pt", time.monotonic()
    while not checkpoint.is_file() or torch.load(checkpoint)["loader"]["position"] not in (12, 18, 24):
        assert process.poll() is None and time.monotonic() - began < 100, process.stderr.read()
        time.sleep(0.05)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=60)
    state = torch.load(checkpoint)["loader"]
    done = forks(*example, *run, "--resume", ranks=3, imports=["torchvision"])
    assert done.code == 0, done.stderr
    line = f"Resume at epoch {state['epoch'] + 1}, sample {state['position']} of it, on 3 processes"
    assert line in done.stdout and "Epoch:3/3" in done.stdout
    assert done.stdout.count("Start Train") == 3 - state["epoch"]
    last = torch.load(checkpoint)
    assert (last["loader"]["epoch"], last["loader"]["position"]) == (3, 0) and len(last["history"]["losses"]) == 3
