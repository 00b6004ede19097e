"""Networks and weights against real torchvision: what torch saved is read, what Feedline saved torch reads, and both
compute the same logits."""

import csv
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

PX = 224
# Where weights matter and logits do not.
SMALL_PX = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Feedline's name, torchvision's name, and the layer that gives the logits.
BACKBONES = {
    "resnet18": ("resnet18", "fc"),
    "resnet50": ("resnet50", "fc"),
    "mobilenetv2": ("mobilenet_v2", "classifier.1"),
}
# One step is the whole epoch, and only the head moves.
FROZEN = ["--freeze-train", "--epochs", 1, "--batch-size", 6, "--augment", "none"]
FROZEN += ["--set", "train.freeze_epochs=1", "--set", "train.freeze_batch_size=6"]


def noise_pictures(folder, sizes, seed):
    """DIR/{train,test}/{dark,light}/*.png, three of each: coarse and fine noise, so that no two give the same logits."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for low, name in [(0, "dark"), (90, "light")]:
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                width, height = sizes[number % len(sizes)]
                coarse = Image.fromarray(rng.integers(low, low + 120, (5, 6, 3), dtype=np.uint8))
                picture = np.asarray(coarse.resize((width, height), Image.BICUBIC)).astype(int)
                picture = np.clip(picture + rng.integers(0, 46, picture.shape), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of the network's size: nothing is resized, the pixels are the same on both sides."""
    return noise_pictures(tmp_path_factory.mktemp("exact") / "data", [(PX, PX)], seed=1)


def pictures(folder, split):
    """Paths in Feedline's order, and their labels."""
    classes = sorted(path.name for path in (folder / split).iterdir())
    paths = [path for name in classes for path in sorted((folder / split / name).iterdir())]
    return paths, [classes.index(path.parent.name) for path in paths]


def preprocess(path, filter=Image.BILINEAR):
    """Shorter side to PX, then the centre, then ImageNet's mean and deviation: evaluation's way, in Pillow and NumPy."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    if width < height:
        width, height = PX, int(PX * height / width)
    else:
        width, height = int(PX * width / height), PX
    if picture.size != (width, height):
        picture = picture.resize((width, height), filter)
    top, left = int(round((height - PX) / 2)), int(round((width - PX) / 2))
    pixels = np.asarray(picture.crop((left, top, left + PX, top + PX)), dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)


def images(paths, **how):
    return torch.stack([preprocess(path, **how) for path in paths])


@functools.cache
def random_weights(backbone, num_classes):
    """Fresh weights make logits that are all alike (MobileNetV2) or in the hundreds (ResNet-50), where no comparison means
    much: so the statistics of the norms are measured, their weights and the head drawn at random."""
    torch.manual_seed(11)
    name, head = BACKBONES[backbone]
    net = getattr(torchvision.models, name)(num_classes=num_classes)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = None  # the mean over all batches, which is one
    layer = net.get_submodule(head)
    torch.nn.init.normal_(layer.weight, std=3 * layer.in_features**-0.5)
    torch.nn.init.normal_(layer.bias)
    patches = torch.nn.functional.interpolate(1.5 * torch.randn(16, 3, 6, 6), size=(128, 128), mode="bilinear")
    with torch.no_grad():
        net.train()(patches + 0.2 * torch.randn(16, 3, 128, 128))
    return net.state_dict()


def random_net(backbone, num_classes):
    """A network of torchvision's with seeded weights."""
    net = getattr(torchvision.models, BACKBONES[backbone][0])(num_classes=num_classes)
    net.load_state_dict(random_weights(backbone, num_classes))
    return net.eval()


def logits_of(net, paths, **how):
    with torch.no_grad():
        return net.eval()(images(paths, **how))


def loss_of(logits, labels):
    return torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels)).item()


def train_args(data, backbone, weights, out, input_px=PX):
    args = ["train", "--data", data, "--backbone", backbone, "--pretrained", weights]
    return [*args, "--input-px", input_px, *FROZEN, "--out", out]


def epoch_of(run):
    records = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if record["event"] == "epoch_end"]
    return record


def checkpoint_of(run):
    return safetensors.torch.load_file(run / "checkpoints/last/model.safetensors")


