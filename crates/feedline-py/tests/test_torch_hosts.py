"""Hosts that make or wrap the DataLoader themselves: patch(), python -m feedline.torch, accelerate, Hugging Face's Trainer, timm."""

import abc
import hashlib
import importlib.util
import inspect
import json
import logging
import multiprocessing
import runpy
import subprocess
import sys
import types
import warnings

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
import torch.utils.data
from feedline.torch import hosts

OLD_NAME = torch.utils.data.DataLoader
# A name of its own would be replaced, too.
TORCHS = [torch.utils.data.DataLoader]


@pytest.fixture
def patched():
    """patch, taken back at the end."""
    yield feedline.torch.patch
    feedline.torch.unpatch()


class Drawing(torch.utils.data.Dataset):
    """Samples of torch's and NumPy's random numbers."""

    def __len__(self):
        return 21

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.rand(2), np.random.rand()


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(6))


def plain(batches):
    return [[part.tolist() for part in batch] for batch in batches]


def test_every_name_of_torchs_class_is_replaced_and_put_back(patched, monkeypatch, caplog):
    module = types.ModuleType("library")
    module.Loader, module.other = TORCHS[0], 1
    monkeypatch.setitem(sys.modules, "library", module)
    spec = importlib.util.find_spec("this")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    monkeypatch.setitem(sys.modules, "this", lazy)
    with caplog.at_level(logging.INFO, "feedline"):
        names = patched()
    wanted = ["torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader", "library.Loader", f"{__name__}.OLD_NAME"]
    assert set(wanted) <= set(names) and names == sorted(names)
    assert all(name in caplog.text for name in wanted)
    assert torch.utils.data.DataLoader is torch.utils.data.dataloader.DataLoader is module.Loader is OLD_NAME is hosts.PatchedDataLoader
    assert type(lazy) is not types.ModuleType, "the module that waits for its first use was not loaded"
    assert patched() == [], "a second call finds nothing to replace"
    from torch.utils.data import DataLoader

    assert DataLoader is hosts.PatchedDataLoader and module.other == 1
    assert feedline.torch.unpatch() == names
    assert torch.utils.data.DataLoader is torch.utils.data.dataloader.DataLoader is module.Loader is OLD_NAME is TORCHS[0]
    assert feedline.torch.unpatch() == []


def test_what_asks_for_torchs_class_finds_it(patched):
    torchs = torch.utils.data.DataLoader
    old = torchs(range(3))

    class Before(torchs):
        pass

    patched()
    now = torch.utils.data.DataLoader

    class After(now, abc.ABC):
        pass

    assert isinstance(old, now) and isinstance(Before(range(3)), now) and issubclass(Before, now) and issubclass(torchs, now)
    assert isinstance(now(range(3)), torchs) and isinstance(now(range(3)), feedline.torch.DataLoader)
    assert not isinstance(old, After) and not isinstance(old, feedline.torch.DataLoader) and not isinstance(range(3), now)
    assert isinstance(After(range(3)), now) and After(range(3), seeds="worker").seeds == "worker"
    assert inspect.signature(now.__init__) == inspect.signature(feedline.torch.DataLoader.__init__)
    assert isinstance(now(feedline.arrays(np.arange(6)), 2, True), feedline.DataLoader)
    assert now(range(5), 2, True).batch_size == 2


def test_the_seeds_are_those_of_patch(patched):
    patched(seeds="worker")
    made = [torch.utils.data.DataLoader(range(3)), torch.utils.data.DataLoader(range(3), seeds="sample")]
    assert [loader.seeds for loader in made] == ["worker", "sample"]
    assert feedline.torch.DataLoader(range(3)).seeds == "sample"
    with pytest.raises(feedline.ConfigError, match=r'patch\(seeds="worker"\) was called before'):
        patched()
    feedline.torch.unpatch()
    patched()
    assert torch.utils.data.DataLoader(range(3)).seeds == "sample"
    with pytest.raises(feedline.ConfigError, match='Give "sample"'):
        patched(seeds="samples")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_state_that_nobody_can_have_is_refused_when_it_is_loaded(patched):
    from torch.utils.data.datapipes.iter import IterableWrapper

    patched()
    loader = torch.utils.data.DataLoader(IterableWrapper(range(4)), batch_size=2)
    state = loader.state_dict()
    assert plain([batch] for batch in loader) == [[[0, 1]], [[2, 3]]]
    with pytest.raises(feedline.StateError, match="there was no state to save: a DataPipe"):
        loader.load_state_dict(state)


