"""Makes the golden files beside it: names and shapes of torchvision's state dicts, logits for weights and a picture
given by a formula, and the numbers of torch's optimisers. Run: python make.py (torch 2.13.0, torchvision 0.28.0).

The formula: value(name, i) in [-1, 1) is the SplitMix64 finaliser of FNV-1a(name) + (i + 1) * 0x9E3779B97F4A7C15, its
upper 53 bits as a fraction of 2^52, minus 1. A tensor is then
    convolution weight      value * sqrt(g / fan_in)     fan_in = elements of one filter; g is 6 in MobileNetV2, 3 in
                                                         the ResNets, so that logits are neither all bias nor huge
    linear weight and bias  value * sqrt(3 / features)
    norm weight             1 + 0.25 * value
    norm bias, running_mean 0.25 * value
    running_var             1 + 0.5 * value
computed in f64 and rounded to f32. The pictures (2, 3, 64, 64) are value("image", i).
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torchvision

HERE = Path(__file__).parent
CLASSES = 5


def values(name, count):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def weights(state):
    filled = {}
    for name, old in state.items():
        if name.endswith("num_batches_tracked"):
            filled[name] = old
            continue
        v = values(name, old.numel())
        if old.ndim > 1:
            v = v * math.sqrt((6.0 if name.startswith("features") else 3.0) / math.prod(old.shape[1:]))
        elif name in ("fc.bias", "classifier.1.bias"):
            v = v * math.sqrt(3.0 / state[name.replace("bias", "weight")].shape[1])
        elif name.endswith("running_var"):
            v = 1.0 + 0.5 * v
        elif name.endswith("weight"):
            v = 1.0 + 0.25 * v
        else:
            v = 0.25 * v
        filled[name] = torch.from_numpy(v.astype(np.float32)).reshape(old.shape)
    return filled


def model(name):
    builder = {"mobilenetv2": "mobilenet_v2"}.get(name, name)
    net = getattr(torchvision.models, builder)(num_classes=CLASSES)
    net.load_state_dict(weights(net.state_dict()), strict=True)
    return net


def images():
    return torch.from_numpy(values("image", 2 * 3 * 64 * 64).astype(np.float32)).reshape(2, 3, 64, 64)


def batch_statistics(net):
    """Running statistics of the first norm layer after one forward pass in training mode."""
    net.train()
    net(images())
    state = net.state_dict()
    first = next(name for name in state if name.endswith("running_mean"))
    return {name: state[name].tolist() for name in (first, first.replace("mean", "var"))}


def losses(net):
    """Mean cross entropy before each of four steps of SGD with labels 1 and 3, decay on weights that are not norms'."""
    net.train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim == 1]
    opt = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain}], lr=0.0005, momentum=0.9, nesterov=True
    )
    seen = []
    for _ in range(4):
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images()), torch.tensor([1, 3]))
        loss.backward()
        opt.step()
        seen.append(loss.item())
    return seen


def optimiser(kind):
    """Three values, a gradient by formula, five steps; the middle one sees no gradient in the first two."""
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.999), weight_decay=0.01),
    }[kind]
    names = ["features.0.0.weight", "classifier.weight", "classifier.bias"]
    params = [torch.nn.Parameter(torch.from_numpy(values(n, 4).astype(np.float32))) for n in names]
    decayed, plain = params[:2], params[2:]
    opt = make([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])
    for step in range(5):
        opt.param_groups[0]["lr"] = opt.param_groups[1]["lr"] = 0.1 / (step + 1)
        for name, p in zip(names, params):
            g = torch.from_numpy(values(f"{name}/{step}", 4).astype(np.float32))
            p.grad = None if step < 2 and name.startswith("features") else g
        opt.step()
    return {n: p.detach().tolist() for n, p in zip(names, params)}


def main():
    for name in ("resnet18", "resnet50", "mobilenetv2"):
        net = model(name).eval()
        with torch.no_grad():
            # In f64, so that the whole difference to these numbers is the reader's.
            logits = net.double()(images().double())
            net.float()
        golden = {
            "state_dict": [[k, list(v.shape)] for k, v in net.state_dict().items()],
            "logits": logits.tolist(),
            "after_one_training_pass": batch_statistics(net),
        }
        if name == "resnet18":
            golden["losses"] = losses(model(name))
            print(golden["losses"])
        (HERE / f"{name}.json").write_text(json.dumps(golden, separators=(",", ":")).replace("],[", "],\n[") + "\n")
        print(name, logits)
    golden = {kind: optimiser(kind) for kind in ("sgd", "adam")}
    (HERE / "optimisers.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
