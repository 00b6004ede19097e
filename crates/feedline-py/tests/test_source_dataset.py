"""A source as a map-style dataset: samples by number, parts and sums of sources, torch's own wrappers, labels of any kind."""

import multiprocessing
import pickle
import random
import sys
import threading
import warnings

import feedline
import numpy as np
import pytest
import torch
from feedline.torch import DataLoader as TorchLoader, DistributedSampler
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def delivered(source, epoch=0, **options):
    """Sample -> its fields, as the loader delivers them in an epoch."""
    options = {"batch_size": 7, "shuffle": True, "num_workers": 2} | options
    loader = feedline.DataLoader(source, **options)
    loader.set_epoch(epoch)
    return {index: tuple(fields) for batch in loader for index, fields in zip(batch.indices, zip(*batch), strict=True)}


def equal(one, other):
    """True if two samples have equal fields, of equal types."""
    assert all(type(a) is type(b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True))


def same(samples, others):
    samples, others = list(samples), list(others)
    return len(samples) == len(others) and all(map(equal, samples, others))


def noise(image, rng):
    return image ^ rng.integers(0, 8, image.shape, dtype="uint8")


def drawn(image):
    """Draws from all global generators."""
    return image + np.uint8(random.randrange(9)) + np.uint8(np.random.randint(9)) + np.uint8(torch.randint(9, ()).item())


class Draws:
    """A user's Dataset that draws from all global generators."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return {"at": index, "drawn": [random.random(), np.random.normal()], "more": torch.rand(2), "name": f"n{index}"}


def augmented(folder):
    return feedline.images(folder).map(noise, rng=True).random_resized_crop(16).hflip().color_jitter(0.4).normalize()


def plain(folder):
    return feedline.images(folder).resize((12, 10))


# Samples by number


@pytest.mark.filterwarnings("ignore:.*draws from the global generator", "ignore:.*alike in every epoch")
@pytest.mark.parametrize("kind", ["pictures", "global", "arrays", "dataset"])
def test_a_sample_is_what_a_loader_delivers_of_it(pictures, kind):
    x = np.arange(60.0)
    source = {
        "pictures": lambda: augmented(pictures),
        "global": lambda: feedline.images(pictures).resize((8, 8)).map(drawn),
        "arrays": lambda: feedline.arrays(x, label=x.astype("i4")).map(lambda a, b, rng: (a + rng.random(), b), rng=True),
        "dataset": lambda: feedline.dataset(list(zip(x, x))),
    }[kind]()
    for epoch, seed in ((0, 0), (3, 8)):
        expect = delivered(source, epoch, seed=seed)
        assert len(expect) == len(source) == 60
        assert all(equal(source.sample(index, epoch, seed), expect[index]) for index in range(60))
    assert same(source, [source.sample(index) for index in range(60)])
    assert equal(source[-1], source[59]) and equal(source[np.int64(-60)], source[torch.tensor(0)])
    if kind != "dataset":
        assert not equal(source[5], source.sample(5, epoch=1)) and not equal(source[5], source.sample(5, seed=1))


def test_an_item_of_a_users_dataset_is_what_the_worker_processes_make_of_it():
    whole = feedline.dataset(Draws())
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    for source in (whole, whole.subset([7, 50, 7, 3])):
        loader = feedline.DataLoader(source, batch_size=9, shuffle=True, num_workers=2, seed=4)
        loader.set_epoch(2)
        for batch in loader:
            at, drawn, more, names = batch.values()
            for row, index in enumerate(batch.indices):
                one = source.sample(index, 2, 4)
                assert [one[0], *one[1], one[3]] == [at[row], drawn[0][row], drawn[1][row], names[row]]
                assert torch.equal(one[2], more[row])
    part = whole.subset([7, 50, 7, 3])
    assert [int(one[0]) for one in part] == [7, 50, 7, 3] and torch.equal(part[1][2], whole[50][2])
    assert torch.equal(part[0][2], whole[7][2]) and not torch.equal(part[2][2], whole[7][2]), "a repeated one draws anew"
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2] and torch.equal(torch.get_rng_state(), before[2])
    with pytest.raises(feedline.SampleError, match=r"sample 1 \(item 0\): ZeroDivisionError") as failed:
        feedline.dataset(Bad()).subset([2, 0])[1]
    assert (failed.value.index, failed.value.location) == (1, "item 0")
    with pytest.raises(feedline.StateError):
        feedline.DataLoader(part).load_state_dict(feedline.DataLoader(whole).state_dict())


def test_a_sample_is_numpy_where_torch_is_not_installed(pictures, python):
    code = """
