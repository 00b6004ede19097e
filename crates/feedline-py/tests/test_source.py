"""The kinds of sources: folders, lists, arrays, datasets; compared with torchvision and Pillow."""

import copy
import json
import pickle
import re
import warnings
from pathlib import Path

import feedline
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def batches(source, **options):
    options = {"batch_size": 4, "output": "numpy"} | options
    return [[np.array(value) for value in batch] for batch in feedline.DataLoader(source, **options)]


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for left, right in zip(one, other) for a, b in zip(left, right, strict=True)
    )


def test_a_folder_is_torchvisions_image_folder(pictures):
    theirs, ours = ImageFolder(pictures), feedline.images(pictures).resize((8, 8))
    assert ours.classes == theirs.classes and ours.labels == theirs.targets and len(ours) == len(theirs) == 60
    assert [ours.location(index) for index in range(60)] == [path for path, _ in theirs.samples]
    assert ours.fields == ["image", "label"]
    labels = [label for _, label in batches(ours)]
    assert np.concatenate(labels).tolist() == theirs.targets


def test_nested_folders_come_in_image_folders_order(tmp_path):
    """Its order is that of folders' paths as texts; links to folders are followed. Hidden ones alone are different."""
    names = ["a/b.png", "a/s.png", "a/s-t/1.png", "a/s.png.d/1.png", "a/s/9.png", "a/s/a/1.png", "a/s/a/10.png", "a/sa/0.png"]
    names += ["b-c/1.png", "b/z/1.png", "b/é/1.png", "b/Z.png", "other/deep/1.png"]
    for name in names:
        path = tmp_path / "data" / name if not name.startswith("other") else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    (tmp_path / "data/b/link").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "data/c").symlink_to(tmp_path / "other", target_is_directory=True)
    theirs, ours = ImageFolder(tmp_path / "data"), feedline.images(tmp_path / "data")
    assert list(zip(ours.files, ours.labels)) == theirs.samples and ours.classes == theirs.classes
    assert len(ours) == 14 and ours.warnings == [] and ours.skipped == {}
    Image.new("RGB", (9, 9)).save(tmp_path / "data/a/.hidden.png")
    (tmp_path / "data/a/.deep").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "data/a/.deep/1.png")
    (tmp_path / "data/a/s/up").symlink_to(tmp_path / "data/a", target_is_directory=True)
    (tmp_path / "data/a/gone.png").symlink_to("nowhere.png")
    with pytest.warns(UserWarning, match="4 files and folders skipped"):
        again = feedline.images(tmp_path / "data")
        assert again.files == ours.files
    kinds = {"broken links": 1, "hidden folders": 1, "hidden pictures": 1, "links to a folder that they lie in": 1}
    assert again.skipped == kinds and again.skipped.first["hidden pictures"] == ["a/.hidden.png"]


