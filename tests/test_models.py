"""Exported networks in other programs: PyTorch, ONNX and ONNX Runtime compute what `feedline eval` does, and the code of
docs/deploy.md runs. The same for torchvision's networks is in test_torchvision.py, which has trained ones."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import draw_shapes
from test_torchvision import read_logits

import feedline as package

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"safetensors": "safetensors", "torch": "pt", "onnx": "onnx"}


@pytest.fixture(scope="module")
def exported(feedline, demo_run, tmp_path_factory):
    """A folder with the best checkpoint of a run in every form, and with pictures and the logits that eval gives them."""
    folder = tmp_path_factory.mktemp("exported")
    data = draw_shapes(folder / "data", train=1, val=34, seed=7)
    best = demo_run / "checkpoints/best"
    feedline.ok("eval", best, "--data", data, "--out", folder / "eval", "--logits", folder / "logits.csv")
    for name, extension in FORMATS.items():
        feedline.ok("export", best, "--format", name, "--out", folder / f"birds.{extension}")
    return folder


@pytest.fixture(scope="module")
def expected(exported):
    """Paths, and the logits of eval (102, 3)."""
    paths, _, logits = read_logits(exported / "logits.csv", classes=3)
    assert len(paths) == 102 and logits.std() > 0.3
    return paths, logits


@pytest.mark.parametrize("name", ["birds.safetensors", "birds.pt", "run", "checkpoint"])
def test_load_model_computes_the_logits_of_eval(exported, demo_run, expected, name):
    paths, logits = expected
    at = {"run": demo_run, "checkpoint": str(demo_run / "checkpoints/best")}.get(name, exported / name)
    net, preprocess, classes = package.load_model(at)
    assert type(net) is package.models.Small and not net.training
    assert classes == ["disc", "square", "stripes"]
    images = preprocess(paths)
    assert images.shape == (102, 3, 32, 32) and images.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(net(images), logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(net(preprocess(Path(paths[40]))), logits[40:41], rtol=0, atol=1e-4)


def test_pictures_in_memory_take_the_steps_of_files(exported, tmp_path):
    _, preprocess, _ = package.load_model(exported / "birds.pt")
    rng = np.random.default_rng(3)
    arrays = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in [(90, 61), (31, 50), (32, 32), (7, 40)]]
    images = [Image.fromarray(array) for array in arrays]
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths):
        image.save(path)
    of_files = preprocess(paths)
    assert torch.equal(preprocess(arrays), of_files) and torch.equal(preprocess(images), of_files)
    assert torch.equal(preprocess([paths[0], images[1], arrays[2]]), of_files[:3])
    assert torch.equal(preprocess(images[3].convert("RGBA")), of_files[3:])
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), 3, []):
        with pytest.raises(package.ConfigError, match="Give a path, a PIL image or a uint8 array"):
            preprocess(wrong)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(package.SampleError, match="bad.jpg"):
        preprocess([paths[0], tmp_path / "bad.jpg"])


def test_onnx_accepts_the_graph_and_its_runtime_computes_the_logits(exported, expected):
    paths, logits = expected
    model = onnx.load(exported / "birds.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version >= 17) for opset in model.opset_import] == [("", True)]
    session = onnxruntime.InferenceSession(exported / "birds.onnx")
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", 3, 32, 32], "tensor(float)")
    assert (output.name, output.shape) == ("logits", ["batch", 3])
    images = package.load_model(exported / "birds.pt").preprocess(paths).numpy()
    for some in (slice(0, 1), slice(0, 102)):
        (found,) = session.run(["logits"], {"image": images[some]})
        np.testing.assert_allclose(found, logits[some], rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    loaded = torch.load(exported / "birds.pt", weights_only=True)
    state = loaded.pop("model")
    assert loaded["classes"] == ["disc", "square", "stripes"] and loaded["input_px"] == 32 and loaded["format"] == 1
    assert {name: value if isinstance(value, str) else json.dumps(value) for name, value in loaded.items()}.keys() == facts.keys()
    for name, value in loaded.items():
        assert (facts[name] if isinstance(value, str) else json.loads(facts[name])) == value, name
    assert "centre" in loaded["preprocessing"] and list(state)[:2] == ["features.0.0.weight", "features.0.1.weight"]


def test_a_file_that_is_no_export_is_named(exported, tmp_path):
    def refused(name, content, error, words):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=words) as raised:
            package.load_model(tmp_path / name)
        assert name in str(raised.value)

    whole = (exported / "birds.safetensors").read_bytes()
    damaged, foreign = "damaged or of another kind", "feedline did not export it"
    refused("cut.safetensors", whole[:-9], package.StateError, damaged)
    refused("empty.safetensors", b"", package.StateError, damaged)
    refused("text.pt", b"no model", package.StateError, damaged)
    refused("cut.pt", (exported / "birds.pt").read_bytes()[:-999], package.StateError, damaged)
    refused("net.onnx", b"", package.ConfigError, "ONNX Runtime")
    refused("later.safetensors", whole.replace(rb"{\"format\":1,", rb"{\"format\":2,"), package.UnsupportedError, "format 2")
    refused("other.safetensors", whole.replace(b"classifier.bias", b"classifier.bips"), package.StateError, "classifier.bips")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    refused("foreign.pt", (tmp_path / "foreign.pt").read_bytes(), package.StateError, foreign)
    with pytest.raises(package.FileError, match="none.pt"):
        package.load_model(tmp_path / "none.pt")
    with pytest.raises(package.StateError, match="no run folder"):
        package.load_model(exported)


def test_the_code_of_the_page_runs(exported, expected, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/deploy.md").read_text()
    paths, logits = expected
    classes = ["disc", "square", "stripes"]
    answers = [classes[int(row.argmax())] for row in logits]
    # Two that it is sure of: Pillow's pixels may differ by a level.
    first, second = logits.softmax(1).amax(1).argsort(descending=True)[:2].tolist()
    shutil.copy(paths[first], tmp_path / "1.jpg")
    shutil.copy(paths[second], tmp_path / "2.jpg")
    for name in ("birds.safetensors", "birds.onnx"):
        shutil.copy(exported / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with_torch, without, with_onnx = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code in (with_torch, with_onnx):
        exec(compile(code, "deploy.md", "exec"), {})
        said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert said == [answers[first], answers[second]]
    assert "weights_only=True" in without  # test_torchvision.py runs it
    (rust,) = re.findall(r"```rust\n(.*?)```", page, re.DOTALL)
    program = (ROOT / "examples/7_train.rs").read_text()
    assert all(line.strip() in program for line in rust.splitlines())
