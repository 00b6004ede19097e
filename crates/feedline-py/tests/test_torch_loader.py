"""feedline.torch.DataLoader beside torch's: the same arguments, orders, structures and errors."""

import collections
import copy
import inspect
import itertools
import pickle
import warnings

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import DistributedSampler as TorchSampler
from torch_datasets import (
    BOTH,
    LOADERS,
    WORKERS,
    Batched,
    Draws,
    Eager,
    Failing,
    Gated,
    HasMessage,
    Items,
    Lazy,
    Measured,
    Names,
    Numbers,
    Pairs,
    Point,
    Reversed,
    Row,
    Shards,
    Sized,
    TwoArguments,
    Unready,
    as_list,
    difference,
    generators,
    one_and_its_views,
    outcomes,
    plain,
    seed_everything,
    with_draws,
    with_worker,
)

OURS = feedline.torch.DataLoader
N = 23


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- Class and arguments


def test_it_is_torchs_class_with_four_arguments_more():
    assert issubclass(OURS, DataLoader) and OURS.__name__ == "DataLoader"
    theirs, ours = (inspect.signature(kind.__init__).parameters for kind in LOADERS)
    more = {"seeds": "sample", "on_bad_sample": "fail", "max_bad_samples": 100, "collate": None}
    assert [(p.name, p.default, p.kind) for p in ours.values() if p.name not in more] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
    for name, default in more.items():
        assert ours[name].kind is inspect.Parameter.KEYWORD_ONLY and ours[name].default == default
    assert OURS[int] is not None, "a type in annotations, as DataLoader[int] is"


@pytest.mark.parametrize("seeds", ["", "batch", None, 0, True])
def test_other_seeds_are_refused_by_name(seeds):
    with pytest.raises(ValueError, match="seeds"):
        OURS(Numbers(3), seeds=seeds)


order, batches_of_three = SequentialSampler(Numbers(9)), BatchSampler(SequentialSampler(Numbers(9)), 3, False)
WRONG = [
    {"num_workers": -1},
    {"timeout": -1},
    {"prefetch_factor": 2},
    {"num_workers": 2, "prefetch_factor": -1},
    {"persistent_workers": True},
    {"batch_size": None, "drop_last": True},
    {"batch_size": 0},
    {"batch_size": 2.0},
    {"batch_size": True},
    {"batch_size": 2, "drop_last": 1},
    {"num_workers": 0, "multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "thread"},
    {"num_workers": 1, "multiprocessing_context": object},
    {"sampler": order, "shuffle": True},
    {"batch_sampler": batches_of_three, "sampler": order, "shuffle": True},
    {"batch_sampler": batches_of_three, "batch_size": 11},
    {"batch_sampler": batches_of_three, "batch_size": None},
    {"batch_sampler": batches_of_three, "shuffle": True},
    {"batch_sampler": batches_of_three, "sampler": order},
    {"batch_sampler": batches_of_three, "drop_last": 3},
    {"dataset": Shards(3), "shuffle": True},
    {"dataset": Shards(3), "shuffle": 3},
    {"dataset": Shards(3), "sampler": order},
    {"dataset": Shards(3), "sampler": 3},
    {"dataset": Shards(3), "batch_sampler": batches_of_three},
    {"dataset": Numbers(0), "shuffle": True},
    {"unknown": 1},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: "-".join(wrong))
def test_wrong_arguments_are_torchs_errors(wrong):
    with pytest.raises(Exception) as theirs:
        DataLoader(**{"dataset": Numbers(9)} | wrong)
    with pytest.raises(Exception) as ours:
        OURS(**{"dataset": Numbers(9)} | wrong)
    assert type(ours.value) is type(theirs.value) and str(ours.value) == str(theirs.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's own __del__
@pytest.mark.parametrize("wrong", [{"num_workers": 2, "prefetch_factor": 0}, {"timeout": 3}], ids=["prefetch", "timeout"])
@BOTH
def test_what_torch_refuses_at_the_first_iteration_is_refused_by_name(kind, wrong):
    with pytest.raises((AssertionError, ValueError), match=list(wrong)[-1]):
        list(kind(Numbers(9), **wrong))


@BOTH
def test_attributes_that_make_the_order_cannot_be_set_later(kind):
    loader = kind(Numbers(9))
    for name in ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"):
        with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader is initialized"):
            setattr(loader, name, getattr(loader, name))


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "shuffle": True, "num_workers": 2}, {"dataset": Shards(1)}])
def test_the_attributes_are_torchs(options):
    options = {"dataset": Numbers(9)} | options
    theirs, ours = (kind(**options) for kind in LOADERS)
    equal = "batch_size num_workers prefetch_factor pin_memory timeout in_order generator persistent_workers drop_last"
    for name in equal.split():
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("dataset", "collate_fn", "worker_init_fn", "multiprocessing_context"):
        assert getattr(ours, name) is getattr(theirs, name), name
    for name in ("sampler", "batch_sampler"):
        assert type(getattr(ours, name)) is type(getattr(theirs, name)), name