def test_what_is_no_picture_is_counted_and_named(tmp_path):
    for name in ("a/1.jpg", "a/deep/2.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    for name in ("a/2.xcf", "a/deep/notes.txt", "b/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    source = feedline.images(tmp_path).resize((8, 8))
    with pytest.warns(UserWarning, match="3 files skipped") as heard:
        assert len(source) == 3
    assert [path for path, _ in ImageFolder(tmp_path).samples] == source.files
    [told] = source.warnings
    assert [str(warning.message) for warning in heard] == [told] and Path(heard[0].filename).name == "test_source.py"
    assert "1 *.xcf (a/2.xcf)" in told and "(a/deep/notes.txt)" in told
    for each in (source, source.subset([0]), source + source):
        assert each.skipped == {"*.txt": 1, "*.xcf": 1, "system files": 1}
        assert each.skipped.first == {"*.txt": ["a/deep/notes.txt"], "*.xcf": ["a/2.xcf"], "system files": ["b/Thumbs.db"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert len(batches(feedline.images(tmp_path).resize((4, 4)))) == 1
    clean = feedline.arrays(np.zeros((2, 2)))
    assert clean.warnings == [] and clean.skipped == {}


def test_pictures_of_every_format_are_pillows_and_turned_upright_if_that_is_said(tmp_path):
    folder = Path(__file__).parents[3] / "testdata" / "images"
    ends = ("jpg", "png", "webp", "bmp", "gif", "tif", "pbm", "pgm", "ppm", "pnm")
    (tmp_path / "a").mkdir()
    for place in [*(folder / "formats").iterdir(), folder / "jpeg/ycbcr420.jpg", folder / "png/rgb8.png"]:
        assert place.suffix[1:] in ends
        (tmp_path / "a" / place.name).write_bytes(place.read_bytes())
    ours = feedline.images(tmp_path)
    assert len(ours) == len(ImageFolder(tmp_path, is_valid_file=lambda _: True)) == len(list((tmp_path / "a").iterdir()))
    for exif, turned in (("ignore", lambda picture: picture), ("apply", ImageOps.exif_transpose)):
        ours = feedline.images(tmp_path, exif=exif)
        for index, path in enumerate(ours.files):
            with Image.open(path) as picture:
                theirs = np.asarray(turned(picture).convert("RGB")).transpose(2, 0, 1)
            assert np.array_equal(np.asarray(ours.sample(index)[0]), theirs), (exif, path)
    # What is ignored is told once, by whatever loader comes to it; what is applied is other data to a state.
    small = {exif: feedline.images(tmp_path, exif=exif).decode("region").resize((8, 8)) for exif in ("ignore", "apply")}
    loader = feedline.DataLoader(small["ignore"], batch_size=16, num_workers=2)
    with pytest.warns(UserWarning, match='exif="apply"') as heard:
        assert len([batch for _ in range(2) for batch in loader]) == 2 * len(loader)
    assert len(heard) == 1 and re.search(r"a/exif_[2-8]\w*\.\w+: its EXIF orientation", str(heard[0].message))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = feedline.DataLoader(small["apply"], batch_size=16)
        assert len(list(other)) == len(loader)
    with pytest.raises(feedline.StateError, match="the data set"):
        other.load_state_dict(loader.state_dict())
    with pytest.raises(feedline.ConfigError, match='Use "ignore" or "apply"'):
        len(feedline.images(tmp_path, exif="turn"))


def test_parquet_files_of_hugging_face_are_sources():
    """As their library writes them now and before; classes and contents are what pyarrow reads."""
    folder = Path(__file__).parents[3] / "testdata" / "parquet"
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    sources = [feedline.images(folder / name).resize((8, 8)) for name in expected["files"]]
    for source, samples in zip(sources, expected["files"].values(), strict=True):
        assert source.classes == expected["classes"] and source.labels == [label for label, _ in samples]
    assert all(equal(batches(source), batches(sources[0])) for source in sources[1:])


def test_a_parquet_column_of_arrays_is_a_folder_of_them():
    path = Path(__file__).parents[3] / "testdata/parquet/arrays/rows.parquet"
    rows = (np.arange(12, dtype=np.float32) + np.arange(7, dtype=np.float32)[:, None]).reshape(7, 3, 4)
    assert equal(batches(feedline.arrays(path)), batches(feedline.arrays(rows)))
    assert equal(batches(feedline.arrays(path.parent)), batches(feedline.arrays(rows)))
    with pytest.raises(feedline.DatasetError, match="no class folder"):
        len(feedline.images(path))


def test_pixels_are_torchvisions(pictures):
    """Byte for byte, where they are decoded whole."""
    theirs = ImageFolder(pictures)
    shorter = v2.Compose([v2.Resize(24), v2.CenterCrop(20)])
    both = v2.Resize((18, 30))
    finish = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    source = feedline.images(pictures).decode("whole")
    for ours, transform in [(source.resize(24).center_crop(20), shorter), (source.resize((18, 30)), both)]:
        raw = np.concatenate([image for image, _ in batches(ours)])
        floats = np.concatenate([image for image, _ in batches(ours.normalize())])
        for index in range(0, 60, 7):
            picture = transform(theirs[index][0].convert("RGB"))
            np.testing.assert_array_equal(raw[index], np.asarray(picture).transpose(2, 0, 1))
            np.testing.assert_allclose(floats[index], finish(picture).numpy(), atol=2e-6)


def test_a_list_file_and_lists_of_paths_are_the_same_data(pictures, tmp_path):
    paths = sorted(path for path in pictures.rglob("*.jpg"))[::5]
    labels = [number % 3 for number in range(len(paths))]
    listed = tmp_path / "cls_train.txt"
    listed.write_text("".join(f"{label};{path}\n" for path, label in zip(paths, labels)), "utf-8")
    names = tmp_path / "classes.txt"
    names.write_text("a\nb\nc\n", "utf-8")
    sources = [
        feedline.images(listed, classes=names),
        feedline.images(str(listed), classes=["a", "b", "c"]),
        feedline.images(paths, labels, classes=["a", "b", "c"]),
        feedline.images(map(str, paths), iter(labels), classes=names),
    ]
    sources = [source.resize((8, 8)) for source in sources]
    assert all(source.classes == ["a", "b", "c"] and source.labels == labels for source in sources)
    assert all(equal(batches(source), batches(sources[0])) for source in sources[1:])
    # One data set, so a state of one is a state of the others.
    state = feedline.DataLoader(sources[0]).state_dict()
    for source in sources[1:]:
        feedline.DataLoader(source).load_state_dict(state)
    assert feedline.images(paths).resize((8, 8)).labels == [0] * len(paths)


@pytest.mark.parametrize(
    ("declare", "remedy"),
    [
        (lambda folder: feedline.DataLoader(str(folder)), r"feedline\.images\(path\)"),
        (lambda folder: feedline.DataLoader(folder), r"feedline\.images\(path\)"),
        (lambda folder: feedline.DataLoader(feedline.images(folder)), r"Add \.random_resized_crop\(224\)"),
        (lambda folder: feedline.DataLoader(feedline.images(folder).resize(8)), "center_crop"),
        (lambda folder: feedline.images(folder).resize(8).hflip(), "center_crop"),
        (lambda folder: feedline.images(folder).center_crop(8), r"\.resize\(256\)\.center_crop\(224\)"),
        (lambda folder: feedline.images(folder).normalize().hflip(), "before"),
        (lambda folder: feedline.images(folder).normalize().normalize(), "twice"),
        (lambda folder: len(feedline.images(folder).hflip(1.5).resize((8, 8))), "1.5"),
        (lambda folder: feedline.images(folder).resize((0, 8)), "height=0"),
        (lambda folder: feedline.images(folder).resize(2.5), "height=2.5"),
        (lambda folder: feedline.images(folder).resize((8, 8, 8)), r"\(height, width\)"),
        (lambda folder: feedline.images(folder).normalize((1, 2), (3, 4)), "three numbers"),
        (lambda folder: feedline.images(folder).map(3), "a step is a function"),
        (lambda folder: feedline.arrays(np.zeros(3)).map("f"), "a step is a function"),
        (lambda folder: feedline.images(["a.jpg"], ["cat"], classes=["dog"]), "'cat' is not one of"),
        (lambda folder: feedline.images(["a.jpg"], [-1]), "label=-1"),
        (lambda folder: len(feedline.images(folder).decode("half").resize((8, 8))), '"whole"'),
        (lambda folder: feedline.images(folder, [1]), "labels"),
        (lambda folder: feedline.images(["a.jpg"], [1, 2]), "one label"),
        (lambda folder: len(feedline.images([]).resize((8, 8))), "empty"),
        (lambda folder: feedline.arrays(), "NumPy arrays"),
        (lambda folder: feedline.arrays(np.zeros(3), shape=(1,)), "shape"),
        (lambda folder: feedline.dataset(iter([1])), "no __getitem__"),
        (lambda folder: feedline.DataLoader(iter([1])), "no __getitem__"),
    ],
)
def test_declarations_that_cannot_be_are_refused_with_a_remedy(pictures, declare, remedy):
    with pytest.raises(feedline.ConfigError, match=remedy):
        declare(pictures)


def test_unusable_data_is_named(pictures, tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(feedline.FeedlineError) as failed:
            len(feedline.images(path).resize((8, 8)))
        assert str(tmp_path) in str(failed.value)
    with pytest.raises(feedline.DatasetError, match="none: there is no such folder"):
        len(feedline.images(tmp_path / "none"))
    for split in ("train", "val"):
        (tmp_path / "whole" / split / "a").mkdir(parents=True)
    with pytest.raises(feedline.DatasetError, match=r"it holds splits.*whole/train"):
        len(feedline.images(tmp_path / "whole"))
    with pytest.raises(feedline.DatasetError, match="label 5") as failed:
        len(feedline.images(["a.jpg"], [5], classes=["x"]).resize((8, 8)))
    assert str(failed.value.path) == "a.jpg"


def test_arrays_are_rows(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32), np.arange(10)
    expect = [[x[i : i + 4], y[i : i + 4]] for i in (0, 4, 8)]
    assert equal(batches(feedline.arrays(x, y)), expect)
    assert feedline.arrays(x, y).fields == ["0", "1"] and feedline.arrays(image=x, label=y).fields == ["image", "label"]
    np.save(tmp_path / "x.npy", x)
    assert equal(batches(feedline.arrays(tmp_path / "x.npy")), [[part] for part, _ in expect])
    assert equal(batches(feedline.arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y)), expect)
    assert equal(batches(x), [[part] for part, _ in expect]), "an array is a source as it is"
    for kind in (np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64):
        ((value,),) = batches(feedline.arrays(np.arange(4, dtype=kind)))
        assert value.dtype == kind and value.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_in_an_npz_is_its_rows(tmp_path, save):
    x, y = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32), np.arange(10)
    save(tmp_path / "one.npz", x)
    save(tmp_path / "two.npz", x=x, y=y)
    expect = feedline.arrays(x)
    for path in ("one.npz", "one.npz/arr_0.npy", "two.npz/x.npy", "two.npz/x"):
        assert equal(batches(feedline.arrays(tmp_path / path)), batches(expect)), path
    assert feedline.arrays(tmp_path / "two.npz/x.npy").location(3) == f"row 3 of {tmp_path}/two.npz/x.npy"
    with pytest.raises(feedline.DatasetError, match=r"two.npz: it holds several files. Name one .*: x.npy, y.npy"):
        len(feedline.arrays(tmp_path / "two.npz"))
    with pytest.raises(feedline.DatasetError, match=r"no such file in the archive.*: x.npy, y.npy"):
        len(feedline.arrays(tmp_path / "two.npz/z.npy"))
    # Pickled objects are refused, never loaded.
    save(tmp_path / "objects.npz", np.array([{}, 1], dtype=object))
    with pytest.raises(feedline.DatasetError, match="'|O' cannot be delivered"):
        len(feedline.arrays(tmp_path / "objects.npz"))


def test_a_list_is_known_before_the_pictures_have_a_size(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(label + 1):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"")
    source = feedline.images(tmp_path)
    for each in (source, source.hflip(), source.resize(64)):
        assert (len(each), each.classes, each.labels) == (3, ["cat", "dog"], [0, 1, 1])
        assert each.location(2).endswith("dog/1.jpg")
    with pytest.raises(feedline.ConfigError, match="of any size"):
        source.fields
    with pytest.raises(feedline.ConfigError, match="one pattern"):
        feedline.images(["a.tar", "b.tar"])
    with pytest.raises(feedline.ConfigError, match="one file at a time"):
        feedline.arrays("x.npy", "y.npy")


def test_a_damaged_array_in_an_npz_is_found_out(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 128, 512)).astype(np.float32)
    for name, part in (("small.npz", rows[:4]), ("large.npz", rows)):  # read in one piece, and in several
        np.savez(tmp_path / name, part)
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(feedline.FeedlineError, match="it is damaged"):
            len(feedline.arrays(tmp_path / name))


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ([np.zeros((4, 4))[:, ::2]], "ascontiguousarray"),
        ([np.zeros(4, bool)], r"view\(numpy\.uint8\)"),
        ([np.zeros(4, np.complex64)], "astype"),
        ([np.zeros(4, ">f4")], "astype"),
        ([np.array(["a", "b"])], "astype"),
        ([np.zeros(4), np.zeros(5)], "equal length"),
        ([np.float32(1)], "rows"),
        ([np.ma.masked_equal(np.arange(4), 2)], "filled"),
    ],
)
def test_arrays_that_cannot_be_rows_are_refused(columns, remedy):
    with pytest.raises(feedline.ConfigError, match=remedy):
        len(feedline.arrays(*columns))