def main(module, *arguments, monkeypatch):
    """Runs a module as `python -m` does, up to where it ends the process."""
    monkeypatch.setattr(sys, "argv", ["-m", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    return ended.value.code


def test_a_script_that_is_not_there_is_said(monkeypatch, capsys):
    assert main("feedline.torch", "--seeds", "worker", "nothing.py", monkeypatch=monkeypatch) == 2
    assert "there is no file nothing.py" in capsys.readouterr().err
    assert "Run: python -m feedline.torch SCRIPT" in main("feedline.torch.script", monkeypatch=monkeypatch)
    assert torch.utils.data.DataLoader is TORCHS[0]


SCRIPT = '''"""The words of the script."""
import json, multiprocessing, os, sys
import numpy, torch, torch.distributed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

class Drawing(torch.utils.data.Dataset):
    def __len__(self):
        return 21
    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.rand(2), numpy.random.rand()

def child(out):
    out.put([DataLoader.__name__, DataLoader(Drawing()).seeds, sys.argv, __name__])

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(4)
    loader = DataLoader(Drawing(), batch_size=4, sampler=DistributedSampler(Drawing(), seed=1), num_workers=2)
    seen = [[part.tolist() for part in batch] for _ in range(2) for batch in loader]
    said = {"batches": seen, "argv": sys.argv, "doc": __doc__, "file": __file__, "path": sys.path[0], "name": DataLoader.__name__}
    if rank == 0:
        spawn = multiprocessing.get_context("spawn")
        out = spawn.SimpleQueue()
        process = spawn.Process(target=child, args=(out,))
        process.start()
        said["child"] = out.get()
        process.join()
    with open(f"{os.path.dirname(__file__)}/{rank}.json", "w") as file:
        json.dump(said, file)
    torch.distributed.destroy_process_group()
'''


@pytest.mark.filterwarnings("ignore:epoch 0 is delivered a second time")
def test_torchrun_starts_a_script_that_was_not_changed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "feedline.torch", "--seeds", "worker", "script.py", "--seeds", "mine", "--", "x"]
    done = subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text("utf-8"))
        argv = [str(script), "--seeds", "mine", "--", "x"]
        assert told["argv"] == argv and told["file"] == str(script) and told["path"] == str(tmp_path)
        assert told["doc"] == "The words of the script." and told["name"] == "PatchedDataLoader"
        if rank == 0:
            assert told["child"] == ["PatchedDataLoader", "worker", argv, "__mp_main__"]
        torch.manual_seed(4)
        sampler = torch.utils.data.DistributedSampler(range(21), 2, rank, seed=1)
        loader = TORCHS[0](Drawing(), batch_size=4, sampler=sampler, num_workers=2)
        assert told["batches"] == [batch for _ in range(2) for batch in plain(loader)]


MODULE = '''"""The words of the module."""
import json, multiprocessing, sys
from . import other
from .other import WHERE

def told():
    torch = sys.modules.get("torch.utils.data")
    return [__name__, __package__, __doc__, __file__, __cached__, sys.argv, sys.path[0], other.ARGV, WHERE, torch and torch.DataLoader.__name__]

def child(out):
    out.put(told())

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    out = spawn.SimpleQueue()
    process = spawn.Process(target=child, args=(out,))
    process.start()
    print(json.dumps([told(), out.get()]))
    process.join()
'''