@BOTH
def test_far_too_many_workers_are_warned_of(kind):
    with pytest.warns(UserWarning, match="excessive worker creation"):
        kind(Numbers(9), num_workers=1000)


def test_lengths_are_torchs_and_follow_a_data_set_that_grows():
    for length, size, drop_last in itertools.product((1, 4, 9), (None, 1, 4, 10), (False, True)):
        if size is None and drop_last:
            continue
        options = {"batch_size": size, "drop_last": drop_last}
        for data in (Numbers(length), Sized(length, length)):
            theirs, ours = (kind(data, **options) for kind in LOADERS)
            assert len(ours) == len(theirs) == len(list(ours)), (length, options, data)
    ours = OURS(growing := [1, 2, 3], shuffle=True)
    growing.append(4)
    assert len(ours) == 4 == len(list(ours))
    with pytest.raises(TypeError, match="len"):
        len(OURS(Shards(3)))


@BOTH
@WORKERS
def test_an_iterator_has_a_length_and_cannot_be_pickled_or_copied(kind, workers):
    loader = kind(Numbers(9), batch_size=2, num_workers=workers)
    batches = iter(loader)
    assert iter(batches) is batches and len(batches) == 5
    next(batches)
    assert len(batches) == 5, "the length of the whole pass"
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(NotImplementedError, match="cannot be pickled"):
            copying(batches)
    again = pickle.loads(pickle.dumps(loader))
    assert [plain(batch) for batch in again] == [plain(batch) for batch in copy.deepcopy(loader)] == [plain(b) for b in loader]


@BOTH
@WORKERS
def test_an_iterator_that_has_ended_stays_ended(kind, workers):
    batches = iter(kind(Numbers(4), batch_size=2, num_workers=workers))
    assert len(list(batches)) == 2
    assert [next(batches, None) for _ in range(3)] == [None] * 3


# --- Orders


def sampled(make):
    """The options of a loader over N numbers that has this sampler."""
    return lambda: {"sampler": make(Numbers(N))}


