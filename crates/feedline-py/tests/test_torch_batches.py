"""Batches of feedline.torch.DataLoader: fields whose shape differs from sample to sample, what a batch takes on disk, and what of a
loader cannot be changed."""

import copy
import io
import pickle

import feedline
import feedline.torch
import numpy as np
import pytest
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate
from torch_datasets import BOTH, WORKERS, Items, Numbers, Point, Shards, difference

OURS = feedline.torch.DataLoader
RULES = pytest.mark.parametrize("rule", ["pad", "list", "nested"])


def scene(index, count):
    """A sample with fields of `count` rows, and others."""
    numbers = torch.arange(3 * count, dtype=torch.int32).view(count, 3) + index
    return {
        "ragged": [numbers, np.full(count + 1, index + 0.5), Point(numbers % 2 == 0, index)],
        "even": (torch.tensor(index / 7), np.array(index), index, 0.5, f"name {index}", {"flag": True}),
    }


SCENES = [scene(*sizes) for sizes in enumerate([2, 5, 0, 1, 3, 3, 4])]


def ragged_of(samples):
    """The three ragged fields of some samples, as lists of tensors."""
    fields = [[torch.as_tensor(sample["ragged"][field]) for sample in samples] for field in range(2)]
    return [*fields, [sample["ragged"][2].x for sample in samples]]


def joined(rule, tensors):
    if rule == "list":
        return tensors
    if rule == "nested":
        return torch.nested.nested_tensor(tensors, layout=torch.jagged)
    return pad_sequence(tensors, batch_first=True)


def expected_of(rule, samples):
    first, second, third = (joined(rule, tensors) for tensors in ragged_of(samples))
    rest = default_collate([sample["even"] for sample in samples])
    point = Point(third, default_collate([sample["ragged"][2].label for sample in samples]))
    return {"ragged": [first, second, point], "even": rest}


def batches_of(samples, size=3, **options):
    return list(OURS(Items(samples), size, **options))


# --- Fields of unequal shape


@RULES
@WORKERS
def test_ragged_fields_are_joined_by_the_rule_and_all_others_as_ever(rule, workers):
    seen = batches_of(SCENES, collate=rule, num_workers=workers)
    assert len(seen) == 3
    for place, batch in enumerate(seen):
        assert difference(batch, expected_of(rule, SCENES[3 * place : 3 * place + 3])) is None
    if rule == "nested":
        assert seen[0]["ragged"][0].layout is torch.jagged


@RULES
@WORKERS
def test_the_type_of_a_batch_does_not_depend_on_whether_shapes_happen_to_be_equal(rule, workers):
    even = [scene(index, 4) for index in range(4)]
    (batch,) = batches_of(even, 4, collate=rule, num_workers=workers)
    assert difference(batch, expected_of(rule, even)) is None
    if rule == "pad":
        assert difference(batch, default_collate(even)) is None
    (alone,) = batches_of(even[:1], 4, collate=rule)
    assert difference(alone, expected_of(rule, even[:1])) is None


def test_padding_is_at_the_end_of_each_axis_and_keeps_the_type():
    for dtype in (torch.float64, torch.bfloat16, torch.bool, torch.uint8, torch.complex64):
        samples = [torch.ones(shape, dtype=dtype) for shape in ((2, 1, 3), (1, 4, 2), (2, 4, 0))]
        (batch,) = batches_of(samples, collate="pad")
        lacks = [[lack for side, most in zip(sample.shape[::-1], (3, 4, 2)) for lack in (0, most - side)] for sample in samples]
        filled = [pad(sample.to(torch.complex128), lack) for sample, lack in zip(samples, lacks)]
        assert batch.dtype is dtype and torch.equal(batch.to(torch.complex128), torch.stack(filled))


@RULES
def test_iterable_data_sets_and_loaders_that_were_pickled_have_the_rules_too(rule):
    for batch in OURS(Shards(4), 2, collate=rule):
        assert type(batch) is list if rule == "list" else batch.is_nested == (rule == "nested") and len(batch) == 2
    kept = pickle.loads(pickle.dumps(OURS(Items(SCENES), 3, collate=rule)))
    assert difference(list(kept), batches_of(SCENES, collate=rule)) is None


def test_spawned_workers_have_the_rules_too():
    seen = batches_of(SCENES, collate="nested", num_workers=1, multiprocessing_context="spawn")
    assert difference(seen, batches_of(SCENES, collate="nested")) is None


@WORKERS
def test_tensors_of_different_dimensions_are_an_error_in_words(workers):
    one, two, none = torch.zeros(2), torch.zeros(2, 3), torch.zeros(())
    for rule, samples in {"pad": [one, two], "list": [none, one], "nested": [two, none]}.items():
        words = f'collate="{rule}" cannot join tensors of [01] and of [12] dimensions. Give a collate_fn'
        with pytest.raises(RuntimeError, match=words):
            batches_of(samples, 2, collate=rule, num_workers=workers)
    with pytest.raises(RuntimeError, match="single ragged dimension"):
        batches_of([torch.zeros(2, 3), torch.zeros(3, 2)], 2, collate="nested", num_workers=workers)
    assert [tensor.dim() for tensor in batches_of([one, two], 2, collate="list", num_workers=workers)[0]] == [1, 2]


