"""Signals, forks, threads and ends: each in a process of its own, which must end by itself."""

import itertools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import feedline
import numpy as np
import pytest

SLOW = """
import os, signal, sys, threading, time
import numpy as np
import feedline

signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell runs tests in the background, it is ignored

def slow(x):
    time.sleep(SECONDS)
    return x

def loader(seconds, workers, **options):
    global SECONDS
    SECONDS = seconds
    source = feedline.arrays(np.arange(1000)).map(slow)
    return feedline.DataLoader(source, batch_size=4, num_workers=workers, output="numpy", **options)
SECONDS = 0
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_a_wait_and_the_loader_goes_on(python, workers):
    ended = python(
        SLOW
        + """
ours = loader(0, int(sys.argv[1]), on_bad_sample="replace")
batches = iter(ours)
next(batches)
SECONDS = 2 if ours.num_workers else 0.3
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
try:
    while True:
        asked = time.monotonic()
        next(batches)
except KeyboardInterrupt:
    print("interrupted", ours.epoch)
SECONDS = 0
print(sum(len(batch.indices) for batch in batches) >= 900, ours.epoch)
""",
        workers,
    )
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == "interrupted 0\nTrue 1\n"


def test_a_real_sigint_ends_a_program_that_waits_for_a_batch(tmp_path):
    code = SLOW + "ours = loader(0, 2)\nbatches = iter(ours)\nnext(batches)\nSECONDS = 0.5\nprint('ready', flush=True)\nlist(batches)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(2)
    _, said = process.communicate(timeout=20)
    assert process.returncode in (-2, 130, 1) and said.strip().endswith("KeyboardInterrupt")


def test_a_forked_child_is_told_and_may_make_a_loader_of_its_own(python):
    ended = python(
        SLOW
        + """
import warnings
warnings.simplefilter("ignore")  # Python's own, about forks of processes with threads
ours = loader(0, 2)
batches = iter(ours)
next(batches)
child = os.fork()
if child == 0:
    try:
        next(batches)
    except RuntimeError as error:
        print(error, flush=True)
    try:
        ours.state_dict()
    except RuntimeError as error:
        print("state too", flush=True)
    del ours, batches
    fresh = loader(0, 2)
    print(sum(len(batch.indices) for batch in fresh), flush=True)
    sys.exit(0)
print("child", os.waitpid(child, 0)[1], flush=True)
print(sum(len(batch.indices) for batch in batches))
"""
    )
    assert (ended.code, ended.stderr) == (0, "")
    first, *rest = ended.stdout.splitlines()
    assert "after a fork" in first and "spawn" in first
    assert rest == ["state too", "1000", "child 0", "996"]


def test_multiprocessing_by_fork_gets_the_error_and_does_not_hang(python):
    ended = python(
        SLOW
        + """
import multiprocessing, warnings
warnings.simplefilter("ignore")
ours = loader(0, 2)
next(iter(ours))

def work(queue):
    try:
        queue.put(len(next(iter(ours))))
    except RuntimeError as error:
        queue.put(str(error))

context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,))
process.start()
print(queue.get(timeout=20))
process.join(20)
print(process.exitcode)
"""
    )
    assert "Make a DataLoader in each process" in ended.stdout and ended.stdout.endswith("\n0\n"), ended.stderr


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise SystemExit(3)", "del ours", "batches.close = 1"])
def test_an_interpreter_with_a_live_iterator_ends(python, workers, end):
    ended = python(
        SLOW
        + f"""
ours = loader(0, int(sys.argv[1]))
batches = iter(ours)
next(batches)
SECONDS = 0.2
keep = [ours, batches]
{end}
""",
        workers,
        timeout=30,
    )
    assert (ended.code, ended.stderr) == (3 if "3" in end else 0, "")


def test_a_loader_in_a_reference_cycle_at_the_end_does_no_harm(python):
    ended = python(
        SLOW
        + """
class Trainer:
    pass

