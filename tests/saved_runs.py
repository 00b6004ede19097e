"""Tiny runs of the three recipes: how `testdata/make_saved.py` makes and stops them, and what is told of a finished one.

Runs use two threads, whatever the machine, and the smallest networks. On a processor with the same vector instructions
as that of the recording losses are the same bits; `TOLERANCE` is for a compiler that orders sums differently. On another
processor they differ by what f32 loses in a few steps: `TOLERANCE_ELSEWHERE`.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

TOLERANCE, TOLERANCE_ELSEWHERE = 1e-6, 1e-2

# More threads of the tensor engine would sum in another order.
ENVIRONMENT = {"RAYON_NUM_THREADS": "2"}

CLOUDS = (
    'clouds.process=[{ name = "mask_points_and_boxes_outside_range", remove_outside_boxes = true }, '
    '{ name = "transform_points_to_voxels", voxel_size = [0.8, 0.8, 4.0], max_points_per_voxel = 8, '
    "max_number_of_voxels = { train = 2000, test = 2000 } }]"
)

# Steps of an epoch, and settings. The network of pictures is the largest: its backbone stays frozen until after the stop, so
# that it takes its place once in the archive, and the epoch after that trains it.
RECIPES = {
    "classification": (6, ["model.input_px=16", "train.batch_size=4", "train.freeze_train=true", "train.freeze_epochs=2",
                           "train.freeze_batch_size=4", "augment.preset=upstream"]),
    "scene_completion": (5, ["model.channels=2", "train.batch_size=1"]),
    "lidar": (4, ["model.channels=4", "model.blocks=[{ layers = 0, channels = 4, up_channels = 4 }]", "train.batch_size=2",
                  "model.score_threshold=0.01", "model.nms_most=[200, 50]", 'data.train_infos=["few_train.pkl"]',
                  'data.val_infos=["few_val.pkl"]', CLOUDS]),
}  # fmt: skip
SHARED = ["seed=7", "train.epochs=3", "train.checkpoint_steps=2", "train.checkpoint_seconds=0.0", "train.save_period=0",
          "data.num_workers=1"]  # fmt: skip


def cpu():
    """The vector instructions that a tensor engine may choose by."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        flags = None
    known = {"sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
    return [platform.machine(), *sorted(known & set(flags[1].split() if flags else []))]


def data_words(recipe, data):
    """Flags that say where the data is."""
    words = ["--data", data]
    if recipe == "scene_completion":
        words += ["--train-list", data / "few_train.txt", "--val-list", data / "few_val.txt"]
    return words


def train_words(recipe, data, out):
    """Flags of a run from its beginning."""
    words = ["train", "--recipe", recipe, *data_words(recipe, data), "--out", out]
    for setting in SHARED + RECIPES[recipe][1]:
        words += ["--set", setting]
    return words


def stop_in_epoch_2(binary, recipe, data, out):
    """A run that SIGTERM ended between two steps of its second epoch."""
    steps = RECIPES[recipe][0]
    for _ in range(100):
        shutil.rmtree(out, ignore_errors=True)
        words = [str(word) for word in (binary, *train_words(recipe, data, out))]
        process = subprocess.Popen(words, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and sum(event["event"] == "step" for event in events(out)) < steps + 2:
            time.sleep(0.0005)
        process.terminate()
        said = process.communicate()[1]
        step = re.search(r"SIGTERM in epoch 2, after step (\d+)", said)
        if process.returncode == 143 and step and 0 < int(step[1]) < steps:
            return said
    raise SystemExit(f"{recipe}: no run was stopped in its second epoch. The last one said:\n{said}")


def events(run):
    """What happened, but for a line that is being written."""
    path = run / "events.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            pass
    return found


def losses(run):
    """Of each step, and of each epoch's end; what a run that went on said again counts."""
    found = {}
    for event in events(run):
        if event["event"] == "step":
            found[f"epoch {event['epoch']}, step {event['step']}"] = event["loss"]
        if event["event"] == "epoch_end":
            for key in ("train_loss", "val_loss"):
                found[f"epoch {event['epoch']}, {key}"] = event[key]
    return found


def keys(value, under=""):
    """The names in a JSON value, as NAME.NAME[].NAME."""
    if isinstance(value, dict):
        return sorted({name for key, inner in value.items() for name in keys(inner, f"{under}.{key}" if under else key)})
    if isinstance(value, list):
        return sorted({name for inner in value for name in keys(inner, f"{under}[]")}) or [under]
    return [under]


def toml_keys(text):
    """Sections and keys in their order."""
    return list(dict.fromkeys(re.findall(r"^(?:\[+[\w.]+\]+|\w+(?= =))", text, re.M)))


def tensors(path):
    """Names, types and shapes in a .safetensors file."""
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: f"{of['dtype']} {of['shape']}" for name, of in sorted(head.items()) if name != "__metadata__"}


def files(run):
    """What a finished run left: names of files, and what is in them but for numbers."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and not path.is_symlink()}
    names = {re.sub(r"tfevents\..*", "tfevents", name) for name in names}
    happened = {}
    for event in events(run):
        happened.setdefault(event["event"], set()).update(keys(event))
    # Whether there is reason for one depends on how fast the machine is.
    happened = {kind: sorted(found) for kind, found in sorted(happened.items()) if kind != "warning"}
    newest = max((run / "checkpoints").glob("*/checkpoint.toml"), key=lambda path: path.stat().st_mtime_ns)
    return {
        "names": sorted(names),
        "events.jsonl": happened,
        "summary.json": keys(json.loads((run / "summary.json").read_text())),
        "ledger.jsonl": sorted({", ".join(sorted(json.loads(line))) for line in (run / "ledger.jsonl").read_text().splitlines()}),
        "epoch_loss.txt": len((run / "epoch_loss.txt").read_text().splitlines()),
        "epoch_val_loss.txt": len((run / "epoch_val_loss.txt").read_text().splitlines()),
        "config.toml": toml_keys((run / "config.toml").read_text()),
        "checkpoint.toml": toml_keys(newest.read_text()),
        "model.safetensors": tensors(newest.with_name("model.safetensors")),
        "optimizer.safetensors": tensors(newest.with_name("optimizer.safetensors")),
    }


def evaluate(feedline_ok, recipe, run, data, out):
    """What `feedline eval` of a stopped run gives: figures, the names in them, and its files."""
    words = data_words(recipe, data)
    words += ["--logits", out / "logits.csv"] if recipe == "classification" else []
    feedline_ok("eval", run, *words, "--out", out)
    figures = json.loads((out / "eval.json").read_text())
    found = {"keys": keys(figures), "files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())}
    if recipe == "classification":
        for name in ("confusion_matrix.csv", "logits.csv"):
            found[name] = (out / name).read_text().splitlines()[0]
    numbers = {key: value for key, value in figures.items() if isinstance(value, (int, float))}
    return found, numbers


def go_on(feedline_ok, recipe, run, data):
    """Resumes a run to its end and tells of it."""
    feedline_ok("train", "--resume", run, *data_words(recipe, data))
    proof = json.loads(feedline_ok("verify", run, "--json"))
    summary = json.loads((run / "summary.json").read_text())
    timed = ("train_seconds", "images_per_second", "data_wait_share")
    return {
        "losses": losses(run),
        "verify": proof,
        "ledger": (run / "ledger.jsonl").read_text().splitlines(),
        "summary": {key: value for key, value in summary.items() if isinstance(value, (int, float)) and key not in timed},
        "files": files(run),
    }
