"""RGB-D segmentation lists against OpenCV and NumPy: pictures as they are, and mirrored, scaled and cropped."""

import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

import feedline
from feedline.recipes.scene_completion import NYUv2, TrainPre, ValPre

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SHARED = pathlib.Path(__file__).resolve().parents[4] / "shared/data/nyu_rgbd"


def frames(folder):
    """Pictures of several sizes with texture, of which 441 and 366 make ratios that round; label pictures of grey and of a palette, 0 to 40."""
    rng = np.random.default_rng(3)
    lines = []
    for name in ("RGB", "HHA", "Label"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate([(60, 80), (90, 70), (441, 366), (48, 64), (30, 45), (61, 53)]):
        coarse = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"RGB/{number}.jpg", quality=95)
        Image.fromarray(picture[::-1].copy()).save(folder / f"HHA/{number}.jpg", quality=90)
        labels = np.kron(rng.integers(0, 41, (height // 5 + 1, width // 5 + 1)), np.ones((5, 5)))[:height, :width]
        label = Image.fromarray(labels.astype(np.uint8))
        if number == 1:
            label.putpalette([value for i in range(256) for value in (i, i, i)])
        label.save(folder / f"Label/{number}.png")
        lines.append(f"RGB/{number}.jpg\tLabel/{number}.png")
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder


def real(folder):
    """The one real frame, where it is at hand."""
    if not SHARED.is_dir():
        return None
    folder.mkdir()
    for name in ("RGB", "HHA", "Label"):
        (folder / name).symlink_to(SHARED / name)
    (folder / "train.txt").write_text("RGB/0.jpg\tLabel/0.png\n")
    return folder


def setting(folder, height, width, **more):
    roots = {"img_root": str(folder), "gt_root": str(folder), "hha_root": str(folder / "HHA"), "mapping_root": ""}
    lists = {"train_source": str(folder / "train.txt"), "eval_source": str(folder / "train.txt")}
    return roots | lists | {"image_height": height, "image_width": width, "num_classes": 40} | more


def one(source, index, **options):
    """A sample by itself, of epoch 0."""
    with feedline.DataLoader(source, 1, num_workers=0, output="numpy", **options) as loader:
        for at, batch in enumerate(loader):
            if at == index:
                return {name: batch[name][0] for name in ("data", "hha_img", "label")}


def read(folder, index):
    """RGB, HHA and labels by OpenCV, channels as RGB; labels less 1 on bytes, as upstream has it."""
    name = (folder / "train.txt").read_text().splitlines()[index].split("\t")[1].removeprefix("Label/").removesuffix(".png")
    rgb = cv2.imread(str(folder / f"RGB/{name}.jpg"))[:, :, ::-1]
    hha = cv2.imread(str(folder / f"HHA/{name}.jpg"))[:, :, ::-1]
    return rgb, hha, cv2.imread(str(folder / f"Label/{name}.png"), cv2.IMREAD_GRAYSCALE) - np.uint8(1)


def normalised(picture):
    return (((picture.astype(np.float32) / 255.0) - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def data_sets(tmp_path):
    return [(folder, count) for folder, count in ((frames(tmp_path / "made"), 6), (real(tmp_path / "real"), 1)) if folder]


def test_pictures_and_labels_are_opencvs_bit_for_bit(tmp_path):
    for folder, count in data_sets(tmp_path):
        for index in range(count):
            rgb, hha, label = read(folder, index)
            # A list of this one alone: all pictures of a list must have one size where none is cropped.
            line = (folder / "train.txt").read_text().splitlines()[index]
            alone = tmp_path / "alone.txt"
            alone.write_text(line)
            for order in ("rgb", "bgr"):
                wanted = setting(folder, *label.shape, hha_order=order) | {"eval_source": str(alone)}
                found = one(NYUv2(wanted, "val", ValPre()), 0)
                assert np.array_equal(found["data"], normalised(rgb))
                assert np.array_equal(found["hha_img"], normalised(hha if order == "rgb" else hha[:, :, ::-1]))
                assert np.array_equal(found["label"], label.astype(np.int64))


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
def test_scaled_and_mirrored_pictures_are_opencvs_within_one_level(tmp_path, scale):
    worst, mirrors = 0.0, set()
    for folder, count in data_sets(tmp_path):
        for index in range(count):
            rgb, hha, label = read(folder, index)
            size = int(label.shape[1] * scale), int(label.shape[0] * scale)
            # A crop as large as the picture, so that its place is known.
            source = NYUv2(setting(folder, size[1], size[0], hha_order="rgb"), "train", TrainPre(mirror=True, scales=[scale]))
            found = one(source, index)
            labels = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
            mirrored = cv2.resize(cv2.flip(label, 1), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
            is_mirrored = not np.array_equal(found["label"], labels)
            assert np.array_equal(found["label"], mirrored if is_mirrored else labels)
            mirrors.add(is_mirrored)
            for name, picture in (("data", rgb), ("hha_img", hha)):
                picture = cv2.flip(picture, 1) if is_mirrored else np.ascontiguousarray(picture)
                expect = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(int)
                levels = np.rint((found[name].transpose(1, 2, 0) * STD + MEAN) * 255).astype(int)
                assert np.abs(levels - expect).max() <= 1
                worst = max(worst, (levels != expect).mean())
    assert mirrors == {False, True}
    assert worst < 0.01, f"{worst:.2%} of the values differ"


def test_a_smaller_picture_is_padded_on_both_sides_and_a_larger_one_cut_anywhere(tmp_path):
    folder = frames(tmp_path / "made")
    rgb, _, label = read(folder, 0)  # 60 x 80
    source = NYUv2(setting(folder, 65, 91), "train", TrainPre(mirror=False, scales=[1.0]))
    small = one(source, 0)
    assert np.array_equal(small["data"][:, 2:62, 5:85], normalised(rgb))
    assert np.array_equal(small["label"][2:62, 5:85], label.astype(np.int64))
    outside = np.ones((65, 91), bool)
    outside[2:62, 5:85] = False
    assert (small["data"][:, outside] == 0).all() and (small["label"][outside] == 255).all()
    # A cut, in many epochs: every place is found, each exactly.
    source = NYUv2(setting(folder, 58, 79), "train", TrainPre(mirror=False, scales=[1.0]))
    places = set()
    with feedline.DataLoader(source, 3, num_workers=2, output="numpy") as loader:
        for _ in range(60):
            batch = next(iter(loader))
            found = batch["label"][0]
            fits = [(y, x) for y in range(3) for x in range(2)
                    if np.array_equal(batch["data"][0], normalised(rgb[y:y + 58, x:x + 79]))
                    and np.array_equal(found, label[y:y + 58, x:x + 79].astype(np.int64))]  # fmt: skip
            assert len(fits) == 1
            places.update(fits)
    assert len(places) == 6
