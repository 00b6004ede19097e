"""The rank of a loader or sampler: from arguments, torch's process group, a launcher's variables; with real processes."""

import os
import subprocess
import sys

import feedline
import numpy as np
import pytest
from torch.utils.data import DistributedSampler

VARIABLES = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SLURM_PROCID SLURM_NTASKS SLURM_STEP_ID "
    "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_SIZE PMI_RANK PMI_SIZE"
).split()


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def place(**arguments):
    ours = feedline.DataLoader(feedline.arrays(np.arange(12)), num_workers=0, **arguments)
    return ours.rank, ours.num_replicas


def test_alone_it_is_the_only_rank_and_arguments_are_taken():
    assert place() == (0, 1)
    assert place(num_replicas=3, rank=2) == (2, 3)
    for one in ({"rank": 0}, {"num_replicas": 3}):
        with pytest.raises(feedline.ConfigError, match="Give both, or none"):
            place(**one)


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"},
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "2", "PMI_SIZE": "4"},
    ],
)
def test_a_launcher_tells_before_any_process_group_is_there(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place() == (2, 4)
    assert place(num_replicas=2, rank=1) == (1, 2), "under tensor parallelism ranks of data are fewer than processes"


def test_variables_that_make_no_sense_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(feedline.ConfigError, match="RANK"):
        place()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(feedline.ConfigError, match="RANK"):
        place()


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    source = feedline.arrays(np.arange(12))
    assert feedline.DataLoader(source).num_workers == cores
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(cores))
    assert feedline.DataLoader(source).num_workers == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert feedline.DataLoader(source).num_workers == 1


PROGRAM = """
import sys
import numpy as np
import torch.distributed as dist
import feedline
from feedline.torch import DistributedSampler

before = feedline.DataLoader(feedline.arrays(np.arange(23)), batch_size=4, shuffle=True, seed=8)
dist.init_process_group("gloo")
after = feedline.DataLoader(feedline.arrays(np.arange(23)), batch_size=4, shuffle=True, seed=8)
sampler = DistributedSampler(range(23), seed=8)
assert (before.rank, before.num_replicas) == (after.rank, after.num_replicas) == (sampler.rank, sampler.num_replicas)
indices = [list(sampler)] + [[index for batch in one for index in batch[0].tolist()] for one in (before, after)]
assert indices[0] == indices[1] == indices[2]
with open(f"{sys.argv[1]}/{dist.get_rank()}-of-{dist.get_world_size()}", "w") as out:
    print(*indices[0], file=out)
dist.destroy_process_group()
"""


def test_two_processes_of_torchrun_take_torchs_shares(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        expect = list(DistributedSampler(range(23), 2, rank, seed=8))
        assert [int(index) for index in (tmp_path / f"{rank}-of-2").read_text().split()] == expect
