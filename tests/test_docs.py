"""The reference pages in docs/ against the program: every setting, every flag and every exit code stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
RECIPES = sorted(path.parent.name for path in (ROOT / "crates" / "feedline-recipes" / "src").glob("*/default.toml"))
COMMANDS = ["train", "launch", "eval", "export", "predict", "compare", "report", "bench", "show", "plan", "verify", "index", "pack"]
COMMANDS += ["lidar infos", "demo-data"]


def keys(reference):
    """The keys of a recipe's settings, with their sections, in the text of --print-config."""
    section = ""
    for line in reference.splitlines():
        if found := re.match(r"\[(\w+)\]", line):
            section = found[1] + "."
        elif found := re.match(r"(\w+) =", line):
            yield section + found[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_stands_in_the_settings_page(feedline, recipe):
    page = (REFERENCE / "settings.md").read_text()
    start = page.index(f" of `{recipe}`\n")
    own = page[start : page.find("\n## ", start) if "\n## " in page[start:] else None]
    shared = (ROOT / "docs" / "storage.md").read_text()
    every = list(keys(feedline.ok("train", "--recipe", recipe, "--print-config").stdout))
    assert {"data.num_workers", "storage.endpoint", "train.epochs"} <= set(every)
    for key in every:
        section, _, name = key.rpartition(".")
        if section == "storage":
            assert "`storage.*`" in own and f"`{name}`" in shared, key
        else:
            # Sections that are shared are told in a sentence, by the key's last word.
            assert f"`{key}`" in own or f"`{name}`" in own.partition("\n|")[0], key


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_in_the_command_line_page(feedline, command):
    page = (REFERENCE / "cli.md").read_text()
    own = page.split(f"\n## `{command}`\n")[1].partition("\n## ")[0]
    shared = page.split("\n## Flags that name the data\n")[1].partition("\n## ")[0]
    flags = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", feedline(*command.split(), "--help").stdout, re.MULTILINE)) - {"--help"}
    assert flags
    for flag in flags:
        assert re.search(rf"{flag}\b", own + shared), flag


def test_every_exit_code_stands_in_its_page(feedline):
    page = (REFERENCE / "exit_codes.md").read_text()
    codes = re.findall(r"\d+", feedline("--help").stdout.split("Exit codes:")[1])
    assert "0" in codes and "143" in codes
    for code in codes:
        assert re.search(rf"^\|[ \d,]*\b{code}\b[ \d,]*\|", page, re.MULTILINE), code
