"""`feedline train` against a training loop of torch's: the same weights and batches, each optimiser, schedule and loss from the
real torch, torchvision and timm, give the same rate and loss at every step and the same validation loss of every epoch."""

import copy
import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import safetensors.torch
import timm.loss
import timm.optim
import timm.scheduler
import torch
import torchvision
from PIL import Image
from torch.optim import lr_scheduler

PX, BATCH, EPOCHS, STEPS = 16, 8, 4, 20
# Small enough that no rounding of a pass becomes another path through the network within so many steps.
LR = 0.005
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# 43 pictures: 5 steps an epoch, and a rest that is dropped.
TRAIN, VAL = {"a": 20, "b": 13, "c": 10}, {"a": 5, "b": 4, "c": 4}
BALANCED = torch.tensor([43 / (3 * count) for count in TRAIN.values()])


class Small(torch.nn.Module):
    """The backbone `small`, by the names of its tensors."""

    def __init__(self):
        super().__init__()
        layers, before = [], 3
        for channels, stride in [(16, 2), (24, 2), (48, 1), (64, 2), (96, 1)]:
            conv = torch.nn.Conv2d(before, channels, 3, stride, 1, bias=False)
            layers.append(torch.nn.Sequential(conv, torch.nn.BatchNorm2d(channels), torch.nn.ReLU()))
            before = channels
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Linear(before, 3)

    def forward(self, x):
        return self.classifier(self.features(x).amax(dim=(2, 3)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise whose brightness hints at the class: of the network's size, so that nothing is resized."""
    folder, rng = tmp_path_factory.mktemp("parity"), np.random.default_rng(3)
    for split, counts in [("train", TRAIN), ("test", VAL)]:
        for at, (name, count) in enumerate(counts.items()):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(15 * at, 200 + 15 * at, (PX, PX, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number:02}.png")
    torch.manual_seed(5)
    net = Small()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
    safetensors.torch.save_file(net.state_dict(), folder / "weights.safetensors")
    return folder


def samples(folder, split):
    """Pictures as the network gets them, and labels, in Feedline's order."""
    paths = [(at, path) for at, name in enumerate(TRAIN) for path in sorted((folder / split / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float32) / 255 for _, path in paths])
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(0, 3, 1, 2), torch.tensor([at for at, _ in paths])


def sgd(groups, **how):
    return torch.optim.SGD(groups, LR, momentum=0.9, **({"nesterov": True} | how))


def constant(optimizer):
    return lr_scheduler.ConstantLR(optimizer, 1.0)


def warmed(optimizer, then, steps):
    first = lr_scheduler.LinearLR(optimizer, 0.01, 1.0, steps)
    return lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[steps])


def chained(optimizer, then, steps, start=0.01):
    return lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(optimizer, start, 1.0, steps), then])


class Timm:
    """timm's PolyLRScheduler by step, with the calls of torch's."""

    def __init__(self, optimizer):
        self.inner = timm.scheduler.PolyLRScheduler(optimizer, STEPS, power=2.0, lr_min=0.2 * LR, t_in_epochs=False)
        self.steps = 0

    def step(self):
        self.steps += 1
        self.inner.step_update(self.steps)


def focal(alpha, gamma):
    def loss(logits, labels):
        targets = torch.nn.functional.one_hot(labels, 3).float()
        return torchvision.ops.sigmoid_focal_loss(logits, targets, alpha, gamma, reduction="mean")

    return loss


@dataclass
class Case:
    """Settings of `feedline train`, and what they are in torch."""

    settings: dict
    optimizer: object = sgd
    scheduler: object = constant
    loss: object = field(default_factory=torch.nn.CrossEntropyLoss)
    clip: object = None
    accumulate: int = 1
    ema_decay: float = 0.0


def entropy(**how):
    return torch.nn.CrossEntropyLoss(**how)