def test_a_module_is_run_as_python_runs_it(tmp_path):
    inner = tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    (inner / "__init__.py").touch()
    (inner / "other.py").write_text("import sys\nARGV, WHERE = list(sys.argv), __name__\n", "utf-8")
    (inner / "main.py").write_text(MODULE, "utf-8")
    found = []
    for words in (["package.inner.main"], ["feedline.torch", "--seeds", "worker", "-m", "package.inner.main"]):
        command = [sys.executable, "-W", "error::DeprecationWarning", "-m", *words, "--seeds", "mine", "-m", "x"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0 and not done.stderr, done.stderr
        found.append(json.loads(done.stdout))
    (*python, nothing), (*pythons_child, _) = found[0]
    assert nothing is None and python[:3] == ["__main__", "package.inner", "The words of the module."] and pythons_child != python
    assert found[1] == [[*python, "PatchedDataLoader"], [*pythons_child, "PatchedDataLoader"]]


def test_a_package_is_its_main_module_which_no_child_of_multiprocessing_runs_again(tmp_path, monkeypatch, patched):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    (tmp_path / "whole" / "__main__.py").write_text("ran = __package__", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setenv(hosts._SCRIPT, json.dumps(["whole", True, "sample"]))
    for name, found in (("__main__", "whole"), ("__mp_main__", None)):
        main = {"__name__": name}
        exec(hosts.begin_script(main), main)
        assert main.get("ran") == found


def test_a_module_that_is_not_there_is_said(monkeypatch, tmp_path):
    (tmp_path / "asks_for_more.py").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import nothing_at_all", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nothing_at_all", "nothing.at_all", "asks_for_more.here", "feedline.nothing"):
        with pytest.raises(SystemExit, match=f"there is no module {name}"):
            hosts._found(name)
    with pytest.raises(SystemExit, match="no Python code"):
        hosts._found("torch._C")
    with pytest.raises(ModuleNotFoundError, match="nothing_at_all"):
        hosts._found("broken.inner")


LIGHTNING = """
import sys, warnings
warnings.filterwarnings("ignore")
import lightning, torch
from torch.utils.data import DataLoader

class Noting(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def training_step(self, batch, _):
        loader = self.trainer.train_dataloader
        with open(f"{sys.argv[1]}/{self.trainer.global_rank}", "a") as out:
            print(type(loader).__name__, loader.seeds, batch.tolist(), file=out)
        return (self.weight - batch.float().mean()).abs()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
trainer = lightning.Trainer(max_epochs=1, devices=2, strategy="ddp", accelerator="cpu", **quiet)
trainer.fit(Noting(), DataLoader(range(10), batch_size=2))
"""


def test_ranks_that_lightning_starts_itself_have_the_patch(tmp_path):
    pytest.importorskip("lightning")
    program = tmp_path / "program.py"
    program.write_text(LIGHTNING, "utf-8")
    command = [sys.executable, "-m", "feedline.torch", "--seeds", "worker", program, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        # The sampler that Lightning puts in.
        own = list(torch.utils.data.DistributedSampler(range(10), 2, rank))
        told = (tmp_path / str(rank)).read_text("utf-8").splitlines()
        assert told == [f"PatchedDataLoader worker {own[at : at + 2]}" for at in (0, 2, 4)]


KILLED = """
import json, os, signal, sys
import lightning, torch, torch.utils.data
from lightning.pytorch.callbacks import ModelCheckpoint
import feedline.torch

folder, devices, kill_at, checkpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
feedline.torch.patch()

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(())])

class Noting(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def training_step(self, batch, _):
        with open(f"{folder}/{self.trainer.global_rank}", "a") as out:
            print(json.dumps(batch.tolist()), file=out)
        return (self.weight - batch.mean()).abs()
    def on_train_batch_end(self, *_):
        if self.trainer.global_step == kill_at:
            self.trainer.strategy.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

lightning.seed_everything(1)
saving = ModelCheckpoint(f"{folder}/saved", every_n_train_steps=2, save_top_k=-1)
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [saving]}
strategy = "ddp" if devices > 1 else "auto"
trainer = lightning.Trainer(max_epochs=2, devices=devices, strategy=strategy, accelerator="cpu", **quiet)
trainer.fit(Noting(), torch.utils.data.DataLoader(Rows(), batch_size=6 // devices, shuffle=True), ckpt_path=checkpoint)
"""


def test_lightning_goes_on_after_a_kill_with_another_number_of_processes(forks, tmp_path):
    pytest.importorskip("lightning")
    program = tmp_path / "program.py"
    program.write_text(KILLED, "utf-8")

    def seen(name, devices, kill_at=0, checkpoint=""):
        """The samples of each step, in the order of the epoch, with their draws."""
        folder = tmp_path / name
        folder.mkdir()
        elastic = {"ranks": devices, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": 0} if devices > 1 else {}
        done = forks(program, folder, devices, kill_at, checkpoint, imports=["lightning"], **elastic)
        assert done.code == (-9 if kill_at else 0), done.stderr
        if checkpoint:
            assert "the state is of another kind of sampler" in done.stderr
        ranks = [[json.loads(line) for line in (folder / str(rank)).open()] for rank in range(devices)]
        return [[row for turn in zip(*step) for row in turn] for step in zip(*ranks)]

    # Four steps an epoch. Saved two steps after the second epoch began, and killed one step later.
    saved = "saved/epoch=1-step=6.ckpt"
    killed = seen("two", 2, 7)
    again = seen("then one", 1, checkpoint=tmp_path / "two" / saved)
    steps = killed[:6] + again
    assert killed[6] == again[0] and len(steps) == 8
    for epoch, got in enumerate((steps[:4], steps[4:])):
        sampler = torch.utils.data.DistributedSampler(range(24), 1, 0, seed=1)  # Lightning gives its own
        sampler.set_epoch(epoch)
        assert [int(index) for step in got for index, _ in step] == list(sampler)
    killed = seen("one", 1, 7)
    again = seen("then two", 2, checkpoint=tmp_path / "one" / saved)
    assert killed[6] == again[0]
    assert sorted(int(index) for step in killed[4:6] + again for index, _ in step) == list(range(24))


@pytest.fixture
def ranks(forks, tmp_path):
    """Runs a program on two ranks and gives what each has written into its file."""

    def run(program, *arguments, imports, code=0, **variables):
        path = tmp_path / "program.py"
        path.write_text(program, "utf-8")
        done = forks(path, tmp_path, *arguments, ranks=2, imports=imports, **variables)
        assert done.code == code, done.stderr
        return [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)] if code == 0 else None

    return run


ACCELERATE = """
import json, os, sys
import torch, torch.utils.data
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
import feedline.torch

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 21
    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.rand(2)

class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        for index in range(21):
            yield torch.tensor([float(index)]), torch.rand(2)

def prepared(data, drop_last=False, num_workers=0, **configuration):
    AcceleratorState._reset_state()
    GradientState._reset_state()
    set_seed(3)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**configuration))
    order = {} if isinstance(data, Stream) else {"shuffle": True}
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=num_workers, drop_last=drop_last, **order)
    return accelerator, accelerator.prepare(loader)

def plain(batch):
    return [part.tolist() for part in batch]

def delivered(data, **configuration):
    accelerator, loader = prepared(data, **configuration)
    batches, gathered = [], []
    for epoch in range(2):
        for batch in loader:
            batches.append(plain(batch))
            if configuration.get("even_batches", True):
                gathered += accelerator.gather_for_metrics(batch[0]).flatten().tolist()
        batches.append(torch.rand(1).item())
    loader.set_epoch(5)
    batches += [plain(batch) for batch in accelerator.skip_first_batches(loader, 2)]
    return type(loader.base_dataloader).__name__, batches, gathered

rank, folder = os.environ["RANK"], sys.argv[1]
data = {"Rows": Rows(), "Stream": Stream()}
told = []
for kind, configuration in json.loads(sys.argv[2]):
    feedline.torch.unpatch()
    torchs = delivered(data[kind], **configuration)
    feedline.torch.patch(seeds="worker")
    told.append([torchs, delivered(data[kind], **configuration)])

feedline.torch.unpatch()
feedline.torch.patch()
resumed = []
for kind, configuration in json.loads(sys.argv[3]):
    accelerator, loader = prepared(data[kind], **configuration)
    accelerator.register_for_checkpointing(loader)
    for epoch in range(2):
        whole = []
        for batch in loader:
            whole.append(plain(batch))
            if epoch == 1 and len(whole) == 2:
                accelerator.save_state(f"{folder}/state")
    accelerator.wait_for_everyone()
    accelerator, loader = prepared(data[kind], **configuration)
    accelerator.register_for_checkpointing(loader)
    loader.set_epoch(1)
    try:
        accelerator.load_state(f"{folder}/state")
        resumed.append([whole[2:], [plain(batch) for batch in loader]])
    except feedline.StateError as error:
        resumed.append(str(error))
    accelerator.wait_for_everyone()
with open(f"{folder}/{rank}.json", "w") as out:
    json.dump({"told": told, "resumed": resumed}, out)
"""


def test_accelerate_on_two_ranks_delivers_what_it_does_with_torchs(ranks):
    pytest.importorskip("accelerate")
    kinds = [
        ["Rows", {"num_workers": 1}],
        ["Rows", {"use_seedable_sampler": True}],
        ["Rows", {"split_batches": True, "drop_last": True}],
        ["Rows", {"even_batches": False}],
        ["Rows", {"dispatch_batches": True}],
        ["Stream", {"dispatch_batches": False}],
        ["Stream", {"num_workers": 1}],
    ]
    goes_on = [
        ["Rows", {}],
        ["Rows", {"use_seedable_sampler": True, "num_workers": 1}],
        ["Stream", {"dispatch_batches": False}],
        ["Stream", {}],
    ]
    every = ranks(ACCELERATE, json.dumps(kinds), json.dumps(goes_on), imports=["accelerate"])
    for rank in every:
        for kind, (torchs, ours) in zip(kinds, rank["told"], strict=True):
            assert (torchs[0], ours[0]) == ("DataLoader", "PatchedDataLoader"), kind
            assert torchs[1:] == ours[1:], kind
        # Each of the 21 samples once in an epoch, though batches are filled up.
        assert sorted(rank["told"][0][1][2]) == sorted([*range(21), *range(21)])
        for kind, pair in zip(goes_on[:3], rank["resumed"]):
            assert pair[0] == pair[1] and pair[0], kind
        assert "accelerate dispatches the batches of this loader from one rank" in rank["resumed"][3]


def test_a_seedable_sampler_that_is_put_in_later_is_asked(patched):
    accelerate = pytest.importorskip("accelerate")
    patched()
    configuration = accelerate.DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)

    def epoch(number, workers):
        torch.manual_seed(3)
        loader = accelerator.prepare(torch.utils.data.DataLoader(Drawing(), 4, shuffle=True, num_workers=workers))
        loader.set_epoch(number)
        torch.rand(number)
        return plain(loader)

    second = epoch(2, 0)
    expect = torch.randperm(21, generator=torch.Generator().manual_seed(3 + 2))
    assert [index for batch in second for (index,) in batch[0]] == expect.tolist()
    assert epoch(2, 1) == second != epoch(1, 0), "what samples draw belongs to the sampler's seed and epoch"


def test_a_sampler_of_torchs_below_others_goes_on_from_its_generator():
    def batches(generator, eager):
        class Shares(torch.utils.data.Sampler):
            """Every other batch, as accelerate deals them."""

            batch_sampler = torch.utils.data.BatchSampler(
                torch.utils.data.RandomSampler(range(21), generator=generator), 2, drop_last=False
            )

            def __iter__(self):
                return iter(list(self.batch_sampler)[::2]) if eager else (one for n, one in enumerate(self.batch_sampler) if n % 2)

        return Shares()

    for eager in (False, True):
        for workers in (0, 1):
            generator = torch.Generator().manual_seed(5)
            shares = batches(generator, eager)
            loader = feedline.torch.DataLoader(Drawing(), batch_sampler=shares, generator=generator, num_workers=workers)
            plain(loader)
            second = iter(loader)
            plain(next(second) for _ in range(2))
            state = json.loads(json.dumps(loader.state_dict()))
            rest, third = plain(second), plain(loader)
            other = torch.Generator().manual_seed(77)
            again = feedline.torch.DataLoader(Drawing(), batch_sampler=batches(other, eager), generator=other, num_workers=workers)
            again.load_state_dict(state)
            assert plain(again) == rest, (eager, workers)
            assert plain(again) == third, (eager, workers)
            without = feedline.torch.DataLoader(Drawing(), batch_sampler=[[0]], generator=other)
            with pytest.raises(feedline.StateError, match="its sampler is one with a generator"):
                without.load_state_dict(state)


@pytest.mark.parametrize("patching", [None, "sample", "worker"])
def test_what_accelerate_does_not_take_over_is_told(patched, recwarn, patching):
    accelerate = pytest.importorskip("accelerate")
    if patching:
        patched(seeds=patching)
    loader = feedline.torch.DataLoader(range(6), 2, seeds="sample", multiprocessing_context="spawn", num_workers=1)
    assert loader.multiprocessing_context is multiprocessing.get_context("spawn")
    stream = feedline.torch.DataLoader(Stream(), 2)
    warnings.simplefilter("always")
    prepared = accelerate.Accelerator(cpu=True).prepare(feedline.torch.DataLoader(range(6), 2))
    made = [prepared.base_dataloader, accelerate.skip_first_batches(loader, 1), accelerate.skip_first_batches(stream, 1)]
    assert [batch.tolist() for batch in made[2]] == [[2, 3], [4, 5]] and list(made[1].batch_sampler) == [[2, 3], [4, 5]]
    told = [str(warning.message) for warning in recwarn if "feedline" in str(warning.message)]
    if patching == "sample":
        assert told == [] and all(isinstance(one, feedline.torch.DataLoader) for one in (*made[:2], made[2].base_dataloader))
    else:
        words = 'patch(), "worker", out of this one with "sample"' if patching else "makes torch's DataLoader out of this one"
        assert len(told) == 3 and all(words in text for text in told)
        assert patching or "do not prepare the loader" in told[0] and all("in place of skip_first_batches" in text for text in told[1:])
    told_before = len(recwarn)
    accelerate.skip_first_batches(prepared, 1)
    assert len(recwarn) == told_before, "what accelerate has prepared has lost it already"


TRAINER = """
import json, os, signal, sys
import numpy, torch
from transformers import Trainer, TrainerCallback, TrainingArguments
import feedline.torch

folder, seeds, kill_at, checkpoint = sys.argv[1:]
if seeds != "torch":
    feedline.torch.patch(seeds=seeds)

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 30
    def __getitem__(self, index):
        return {"x": torch.randn(4) + numpy.random.rand() + index % 3, "labels": index % 3}

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3))
    def forward(self, x, labels):
        out = self.layers(x)
        return {"loss": torch.nn.functional.cross_entropy(out, labels), "logits": out}

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **options):
        if state.global_step == int(kill_at):
            torch.distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "save_steps": 1, "save_total_limit": 1}
training = TrainingArguments(
    f"{folder}/out", per_device_train_batch_size=4, num_train_epochs=2, dataloader_num_workers=2, learning_rate=0.01, **quiet
)
trainer = Trainer(Network(), training, train_dataset=Rows(), callbacks=[Kill()])
trainer.train(resume_from_checkpoint=checkpoint == "resume" or None)
loader = type(trainer.get_train_dataloader().base_dataloader).__name__
losses = [[said["loss"], said["grad_norm"]] for said in trainer.state.log_history if "loss" in said]
with open(f"{folder}/{os.environ['RANK']}.json", "w") as out:
    json.dump([loader, losses], out)
"""


def test_hugging_faces_trainer_goes_on_after_a_kill_with_the_same_losses(ranks):
    pytest.importorskip("transformers", reason="Hugging Face's Trainer is tried only where transformers is installed")

    def losses(seeds, kill_at=-1, checkpoint="none", code=0):
        every = ranks(TRAINER, seeds, kill_at, checkpoint, imports=["transformers.trainer"], code=code)
        return every and every[0]

    loader, torchs = losses("torch")
    assert loader == "DataLoader" and len(torchs) == 8
    assert losses("worker") == ["PatchedDataLoader", torchs]
    _, whole = losses("sample")
    assert whole != torchs
    # In the middle of the second epoch.
    losses("sample", kill_at=6, code=-9)
    assert losses("sample", checkpoint="resume")[1] == whole


TIMM = """
import json, os, random, sys
import PIL.Image, torch, torch.distributed
from timm.data import create_loader
import feedline.torch

torch.distributed.init_process_group("gloo")

class Pictures(torch.utils.data.Dataset):
    transform = None
    def __len__(self):
        return 21
    def __getitem__(self, index):
        return self.transform(PIL.Image.new("RGB", (40, 40), (index, 0, 9 * index))), index

def delivered(prefetches, multiple):
    torch.manual_seed(2)
    random.seed(2)
    options = {"use_prefetcher": prefetches, "use_multi_epochs_loader": multiple, "device": torch.device("cpu")}
    options |= {"is_training": True, "auto_augment": "rand-m6-mstd0.5", "re_prob": 0.3, "num_workers": 2, "distributed": True}
    loader = create_loader(Pictures(), (3, 32, 32), 4, **options)
    batches = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch) if not multiple else None
        batches += [[pictures.tolist(), labels.tolist()] for pictures, labels in loader]
    return [type(getattr(loader, "loader", loader)).__name__, batches]

told = []
for options in json.loads(sys.argv[2]):
    feedline.torch.unpatch()
    torchs = delivered(*options)
    feedline.torch.patch(seeds="worker")
    told.append([torchs, delivered(*options)])
with open(f"{sys.argv[1]}/{os.environ['RANK']}.json", "w") as out:
    json.dump(told, out)
"""


def test_timms_loaders_deliver_what_they_do_with_torchs(ranks):
    pytest.importorskip("timm", reason="timm's create_loader is tried only where timm is installed")
    for rank in ranks(TIMM, json.dumps([[True, False], [False, False], [False, True]]), imports=["timm.data"]):
        names = [(torchs[0], ours[0]) for torchs, ours in rank]
        # timm has made a class of its own from torch's before patch().
        assert names == [("DataLoader", "PatchedDataLoader")] * 2 + [("MultiEpochsDataLoader", "MultiEpochsDataLoader")]
        for torchs, ours in rank:
            assert hashlib.sha256(json.dumps(torchs[1]).encode()).digest() == hashlib.sha256(json.dumps(ours[1]).encode()).digest()
