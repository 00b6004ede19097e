"""Makes testdata/saved: what a version of Feedline delivered and what its runs left, which every later version has to
deliver and to go on from.

    venv/bin/pip install numpy pillow pytest torch feedline-*.whl
    venv/bin/python testdata/make_saved.py FEEDLINE

FEEDLINE is the program `feedline`, of the same version as the wheel. What is recorded already stays as it is, and what is
new in tests/saved_*.py is added: an old record is never made anew so that a test passes.

- orders.json: calls of `feedline plan`, the samplers of `feedline.torch`, and states of these.
- batches.json: types, shapes and digests of the first batches of every source, step and recipe.
- states.json: `state_dict()` of loaders in the middle of an epoch, and what 1, 2 and 3 ranks get from there.
- demo.json: the demo data sets, and pictures of `feedline show`.
- runs.json, RECIPE.tar.xz: folders of runs that SIGTERM ended in their second epoch, and what came of them when the version that
  made them went on, which is what came of a run that was never stopped.

tests/saved_cases.py and tests/saved_runs.py say what of this depends on the machine. `made on` in each file says which it was.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import saved_cases as cases
import saved_orders as orders
import saved_runs as runs

# It stands in the settings of the runs.
FOLDER = Path("/tmp/feedline-saved")


def record(name, found):
    """Adds to testdata/saved/NAME.json what is not in it, a case a line."""
    path = cases.SAVED / f"{name}.json"
    made_on = {"libm": cases.libm(), "cpu": runs.cpu()}
    saved = json.loads(path.read_text()) if path.exists() else {"made on": made_on}
    if saved["made on"] != made_on:
        raise SystemExit(f"{path} was made on {saved['made on']}, this is {made_on}")
    for case, make in found.items():
        if case not in saved:
            saved[case] = make()
    lines = [f"{json.dumps(case)}: {json.dumps(value)}" for case, value in saved.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{path}: {len(saved) - 1} cases, {path.stat().st_size} bytes")


def save_run(binary, feedline_ok, recipe, data):
    """The archive of a stopped run, and what comes of it."""
    out, whole = FOLDER / "run", FOLDER / "whole"
    runs.stop_in_epoch_2(binary, recipe, data, out)
    for file in [*out.glob("events.out.tfevents.*"), *out.glob("*.png")]:
        file.unlink()
    with tarfile.open(cases.SAVED / f"{recipe}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(out, "run", filter=anonymous)
    evaluated = runs.evaluate(feedline_ok, recipe, out, data, FOLDER / "eval")
    found = runs.go_on(feedline_ok, recipe, out, data) | {"eval": evaluated[0], "figures": evaluated[1]}
    feedline_ok(*runs.train_words(recipe, data, whole))
    if runs.losses(whole) != found["losses"]:
        raise SystemExit(f"{recipe}: the run that was stopped is not the one that never was")
    for folder in (out, whole, FOLDER / "eval"):
        shutil.rmtree(folder)
    return found


def anonymous(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def main():
    binary = Path(sys.argv[1]).resolve()
    os.environ.update(runs.ENVIRONMENT)
    cases.SAVED.mkdir(exist_ok=True)
    FOLDER.mkdir()
    root = Path(tempfile.mkdtemp(dir=FOLDER))
    os.chdir(root)

    def feedline_ok(*words):
        done = subprocess.run([str(word) for word in (binary, *words)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"feedline {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    try:
        record("orders", {name: lambda found=found: found for name, found in orders.all_of(feedline_ok, root)})
        digests, few = cases.demo_data(feedline_ok, FOLDER / "data")
        record("demo", cases.demo_cases(feedline_ok, digests, few, root))
        loaders = cases.sources(root, feedline_ok) | cases.demo_sources(few)
        record("batches", {name: lambda make=make: cases.first_batches(make) for name, make in loaders.items()})
        with_state = {name: make for name, make in loaders.items() if cases.has_state(name)}
        record("states", {name: lambda make=make: cases.state_record(make) for name, make in with_state.items()})
        of_runs = {recipe: lambda recipe=recipe: save_run(binary, feedline_ok, recipe, few[recipe]) for recipe in runs.RECIPES}
        record("runs", of_runs)
    finally:
        shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