CASES = {
    "sgd": Case({}),
    "plain-momentum": Case({"nesterov": False}, lambda groups: sgd(groups, nesterov=False)),
    "adam": Case(
        {"optimizer": "adam", "init_lr": 1e-3, "beta2": 0.99}, lambda groups: torch.optim.Adam(groups, 1e-3, (0.9, 0.99))
    ),
    "adamw": Case(
        {"optimizer": "adamw", "init_lr": 5e-4, "weight_decay": 0.5}, lambda groups: torch.optim.AdamW(groups, 5e-4, (0.9, 0.999))
    ),
    "lamb": Case(
        {"optimizer": "lamb", "init_lr": 5e-3, "weight_decay": 0.02},
        lambda groups: timm.optim.Lamb([group | {"lr": 5e-3} for group in groups], weight_decay=0.02),
    ),
    "cosine": Case(
        {"lr_scheduler": "cosine", "warmup_epochs": 1, "min_lr_ratio": 0.1},
        scheduler=lambda it: warmed(it, lr_scheduler.CosineAnnealingLR(it, STEPS - 5, 0.1 * LR), 5),
    ),
    "poly": Case(
        {"lr_scheduler": "poly", "warmup_steps": 3, "min_lr_ratio": 0},
        scheduler=lambda it: warmed(it, lr_scheduler.PolynomialLR(it, STEPS - 3, 0.9), 3),
    ),
    "poly-of-timm": Case({"lr_scheduler": "poly", "min_lr_ratio": 0.2, "lr_power": 2}, scheduler=Timm),
    "onecycle": Case(
        {"lr_scheduler": "onecycle"}, scheduler=lambda it: lr_scheduler.OneCycleLR(it, LR, STEPS, cycle_momentum=False)
    ),
    "step": Case(
        {"lr_scheduler": "step", "lr_step_size": 1, "lr_gamma": 0.5, "warmup_steps": 7, "warmup_start_factor": 0.2},
        scheduler=lambda it: chained(it, lr_scheduler.StepLR(it, 5, 0.5), 7, 0.2),
    ),
    "multistep": Case(
        {"lr_scheduler": "multistep", "lr_milestones": [1, 3], "warmup_epochs": 1},
        scheduler=lambda it: chained(it, lr_scheduler.MultiStepLR(it, [5, 15], 0.1), 5),
    ),
    "label-smoothing": Case({"label_smoothing": 0.1}, loss=entropy(label_smoothing=0.1)),
    "class-weights": Case({"class_weights": [0.5, 1, 3]}, loss=entropy(weight=torch.tensor([0.5, 1.0, 3.0]))),
    "balanced-and-smooth": Case(
        {"class_weights": "balanced", "label_smoothing": 0.2}, loss=entropy(weight=BALANCED, label_smoothing=0.2)
    ),
    "bce": Case({"loss": "bce"}, loss=timm.loss.BinaryCrossEntropy(smoothing=0.0)),
    "bce-and-smooth": Case({"loss": "bce", "label_smoothing": 0.1}, loss=timm.loss.BinaryCrossEntropy(smoothing=0.1)),
    "focal": Case({"loss": "focal"}, loss=focal(0.25, 2)),
    "focal-without-alpha": Case({"loss": "focal", "focal_alpha": -1, "focal_gamma": 1.5}, loss=focal(-1, 1.5)),
    "clip-norm": Case({"clip_grad_norm": 0.5}, clip=lambda these: torch.nn.utils.clip_grad_norm_(these, 0.5)),
    "clip-value": Case({"clip_grad_value": 0.01}, clip=lambda these: torch.nn.utils.clip_grad_value_(these, 0.01)),
    "accumulate": Case({"accumulate": 4}, accumulate=4),
    "accumulate-by-weight": Case(
        {"accumulate": 2, "class_weights": "balanced"}, loss=entropy(weight=BALANCED, reduction="sum"), accumulate=2
    ),
    "ema": Case({"ema_decay": 0.8}, ema_decay=0.8),
}