ORDERS = {
    "sequential": lambda: {},
    "shuffled": lambda: {"shuffle": True},
    "generator": lambda: {"shuffle": True, "generator": seeded(3)},
    "unshuffled-with-generator": lambda: {"generator": seeded(3)},
    "drop-last": lambda: {"shuffle": True, "drop_last": True},
    "generator-drop-last": lambda: {"shuffle": True, "generator": seeded(3), "drop_last": True},
    "no-batches": lambda: {"shuffle": True, "batch_size": None},
    "random": sampled(RandomSampler),
    "random-with-generator": sampled(lambda data: RandomSampler(data, generator=seeded(5))),
    "few": sampled(lambda data: RandomSampler(data, num_samples=7)),
    "many": sampled(lambda data: RandomSampler(data, num_samples=2 * N + 3)),
    "replacement": sampled(lambda data: RandomSampler(data, replacement=True, num_samples=70)),
    "replacement-generator": sampled(lambda data: RandomSampler(data, True, 70, seeded(5))),
    "weighted": sampled(lambda data: WeightedRandomSampler(range(1, N + 1), 40)),
    "weighted-once-each": sampled(lambda data: WeightedRandomSampler(range(1, N + 1), 9, False, seeded(5))),
    "subset": sampled(lambda data: SubsetRandomSampler(range(0, N, 2))),
    "subset-with-generator": sampled(lambda data: SubsetRandomSampler([5, 1, 9], seeded(5))),
    "in-sequence": sampled(SequentialSampler),
    "distributed": sampled(lambda data: TorchSampler(data, 3, 1, seed=4)),
    "distributed-drop-last": sampled(lambda data: TorchSampler(data, 3, 2, drop_last=True)),
    "distributed-unshuffled": sampled(lambda data: TorchSampler(data, 3, 2, shuffle=False)),
    "distributed-no-batches": lambda: {"sampler": TorchSampler(Numbers(N), 3, 1), "batch_size": None},
    "ours": sampled(lambda data: feedline.torch.DistributedSampler(data, 3, 1, seed=4)),
    "list": lambda: {"sampler": [3, 1, 4, 1, 5, 9, 2, 6]},
    "keys": lambda: {"sampler": ["a", "c"], "dataset": {"a": 1, "b": 2, "c": 3}},
    "subclass": sampled(Reversed),
    "eager": sampled(Eager),
    "eager-no-batches": lambda: {"sampler": Eager(Numbers(N)), "batch_size": None},
    "lazy": sampled(Lazy),
    "batches": lambda: {"batch_sampler": BatchSampler(RandomSampler(Numbers(N)), 5, True), "batch_size": 1},
    "batches-generator": lambda: {
        "batch_sampler": BatchSampler(RandomSampler(Numbers(N), generator=seeded(8)), 5, False),
        "batch_size": 1,
    },
    "batches-listed": lambda: {"batch_sampler": [(0, 1), (2, 3, 4), [5], torch.tensor([6, 7])], "batch_size": 1},
    "batches-drawn": lambda: {"batch_sampler": Pairs(Numbers(N)), "batch_size": 1},
    "batches-as-samples": lambda: {"sampler": [[0, 1, 2], [5, 6]], "batch_size": None, "dataset": np.arange(N) * 3},
    "whole-batches-made": lambda: {"dataset": Batched(N), "shuffle": True},
    "subset-of-batched": lambda: {"dataset": Subset(Batched(N), range(3, 19)), "shuffle": True},
    "tensors": lambda: {"dataset": TensorDataset(torch.arange(N), torch.eye(N)), "shuffle": True},
    "stacked": lambda: {"dataset": StackDataset(a=Numbers(6), b=Numbers(6)), "shuffle": True},
    "one": lambda: {"dataset": Numbers(1), "shuffle": True},
}
# torch with workers makes two iterators of its sampler for a pass, and this one draws for each.
TWICE = {"eager-no-batches"}


def loader_of(kind, name, **options):
    made = {"dataset": Numbers(N), "batch_size": 4} | ORDERS[name]() | options
    return kind(made.pop("dataset"), **made)


def three_epochs(kind, name, **options):
    """The batches of three epochs, and the generators' states after each of them."""
    seed_everything(1)
    loader = loader_of(kind, name, **options)
    seen = []
    for epoch in range(3):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        seen.append(([plain(batch) for batch in loader], generators()))
        if loader.generator is not None:
            seen.append(torch.rand((), generator=loader.generator).item())
    return seen


@pytest.mark.parametrize("name", ORDERS)
def test_batches_of_three_epochs_are_torchs_and_as_much_is_drawn(name):
    theirs = three_epochs(DataLoader, name)
    assert three_epochs(OURS, name) == theirs
    if name in TWICE:
        theirs = three_epochs(DataLoader, name, num_workers=2)
    assert three_epochs(OURS, name, num_workers=2) == theirs


@pytest.mark.parametrize("name", ["shuffled", "generator", "sequential", "subset", "subset-with-generator"])
def test_persistent_workers_draw_their_seed_once_as_torchs(name):
    """torch draws no base_seed from the second epoch on, so that the orders differ from those without persistent workers."""
    theirs, ours = (three_epochs(kind, name, num_workers=2, persistent_workers=True) for kind in LOADERS)
    assert ours == theirs and ours != three_epochs(OURS, name)


@pytest.mark.parametrize("name", ["sequential", "shuffled", "weighted", "subset", "eager", "batches"])
@WORKERS
def test_the_main_generators_are_drawn_from_when_torch_draws(name, workers):
    def states(kind):
        seed_everything(1)
        loader = loader_of(kind, name, num_workers=workers)
        seen = [generators()]
        batches = iter(loader)
        seen.append(generators())
        for batch in batches:
            seen.append((plain(batch), generators()))
        return [*seen, generators()]

    assert states(OURS) == states(DataLoader)


