"""Steps, Feedline's and one's own: what a sample becomes depends on (seed, epoch, sample) alone, and errors say whose."""

import logging
import os
import random
import traceback
import warnings

import feedline
import numpy as np
import pytest
import torch


def everything(pictures):
    return (
        feedline.images(pictures)
        .random_resized_crop(32)
        .hflip()
        .autoaugment()
        .color_jitter(0.3, 0.3, 0.3)
        .random_affine(10, 0.1)
        .normalize()
    )


def with_own(pictures):
    """Own steps before, between and after Feedline's."""

    def noise(image, rng):
        return (image.astype(np.int16) + rng.integers(0, 30, image.shape)).clip(0, 255).astype(np.uint8)

    def cut(image, rng):
        top = int(rng.integers(0, 5))
        return image[top:]

    def gain(values, rng):
        return values * np.float32(rng.uniform(0.5, 1.5))

    source = feedline.images(pictures).map(noise, rng=True).random_resized_crop(24).map(cut, rng=True)
    return source.resize((20, 20)).normalize().map(gain, rng=True)


def by_sample(source, epoch, replicas=1, **options):
    """Number of the sample -> its picture, over all ranks."""
    made = {}
    for rank in range(replicas):
        ours = feedline.DataLoader(source, shuffle=True, num_replicas=replicas, rank=rank, output="numpy", **options)
        ours.set_epoch(epoch)
        for batch in ours:
            made |= {index: picture.tobytes() for index, picture in zip(batch.indices, batch["image"])}
    return made


@pytest.mark.parametrize("declared", [everything, with_own])
def test_a_sample_is_the_same_for_any_workers_ranks_and_batches(pictures, declared):
    source = declared(pictures)
    expect = [by_sample(source, epoch, batch_size=8, num_workers=0, seed=5) for epoch in (0, 1)]
    assert len(expect[0]) == len(set(expect[0].values())) == 60
    assert not set(expect[0].values()) & set(expect[1].values())
    for replicas, batch_size, workers in [(1, 8, 1), (1, 7, 4), (2, 4, 2), (3, 5, 0)]:
        for epoch in (0, 1):
            options = {"replicas": replicas, "batch_size": batch_size, "num_workers": workers, "seed": 5}
            assert by_sample(source, epoch, **options) == expect[epoch], options
    other = by_sample(source, 0, batch_size=8, seed=6)
    assert not set(other.values()) & set(expect[0].values())


def test_arrays_through_a_step_are_the_same_for_any_workers_and_ranks():
    source = feedline.arrays(np.arange(90.0)).map(lambda x, rng: {"image": x + rng.normal()}, rng=True)
    assert source.fields == ["image"]
    expect = by_sample(source, 1, batch_size=4, num_workers=0)
    assert by_sample(source, 1, replicas=3, batch_size=5, num_workers=2) == expect


def test_loaders_do_not_touch_each_other_nor_the_global_generators(pictures):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    source = with_own(pictures)
    alone = [batch["image"].numpy() for batch in feedline.DataLoader(source, batch_size=8, shuffle=True)]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    both = [iter(feedline.DataLoader(source, batch_size=8, shuffle=True, num_workers=2)) for _ in range(2)]
    for expect in alone:
        for one in both:
            np.testing.assert_array_equal(next(one)["image"].numpy(), expect)


def spoil(x):
    if x == 13:
        raise LookupError("thirteen is not for me")
    return x


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_step_shows_the_users_own_traceback(workers):
    ours = feedline.DataLoader(feedline.arrays(np.arange(30)).map(spoil), batch_size=5, num_workers=workers)
    batches = iter(ours)
    next(batches), next(batches)
    with pytest.raises(feedline.SampleError, match="step spoil failed on sample 13 .*row 13.*thirteen") as failed:
        next(batches)
    error = failed.value
    assert (error.stage, error.index, error.location, error.step) == ("augment", 13, "row 13", "spoil")
    assert type(error.__cause__) is LookupError
    shown = "".join(traceback.format_exception(error))
    assert 'raise LookupError("thirteen is not for me")' in shown and os.path.basename(__file__) in shown
    assert ours.state_dict()["position"] == 10, "the failed batch is not lost"