def by_torch(case, folder):
    """Rates and losses of every step, validation losses of every epoch, the network and its averages."""
    net = Small()
    net.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    decay = case.settings.get("weight_decay", 5e-4)
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = case.optimizer(groups)
    scheduler = case.scheduler(optimizer)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(case.ema_decay)
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=average, use_buffers=True)
    (images, labels), (val_images, val_labels) = samples(folder, "train"), samples(folder, "test")
    rates, losses, val_losses = [], [], []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        net.train()
        for batch in order[: STEPS // EPOCHS * BATCH].split(BATCH):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = 0.0
            for part in batch.split(BATCH // case.accumulate):
                share = len(part) / BATCH
                if getattr(case.loss, "reduction", "") == "sum":
                    share = 1 / case.loss.weight[labels[batch]].sum()
                part_loss = case.loss(net(images[part]), labels[part]) * share
                part_loss.backward()
                loss += part_loss.item()
            if case.clip:
                case.clip(list(net.parameters()))
            optimizer.step()
            scheduler.step()
            averaged.update_parameters(net)
            losses.append(loss)
        judged = copy.deepcopy(averaged.module if case.ema_decay else net).eval()
        with torch.no_grad():
            val_losses.append(torch.nn.functional.cross_entropy(judged(val_images).double(), val_labels).item())
    return rates, losses, val_losses, net, averaged.module


def by_feedline(feedline, case, folder, out):
    settings = {"lr_scheduler": "constant", "init_lr": LR, "checkpoint_seconds": 0} | case.settings
    chosen = itertools.chain(*(("--set", f"train.{key}={json.dumps(value)}") for key, value in settings.items()))
    data = ["--data", folder, "--augment", "none", "--input-px", PX, "--pretrained", folder / "weights.safetensors"]
    run = ["--epochs", EPOCHS, "--batch-size", BATCH, "--num-workers", 0, "--out", out]
    said = feedline.ok("train", *data, *run, *chosen).stderr
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    rates, losses, before = [], [], 0.0
    for event in events:
        if event["event"] == "step":
            # What is told is the mean of the epoch so far.
            before = before if event["step"] > 1 else 0.0
            losses.append(event["loss"] * event["step"] - before)
            before = event["loss"] * event["step"]
            rates.append(event["lr"])
    return rates, losses, [event["val_loss"] for event in events if event["event"] == "epoch_end"], said


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_torchs(feedline, data, tmp_path, name):
    case = CASES[name]
    torch.set_num_threads(1)
    rates, losses, val_losses, net, averaged = by_torch(case, data)
    ours, our_losses, our_val_losses, said = by_feedline(feedline, case, data, tmp_path / "run")
    assert len(ours) == STEPS and ours == pytest.approx(rates, rel=1e-9, abs=1e-12)
    assert our_losses == pytest.approx(losses, rel=1e-4, abs=2e-5)
    assert our_val_losses == pytest.approx(val_losses, rel=1e-3, abs=1e-4)
    assert "init_lr as it is" in said
    model = safetensors.torch.load_file(tmp_path / "run/checkpoints/last/model.safetensors")
    for tensor, expected in (averaged if case.ema_decay else net).state_dict().items():
        if not tensor.endswith("num_batches_tracked"):
            torch.testing.assert_close(model[tensor], expected, rtol=1e-2, atol=2e-3, msg=lambda m, t=tensor: f"{t}: {m}")
    if case.ema_decay:
        assert "averages of the weights (decay 0.8)" in said
        beside = safetensors.torch.load_file(tmp_path / "run/checkpoints/last/optimizer.safetensors")
        for tensor, expected in net.state_dict().items():
            if not tensor.endswith("num_batches_tracked"):
                torch.testing.assert_close(beside[f"raw/{tensor}"], expected, rtol=1e-2, atol=2e-3)
        # The two differ by more than the bound.
        assert (beside["raw/classifier.weight"] - model["classifier.weight"]).abs().max() > 4e-3


def test_a_preset_says_its_name_and_what_it_leaves_out_and_flags_go_above_it(feedline, data, tmp_path):
    for name, rate in [("timm-a3", "0.0005"), ("torchvision-v2", "0.00390625"), ("fine-tune", "0.0005"), ("from-scratch", "0.001")]:
        args = ["--data", data, "--preset", name, "--input-px", PX, "--batch-size", BATCH, "--num-workers", 0]
        said = feedline.ok("train", *args, "--epochs", 6, "--augment", "none", "--out", tmp_path / name).stderr
        assert f"preset       {name}\n" in said and "left out: " in said, said
        assert f"6 epochs of batch {BATCH}" in said and f"learning rate up to {rate} (cosine" in said, said
        assert "augmentation none" in said
    ended = feedline("train", "--data", data, "--preset", "a3", "--out", tmp_path / "none")
    assert ended.code == 2 and "choose one of fine-tune, from-scratch" in ended.stderr.lower(), ended.stderr