def read_logits(path, classes=2):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", *(f"logit_{k}" for k in range(classes))]
    return (
        [row[0] for row in rows],
        [int(row[1]) for row in rows],
        torch.tensor([[float(value) for value in row[2:]] for row in rows]),
    )


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request, feedline, data, tmp_path_factory):
    """A network of torchvision, saved by torch, and the run that trained its head for one step."""
    backbone = request.param
    folder = tmp_path_factory.mktemp(backbone)
    net = random_net(backbone, num_classes=2)
    torch.save(net.state_dict(), folder / "weights.pth")
    ended = feedline.ok(*train_args(data, backbone, folder / "weights.pth", folder / "run"))
    return backbone, net, folder / "run", ended


def trained_net(trained):
    """torchvision's network with the tensors of Feedline's checkpoint."""
    backbone, _, run, _ = trained
    net = getattr(torchvision.models, BACKBONES[backbone][0])(num_classes=2)
    missing, unexpected = net.load_state_dict(checkpoint_of(run), strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    return net


def test_every_tensor_of_the_file_is_loaded(trained):
    _, net, _, ended = trained
    tensors = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    assert f"loaded {len(tensors)} tensors, 0 did not match" in ended.stderr


def test_the_first_step_has_torchs_loss(trained, data):
    """The head is not touched before it, so this is a comparison of logits for the weights as torch saved them."""
    backbone, net, run, _ = trained
    if backbone == "mobilenetv2":
        pytest.skip("dropout comes before the head of MobileNetV2")
    paths, labels = pictures(data, "train")
    assert epoch_of(run)["train_loss"] == pytest.approx(loss_of(logits_of(net, paths), labels), rel=1e-4)


def test_a_frozen_backbone_keeps_every_bit_and_the_head_moves(trained):
    backbone, net, run, _ = trained
    head = BACKBONES[backbone][1]
    checkpoint = checkpoint_of(run)
    for name, before in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(before, checkpoint[name]) != name.startswith(head + "."), name


def test_torch_computes_the_validation_loss_from_the_checkpoint(trained, data):
    run = trained[2]
    paths, labels = pictures(data, "test")
    expected = logits_of(trained_net(trained), paths)
    # Logits that hardly differ from picture to picture would prove nothing.
    assert expected.std(dim=0).min() > 0.1, expected
    assert epoch_of(run)["val_loss"] == pytest.approx(loss_of(expected, labels), rel=1e-4)


def test_eval_writes_torchs_logits(trained, data, feedline, tmp_path):
    run = trained[2]
    feedline.ok("eval", run, "--data", data, "--out", tmp_path / "eval", "--logits", tmp_path / "logits.csv")
    names, labels, logits = read_logits(tmp_path / "logits.csv")
    paths, expected_labels = pictures(data, "test")
    assert [name.split("/")[-2:] for name in names] == [list(path.parts[-2:]) for path in paths]
    assert labels == expected_labels
    torch.testing.assert_close(logits, logits_of(trained_net(trained), paths), rtol=1e-3, atol=1e-3)


def test_an_export_is_torchvisions_network_in_every_form(trained, data, feedline, tmp_path, monkeypatch):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    import feedline as package

    backbone, _, run, _ = trained
    feedline.ok("eval", run / "checkpoints/best", "--out", tmp_path / "eval", "--logits", tmp_path / "logits.csv")
    names, _, expected = read_logits(tmp_path / "logits.csv")
    for name in ("net.safetensors", "net.pt", "net.onnx"):
        feedline.ok("export", run, "--out", tmp_path / name)
    for name in ("net.safetensors", "net.pt"):
        net, preprocess, classes = package.load_model(tmp_path / name)
        assert type(net) is type(getattr(torchvision.models, BACKBONES[backbone][0])()) and classes == ["dark", "light"]
        with torch.no_grad():
            torch.testing.assert_close(net(preprocess(names)), expected, rtol=1e-4, atol=1e-4)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (logits,) = session.run(["logits"], {"image": preprocess(names).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
    if backbone == "resnet18":
        # The code of the page for those who have no Feedline.
        page = (Path(__file__).parent.parent / "docs/deploy.md").read_text()
        (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "net.pt" in code]
        monkeypatch.chdir(tmp_path)
        made = {}
        exec(compile(code, "deploy.md", "exec"), made)
        torch.testing.assert_close(made["net"](preprocess(names)), expected, rtol=1e-4, atol=1e-4)


def test_eval_resizes_and_crops_as_pillow(feedline, tmp_path):
    """Wide, tall and small pictures. Pixels may differ from Pillow's by one level, which a network of random weights
    turns into some percent of the logits' spread; another filter, or a crop that is off by one pixel, into 30 and more."""
    data = noise_pictures(tmp_path / "data", [(501, 333), (240, 399), (90, 131)], seed=2)
    net = random_net("resnet18", num_classes=2)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    feedline.ok(*train_args(data, "resnet18", tmp_path / "weights.pth", tmp_path / "run"))
    net.load_state_dict(checkpoint_of(tmp_path / "run"), strict=False)
    feedline.ok("eval", tmp_path / "run", "--out", tmp_path / "eval", "--logits", tmp_path / "logits.csv")
    _, _, logits = read_logits(tmp_path / "logits.csv")
    paths, _ = pictures(data, "test")
    expected = logits_of(net, paths)

    def distance(other):
        return ((other - expected).abs().amax(dim=1).mean() / expected.std()).item()

    assert distance(logits) < 0.15
    # The bound tells the difference.
    assert distance(logits_of(net, paths, filter=Image.BICUBIC)) > 0.2


def test_safetensors_and_pth_give_the_same_run(feedline, data, tmp_path):
    net = random_net("resnet18", num_classes=2)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    safetensors.torch.save_file(net.state_dict(), tmp_path / "weights.safetensors")
    # As training scripts save it: parallel wrapper, and the optimiser beside the model.
    wrapped = {"module." + name: tensor for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": optimizer.state_dict()}, tmp_path / "script.pth")
    checkpoints = []
    for name in ("weights.pth", "weights.safetensors", "script.pth"):
        run = tmp_path / f"run-{name}"
        ended = feedline.ok(*train_args(data, "resnet18", tmp_path / name, run, SMALL_PX))
        assert "loaded 102 tensors, 0 did not match" in ended.stderr, name
        checkpoints.append(checkpoint_of(run))
    for other in checkpoints[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in checkpoints[0].items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_for_another_number_of_classes_give_all_but_the_head(feedline, data, tmp_path, backbone):
    net = random_net(backbone, num_classes=10)
    head = BACKBONES[backbone][1]
    state = net.state_dict()
    torch.save(state, tmp_path / "ten.pth")
    ended = feedline.ok(*train_args(data, backbone, tmp_path / "ten.pth", tmp_path / "run", SMALL_PX))
    loaded = sum(not name.endswith("num_batches_tracked") for name in state) - 2
    features = state[f"{head}.weight"].shape[1]
    assert f"loaded {loaded} tensors, 2 did not match" in ended.stderr
    assert f"{head}.weight: [10, {features}] in the file, [2, {features}] in the model" in ended.stderr
    assert f"{head}.bias: [10] in the file, [2] in the model" in ended.stderr
    checkpoint = checkpoint_of(tmp_path / "run")
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked") and not name.startswith(head + "."):
            assert torch.equal(tensor, checkpoint[name]), name


@pytest.mark.parametrize("name, content", [("text.pth", b"these are no weights\n"), ("cut.pth", None)])
def test_a_file_that_holds_no_weights_is_named(feedline, data, tmp_path, name, content):
    if content is None:
        torch.save(random_net("resnet18", num_classes=2).state_dict(), tmp_path / "whole.pth")
        content = (tmp_path / "whole.pth").read_bytes()[:-5000]
    (tmp_path / name).write_bytes(content)
    ended = feedline(*train_args(data, "resnet18", tmp_path / name, tmp_path / "run"))
    assert ended.code == 6, ended.stderr
    assert str(tmp_path / name) in ended.stderr
    assert not (tmp_path / "run").exists()


def test_weights_of_another_backbone_are_refused(feedline, data, tmp_path):
    torch.save(random_net("mobilenetv2", num_classes=2).state_dict(), tmp_path / "other.pth")
    ended = feedline(*train_args(data, "resnet18", tmp_path / "other.pth", tmp_path / "run"))
    assert ended.code == 6, ended.stderr
    assert str(tmp_path / "other.pth") in ended.stderr and "resnet18" in ended.stderr
