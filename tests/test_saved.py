"""What earlier versions delivered is delivered, and what they saved goes on: against testdata/saved, which
`testdata/make_saved.py` made with the version of its time.
"""

import json
import math
import shutil
import tarfile

import pytest
import saved_cases as cases
import saved_orders as orders
import saved_runs as runs

KINDS = ("orders", "demo", "batches", "states", "runs")
SAVED = {kind: json.loads((cases.SAVED / f"{kind}.json").read_text("utf-8")) for kind in KINDS}
MADE_ON = {kind: saved.pop("made on") for kind, saved in SAVED.items()}


def assert_saved(kind, name, found):
    """Floats that depend on the system's libm are compared where it is that of the recording."""
    found, saved = json.loads(json.dumps(found)), SAVED[kind][name]
    if name.startswith(cases.USES_LIBM) and cases.libm() != MADE_ON[kind]["libm"]:
        found, saved = cases.without_digests(found), cases.without_digests(saved)
    assert found == saved


@pytest.fixture(scope="session")
def feedline_ok(feedline):
    """Runs the program and gives what it prints."""
    return lambda *words: feedline.ok(*words).stdout


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="session")
def dealt(feedline_ok, folder):
    return dict(orders.all_of(feedline_ok, folder))


@pytest.fixture(scope="session")
def demo(feedline_ok, demo_data, folder):
    for recipe in runs.RECIPES:
        shutil.copytree(demo_data(recipe), folder / "data" / recipe)
    return cases.demo_data(feedline_ok, folder / "data")


@pytest.fixture(scope="session")
def all_loaders(feedline_ok, folder, demo):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return cases.sources(folder, feedline_ok) | cases.demo_sources(demo[1])


@pytest.fixture
def loaders(all_loaders, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return all_loaders


@pytest.fixture(scope="session")
def demo_cases(feedline_ok, folder, demo):
    return cases.demo_cases(feedline_ok, *demo, folder)


def test_every_case_is_recorded(dealt, demo_cases, loaders):
    assert set(SAVED["orders"]) == set(dealt)
    assert set(SAVED["demo"]) == set(demo_cases)
    assert set(SAVED["batches"]) == set(loaders)
    assert set(SAVED["states"]) == set(filter(cases.has_state, loaders))
    assert set(SAVED["runs"]) == set(runs.RECIPES)


@pytest.mark.parametrize("name", SAVED["orders"])
def test_orders_and_their_states_are_those_of_earlier_versions(dealt, name):
    assert_saved("orders", name, dealt[name])


@pytest.mark.parametrize("name", [name for name in SAVED["orders"] if name.startswith("state: ")])
def test_a_samplers_saved_state_goes_on(name):
    saved = SAVED["orders"][name]
    order, tail = name.removeprefix("state: ").rsplit(", ", 1)
    assert json.loads(json.dumps(orders.sampler_goes_on(order, tail, saved["state"]))) == saved["goes on"]


@pytest.mark.parametrize("name", SAVED["demo"])
def test_demo_data_and_what_is_shown_of_it_are_those_of_earlier_versions(demo_cases, name):
    assert_saved("demo", name, demo_cases[name]())


@pytest.mark.parametrize("name", SAVED["batches"])
def test_batches_are_those_of_earlier_versions(loaders, name):
    assert_saved("batches", name, cases.first_batches(loaders[name]))


@pytest.mark.parametrize("name", SAVED["states"])
def test_a_loaders_saved_state_goes_on_on_any_number_of_ranks(loaders, name):
    state = SAVED["states"][name]["state"]
    assert cases.state_of(loaders[name]) == state, "it would be saved today as it was"
    assert_saved("states", name, {"state": state, "goes on": cases.goes_on(loaders[name], state)})


def assert_close(found, saved):
    """The same names, and numbers within what the processor explains."""
    assert set(found) == set(saved)
    tolerance = runs.TOLERANCE if MADE_ON["runs"]["cpu"] == runs.cpu() else runs.TOLERANCE_ELSEWHERE
    off = {key: (value, saved[key]) for key, value in found.items() if not math.isclose(value, saved[key], rel_tol=tolerance)}
    assert not off


def of_old(found, saved):
    """Without what a later version adds: keys, names, files. Nothing of the saved may be gone or stand elsewhere."""
    if isinstance(saved, dict):
        return {key: of_old(found[key], saved[key]) for key in saved if key in found}
    return [name for name in found if name in saved] if isinstance(saved, list) else found



@pytest.mark.parametrize("recipe", SAVED["runs"])
def test_a_saved_run_goes_on_as_the_one_that_was_never_stopped(feedline_ok, demo, tmp_path, monkeypatch, recipe):
    for name, value in runs.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with tarfile.open(cases.SAVED / f"{recipe}.tar.xz") as archive:
        archive.extractall(tmp_path)
    run, data, saved = tmp_path / "run", demo[1][recipe], SAVED["runs"][recipe]
    samples = (run / "samples.txt").read_bytes()
    evaluated, figures = runs.evaluate(feedline_ok, recipe, run, data, tmp_path / "eval")
    assert of_old(evaluated, saved["eval"]) == saved["eval"]
    assert_close(figures, saved["figures"])
    found = json.loads(json.dumps(runs.go_on(feedline_ok, recipe, run, data)))
    assert (run / "samples.txt").read_bytes() == samples
    assert found["verify"] == saved["verify"] and found["ledger"] == saved["ledger"], "each sample once, in the same order"
    assert_close(found["losses"], saved["losses"])
    assert_close(found["summary"], saved["summary"])
    assert of_old(found["files"], saved["files"]) == saved["files"]
