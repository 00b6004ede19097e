"""Steps of the user's, and Datasets in threads: one sample at a time, with random generators that are neither the program's nor a
thread's."""

import functools
import itertools
import random
import subprocess
import sys
import threading
import time
import warnings

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2


def values(source, **options):
    """Sample -> what was delivered of it, over an epoch."""
    options = {"batch_size": 4, "output": "numpy", "num_replicas": 1, "rank": 0, "shuffle": True} | options
    ours = feedline.DataLoader(source, **options)
    return {index: value.tolist() for batch in ours for index, value in zip(batch.indices, batch[0])}


def test_a_step_with_state_has_its_turn_too():
    now = []

    def step(x):
        now.append(x)
        time.sleep(0.0002)
        return now.pop() if len(now) == 1 else np.int64(-1)

    assert values(feedline.arrays(np.arange(100)).map(step), num_workers=6) == {index: index for index in range(100)}


class Meeting(Dataset):
    """After the first one, which tells what items are, there is none before two are asked for at once."""

    def __init__(self):
        self.meet, self.asked, self.met = threading.Barrier(2, timeout=60), False, False

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if self.asked and not self.met:
            self.meet.wait()
            self.met = True
        self.asked = True
        return index


def test_threads_are_at_work_together_where_they_are_asked_for():
    source = feedline.dataset(Meeting())
    (batch,) = feedline.DataLoader(source, batch_size=2, num_workers=2, workers="threads")
    assert batch[0].tolist() == [0, 1]
    with pytest.raises(feedline.ConfigError, match='Give "threads"'):
        feedline.DataLoader(source, workers="fibres")
    with pytest.raises(feedline.ConfigError, match="no code of yours runs in workers"):
        feedline.DataLoader(feedline.source.Source(), workers="threads")


class Drawing:
    """Augments as people do, by the global generators."""

    def __init__(self, *kinds, only=None):
        self.kinds, self.only = kinds, only

    def __call__(self, index):
        drawn = np.zeros(3)
        if self.only is None or int(index) in self.only:
            time.sleep(0.0002)
            for at, kind in enumerate(("random", "numpy", "torch")):
                if kind in self.kinds:
                    drawn[at] = {"random": random.random, "numpy": np.random.normal, "torch": lambda: torch.rand(1).item()}[kind]()
        return drawn


def drawing(*kinds, only=None):
    """40 samples through a step that draws."""
    return feedline.arrays(np.arange(40)).map(Drawing(*kinds, only=only))


KINDS = [kinds for n in (1, 2, 3) for kinds in itertools.combinations(("random", "numpy", "torch"), n)]


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_a_step_that_draws_is_repeatable_whatever_the_workers_and_the_program(kinds):
    expect = values(drawing(*kinds), num_workers=0, seed=3)
    assert len({str(value) for value in expect.values()}) == 40, "every sample has numbers of its own"
    for workers in (1, 4):
        random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
        with pytest.warns(UserWarning, match="Drawing draws from the global generator of " + " and ".join(sorted(kinds))):
            ours = feedline.DataLoader(drawing(*kinds), 7, True, num_workers=workers, seed=3, output="numpy")
        assert ours.num_workers == 0
        assert {i: value.tolist() for batch in ours for i, value in zip(batch.indices, batch[0])} == expect
    assert not {str(v) for v in values(drawing(*kinds), num_workers=0, seed=4).values()} & {str(v) for v in expect.values()}
    for source in (drawing(*kinds), feedline.dataset(Items(lambda index: Drawing(*kinds)(index)))):
        with pytest.raises(feedline.ConfigError, match='so workers="threads" is not possible'):
            feedline.DataLoader(source, num_workers=2, workers="threads")
        with pytest.raises(feedline.ConfigError, match='so workers="threads" is not possible'):
            feedline.torch.DataLoader(source, num_workers=2, workers="threads")


