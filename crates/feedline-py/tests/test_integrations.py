"""Feedline within torch.distributed.checkpoint, Lightning and accelerate: real runs of each."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import feedline
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

EXAMPLES = Path(__file__).resolve().parents[3] / "examples/python"


def run(*command, timeout=150):
    command = [str(part) for part in command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # In a folder of its own: Lightning leaves its checkpoints where it stands.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


def numbers():
    return feedline.DataLoader(feedline.arrays(np.arange(40)), batch_size=4, shuffle=True)


def test_a_state_goes_through_torchs_distributed_checkpoint(tmp_path):
    first = numbers()
    batches = iter(first)
    for _ in range(3):
        next(batches)
    model = torch.nn.Linear(2, 2)
    # The loader itself is what torch calls stateful.
    dcp.save({"model": model.state_dict(), "loader": first}, checkpoint_id=tmp_path)
    rest = [batch[0].tolist() for batch in batches]
    second = numbers()
    dcp.load({"model": model.state_dict(), "loader": second}, checkpoint_id=tmp_path)
    assert [batch[0].tolist() for batch in second] == rest and len(rest) == 7


def lightning_example():
    spec = importlib.util.spec_from_file_location("lightning_module", EXAMPLES / "lightning_module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def split(pictures, tmp_path):
    for name in ("train", "test"):
        shutil.copytree(pictures, tmp_path / name)
    return tmp_path


def test_lightning_goes_on_in_the_middle_of_an_epoch(split):
    lightning = pytest.importorskip("lightning")
    example = lightning_example()

    class Noting(example.Linear):
        def training_step(self, batch, at):
            self.seen.append(list(batch.indices))
            if (self.trainer.current_epoch, at) == self.save_at:
                self.trainer.should_stop = True
            return super().training_step(batch, at)

    def fit(save_at=None, checkpoint=None):
        lightning.seed_everything(0)
        model, data = Noting(3 * 32 * 32, 3), example.PicturesModule(split)
        model.seen, model.save_at = [], save_at
        saver = lightning.pytorch.callbacks.ModelCheckpoint(split, "step-{step}", every_n_train_steps=1, save_top_k=-1)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = lightning.Trainer(
            max_epochs=3, use_distributed_sampler=False, callbacks=[saver], num_sanity_val_steps=0, **quiet
        )
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        return model.seen

    whole = fit()
    assert len(whole) == 15 and sorted(index for step in whole[5:10] for index in step) == list(range(60))
    assert len({str(step) for step in whole}) == 15, "every epoch has its own order, and nobody called set_epoch"
    assert fit(checkpoint=split / "step-step=7.ckpt") == whole[7:]


def test_the_lightning_example_runs(split):
    pytest.importorskip("lightning")
    done = run(sys.executable, EXAMPLES / "lightning_module.py", split, "--epochs", 1)
    assert "'loss'" in done.stdout and "'accuracy'" in done.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_the_accelerate_example_runs_and_goes_on(pictures, tmp_path, processes):
    pytest.importorskip("accelerate")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", processes]
    launch += ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"]
    program = [EXAMPLES / "accelerate_loop.py", pictures, "--save", tmp_path / "saved", "--epochs"]
    first = run(*launch, *program, 1)
    second = run(*launch, *program, 3)
    told = [line.split(":")[0] for line in (first.stdout + second.stdout).splitlines() if line.startswith("epoch")]
    assert told == ["epoch 1", "epoch 2", "epoch 3"]