import sys
sys.modules["torch"] = None
import importlib.util, feedline
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
image, label = feedline.images(sys.argv[1]).resize((8, 8))[-1]
print(type(image).__module__, image.dtype, image.shape, type(label).__module__, label.dtype, label)
"""
    ended = python(code, pictures)
    assert ended.stdout == "numpy uint8 (3, 8, 8) numpy int64 2\n", ended.stderr


def test_what_is_no_number_of_a_sample_is_refused_in_words(pictures):
    source = plain(pictures)
    for index in (60, -61):
        with pytest.raises(IndexError, match=f"no sample {index} among 60"):
            source[index]
    for index in ("a", 1.0, slice(2), None):
        with pytest.raises(TypeError, match=r"source\.subset"):
            source[index]
    with pytest.raises(feedline.ConfigError, match="epoch=-1"):
        source.sample(0, epoch=-1)


def test_a_sample_that_fails_says_what_the_loader_says(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")

    def fails(image):
        raise LookupError("not this one")

    paths = [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "none.png"]
    pictures = feedline.images(paths).resize((8, 8))
    for source, number in ((pictures, 1), (pictures, 2), (pictures.map(fails), 0), (pictures.subset([0, 2, 1]), 2)):
        with pytest.raises(feedline.SampleError) as alone:
            source[number]
        with pytest.raises(feedline.SampleError) as loaded:
            for _ in feedline.DataLoader(source.subset([number]) if number < 2 else source, batch_size=1, num_workers=0):
                pass
        if number == 2:
            # The loader meets the first of the two bad ones first.
            assert alone.value.index == 2
            continue
        facts = [{**error.value.__dict__, "index": number} for error in (alone, loaded)]
        assert facts[0] == facts[1] and str(alone.value).replace(f"sample {number}", "sample 0") == str(loaded.value)
    with pytest.raises(feedline.SampleError, match=r"sample 2 \(.*bad\.png\)"):
        pictures.subset([0, 2, 1])[2]


def test_threads_may_ask_one_source_at_once(pictures):
    source, made = augmented(pictures), {}

    def work(first):
        for index in range(first, 60, 4):
            made[index] = source[index]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same([made[index] for index in range(60)], augmented(pictures))


def in_child(source, indices, answers):
    answers.put([tuple(value.numpy() for value in source[index]) for index in indices])


def test_a_forked_process_makes_the_same_samples_and_a_copy_too(pictures):
    source = augmented(pictures).subset(range(50, 60)) + augmented(pictures)
    expect = [tuple(value.numpy() for value in source[index]) for index in (0, 3, 15)]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=in_child, args=(source, (0, 3, 15), answers))
    child.start()
    assert same(answers.get(), expect)
    child.join()
    assert child.exitcode == 0
    copied = pickle.loads(pickle.dumps(source))
    assert same([copied[index] for index in (0, 3, 15)], [source[index] for index in (0, 3, 15)])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(feedline.images(pictures).map(lambda image: image))


def test_epochs_that_are_augmented_alike_are_told(pictures):
    source = augmented(pictures).subset(range(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(source)) == 10
        assert len(list(plain(pictures))) == len(list(plain(pictures))) == 60
    with pytest.warns(UserWarning, match="alike in every epoch") as heard:
        assert len(list(source)) == 10
    assert len(heard) == 1


# Parts and sums


def test_a_subset_has_the_samples_of_the_whole(pictures):
    whole = augmented(pictures)
    part = whole.subset([50, 3, -1, 3])
    assert (len(part), part.labels, part.classes) == (4, [2, 0, 2, 0], whole.classes)
    assert part.files == [whole.files[index] for index in (50, 3, 59, 3)] == [part.location(index) for index in range(4)]
    for epoch in (0, 2):
        expect, all_of_it = delivered(part, epoch, seed=5), delivered(whole, epoch, seed=5)
        assert same([expect[index] for index in range(3)], [all_of_it[index] for index in (50, 3, 59)])
        assert not equal(expect[1], expect[3]), "a repeated sample is augmented anew"
        assert same([part.sample(index, epoch, 5) for index in range(4)], [expect[index] for index in range(4)])
    assert same(part.subset([2, 0]), whole.subset([59, 50]))
    # Steps may follow, and what is asked of the list needs none.
    early = feedline.images(pictures).subset([50, 3, -1, 3])
    assert (len(early), early.labels) == (4, part.labels)
    early = early.map(noise, rng=True).random_resized_crop(16).hflip().color_jitter(0.4).normalize()
    assert same(early, part)


def test_a_state_of_the_whole_is_refused_for_a_part(pictures):
    whole = plain(pictures)
    sources = [whole, whole.subset(range(30)), whole.subset(range(30, 60)), whole + whole, whole.subset(range(60))]
    states = [feedline.DataLoader(source, batch_size=3).state_dict() for source in sources]
    for at, source in enumerate(sources):
        for number, state in enumerate(states):
            loader = feedline.DataLoader(source, batch_size=3)
            if at == number:
                loader.load_state_dict(state)
            else:
                with pytest.raises(feedline.StateError):
                    loader.load_state_dict(state)


def test_a_part_of_data_that_changed_is_refused(tmp_path):
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "a" / f"{number}.png")
    part = plain(tmp_path).subset([2])
    copied = pickle.loads(pickle.dumps(part))
    assert len(part[0]) == 2
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "1b.png")
    with pytest.raises(feedline.DatasetError, match="3 samples then and 4 now"):
        copied[0]


def test_subsets_that_cannot_be_are_refused(pictures):
    source = plain(pictures)
    with pytest.raises(feedline.ConfigError, match="flatnonzero"):
        source.subset(np.zeros(60, bool))
    with pytest.raises(feedline.ConfigError, match="flatnonzero"):
        source.subset([True, False])
    with pytest.raises(IndexError, match="no sample 60 among 60"):
        source.subset([0, 60])
    with pytest.raises(TypeError):
        source + [1]
    for other in (plain(pictures).normalize(), feedline.images(pictures).resize((8, 8)), feedline.arrays(np.zeros(3))):
        with pytest.raises(feedline.ConfigError, match="samples of unequal fields .* part 1 has"):
            len(source + other)
    renamed = feedline.images(source.files, source.labels, classes=["x", "y", "z"]).resize((12, 10))
    with pytest.raises(feedline.ConfigError, match="a label means another class"):
        len(source + renamed)


class Bad:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return 1 / index


def test_a_subset_leaves_out_what_is_bad():
    assert [float(value) for (value,) in feedline.dataset(Bad()).subset([1, 2, 4])] == [1.0, 0.5, 0.25]
    halves = feedline.arrays(np.arange(5)).map(lambda x: 1 // x).subset([1, 2])
    assert [int(value) for (value,) in halves] == [1, 0]


def test_a_split_is_stratified_and_follows_from_seed_and_names(pictures, tmp_path):
    whole = feedline.images(pictures)
    train, val = whole.split(0.75)
    assert (len(train), len(val)) == (45, 15)
    assert [np.bincount(part.labels).tolist() for part in (train, val)] == [[15] * 3, [5] * 3]
    assert sorted(train.files + val.files) == whole.files and train.files == sorted(train.files)
    assert type(train) is feedline.Images
    assert same(train.resize((12, 10)), [plain(pictures)[whole.files.index(path)] for path in train.files])
    # The same files in another order, under another root: the same sides.
    other = tmp_path / "elsewhere"
    other.symlink_to(pictures)
    order = np.random.default_rng(0).permutation(60)
    moved = [other / whole.files[at][len(str(pictures)) + 1 :] for at in order]
    shuffled = feedline.images(moved, [whole.labels[at] for at in order])
    names = [{path.split("/", path.count("/") - 1)[-1] for path in part.files} for part in (train, val)]
    assert [{path.split("/", path.count("/") - 1)[-1] for path in part.files} for part in shuffled.split(0.75)] == names
    assert whole.split(0.75, seed=1)[0].files != train.files
    # This very split, so that it stays as it is.
    assert [path[-7:-4] for path in whole.split(0.1)[0].files] == ["003", "009", "007", "013", "002", "004"]


def test_what_a_split_is_stratified_by(pictures):
    x, y = np.arange(40), np.repeat([0, 1], [30, 10])
    labelled = feedline.arrays(image=x, label=y)
    assert np.bincount(labelled.split(0.5)[0].labels).tolist() == [15, 5]
    by_hand = feedline.arrays(x, y).split(0.5, stratify=y)
    assert [np.bincount([int(label) for _, label in part]).tolist() for part in by_hand] == [[15, 5]] * 2
    counts = {tuple(np.bincount(labelled.split(0.5, seed=seed, stratify=False)[0].labels)) for seed in range(5)}
    assert len(counts) > 1, "without strata the classes fall as they may"
    uneven = [len(part) for part in feedline.arrays(x, label=np.arange(40) // 3).split(0.3)]
    assert uneven == [12, 28]
    for source, options, words in [
        (feedline.arrays(x), {"stratify": True}, "no classes"),
        (labelled, {"stratify": y[:3]}, "one value for each"),
        (labelled, {"seed": -1}, "seed=-1"),
    ]:
        with pytest.raises(feedline.ConfigError, match=words):
            source.split(0.5, **options)
    for fraction in (0, 1, 1.5, True, "half", 0.001):
        with pytest.raises(feedline.ConfigError, match="split"):
            labelled.split(fraction)


def test_sources_are_added(pictures):
    one, other = augmented(pictures).subset(range(5)), augmented(pictures).subset(range(40, 60))
    both = one + other
    assert (len(both), both.fields, both.classes) == (25, ["image", "label"], one.classes)
    assert both.labels == one.labels + other.labels and both.files == one.files + other.files
    assert both.location(7) == other.location(2)
    expect = delivered(both, 1, seed=3)
    assert same([expect[index] for index in range(5)], [one.sample(index, 1, 3) for index in range(5)])
    assert same([both.sample(index, 1, 3) for index in range(25)], [expect[index] for index in range(25)])
    assert [int(expect[index][1]) for index in range(25)] == both.labels
    twice = one + one
    assert not any(equal(twice[index], twice[index + 5]) for index in range(5)), "augmented differently"
    plain_twice = plain(pictures) + plain(pictures)
    assert same([plain_twice[index] for index in range(60, 120)], plain(pictures))
    # Sums and parts of one another, with steps.
    three = (both + one).subset([26, 6, 0]).map(lambda image: image * 2)
    assert same(three, [((both + one)[at][0] * 2, (both + one)[at][1]) for at in (26, 6, 0)])
    assert (both + one).labels == both.labels + one.labels == (one + (other + one)).labels
    assert same((both + one).subset(range(30)), one + (other + one))
    assert [len(part) for part in (plain(pictures) + plain(pictures)).split(0.9)] == [108, 12]
    mixed = feedline.arrays(np.arange(3.0)) + feedline.dataset([5.0, 6.0])
    assert [float(value) for (value,) in mixed] == [0, 1, 2, 5, 6] and mixed.labels is None and mixed.files is None
    longer = feedline.images(one.files, [0, 1, 2, 3, 4]).resize((8, 8)) + feedline.images(one.files, [0, 1, 0, 1, 0]).resize((8, 8))
    assert longer.classes == ["0", "1", "2", "3", "4"]


def test_a_step_on_a_sum_of_pictures_is_one_on_each_of_them(pictures):
    def stepped(source):
        return source.map(noise, rng=True).resize(20).center_crop(16).hflip().map(drawn).normalize().map(lambda x: x * 2)

    raw = feedline.images(pictures)
    one, other = raw.subset([3, 50, 3]), raw.subset(range(40, 44))
    expect = stepped(one) + stepped(other)
    for both in (stepped(one + other), stepped(feedline.source.of_torch(ConcatDataset([one, other])))):
        assert same([both.sample(at, 2, 5) for at in range(7)], [expect.sample(at, 2, 5) for at in range(7)])
    assert same(stepped(one + other), expect) and same(stepped((one + other) + one), expect + stepped(one))
    assert same(stepped((one + other).subset([5, 1])), [expect.sample(5), expect.sample(1)])
    # Labels and parts need no step.
    train, val = (raw + raw).split(0.75)
    assert (len(train), len(val)) == (90, 30) and sorted(train.labels + val.labels) == sorted(raw.labels * 2)
    assert same(stepped(val), stepped(pickle.loads(pickle.dumps(val))))
    with pytest.raises(feedline.ConfigError, match="comes after normalize"):
        (stepped(one) + stepped(other)).hflip()
    with pytest.raises(AttributeError, match=r"no attribute 'hflip'. Some of its parts have it: call .hflip\(...\) on each before"):
        (one.resize((4, 4)) + feedline.arrays(np.zeros((2, 3, 4, 4)))).hflip()
    with pytest.raises(AttributeError, match="no attribute 'hflop'$"):
        (feedline.arrays(np.zeros(3)) + feedline.dataset([1])).hflop()


def test_a_picture_without_a_step_that_fixes_its_size_comes_at_its_own(tmp_path):
    for number in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).resize((30, 300)).save(tmp_path / "a" / f"{number}.{['png', 'jpg'][number % 2]}")
    raw, torchs = feedline.images(tmp_path), ImageFolder(tmp_path, v2.PILToTensor())
    expect = [(image, torch.tensor(label)) for image, label in torchs]
    assert same(raw, expect) and same(raw + raw.subset([1]), [*expect, expect[1]])
    assert same(raw.resize((7, 9)) + raw.resize((7, 9)), [*raw.resize((7, 9))] * 2)
    mirrored = [raw.hflip().sample(2, epoch)[0] for epoch in range(9)]
    sized = [raw.hflip().map(lambda image: image, size=(300, 30)).sample(2, epoch)[0] for epoch in range(9)]
    assert all(map(torch.equal, mirrored, sized)) and {torch.equal(picture, expect[2][0]) for picture in sized} == {True, False}
    assert same(torch.utils.data.DataLoader(raw, None, num_workers=1), expect)
    with pytest.raises(feedline.ConfigError, match=r"a sample that normalize\(\) makes needs a step that fixes its size"):
        raw.normalize()[0]
    with pytest.raises(feedline.ConfigError, match=r"center_crop\(n\) has to follow"):
        raw.resize(30)[0]


class Nothing:
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


def test_a_source_without_samples_is_told_with_a_remedy(pictures):
    empty = feedline.arrays(np.zeros((0, 3)))
    parts = [plain(pictures).subset([]), (plain(pictures) + plain(pictures)).subset([]), feedline.dataset([1]).subset([])]
    for source in (empty, empty.map(noise), feedline.dataset(Nothing()), Nothing(), empty + empty, *parts):
        remedy = r"Give .subset\(indices\) one or more" if source in parts else "Give data that have some"
        with pytest.raises(feedline.ConfigError, match=f"has no samples, so there are no batches. {remedy}, or make no loader"):
            feedline.DataLoader(source)
    with pytest.raises(feedline.ConfigError, match=r"feedline.dataset\(Nothing\) has no samples"):
        feedline.DataLoader(Nothing(), workers="threads")
    with pytest.raises(feedline.ConfigError, match="the dataset of the sampler has no samples. Give one"):
        DistributedSampler([], 1, 0)


def test_parts_are_delivered_as_fast_as_the_whole_by_any_workers(pictures):
    part = augmented(pictures).split(0.5)[1] + augmented(pictures).subset([1, 1, 1])
    expect = delivered(part, 1, num_workers=0)
    assert all(equal(expect[index], sample) for index, sample in delivered(part, 1, num_workers=3).items())
    threads = feedline.DataLoader(part, batch_size=4, num_workers=2, workers="threads")
    assert sum(len(batch.indices) for batch in threads) == len(part) == 33


# torch's own


def torchs(source):
    """torch's wrappers, and what they are of the samples."""
    halves = random_split(source, [0.5, 0.5], generator=torch.Generator().manual_seed(3))
    return [
        (Subset(source, [5, 2, 58]), [5, 2, 58]),
        (halves[0], halves[0].indices),
        (ConcatDataset([Subset(source, range(4)), source]), [*range(4), *range(60)]),
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("loader", [torch.utils.data.DataLoader, TorchLoader], ids=["torchs", "ours"])
def test_torchs_wrappers_deliver_its_samples_from_processes(pictures, loader, method):
    source = plain(pictures)
    samples = list(source)
    for wrapped, numbers in torchs(source)[: 1 if method == "spawn" else 3]:
        batches = list(loader(wrapped, batch_size=8, num_workers=2, multiprocessing_context=method))
        assert same([row for batch in batches for row in zip(*batch)], [samples[number] for number in numbers])


def test_torchs_wrappers_are_sources_for_our_loader(pictures):
    """At full speed, and with augmentation for each epoch."""
    source = augmented(pictures)
    for wrapped, numbers in torchs(source):
        loader = feedline.DataLoader(wrapped, batch_size=8, num_workers=2)
        assert not isinstance(loader.dataset, Subset) and len(loader.dataset) == len(wrapped)
        loader.set_epoch(1)
        rows = [row for batch in loader for row in zip(*batch)]
        whole = [source.sample(number, 1) for number in numbers]
        if isinstance(wrapped, Subset):
            assert same(rows, whole)
        else:
            assert same(rows[:4], whole[:4]) and [int(label) for _, label in rows] == [int(label) for _, label in whole]


def test_a_worker_process_tells_that_its_epochs_are_alike(pictures, forks, tmp_path):
    code = """
import sys, feedline, torch
source = feedline.images(sys.argv[1]).random_resized_crop(8)
loader = torch.utils.data.DataLoader(torch.utils.data.Subset(source, range(8)), num_workers=2)
print(len(list(loader)))
"""
    (tmp_path / "program.py").write_text(code, "utf-8")
    ended = forks(tmp_path / "program.py", pictures)
    assert ended.stdout == "8\n" and ended.stderr.count("alike in every epoch") == 1, ended.stderr


# Labels


@pytest.mark.parametrize(
    ("labels", "dtype", "shape"),
    [
        ([0.5, 1.0, -2.0], torch.float64, ()),
        (np.array([0.5, 1, 2], np.float32), torch.float32, ()),
        (torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.float32, (2,)),
        ([[1, 0, 1], [0, 0, 1], [1, 1, 1]], torch.int64, (3,)),
        ([True, False, False], torch.uint8, ()),
        (np.arange(12, dtype=np.int32).reshape(3, 2, 2), torch.int32, (2, 2)),
        ([[3], [-1], [7]], torch.int64, (1,)),
    ],
)
def test_labels_of_any_type_are_delivered_as_they_are(pictures, labels, dtype, shape):
    files = feedline.images(pictures).files[:3]
    source = feedline.images(files, labels).resize((8, 8))
    expect = np.asarray(labels)
    (batch,) = feedline.DataLoader(source, batch_size=3)
    assert batch[1].dtype == dtype and batch[1].shape == (3, *shape) and np.array_equal(batch[1].numpy(), expect)
    assert np.array_equal(source.labels, expect) and source.classes == []
    assert np.array_equal(source.subset([2, 0]).labels, expect[[2, 0]])
    assert np.array_equal((source + source).subset([5, 0]).labels, expect[[2, 0]])
    assert equal(pickle.loads(pickle.dumps(source))[2], source[2]) and equal(source.subset([2])[0], source[2])
    other = feedline.images(files, expect[::-1].copy()).resize((8, 8))
    with pytest.raises(feedline.StateError):
        feedline.DataLoader(other).load_state_dict(feedline.DataLoader(source).state_dict())


def test_names_as_labels_are_classes_as_of_image_folder(pictures):
    theirs = ImageFolder(pictures)
    order = np.random.default_rng(1).permutation(60)
    files, names = [theirs.samples[at][0] for at in order], [theirs.classes[theirs.targets[at]] for at in order]
    for labels in (names, np.array(names), iter(names)):
        source = feedline.images(files, labels).resize((8, 8))
        assert source.classes == theirs.classes and source.labels == [theirs.targets[at] for at in order]
        assert source.files == files
    assert [int(label) for _, label in source] == source.labels
    given = feedline.images(files, names, classes=["stripes", "none", "disc", "square"])
    assert [given.classes[label] for label in given.labels] == names


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (["a", "b", 3], None, "one is 3. Give only names"),
        (["a", "b", "c"], ["a", "b"], "'c' is not one of the 2 classes"),
        (["a", "b"], None, "3 paths and 2 labels"),
        ([0.5, 1.5], None, "3 paths and 2 labels"),
        ([0.5, 1.5, 2.5], ["a"], "Leave classes out"),
        ([[1, 2], [3], [4]], None, "one shape"),
        (np.zeros(3, np.float16), None, "float16"),
        (np.zeros(3, ">f4"), None, ">f4"),
        ([None, None, None], None, "object"),
        ([1j, 1j, 1j], None, "complex128"),
        ([0, 1, -1], None, "label=-1"),
    ],
)
def test_labels_that_cannot_be_are_refused_with_a_remedy(labels, classes, words):
    with pytest.raises(feedline.ConfigError, match=words):
        feedline.images(["a.jpg", "b.jpg", "c.jpg"], labels, classes=classes)