def test_epochs_draw_other_numbers_and_a_resumed_run_the_same():
    ours = feedline.DataLoader(drawing("torch", "numpy"), batch_size=4, num_workers=0, output="numpy")
    epochs = [[batch[0].tolist() for batch in ours] for _ in range(2)]
    assert epochs[0] != epochs[1]
    again = feedline.DataLoader(drawing("torch", "numpy"), batch_size=4, num_workers=0, output="numpy")
    again.load_state_dict(ours.state_dict() | {"epoch": 1, "position": 8})
    assert [batch[0].tolist() for batch in again] == epochs[1][2:]


def program(batches=None):
    """The draws of a program between its batches: dropout, a cached normal number, Python's generator."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn, ones = [], torch.ones(64)
    for _ in range(30):
        if batches is not None:
            next(batches)
        drawn.append(torch.nn.functional.dropout(ones).tolist())
        drawn.append((np.random.normal(), random.gauss(0, 1), random.random()))
    return drawn


@pytest.mark.parametrize("workers", [0, 3])
def test_what_a_program_draws_is_the_same_with_a_loader_at_work(pictures, workers):
    expect = program()
    flips = feedline.images(pictures).resize((8, 8)).map(v2.RandomHorizontalFlip())
    sometimes = drawing("numpy", "random", "torch", only={3, 17})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in (drawing("random", "numpy", "torch"), flips, feedline.arrays(np.arange(99)).map(lambda x: x + 1)):
            ours = feedline.DataLoader(source, batch_size=1, shuffle=True, num_workers=workers, output="numpy")
            assert program(iter(ours)) == expect
        if workers == 0:
            assert program(iter(feedline.DataLoader(sometimes, batch_size=1, num_workers=0, output="numpy"))) == expect


def test_a_step_that_draws_now_and_then_is_repeatable_in_the_calling_thread():
    source = drawing("random", "numpy", "torch", only=set(range(5, 40)))
    runs = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        runs.append(values(source, num_workers=0))
    assert runs[0] == runs[1] and len({str(value) for value in runs[0].values()}) == 36


@pytest.mark.parametrize("kind", ["random", "numpy", "torch"])
def test_a_step_that_draws_now_and_then_is_found_out_in_a_worker(kind):
    ours = feedline.DataLoader(
        drawing(kind, only=set(range(5, 40))), batch_size=20, num_workers=2, output="numpy", on_bad_sample="replace"
    )
    with pytest.raises(feedline.ConfigError, match=f"Drawing has drawn from the global generator of {kind} in a worker"):
        list(ours)


def test_the_generators_are_the_programs_again_after_a_failure():
    def fail(x):
        torch.rand(1), random.random(), np.random.normal()
        raise LookupError("no") if x else ValueError("first")

    for number in (0, 1):
        expect = program()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        with pytest.raises(feedline.SampleError):
            next(iter(feedline.DataLoader(feedline.arrays(np.full(3, number)).map(fail), num_workers=0)))
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
        assert program() == expect


def test_asking_in_another_thread_for_what_draws_is_told():
    said = []

    def work():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values(drawing("torch"), num_workers=0)
            said.extend(str(one.message) for one in caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(said) == 1 and "Ask for batches in the main thread" in said[0]


def test_a_step_may_ask_a_loader_without_workers_and_no_other():
    def asking(workers):
        inner = feedline.arrays(np.arange(4)).map(lambda x: x + 1)
        loader = feedline.DataLoader(inner, batch_size=4, num_workers=workers, output="numpy")
        return feedline.arrays(np.arange(6)).map(lambda _: next(iter(loader))[0])

    assert values(asking(0), num_workers=2)[3] == [1, 2, 3, 4]
    with pytest.raises(feedline.SampleError, match="asks another DataLoader .* num_workers=0"):
        values(asking(2), num_workers=2)


# torchvision's v2 transforms


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(1.0),
        v2.Compose([v2.RandomHorizontalFlip(1.0)]),
        torch.nn.Sequential(v2.RandomHorizontalFlip(1.0)),
        torchvision.transforms.Compose([v2.RandomHorizontalFlip(1.0)]),
        functools.partial(v2.RandomHorizontalFlip(1.0)),
    ],
    ids=["transform", "compose", "sequential", "v1-compose", "partial"],
)
@pytest.mark.filterwarnings("ignore:.*draws from the global generator")
def test_v2_transforms_do_what_they_do_to_tensors(pictures, transform):
    plain = feedline.images(pictures).resize((8, 6))
    options = {"num_workers": 0, "batch_size": 60, "output": "numpy"}
    (expect,) = feedline.DataLoader(plain, **options)
    (bytes_,) = feedline.DataLoader(plain.map(transform), **options)
    np.testing.assert_array_equal(bytes_[0], expect[0][..., ::-1])
    (floats,) = feedline.DataLoader(plain.normalize().map(transform), **options)
    (normal,) = feedline.DataLoader(plain.normalize(), **options)
    np.testing.assert_array_equal(floats[0], normal[0][..., ::-1])
    rows = feedline.arrays(image=expect[0].copy(), label=np.arange(60))
    if not isinstance(transform, (torch.nn.Sequential, torchvision.transforms.Compose)):  # which take one field
        (mapped,) = feedline.DataLoader(rows.map(transform), **options)
        np.testing.assert_array_equal(mapped[0], expect[0][..., ::-1])
        assert mapped[1].tolist() == list(range(60)), "labels stay"


def test_v2_transforms_get_images_and_may_change_the_size(pictures):
    seen = []

    class Look(v2.Transform):
        def transform(self, inpt, params):
            seen.append((type(inpt), inpt.dtype, inpt.shape[0]))
            return inpt

    source = feedline.images(pictures).map(v2.Compose([Look(), v2.Resize((9, 7))]), size=(9, 7))
    (image, _) = next(iter(feedline.DataLoader(source, num_workers=0)))
    assert image.shape == (1, 3, 9, 7) and set(seen) == {(tv_tensors.Image, torch.uint8, 3)}
    wrong = feedline.images(pictures).map(v2.ToDtype(torch.float32, scale=True), size=(8, 8))
    with pytest.raises(feedline.SampleError, match="must return uint8 of shape"):
        next(iter(feedline.DataLoader(wrong, num_workers=0)))
    with pytest.raises(feedline.ConfigError, match="size is fixed"):
        feedline.images(pictures).resize((8, 8)).normalize().map(v2.Resize((9, 7)), size=(9, 7))


class Holds:
    """A user's own transform, which holds one of v2."""

    def __init__(self, transform, before=lambda image: image):
        self.transform, self.before = transform, before

    def __call__(self, image, *label):
        made = self.transform(self.before(image), *label)
        return np.ascontiguousarray(made.permute(1, 2, 0)) if isinstance(made, torch.Tensor) else made