@pytest.mark.parametrize("name", ["shuffled", "generator", "replacement", "weighted", "eager", "batches-generator"])
@pytest.mark.parametrize("taken", [1, 3, 6])
def test_the_epoch_after_one_that_was_left_early_is_torchs(name, taken):
    """With workers torch has asked the sampler for more batches than it delivered, and draws so much more from a generator."""
    for workers in (0, 2):
        seen = []
        for kind in LOADERS:
            seed_everything(1)
            loader = loader_of(kind, name, num_workers=workers)
            for _ in zip(range(taken), loader):
                pass
            iter(loader)  # an epoch of which nothing is taken
            seen.append([plain(batch) for batch in loader])
        assert seen[1] == seen[0], workers


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"dataset": Shards(6, 3, draws=True), "batch_size": 2}])
@WORKERS
def test_with_seeds_of_workers_even_the_draws_are_torchs(options, workers):
    made = {"dataset": Draws(N), "batch_size": 4, "num_workers": workers} | options
    seen = []
    for more in ({}, {"seeds": "worker"}):
        for collate_fn in (None, with_draws):
            seed_everything(5)
            loader = LOADERS[bool(more)](collate_fn=collate_fn, **made, **more)
            seen.append([([plain(batch) for batch in loader], generators()) for _ in range(2)])
    assert seen[2:] == seen[:2]


@WORKERS
def test_two_passes_at_once_both_go_on(workers):
    """As torch's. With persistent workers both are one and the same pass, there as here."""
    options = {"batch_size": 4, "num_workers": workers, "shuffle": True}
    seed_everything(1)
    together = [plain(pair) for pair in zip(*[DataLoader(Numbers(N), **options)] * 2)]
    seed_everything(1)
    ours = OURS(Numbers(N), **options)
    seen = [plain(pair) for pair in zip(ours, ours)]
    for place in (0, 1):
        assert sorted(index for pair in seen for index in pair[place]) == list(range(N))
    assert seen == together
    head = iter(ours)
    first = plain(next(head))
    assert len(list(ours)) == 6
    rest = [index for batch in head for index in batch.tolist()]
    assert sorted(first + rest) == list(range(N)), "the older pass goes on after the newer one"


# --- Structures


def dense(*shape):
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


SAMPLES = {
    "int": 5,
    "bool": True,
    "float": 0.1,
    "str": "text",
    "empty str": "",
    "long str": "ä" * 100_000,
    "bytes": b"\0\xff",
    "bytearray": bytearray(b"ab"),
    "tuple": (1, 2.5),
    "list": [1, [2, "b"]],
    "empty": [(), [], {}],
    "range": range(3),
    "dict": {"image": dense(2, 3), "label": 3, "more": {"names": ("a", b"c"), "box": [1, 2.0]}},
    "namedtuple": Point(x=dense(4), label=Point("a", 1)),
    "own mapping": Row(a=1, b=Row(c=2)),
    "own sequence": Names([1, "b"]),
    "OrderedDict": collections.OrderedDict(b=1, a=2),
    "defaultdict": collections.defaultdict(list, a=1),
    "UserDict": collections.UserDict(a=1),
    "Counter": collections.Counter(a=2),
    "0-d": torch.tensor(3),
    "no elements": torch.empty(0, 3),
    "one element": torch.ones(1),
    "string of numpy": [np.str_("a"), 1],
    "array": np.arange(6).reshape(2, 3),
    "transposed array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "0-d array": np.array(2.5),
    "own tensor": torch.ones(2).as_subclass(Measured),
    "transposed": dense(2, 3).t(),
    "channels last": dense(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)[0],
    "sliced": dense(8)[::2],
    "expanded": torch.ones(1).expand(5),
    "large": dense(300, 1000),
    "many fields": [torch.tensor(number) for number in range(300)],
    "meta": torch.empty(2, 3, device="meta"),
}
SAMPLES |= {
    f"torch {dtype}"[12:]: torch.arange(4).to(dtype)
    for dtype in [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]
    + [torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
    + [torch.float8_e4m3fn, torch.float8_e5m2]
}
SAMPLES |= {
    f"numpy {name}": (np.ones(3, name), np.dtype(name).type(1)) if name != "uint64" else np.ones(3, name)
    for name in "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()
}
# What the default collate function refuses, in workers at least; others may hand it on.
UNSTACKABLE = {
    "None": None,
    "set": {1, 2},
    "complex": 1 + 2j,
    "slice": slice(1, 5),
    "sparse": torch.eye(2).to_sparse(),
    "csr": torch.sparse_csr_tensor([0, 1, 1], [1], [5.0], (2, 2)),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged),
    "array of strings": np.array(["a", "bc"]),
    "array of objects": np.array([None, 1]),
    "dates": np.array(["2020-02-29"], dtype="datetime64[D]"),
    "big-endian": np.ones(2, ">f4"),
    "backwards": np.arange(4)[::-1],
    "large int": 2**70,
    "requires grad": torch.ones(2, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "packed": torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(1)]),
    "class": Point,
    "dtype": torch.float32,
    "size and device": (torch.Size([1, 2]), torch.device("cpu")),
}
# torch's stacks these in the main process, and the last of them everywhere.
STACKED = {"requires grad", "parameter", "packed"}