def test_a_failing_step_on_pictures_names_the_file(pictures):
    def fail(image):
        return image[:, :, :4].mean(axis=3)

    ours = feedline.DataLoader(feedline.images(pictures).map(fail).resize((8, 8)), batch_size=2)
    with pytest.raises(feedline.SampleError) as failed:
        next(iter(ours))
    assert failed.value.location.endswith("000.jpg") and isinstance(failed.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (lambda image: image.astype(np.float32), "must return uint8 of shape"),
        (lambda image: image[:, :, 0], "must return uint8 of shape"),
        (lambda image: image[:0], "must return uint8 of shape"),
        (lambda image: None, "cannot be batched"),
        (lambda image: image[:5, :5], "5 x 5 px"),
    ],
)
def test_a_step_that_returns_something_else_is_told(pictures, step, problem):
    source = feedline.images(pictures).map(step, size=(9, 9)).normalize()
    with pytest.raises(feedline.SampleError, match=problem):
        next(iter(feedline.DataLoader(source)))


def test_a_step_after_normalize_must_keep_type_and_shape(pictures):
    source = feedline.images(pictures).resize((8, 8)).normalize()
    assert next(iter(feedline.DataLoader(source.map(np.negative))))[0].shape == (1, 3, 8, 8)
    for step in (lambda values: values.astype(np.float64), lambda values: values[:1]):
        with pytest.raises(feedline.SampleError, match=r"must return float32 of shape \(3, 8, 8\)"):
            next(iter(feedline.DataLoader(source.map(step))))