def chw(image):
    return torch.from_numpy(image).permute(2, 0, 1)


FLIP = v2.RandomHorizontalFlip(1.0)


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (Holds(FLIP), "RandomHorizontalFlip"),
        (lambda image: FLIP(image), "RandomHorizontalFlip"),
        (lambda image: v2.Compose([v2.RandomApply([v2.ColorJitter(0.5)], 1.0), FLIP])(image), "ColorJitter"),
        (lambda image: v2.RandomVerticalFlip()({"image": image})["image"], "RandomVerticalFlip"),
        (Holds(FLIP, chw), None),
        (Holds(v2.Compose([v2.ToImage(), FLIP])), None),
        (Holds(v2.Compose([v2.ToPILImage(), FLIP, v2.PILToTensor()])), None),
        (lambda image: v2.Lambda(lambda x: x)(image), None),
        (lambda image: (FLIP(chw(image), image), image)[1], None),
    ],
)
def test_a_v2_transform_that_gets_an_array_within_a_users_function_is_told(pictures, step, named):
    source = feedline.images(pictures).resize((8, 6)).map(step)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(2):
            assert len(list(feedline.DataLoader(source, batch_size=30, num_workers=0))) == 2
    told = [str(one.message) for one in heard if "returns arrays unchanged" in str(one.message)]
    if step.__class__ is Holds and named:
        with pytest.warns(UserWarning, match="Holds gives a NumPy array"):
            list(feedline.DataLoader(feedline.dataset([np.zeros((2, 2, 3), np.uint8)]).map(step), num_workers=0))
    name = getattr(step, "__name__", "Holds")
    assert len(told) == (named is not None) and all(f"{name} gives a NumPy array to {named} of" in text for text in told)