def all_equal(samples, options, workers):
    """Compares what both loaders make of each sample; one pass goes over all of them."""
    names = [name for name in samples for _ in range(2)]
    made = {"num_workers": workers} | options
    if "batch_size" not in made:
        made["batch_sampler"] = [[place, place + 1] for place in range(0, len(names), 2)]
        names = list(samples)
    loaders = (kind(Items([value for value in samples.values() for _ in range(2)]), **made) for kind in LOADERS)
    for name, theirs, ours in itertools.zip_longest(names, *loaders):
        assert (found := difference(theirs, ours)) is None, f"{name}, {found}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"batch_size": None}, {"collate_fn": as_list}], ids=["stacked", "converted", "listed"])
@WORKERS
def test_every_structure_arrives_as_torchs(options, workers):
    all_equal(SAMPLES, options, workers)


@pytest.mark.filterwarnings("ignore")
@WORKERS
def test_what_cannot_be_stacked_can_be_handed_on_by_another_collate_function(workers):
    all_equal(UNSTACKABLE, {"collate_fn": as_list}, workers)


def test_conjugated_and_negated_tensors_keep_their_values():
    """torch's workers hand on the memory of such a view without its sign."""
    turned = torch.tensor([1 + 2j]).conj()
    for workers in (0, 2):
        ((conjugated, negated),) = OURS(Items([(turned, turned.imag)]), batch_size=None, num_workers=workers)
        assert conjugated.tolist() == [1 - 2j] and negated.tolist() == [-2.0]


def test_a_last_batch_may_be_smaller_and_batches_of_any_size_may_follow_each_other():
    items = [torch.full((1 + 997 * place % 5000,), place) for place in range(40)]
    for size in (1, 3):
        theirs, ours = (list(kind(Items(items), size, collate_fn=as_list, num_workers=2)) for kind in LOADERS)
        assert len(ours) == len(theirs) and all(difference(*pair) is None for pair in zip(theirs, ours))


@BOTH
@WORKERS
def test_two_names_of_one_tensor_stay_one_and_views_share_its_memory(kind, workers):
    base, same, part, shaped = next(iter(kind(Numbers(2), collate_fn=one_and_its_views, num_workers=workers)))
    assert base is same
    base[2] = 70
    assert part[0] == 70 and shaped[0, 2] == 70


@BOTH
@WORKERS
def test_a_batch_is_the_programs_own_to_write_into(kind, workers):
    data = torch.ones(24, 3)
    loader = kind(TensorDataset(data), batch_size=4, num_workers=workers)
    for _ in range(2):
        for (batch,) in loader:
            assert batch.eq(1).all()
            batch.mul_(0).sub_(5).requires_grad_().sum().backward()
            assert batch.grad.eq(1).all()
    assert data.eq(1).all()


@WORKERS
def test_collate_functions_that_a_program_registers_are_used(workers, monkeypatch):
    registered = torch.utils.data._utils.collate.default_collate_fn_map
    monkeypatch.setitem(registered, set, lambda batch, *, collate_fn_map=None: sorted(set.union(*batch)))
    theirs, ours = (list(kind(Items([{1}, {3}, {2}]), 2, num_workers=workers)) for kind in LOADERS)
    assert ours == theirs == [[1, 3], [2]]


