"""Nothing is copied on the way to Python, memory is used again, and stays flat however long it runs."""

import feedline
import numpy as np
import pytest
import torch


def rows(length=64, width=32, **options):
    data = np.arange(length * width, dtype=np.float32).reshape(length, width)
    return feedline.DataLoader(feedline.arrays(data), **{"batch_size": 4, "num_workers": 2} | options)


def address(value):
    return value.data_ptr() if isinstance(value, torch.Tensor) else value.__array_interface__["data"][0]


def test_the_engines_memory_is_what_torch_and_numpy_see():
    (array,) = next(iter(rows(output="dlpack")))
    assert array.__dlpack_device__() == (1, 0) and array.shape == (4, 32)
    views = [torch.from_dlpack(array), np.from_dlpack(array), np.asarray(array), torch.as_tensor(np.asarray(array))]
    assert {address(view) for view in views} == {array.data_ptr}
    views[0][0, 0] = -7.0
    assert all(float(view[0, 0]) == -7.0 for view in views)
    (image,) = next(iter(rows(output="numpy")))
    assert type(image.base).__module__ == "feedline._native" and address(image) == image.base.data_ptr
    assert not image.flags.owndata and image.flags.writeable and image.flags.c_contiguous
    (tensor,) = next(iter(rows()))
    assert tensor.is_contiguous() and address(tensor.numpy()) == tensor.data_ptr() == address(tensor.view(-1))


def test_an_explicit_copy_is_one():
    (array,) = next(iter(rows(output="dlpack")))
    copied = np.from_dlpack(array, copy=True)
    assert address(copied) != array.data_ptr and np.array_equal(copied, np.asarray(array))
    with pytest.raises(BufferError, match="main memory"):
        array.__dlpack__(dl_device=(2, 0))


@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_what_is_kept_stays_as_it_is_and_what_is_dropped_is_used_again(output):
    ours = rows(length=4000, output=output)
    batches = iter(ours)
    kept = [next(batches)[0] for _ in range(3)]
    kept = [value[1:3] for value in kept]  # a view of a view is enough
    before = [torch.as_tensor(value).clone() for value in kept]
    addresses = [address(next(batches)[0]) for _ in range(900)]
    assert len(set(addresses)) < 20, "dropped batches are used again"
    assert not {address(value) - 32 * 4 for value in kept} & set(addresses)
    del batches, ours
    for value, expect in zip(kept, before):
        torch.testing.assert_close(torch.as_tensor(value), expect, rtol=0, atol=0)


def test_a_program_that_keeps_every_batch_gets_every_batch():
    ours = rows(length=2000, memory_budget_bytes=1)
    kept = [batch[0] for batch in ours]
    assert len({address(value) for value in kept}) == 500
    np.testing.assert_array_equal(torch.cat(kept).numpy().reshape(-1), np.arange(2000 * 32, dtype=np.float32))


def test_writing_into_a_batch_changes_neither_the_data_nor_later_batches():
    data = np.ones((40, 8), np.float32)
    ours = feedline.DataLoader(data, batch_size=4)
    for _ in range(3):
        for (value,) in ours:
            assert value.eq(1).all()
            value.mul_(0).sub_(5)
    assert (data == 1).all()


MEASURE = """
import gc, os, sys, tracemalloc
import numpy as np
import feedline

def rss_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def measure(warm, work):
    warm()
    gc.collect()
    tracemalloc.start()
    warm()
    gc.collect()
    before, python = rss_bytes(), tracemalloc.get_traced_memory()[0]
    work()
    gc.collect()
    print((rss_bytes() - before) >> 10, (tracemalloc.get_traced_memory()[0] - python) >> 10)
"""


def growth_kib(ended):
    assert ended.code == 0, ended.stderr
    return [int(number) for number in ended.stdout.split()]


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_memory_is_flat_over_many_batches_of_nothing(python, output):
    code = """
ours = feedline.DataLoader(np.zeros((5000, 1), np.uint8), batch_size=1, shuffle=True, num_workers=1, output=sys.argv[1])

def epochs(n):
    for _ in range(n):
        for batch in ours:
            pass

measure(lambda: epochs(2), lambda: epochs(20))
"""
    rss, traced = growth_kib(python(MEASURE + code, output, timeout=120))
    assert rss < 8 << 10 and traced < 100