# What people see


def test_a_source_is_shown_in_a_few_lines(pictures, tmp_path):
    source = feedline.images(pictures).map(noise, rng=True).resize(20).center_crop(16).hflip().normalize()
    assert "not read yet" in repr(source)
    assert len(source) == 60
    told = repr(source)
    for words in ("60 samples, 3 classes (disc, square, stripes)", "map(noise, rng=True)", "resize_center_crop(", "shorter_px=20"):
        assert words in told
    assert "horizontal_flip(p=0.5)" in told and told.endswith("-> image float32 (3, 16, 16), label int64 ()")
    many = feedline.images([f"{number}.jpg" for number in range(100_000)], np.zeros((100_000, 5), np.float32)).resize((8, 8))
    assert "100000 files" in repr(many) and "label float32 (5,)" in repr(many) and len(repr(many)) < 300
    assert "3 samples of 60" in repr(source.subset([0, 1, 2])) and "resize(20)" in repr(feedline.images(pictures).resize(20))
    rows = feedline.arrays(image=np.zeros((9, 2, 2), np.float32), label=np.arange(9))
    assert repr(rows).startswith("feedline.arrays(image float32 (9, 2, 2), label int64 (9,)): 9 samples")
    total = rows + rows
    assert "18 samples" in repr(total) and repr(feedline.dataset([1, 2])) == "feedline.dataset(list): 2 samples"
    assert "2 samples of 3" in repr(feedline.dataset("abc").subset([0, 2])) and "not read yet" in repr(feedline.images("x") + feedline.dataset([1]))
    hidden = feedline.images("https://me:secret@host/x.tar?X-Amz-Signature=secret")
    assert "secret" not in repr(hidden) and "host/x.tar" in repr(hidden)
    shown = repr(feedline.DataLoader(rows, batch_size=4, num_workers=0))
    assert "batch_size=4" in shown and "9 samples" in shown and len(shown.splitlines()) < 8


def test_what_is_no_dataset_is_told():
    with pytest.raises(feedline.ConfigError, match="a source already"):
        feedline.dataset(feedline.arrays(np.zeros(3)))
    assert sys.modules["feedline"].Images is feedline.Images