@WORKERS
def test_the_error_of_unequal_shapes_is_torchs_and_names_the_remedy(workers):
    samples = [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(RuntimeError) as torchs:
        default_collate(samples)
    for data in (samples, [sample.numpy() for sample in samples], [{"x": (sample,)} for sample in samples]):
        with pytest.raises(RuntimeError) as ours:
            batches_of(data, 2, num_workers=workers)
        remedy = 'For fields of unequal shape give the DataLoader collate="pad", "list" or "nested"'
        assert f"{torchs.value}\n{remedy}" in str(ours.value)
    with pytest.raises(RuntimeError) as own:
        batches_of(samples, 2, num_workers=workers, collate_fn=torch.stack)
    assert str(torchs.value) in str(own.value) and "For fields" not in str(own.value)


def test_a_rule_that_has_no_effect_or_does_not_exist_is_refused():
    for wrong in ("stack", "PAD", True, torch.stack):
        with pytest.raises(feedline.ConfigError, match='Give "pad", "list" or "nested"'):
            OURS(Numbers(4), collate=wrong)
    with pytest.raises(feedline.ConfigError, match="Leave one out"):
        OURS(Numbers(4), collate="pad", collate_fn=default_collate)
    with pytest.raises(feedline.ConfigError, match="batch_size=None"):
        OURS(Numbers(4), None, collate="pad")
    with pytest.raises(feedline.ConfigError, match=r"feedline\.torch\.DataLoader"):
        feedline.DataLoader(np.arange(4), collate="pad")
    samples = [torch.arange(count) for count in range(1, 5)]
    seen = list(OURS(Items(samples), batch_sampler=[[0, 1], [3]], collate="pad"))
    assert [batch.tolist() for batch in seen] == [[[0, 0], [0, 1]], [[0, 1, 2, 3]]]


# --- Batches that are kept


@BOTH
@WORKERS
def test_a_batch_takes_on_disk_what_its_tensors_take(kind, workers):
    """Also when several batches lie in one piece of memory."""
    data = Items([[torch.full((50,), float(index)), np.full(30, index), index] for index in range(40)])
    for batch in kind(data, 8, num_workers=workers):
        expected, file = sum(part.nbytes for part in batch), io.BytesIO()
        torch.save(batch, file)
        for size in (len(file.getvalue()), len(pickle.dumps(batch))):
            assert expected < size < expected + 3000
        # A part of a batch is saved with the tensor that it is a part of, as everywhere in torch.
        file = io.BytesIO()
        torch.save(batch[0], file)
        assert batch[0].nbytes < len(file.getvalue()) < batch[0].nbytes + 2000
        assert batch[0].untyped_storage().nbytes() == batch[0].nbytes
        assert difference(copy.deepcopy(batch), batch) is None


def whole_and_views(batch):
    base = torch.arange(600.0).view(20, 30)
    return base, base[2:4], base[:, 3], base.t(), base.view(-1), base[5].detach().requires_grad_()


@BOTH
@WORKERS
def test_a_batch_that_is_saved_or_copied_keeps_what_shares_memory(kind, workers):
    batch = next(iter(kind(Numbers(2), collate_fn=whole_and_views, num_workers=workers)))
    file = io.BytesIO()
    torch.save(batch, file)
    assert file.tell() < 600 * 4 + 2500, "the data are in it once"
    file.seek(0)
    for copied in (batch, torch.load(file, weights_only=False), copy.deepcopy(batch)):
        assert difference(copied, whole_and_views(None)) is None
        assert len({tensor.untyped_storage().data_ptr() for tensor in copied}) == 1
        copied[0][2:].mul_(0)
        assert not (copied[1].any() or copied[2][2:].any() or copied[3][:, 2:].any() or copied[4][60:].any() or copied[5].any())
        copied[0].view(-1).copy_(torch.arange(600.0))


# --- The loader itself


@BOTH
def test_what_the_samplers_were_made_of_cannot_be_changed(kind):
    loader = kind(Numbers(10), 2, True, num_workers=2, persistent_workers=True)
    others = {"batch_size": 3, "batch_sampler": None, "sampler": range(3), "drop_last": True, "dataset": Numbers(3)}
    others["persistent_workers"] = False
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader is initialized"):
            setattr(loader, name, value)
    loader.timeout = 60
    assert len(loader) == 5 and sorted(int(index) for batch in loader for index in batch) == list(range(10))


def test_the_class_takes_a_type_as_torchs_does():
    assert OURS[int].__origin__ is OURS and isinstance(OURS[int](Numbers(3)), OURS)
    with pytest.raises(TypeError, match="shufle"):
        OURS(Numbers(3), shufle=True)