def test_a_step_whose_results_differ_in_shape_or_number_is_told():
    numbers = np.arange(6)
    ragged = feedline.arrays(numbers).map(lambda x: np.zeros(int(x) // 4 + 1))
    with pytest.raises(feedline.SampleError, match="a batch needs equal types and shapes"):
        list(feedline.DataLoader(ragged, batch_size=6))
    changing = feedline.arrays(numbers).map(lambda x: (x, x) if x < 3 else (x,))
    with pytest.raises(feedline.SampleError, match="1 values, the first sample had 2"):
        list(feedline.DataLoader(changing, batch_size=6))
    with pytest.raises(feedline.SampleError, match="sample 0"):
        feedline.DataLoader(feedline.arrays(numbers).map(lambda x: 1 / 0))


@pytest.fixture
def some_bad(tmp_path, pictures):
    """Twelve pictures of one class, of which numbers 3, 5 and 8 are none."""
    folder = tmp_path / "data" / "only"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted((pictures / "disc").iterdir())[:12]):
        good = path.read_bytes()
        bad = {3: b"", 5: b"this is no picture", 8: good[: len(good) // 2]}
        (folder / path.name).write_bytes(bad.get(number, good))
    return folder.parent


def test_a_bad_file_is_named_with_its_stage(some_bad):
    source = feedline.images(some_bad).resize((8, 8))
    for number in (3, 5, 8):
        ours = feedline.DataLoader(source, num_workers=2)
        state = ours.state_dict()
        ours.load_state_dict(state | {"position": number})
        with pytest.raises(feedline.SampleError) as failed:
            next(iter(ours))
        error = failed.value
        assert (error.stage, error.index) == ("decode", number) and error.location.endswith(f"{number:03}.jpg")
        assert error.problem in str(error)
    missing = feedline.images([some_bad / "gone.jpg"]).resize((8, 8))
    with pytest.raises(feedline.SampleError, match="gone.jpg") as failed:
        next(iter(feedline.DataLoader(missing)))
    assert failed.value.stage == "read"


def test_bad_files_are_replaced_alike_and_told_until_there_are_too_many(some_bad, caplog):
    source = feedline.images(some_bad).resize((8, 8))
    options = {"batch_size": 4, "shuffle": True, "on_bad_sample": "replace", "output": "numpy"}
    with caplog.at_level(logging.WARNING, "feedline"):
        runs = [
            [batch["image"].tobytes() for batch in feedline.DataLoader(source, num_workers=workers, **options)]
            for workers in (0, 1, 3)
        ]
    assert runs[0] == runs[1] == runs[2] and len(runs[0]) == 3
    told = [record.getMessage() for record in caplog.records]
    assert told == 3 * told[: len(told) // 3] and len(told) >= 9
    assert all("was replaced by sample" in line and ".jpg" in line for line in told)
    with pytest.raises(feedline.TooManyBadSamplesError) as failed:
        list(feedline.DataLoader(source, max_bad_samples=2, **options))
    assert failed.value.found > failed.value.limit == 2


def of_network(name, base=OSError):
    """An exception as a package for networks raises it."""
    return type(name, (base,), {"__module__": "requests.exceptions"})("no answer")


def caused_by(error, cause):
    error.__cause__ = cause
    return error


def of_bucket(status):
    exceptions = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("make", "is_bad"),
    [
        (lambda: ValueError("no number"), True),
        (lambda: FileNotFoundError(2, "No such file"), True),
        (lambda: OSError("image file is truncated (3 bytes not processed)"), True),
        (lambda: of_bucket(404), True),
        (lambda: PermissionError(13, "Permission denied"), False),
        (lambda: OSError(5, "Input/output error"), False),
        (lambda: OSError(24, "Too many open files"), False),
        (lambda: ConnectionResetError("gone"), False),
        (lambda: TimeoutError("late"), False),
        (lambda: MemoryError(), False),
        (lambda: NameError("name 'x' is not defined"), False),
        (lambda: of_network("ReadTimeout"), False),
        (lambda: of_bucket(403), False),
        (lambda: caused_by(OSError("unable to access the bucket"), of_bucket(403)), False),
        (lambda: caused_by(RuntimeError("no item"), ConnectionResetError("gone")), False),
        (lambda: caused_by(RuntimeError("no item"), ValueError("no number")), True),
        (lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), False),
        (lambda: feedline.ConfigError("num_workers=0"), False),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_only_samples_that_are_bad_themselves_are_replaced(make, is_bad, workers):
    def step(x):
        if x == 5:
            raise make()
        return x

    source = feedline.arrays(np.arange(8)).map(step)
    ours = feedline.DataLoader(source, batch_size=4, num_workers=workers, on_bad_sample="replace", output="numpy")
    if is_bad:
        assert 5 not in np.concatenate(list(ours))
        return
    error = make()
    with pytest.raises(MemoryError if isinstance(error, MemoryError) else feedline.SampleError) as failed:
        list(ours)
    if isinstance(failed.value, feedline.SampleError):
        assert failed.value.index == 5 and repr(failed.value.__cause__) == repr(error)


def test_a_file_that_the_system_refuses_is_no_bad_sample(some_bad):
    refused = some_bad / "only" / "loop.jpg"
    refused.symlink_to(refused)
    entries = [some_bad / "only" / path.name for path in sorted((some_bad / "only").iterdir())]
    source = feedline.images(entries).resize((8, 8))
    for workers in (0, 2):
        ours = feedline.DataLoader(source, num_workers=workers, on_bad_sample="replace")
        with pytest.raises(feedline.FileError, match="loop.jpg") as failed:
            list(ours)
        assert (failed.value.stage, failed.value.index) == ("read", len(entries) - 1)
        assert failed.value.location.endswith("loop.jpg") and failed.value.problem in str(failed.value)


def test_warnings_turned_into_errors_are_errors():
    ours = feedline.DataLoader(feedline.arrays(np.arange(4)), shuffle=True, output="numpy")
    list(ours)
    ours.set_epoch(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(feedline.FeedlineError, match="second time"):
            list(ours)