trainer = Trainer()
trainer.me, trainer.loader = trainer, loader(0, 2)
trainer.batches = iter(trainer.loader)
next(trainer.batches)
SECONDS = 0.1
raise ValueError("in the loop")
"""
    )
    assert ended.code == 1 and ended.stderr.strip().endswith("ValueError: in the loop")


def test_dropped_loaders_leave_no_thread(python):
    ended = python(
        SLOW
        + """
import gc

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
for turn in range(40):
    ours = loader(0.001, 3)
    batches = iter(ours)
    for _ in range(turn % 4):
        next(batches)
    if turn % 3 == 0:
        ours.close()
    elif turn % 3 == 1:
        with ours:
            next(iter(ours))
del ours, batches
gc.collect()
print(threads() - before)
"""
    )
    assert ended.stdout == "0\n", ended.stderr


def test_a_closed_loader_says_so_and_its_batches_live_on():
    with feedline.DataLoader(feedline.arrays(np.arange(50)), batch_size=5, output="numpy") as ours:
        batches = iter(ours)
        (first,) = next(batches)
    assert first.tolist() == [0, 1, 2, 3, 4]
    for use in (lambda: next(batches), lambda: iter(ours), ours.state_dict):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    ours.close()


def test_a_batch_that_takes_too_long_is_a_timeout_and_nothing_is_lost():
    gate = threading.Event()

    def slow(x):
        assert x < 8 or gate.wait(60)
        return x

    # One worker: a step that waits keeps its turn, and another worker could have begun it before the steps of the second batch.
    source = feedline.arrays(np.arange(16)).map(slow)
    ours = feedline.DataLoader(source, batch_size=4, timeout=2, output="numpy", num_workers=1)
    try:
        batches = iter(ours)
        seen = [next(batches)[0].tolist(), next(batches)[0].tolist()]
        with pytest.raises(feedline.LoaderTimeoutError, match="timeout=2") as late:
            next(batches)
        assert isinstance(late.value, RuntimeError)
    finally:
        gate.set()
    seen += [batch[0].tolist() for batch in batches]
    assert [index for step in seen for index in step] == list(range(16))


def test_a_step_that_never_returns_keeps_no_program(python):
    """A thread cannot be stopped, and a wait for one in native code hears of no Ctrl-C."""
    code = """
import sys, threading
import numpy as np
import feedline

begun, never = threading.Event(), threading.Event()

def stuck(x):
    if x >= 4:
        begun.set()
        exec(sys.argv[2])
    return x

ours = feedline.DataLoader(feedline.arrays(np.arange(8)).map(stuck), batch_size=4, output="numpy", num_workers=1)
batches = iter(ours)
print(next(batches)[0])
begun.wait()
exec(sys.argv[1])
print("here", flush=True)
"""
    ends, waits = ["del batches, ours", "ours.close()", ""], ["never.wait()", "while not never.wait(0.001): pass"]
    # All at once: each takes up to two time limits of 5 s, in which nothing happens.
    with ThreadPoolExecutor() as threads:
        runs = {words: threads.submit(python, code, *words) for words in itertools.product(ends, waits)}
    for words, run in runs.items():
        ended = run.result()
        assert ended.stdout == "[0 1 2 3]\nhere\n", (words, ended)
        assert "has not returned" in ended.stderr and "time limit" in ended.stderr, (words, ended)
        assert ended.code == 0, (words, ended)


def test_loaders_that_a_forked_child_closes_are_its_own(python):
    """A child that joined threads of its parent by their handles met others of its own."""
    ended = python(
        """
import os
import numpy as np
import feedline

def loader():
    ours = feedline.DataLoader(feedline.arrays(np.arange(64)).map(lambda x: x), batch_size=4, output="numpy", num_workers=2)
    batches = iter(ours)
    next(batches)
    return ours, batches

for ours in [loader() for _ in range(3)]:
    del ours