# Types of items


class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.make(index)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: [torch.tensor([i]), torch.tensor([i])],
        lambda i: [torch.tensor([i, 1]), torch.tensor(i)],
        lambda i: [i, i + 0.5],
        lambda i: (torch.ones(2) * i, [i][0]),
    ],
)
def test_a_list_is_delivered_as_torch_does(make):
    for ours, theirs in zip(feedline.DataLoader(Items(make), 3), torch.utils.data.DataLoader(Items(make), 3), strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: (i, [torch.zeros(2), torch.zeros(2)]),
        lambda i: {"a": (1, 2)},
        lambda i: [[1, 2], [3, 4]],
        lambda i: (i, {"b": 1}),
    ],
)
def test_threads_refuse_fields_within_fields_and_do_not_melt_them_into_one(make):
    for source in (feedline.arrays(np.arange(4)).map(make), feedline.dataset(Items(make))):
        with pytest.raises(feedline.SampleError, match="fields within fields are not delivered"):
            feedline.DataLoader(source, workers="threads")


def test_a_call_that_is_repeated_finds_its_arrays_as_they_were():
    """A step that works in place and draws now and then: what was drawn before must not tell."""

    def step(x):
        x += 1
        if x[0] > 5:
            x += 0 * np.random.randint(0, 100)
        return x

    source = feedline.arrays(np.arange(8.0, dtype=np.float32)[:, None]).map(step)
    loader = feedline.DataLoader(source, num_workers=0, output="numpy")
    for _ in range(2):
        assert [float(batch[0].item()) for batch in loader] == [float(x + 1) for x in range(8)]


def test_a_generator_that_a_step_is_the_first_to_load_is_seen():
    program = """
import sys, warnings
import numpy as np
import feedline
warnings.simplefilter("ignore")
source = feedline.arrays(np.zeros((4, 1), np.float32)).map(lambda x: x + np.random.rand(1).astype(np.float32))
print([float(batch[0].item()) for batch in feedline.DataLoader(source, num_workers=int(sys.argv[1]), output="numpy")])
"""
    said = {
        subprocess.run([sys.executable, "-c", program, workers], capture_output=True, text=True, check=True).stdout
        for workers in ("0", "0", "2")
    }
    assert len(said) == 1, said


def test_a_rank_that_is_told_late_ends_the_pass_that_was_left(monkeypatch):
    from feedline import ranks

    loader = feedline.DataLoader(np.arange(12, dtype=np.int64), batch_size=2, shuffle=True, num_workers=0, output="numpy")
    next(iter(loader))
    monkeypatch.setattr(ranks, "initialised_group", lambda: (1, 2))
    with pytest.warns(UserWarning, match="as rank 0 of 1; from now on this process is rank 1 of 2"):
        mine = np.concatenate([batch[0] for batch in loader])
    fresh = feedline.DataLoader(
        np.arange(12, dtype=np.int64), batch_size=2, shuffle=True, num_workers=0, output="numpy", num_replicas=2, rank=1
    )
    fresh.set_epoch(1)
    assert mine.tolist() == np.concatenate([batch[0] for batch in fresh]).tolist() and loader.epoch == 2