@WORKERS
def test_a_collate_function_runs_where_the_samples_are_made(workers):
    theirs, ours = (list(kind(Numbers(8), 2, collate_fn=with_worker, num_workers=workers)) for kind in LOADERS)
    assert [batch for batch, _ in ours] == [batch for batch, _ in theirs] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert {worker for _, worker in ours} == {worker for _, worker in theirs} == ({0, 1} if workers else {-1})


@BOTH
@WORKERS
def test_memory_is_pinned_where_there_is_an_accelerator_and_a_warning_says_where_not(kind, workers):
    there = torch.accelerator.is_available()
    loader = kind(Items([{"a": torch.ones(2), "b": Point(1, "c")}] * 4), 2, pin_memory=True, num_workers=workers)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batches = list(loader)
    assert any("no accelerator is found" in str(one.message) for one in told) is not there
    for batch in batches:
        assert batch["a"].is_pinned() is there and batch["b"].x.is_pinned() is there and batch["b"].label == ("c", "c")


# --- Errors


@WORKERS
def test_samples_that_cannot_be_stacked_are_torchs_errors_and_the_next_batch_follows(workers):
    bad = [[value, value] for name, value in UNSTACKABLE.items() if name not in STACKED]
    bad += [[torch.ones(2), torch.ones(3)], [np.ones(2), np.ones(3)], [[1], [1, 2]], [{"a": 1}, {"b": 1}]]
    bad += [["a", None], [1, None], [1, "a"]]
    seen = []
    for kind in LOADERS:
        batches = [[2 * place, 2 * place + 1] for place in range(len(bad))]
        loader = kind(Items([value for pair in bad for value in pair]), batch_sampler=batches, num_workers=workers)
        seen.append(outcomes(iter(loader)))
    assert [one for one in seen[1] if one not in seen[0]] == [] and seen[1] == seen[0]
    assert len(seen[1]) == len(bad)


ERRORS = {
    3: ValueError("in words"),
    4: KeyError("key"),
    7: TwoArguments("what", "where"),
    8: HasMessage("hidden"),
    11: FileNotFoundError(2, "is not there"),
    12: UnicodeDecodeError("utf-8", b"a", 0, 1, "why"),
    15: AssertionError(),
    16: feedline.ConfigError("of Feedline"),
}


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": None}], ids=["batched", "single"])
@WORKERS
def test_errors_of_a_data_set_are_torchs_and_the_next_batch_follows(options, workers):
    theirs, ours = (outcomes(iter(kind(Failing(18, ERRORS), num_workers=workers, **options))) for kind in LOADERS)
    assert ours == theirs
    assert len(ours) == (9 if options["batch_size"] else 18)


def test_an_error_in_a_worker_tells_the_original_traceback_and_the_sample():
    loader = OURS(Failing(9000, {4711: ValueError("the reason")}), sampler=[4710, 4711, 4712], batch_size=3, num_workers=1)
    with pytest.raises(ValueError, match="^Caught ValueError in DataLoader worker process 0") as told:
        next(iter(loader))
    text = str(told.value)
    assert "\nOriginal Traceback (most recent call last):\n" in text and "in __getitem__" in text
    assert "ValueError: the reason" in text and "4711" in text and "4710" not in text


def test_an_error_in_a_collate_function_is_torchs():
    def broken(batch):
        raise KeyError(f"no field in {len(batch)} samples")

    for workers in (0, 2):
        theirs, ours = (outcomes(iter(kind(Numbers(5), 2, collate_fn=broken, num_workers=workers))) for kind in LOADERS)
        assert ours == theirs and len(ours) == 3


@WORKERS
def test_a_data_set_that_raises_stopiteration_does_not_end_the_pass_without_a_word(workers):
    """torch's passes it on, so that a for loop ends early and nobody hears of it."""
    loader = OURS(Failing(8, {3: StopIteration("by mistake")}), batch_size=2, num_workers=workers)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loader)