child = os.fork()
if child == 0:
    many = [loader() for _ in range(6)]
    while many:
        many.pop(len(many) // 2)[0].close()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    )
    assert (ended.code, ended.stderr, ended.stdout) == (0, "", "0\n")


def test_threads_may_share_a_loader_and_have_their_own():
    """Two threads that take from one iterator get every batch once; two loaders do not meet."""
    shared = feedline.DataLoader(feedline.arrays(np.arange(4000)), batch_size=8, output="numpy", num_workers=2)
    batches, seen = iter(shared), [[], []]
    alone = [[], []]

    def take(place):
        while (batch := next(batches, None)) is not None:
            seen[place].append(batch.step)

    def own(place):
        source = feedline.arrays(np.arange(3000)).map(lambda x: x + place)
        for batch in feedline.DataLoader(source, batch_size=7, shuffle=True, output="numpy", num_workers=2):
            alone[place] += (batch[0] - place).tolist()

    threads = [threading.Thread(target=work, args=(place,)) for work in (take, own) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen[0] + seen[1]) == list(range(500))
    assert alone[0] == alone[1] and sorted(alone[0]) == list(range(3000))


CYCLE = (
    SLOW
    + """
import gc
gc.disable()
sys.unraisablehook = lambda unraisable: print("unraisable", unraisable.exc_value)

def threads():
    return len(os.listdir("/proc/self/task"))

class Holder:
    pass

def forget(make):
    holder = Holder()
    holder.me, holder.loader = holder, make()
    holder.batches = iter(holder.loader)
    next(holder.batches)
"""
)


@pytest.mark.parametrize("other", [False, True], ids=["its-own-worker", "another's-worker"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_loader_in_a_cycle_may_be_collected_in_a_worker(python, workers, other):
    ended = python(
        CYCLE
        + f"""
before = threads()
collected = threading.Event()
armed = threading.Event()

def step(x):
    time.sleep(0.001)
    if armed.is_set() and not collected.is_set():
        gc.collect()
        collected.set()
    return x

def collecting():
    source = feedline.arrays(np.arange(1000)).map(step)
    return feedline.DataLoader(source, batch_size=4, num_workers={workers}, output="numpy")

if {other}:
    forget(lambda: loader(0.001, {workers}))
    armed.set()
    print(sum(len(batch[0]) for batch in collecting()))
else:
    forget(collecting)
    armed.set()
print(collected.wait(30))
until = time.monotonic() + 30
while threads() > before and time.monotonic() < until:
    time.sleep(0.01)
print(threads() - before)
"""
    )
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == ("1000\n" if other else "") + "True\n0\n"


def test_a_step_may_drop_the_loader_that_runs_it(python):
    ended = python(
        CYCLE
        + """
held, dropped = {}, threading.Event()

def step(x):
    time.sleep(0.001)
    if held.pop("loader", None) is not None:
        dropped.set()
    return x

ours = feedline.DataLoader(feedline.arrays(np.arange(1000)).map(step), batch_size=4, num_workers=3, output="numpy")
batches = iter(ours)
next(batches)
engine_alone = [batches]
held["loader"] = (ours, engine_alone.pop())
del ours, batches
print(dropped.wait(30))
"""
    )
    assert (ended.code, ended.stderr, ended.stdout) == (0, "", "True\n")


def test_a_loader_is_collected_while_the_program_itself_makes_a_sample(python):
    """The workers of the one that goes may be waiting for the turn of the code that drops it."""
    ended = python(
        CYCLE
        + """
def step(x):
    if x == 500:
        gc.collect()
    return x

forget(lambda: loader(0.01, 3))
source = feedline.arrays(np.arange(1000)).map(step)
print(sum(len(batch[0]) for batch in feedline.DataLoader(source, batch_size=10, num_workers=0, output="numpy")))
"""
    )
    assert (ended.code, ended.stderr, ended.stdout) == (0, "", "1000\n")


def test_a_fork_in_the_middle_of_a_step_leaves_the_child_its_turn(python):
    ended = python(
        CYCLE
        + """
import warnings
warnings.simplefilter("ignore")
ours = loader(0.005, 2)
batches = iter(ours)
next(batches)
for _ in range(5):
    child = os.fork()
    if child == 0:
        print(sum(len(batch[0]) for batch in loader(0, 2)), flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
    )
    assert (ended.code, ended.stderr, ended.stdout) == (0, "", "1000\n0\n" * 5)