class Squares(Dataset):
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 10

    def __getitem__(self, index):
        assert type(index) is int
        value = torch.tensor([float(index), float(index) ** 2])
        return {"tuple": (value, index), "dict": {"value": value, "index": index}, "one": value}[self.form]


@pytest.mark.parametrize(("form", "fields"), [("tuple", ["0", "1"]), ("dict", ["value", "index"]), ("one", ["0"])])
def test_a_torch_dataset_is_a_source_as_it_is(form, fields):
    ours = feedline.DataLoader(Squares(form), batch_size=5)
    theirs = torch.utils.data.DataLoader(Squares(form), batch_size=5)
    for batch, expect in zip(ours, theirs, strict=True):
        assert batch.names == fields
        values = expect.values() if form == "dict" else expect if form == "tuple" else [expect]
        for value, expected in zip(batch.values() if form == "dict" else batch, values, strict=True):
            torch.testing.assert_close(value, expected)
    tensors = TensorDataset(torch.arange(6), torch.ones(6, 2))
    x, ones = next(iter(feedline.DataLoader(tensors, batch_size=6)))
    assert x.tolist() == list(range(6)) and ones.shape == (6, 2)


def test_steps_follow_one_another_on_arrays():
    source = feedline.arrays(np.arange(8)).map(lambda x: {"half": x / 2}).map(lambda half: (half, half + 1))
    half = np.arange(0, 4, 0.5)
    assert equal(batches(source), [[half[:4], half[:4] + 1], [half[4:], half[4:] + 1]])


def negative(x):
    return -x


def test_sources_are_values_that_copy_and_pickle(pictures):
    for source in (
        feedline.images(pictures).random_resized_crop(16).hflip().normalize(),
        feedline.arrays(x=np.arange(12.0)).map(negative),
        feedline.dataset(Squares("dict")),
    ):
        expect = batches(source, shuffle=True)
        assert equal(batches(pickle.loads(pickle.dumps(source)), shuffle=True), expect)
        assert equal(batches(copy.deepcopy(source), shuffle=True), expect)
    base = feedline.images(pictures).resize((8, 8))
    flipped = base.hflip(1.0)
    assert not equal(batches(base), batches(flipped))
    assert np.array_equal(batches(base)[0][0][..., ::-1], batches(flipped)[0][0])


def test_pictures_of_any_kind_become_rgb(tmp_path):
    colour = np.random.default_rng(3).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    for number, mode in enumerate(["RGB", "L", "RGBA", "P", "1"]):
        Image.fromarray(colour).convert(mode).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    for path, (image, _) in zip(paths, batches(feedline.images(paths).resize((12, 12)), batch_size=1)):
        np.testing.assert_array_equal(image[0].transpose(1, 2, 0), np.asarray(Image.open(path).convert("RGB")))