@pytest.mark.parametrize("what", ["batch", "error"])
@pytest.mark.timeout(60)
def test_what_cannot_be_pickled_is_an_error_and_not_a_wait_without_end(what):
    """torch's worker loses such a batch, and its loader waits for it for ever."""

    class Local(Exception):
        pass

    def unpicklable(batch):
        if 2 not in batch:
            return batch
        if what == "error":
            raise Local("of a class that cannot be pickled")
        return lambda: batch

    batches = iter(OURS(Numbers(6), 2, collate_fn=unpicklable, num_workers=2))
    assert next(batches) == [0, 1]
    with pytest.raises(Exception, match="Local" if what == "error" else "pickle"):
        next(batches)
    assert next(batches) == [4, 5]


# --- Iterable data sets


@pytest.mark.parametrize("sizes", [(7, 7), (0, 4, 20), (9, 2, 0, 5), (0,)])
@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}])
def test_iterable_data_sets_are_torchs(sizes, options):
    several = {"num_workers": len(sizes)}
    for more in ({}, several, several | {"prefetch_factor": 3, "persistent_workers": True}):
        seen = []
        for kind in LOADERS:
            seed_everything(3)
            loader = kind(Shards(*sizes), **options, **more)
            seen.append([([plain(batch) for batch in loader], generators()) for _ in range(2)])
        assert seen[1] == seen[0]


def rows_of_worker(worker):
    torch.utils.data.get_worker_info().dataset.sizes = [5 * (place == worker) for place in range(2)]


def test_a_worker_init_fn_may_deal_an_iterable_data_set():
    theirs, ours = (list(kind(Shards(0, 0), 2, num_workers=2, worker_init_fn=rows_of_worker)) for kind in LOADERS)
    assert plain(ours) == plain(theirs) and len(ours) == 6


@WORKERS
def test_chained_and_undealt_iterable_data_sets_are_torchs(workers):
    for data in (ChainDataset([Shards(3, 3), Shards(2, 2)]), Shards(3, 3) + Shards(2, 2)):
        theirs, ours = (plain(list(kind(data, 2, num_workers=workers))) for kind in LOADERS)
        assert ours == theirs and len(ours) > 3


@BOTH
@WORKERS
def test_more_samples_than_an_iterable_data_set_says_are_warned_of_once_its_length_was_asked(kind, workers):
    loader = kind(Sized(3, 4, 4), batch_size=None, num_workers=workers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader)
        assert len(loader) == 3
        batches = iter(loader)
        for _ in range(3):
            next(batches)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"reported to be 3.* samples have been fetched"):
            next(batches)


@BOTH
def test_an_iterable_data_set_without_anything_to_iterate_is_an_error(kind):
    with pytest.raises(ValueError, match="nothing to iterate"):
        list(kind(Unready()))
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker process 0"):
        list(kind(Unready(), num_workers=2))


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": None}], ids=["batched", "single"])
@WORKERS
def test_an_iterable_data_set_that_fails_on_the_way_ends_as_torchs(options, workers):
    data = Shards(6, 6, broken=(0, 3))
    theirs, ours = (outcomes(iter(kind(data, num_workers=workers, **options))) for kind in LOADERS)
    assert ours == theirs and ours.count(theirs[-1]) == 1


# --- Without an order


@BOTH
def test_out_of_order_a_slow_batch_does_not_hold_up_the_others(kind, tmp_path):
    gate = tmp_path / "gate"
    batches = iter(kind(Gated(12, 0, gate), batch_size=2, num_workers=2, in_order=False))
    seen = [next(batches)[:, 0].tolist() for _ in range(3)]
    assert [0, 1] not in seen
    gate.touch()
    seen += [batch[:, 0].tolist() for batch in batches]
    assert sorted(seen) == [[start, start + 1] for start in range(0, 12, 2)]


@pytest.mark.parametrize("data", [Numbers(N), Shards(9, 2, 6)], ids=["map", "iterable"])
def test_out_of_order_every_batch_comes_once_and_an_error_ends_nothing(data):
    theirs, ours = (plain(list(kind(data, 4, num_workers=3, in_order=False))) for kind in LOADERS)
    assert sorted(ours) == sorted(theirs)
    failing = Failing(12, {5: ValueError("five")})
    theirs, ours = (outcomes(iter(kind(failing, 2, num_workers=2, in_order=False))) for kind in LOADERS)
    assert sorted(map(str, ours)) == sorted(map(str, theirs)) and len(ours) == 6