def test_memory_is_flat_over_epochs_of_pictures_and_states(python, pictures):
    code = """
source = feedline.images(sys.argv[1]).random_resized_crop(64).hflip().map(lambda image, rng: image, rng=True).normalize()
ours = feedline.DataLoader(source, batch_size=8, shuffle=True, num_workers=2, output="numpy")

def epochs(n):
    for _ in range(n):
        for batch in ours:
            ours.load_state_dict(ours.state_dict()) if batch.step == 3 else None
            ours.stats()

measure(lambda: epochs(5), lambda: epochs(20))
"""
    rss, traced = growth_kib(python(MEASURE + code, pictures, timeout=120))
    assert rss < 12 << 10 and traced < 100


def test_capsules_that_nobody_takes_are_freed(python):
    code = """
(array,) = next(iter(feedline.DataLoader(np.zeros((64, 1 << 14), np.uint8), batch_size=64, output="dlpack")))

def capsules(n):
    for turn in range(n):
        array.__dlpack__(max_version=(1, 0) if turn % 2 else None)
        array.__dlpack__(copy=True) if turn % 100 == 0 else None

measure(lambda: capsules(200), lambda: capsules(50000))
"""
    rss, traced = growth_kib(python(MEASURE + code))
    assert rss < 4 << 10 and traced < 50


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_no_memory_holds_is_an_exception_with_its_bytes(python, workers):
    """Each in a process of its own: it used to end the process."""
    ended = python(
        """
import sys
import feedline, numpy as np

source = feedline.arrays(np.zeros(1 << 20, np.uint8)).map(lambda x: np.broadcast_to(x, (1 << 20,)))
ours = feedline.DataLoader(source, batch_size=1 << 20, num_workers=int(sys.argv[1]), output="numpy")
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    next(iter(ours))
except MemoryError as error:
    print(type(error).__name__, error.bytes, isinstance(error, feedline.FeedlineError), error)
small = feedline.DataLoader(feedline.arrays(np.arange(6)), batch_size=6, num_workers=int(sys.argv[1]), output="numpy")
print(next(iter(small))[0].tolist())
""",
        workers,
    )
    assert ended.code == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    assert first.startswith(f"OutOfMemoryError {1 << 40} True field \"0\" of a batch of 1048576 samples needs {1 << 40} bytes")
    assert first.endswith("Lower the batch size, the number of workers or the size of a sample, or use a machine with more memory")
    assert second == "[0, 1, 2, 3, 4, 5]"


@pytest.mark.parametrize("options", [{"batch_size": 2**62}, {"num_workers": 10**9}, {"memory_budget_bytes": 2**62}])
def test_numbers_without_measure_do_not_end_the_process(python, options):
    ended = python(
        f"""
import feedline, numpy as np
try:
    print(next(iter(feedline.DataLoader(feedline.arrays(np.arange(4)), **{options}, output="numpy")))[0].tolist())
except feedline.FeedlineError as error:
    print(error)
"""
    )
    assert ended.code == 0 and ended.stdout, ended.stderr


def test_a_picture_that_no_memory_holds_ends_the_run_and_is_not_replaced(python, pictures):
    """If other programs use the memory, no good picture counts as a bad one."""
    ended = python(
        """
import resource, sys
import feedline

source = feedline.images(sys.argv[1]).resize((16384, 16384)).resize((8, 8))
batches = iter(feedline.DataLoader(source, batch_size=2, output="numpy", num_workers=0, on_bad_sample="replace"))
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (400 << 20), resource.RLIM_INFINITY))
try:
    next(batches)
except MemoryError as error:
    print(type(error).__name__, error.bytes, error)
""",
        pictures,
    )
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"OutOfMemoryError {3 << 28} failed to decode sample 0 ("), ended.stdout
    assert f"an augmented picture of 16384 x 16384 px needs {3 << 28} bytes" in ended.stdout
    assert ended.stdout.endswith("the number of workers or the size of a sample, or use a machine with more memory\n")
