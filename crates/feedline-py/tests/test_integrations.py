"""Feedline within torch.distributed.checkpoint, Lightning and accelerate: real runs of each."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.utils.data import DistributedSampler

EXAMPLES = Path(__file__).resolve().parents[3] / "examples/python"


def run(*command, timeout=150, **variables):
    command = [str(part) for part in command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
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


@pytest.fixture
def resumed(tmp_path):
    """Fits with Lightning, from a checkpoint or not, and gives the batches of (epoch, indices); its checkpoints are saved."""
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Noting(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append((self.current_epoch, batch[0].tolist()))
            return (self.weight - batch[0].float().mean()).abs()

        def validation_step(self, batch, _):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    def fit(epochs, checkpoint=None, folder="saved", saver=None, sampler=None, validate=False, **trainer_options):
        rows = feedline.arrays(np.arange(10))
        sampler = sampler() if sampler else None
        order = {"sampler": sampler} if sampler else {"shuffle": True, "num_replicas": 1, "rank": 0}
        ours = feedline.DataLoader(rows, batch_size=3, num_workers=2, **order)
        validation = feedline.DataLoader(rows, batch_size=5, num_replicas=1, rank=0) if validate else None
        saver = {} if saver is None else {"save_top_k": -1, "filename": "{epoch}-{step}"} | saver
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        callbacks = [ModelCheckpoint(tmp_path / folder, **saver)]
        trainer = lightning.Trainer(max_epochs=epochs, callbacks=callbacks, **quiet, **trainer_options)
        model = Noting()
        trainer.fit(model, ours, validation, ckpt_path=checkpoint)
        return model.seen

    fit.folder = tmp_path
    return fit


def step_of(path):
    return int(path.stem.split("step=")[1])


SAVERS = {"default": None, "each-epoch": {}, "each-step": {"every_n_train_steps": 1}, "train-epoch-end": {"save_on_train_epoch_end": True}}


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("validate", [False, True], ids=["", "validated"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_goes_on_from_any_of_its_checkpoints(resumed, saver, validate):
    options = {"saver": SAVERS[saver], "validate": validate}
    whole = resumed(4, **options)
    assert [epoch for epoch, _ in whole] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    for epoch in range(4):
        assert sorted(index for _, step in whole[4 * epoch :][:4] for index in step) == list(range(10))
    assert len({str([step for _, step in whole[at : at + 4]]) for at in range(0, 16, 4)}) == 4, "each epoch has its own order"
    saved = sorted((resumed.folder / "saved").glob("*.ckpt"), key=step_of)
    assert len(saved) == {"default": 1, "each-step": 16}.get(saver, 4)
    for path in saved:
        assert resumed(4, path, folder="again", **options) == whole[step_of(path) :], path.name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_goes_on_for_more_epochs_from_the_end_of_a_fit(resumed):
    whole = resumed(4, folder="whole")
    resumed(2)
    (last,) = (resumed.folder / "saved").glob("*.ckpt")
    assert resumed(4, last, folder="again") == whole[8:]


@pytest.mark.parametrize("kind", ["torch", "feedline"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_sets_the_epoch_of_a_sampler(resumed, kind):
    kind = {"torch": DistributedSampler, "feedline": feedline.torch.DistributedSampler}[kind]
    options = {"sampler": lambda: kind(range(10), 1, 0, seed=0), "use_distributed_sampler": False, "saver": {"every_n_train_steps": 1}}
    whole = resumed(3, **options)
    assert whole == resumed(3, folder="plain")
    for path in (resumed.folder / "saved").glob("*.ckpt"):
        assert resumed(3, path, folder="again", **options) == whole[step_of(path) :], path.name


LIGHTNING_DDP = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import lightning, numpy as np, torch
import feedline

class Noting(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []
    def train_dataloader(self):
        return loader()
    def training_step(self, batch, _):
        self.seen.append(batch[0].tolist())
        return (self.weight - batch[0].float().mean()).abs()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

def loader():
    return feedline.DataLoader(feedline.arrays(np.arange(23)), batch_size=3, shuffle=True, seed=8, num_workers=1)

early = loader() if "early" in sys.argv else None  # before Lightning has begun a process group
model = Noting()
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
trainer = lightning.Trainer(
    max_epochs=2, devices=2, strategy="ddp", accelerator="cpu", use_distributed_sampler="sampler" in sys.argv, **quiet
)
trainer.fit(model, early)
with open(f"{sys.argv[1]}/{trainer.global_rank}-of-{trainer.world_size}", "w") as out:
    json.dump(model.seen, out)
"""


@pytest.mark.parametrize("when", [["early"], ["hook"], ["hook", "sampler"]], ids="-".join)
def test_lightning_starts_two_processes_itself(tmp_path, forks, when):
    pytest.importorskip("lightning")
    program = tmp_path / "program.py"
    program.write_text(LIGHTNING_DDP, "utf-8")
    done = forks(program, tmp_path, *when, imports=["lightning"])
    assert done.code == 0, done.stderr
    for rank in range(2):
        sampler, expect = DistributedSampler(range(23), 2, rank, seed=8), []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            indices = list(sampler)
            expect += [indices[at : at + 3] for at in range(0, 12, 3)]
        assert json.loads((tmp_path / f"{rank}-of-2").read_text()) == expect


def test_the_lightning_example_runs(split):
    pytest.importorskip("lightning")
    done = run(sys.executable, EXAMPLES / "lightning_module.py", split, "--epochs", 1)
    assert "'loss'" in done.stdout and "'accuracy'" in done.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_the_accelerate_example_runs_and_goes_on(pictures, tmp_path, forks, processes):
    pytest.importorskip("accelerate")
    program = [EXAMPLES / "accelerate_loop.py", pictures, "--save", tmp_path / "saved", "--epochs"]

    def forked(epochs):
        done = forks(*program, epochs, ranks=processes, imports=["accelerate"], ACCELERATE_USE_CPU="true")
        assert done.code == 0, done.stderr
        return done

    if processes == 1:
        first = forked(1)
    else:
        # `accelerate launch` starts one process on a CPU, whatever number it is given; torchrun starts them all.
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        first = run(*launch, *program, 1, ACCELERATE_USE_CPU="true")
    second = forked(3)
    told = [line.split(":")[0] for line in (first.stdout + second.stdout).splitlines() if line.startswith("epoch")]
    assert told == [f"epoch {epoch} on {processes} processes" for epoch in (1, 2, 3)]
    # 60 pictures in batches of 6 on each process.
    assert (first.stdout + second.stdout).count(f"{60 // (6 * processes)} steps") == 3
