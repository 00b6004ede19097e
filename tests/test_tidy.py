"""Keeps the repository in order: file heads and sizes, words, import directions, links. Reads text, builds nothing.

`python3 tests/test_tidy.py [ROOT]` runs it without pytest, in about two seconds, on this checkout or another one.
"""

import ast
import functools
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from imports import Crate, Package, circles, code_of

ROOT = Path(__file__).resolve().parent.parent

# Which folder of a crate may import which: a row names a folder or file and what it may import beside its parents. A row
# names only rows above it, so there is no way back. "*" is any folder that holds a recipe.rs.
ENGINE = {
    "url": "",
    "error": "url",
    "stop": "",
    "hash": "",
    "meter": "error stop",
    "sample": "error",
    "event": "error meter sample",
    "plan": "error hash",
    "read/names": "",
    "read/remarks": "",
    "read/file": "",
    "read/text": "error",
    "read/location": "error read/names url",
    "read/source": "error hash plan read/file read/location read/names read/text stop url",
    "read/archive": "error hash read/file read/location read/names read/remarks read/source read/text sample stop",
    "read/list": (
        "error hash plan read/archive read/file read/location read/names read/remarks read/source read/text sample stop url"
    ),
    "read": "",
    "decode": "error sample",
    "augment": "decode error plan sample",
    "collate": "error sample",
    "pipeline": "augment decode error event hash meter plan read/list read/remarks read/source sample",
    "deliver": "collate error event hash meter pipeline plan read/source sample stop url",
    "plot": "decode error",
    "train": "deliver error event hash meter pipeline plan plot read/file read/list sample stop",
}
RECIPES = {
    "settings": "",
    "recipe": "settings",
    "network": "settings",
    "run": "network recipe settings",
    "arrays": "",
    "burn_loader": "",
    "*": "arrays network recipe run settings",
    "every": "* recipe run",
}
PACKAGE = {
    "_native": "",
    "errors": "",
    "batch": "",
    "own": "errors",
    "labels": "errors",
    "passthrough": "",
    "shown": "",
    "source": "_native errors labels own passthrough shown",
    "pictures": "_native errors labels own shown source",
    "ranks": "_native errors",
    "follow": "_native errors",
    "workers": "_native errors own passthrough source",
    "loader": "_native batch errors follow own pictures ranks source workers",
    "models": "_native errors loader pictures",
    "torch": "_native errors loader ranks source workers",
    "recipes/s3client": "errors",
    "recipes/epochs": "_native batch errors loader",
    "recipes/classification": "_native errors loader pictures source",
    "recipes/lidar": "_native errors own ranks recipes/epochs recipes/s3client source torch",
    "recipes/scene_completion": "_native errors loader own pictures ranks recipes/epochs recipes/s3client source",
    "__main__": "_native",
}
# Which crate of the workspace may depend on which, and which outside crates have one owner.
CRATES = {
    "feedline": "",
    "feedline-demo": "feedline",
    "feedline-recipes": "feedline feedline-demo",
    "feedline-cli": "feedline feedline-demo feedline-recipes",
    "feedline-py": "feedline feedline-recipes feedline-cli",
}
OWNERS = {"burn": "feedline-recipes", "clap": "feedline-cli", "mpi": "feedline", "pyo3": "feedline-py"}

# Files that may hold `unsafe`, and why.
UNSAFE = {
    "bench/rust/src/bare.rs": "calls TurboJPEG through its C interface",
    "bench/rust/src/input.rs": "maps files into memory",
    "crates/feedline-py/src/array.rs": "hands arrays to Python by DLPack",
    "crates/feedline-py/src/lib.rs": "opens the crate's files to raw pointers",
    "crates/feedline-py/src/memory.rs": "reads the memory of NumPy arrays",
    "crates/feedline/src/augment/normalize.rs": "calls AVX2 code that was detected",
    "crates/feedline/src/augment/resize/passes.rs": "calls AVX2 code that was detected",
    "crates/feedline/src/decode/jpeg/mod.rs": "calls AVX2 code that was detected",
    "crates/feedline/src/decode/jpeg/simd.rs": "calls AVX2 code that was detected",
    "crates/feedline/src/sample/buffer.rs": "several threads write disjoint slots of one buffer",
}

LINES, TEST_LINES, MEDIAN_LINES, README_WORDS = 600, 700, 200, 900

# Rust: what no file says, except those whose path matches; the second column is what to do instead.
NO_CODE = [
    (r"\b(todo|unimplemented|dbg)!", "write the code, or leave the branch out", r"^$"),
    (r"#!?\[allow\(", 'write #[expect(..., reason = "...")]', r"^$"),
    (r"#!?\[expect\((?![^\]]*\breason\b)", 'add reason = "..."', r"^$"),
    (r"#\[ignore\b", "run it with the others, or as a process that a test starts", r"^$"),
]
# Names that gave way to the field's.
RENAMED = {
    "BatchPlan": "BatchRequest",
    "CHANGEABLE": "MUTABLE_KEYS",
    "Clock": "SampleContext",
    "Fan": "MultiSink",
    "Flight": "InFlightBatch",
    "ImagePath": "FusedDecode",
    "Outlook": "NextUse",
    "OwnStep": "CustomTransform",
    "PLACES": "LOCATION_KEYS",
    "Packing": "Encoding",
    "Readers": "Prefetcher",
    "Said": "SettingsBuilder",
    "Walk": "BatchSampler",
}
# The same, for code that is not a test.
NO_SOURCE = [
    (r"\be?print(ln)?!", "print through feedline::event, which survives a closed pipe", r"^(examples|fuzz|bench)/|/examples/"),
    (r"\basync\b|\.await\b", "only read/ waits for a network", r"^crates/feedline/src/read/"),
]
# Any text: places of one machine. Tests and measurements may look for material beside the checkout.
NO_TEXT = [(r"/work/|\.\./shared\b|/root/", "name no place of one machine", r"(^|/)tests?(/|\.rs$)|^bench/|^\.ci/")]

LINK = re.compile(r"""\]\(<?([^()\s>]*)>?(?: "[^"]*")?\) | (?:href|src)="([^"]+)" | ^\[[^]]+\]:\ (\S+)""", re.M | re.X)
VAGUE_NAMES = {"base", "common", "helper", "helpers", "imp", "impl", "misc", "structs", "types", "util", "utils"}


@functools.cache
def files():
    """The repository's files by their paths: tracked, or new and not ignored."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        skipped = {".git", ".venv", "__pycache__", "target"}
        walk = ((Path(at), folders, names) for at, folders, names in os.walk(ROOT))
        listed = []
        for at, folders, names in walk:
            folders[:] = [name for name in folders if name not in skipped]
            listed += [str((at / name).relative_to(ROOT)) for name in names]
    return {name: ROOT / name for name in sorted(set(listed)) if name and (ROOT / name).is_file()}


def files_of(*suffixes, but=r"^testdata/"):
    return {name: file for name, file in files().items() if file.suffix in suffixes and not re.search(but, name)}


@functools.cache
def crates():
    """The crates' modules by the names of the crates, each of a library or else of a program."""
    roots = {}
    for name, file in files_of(".rs").items():
        if name.endswith(("/src/lib.rs", "/src/main.rs")):
            roots[name] = Crate(file)
    return roots


@functools.cache
def rust_tests():
    """The Rust files that are nothing but tests."""
    inside = {m.file for crate in crates().values() for m in crate.modules.values() if m.is_test}
    return inside | {file for name, file in files_of(".rs").items() if re.search(r"^crates/[^/]+/tests/", name)}


def source_of(file):
    """The code of a Rust file without its tests."""
    return "" if file in rust_tests() else code_of(file)[1]


def name_of(file):
    return file.relative_to(ROOT).as_posix()


def line_at(text, position):
    return text.count("\n", 0, position) + 1


def check(problems):
    """Fails with all problems, each a line `file:line: what to do`."""
    if problems := sorted(problems):
        raise AssertionError("\n".join([f"{len(problems)} problems:", *problems]))


def found_in(texts, rules):
    """What the rules find in the (name, text) pairs."""
    for name, text in texts:
        for pattern, advice, owners in rules:
            if not re.search(owners, name):
                for found in re.finditer(pattern, text):
                    yield f"{name}:{line_at(text, found.start())}: {found[0].strip()!r}: {advice}"


def test_every_rust_file_begins_by_saying_what_it_owns():
    check(
        f"{name}:1: begin with `//! ` and a sentence: what the file owns, what it leaves to others"
        for name, file in files_of(".rs").items()
        if not re.match(r"//! \S.{15}", file.read_text())
    )


def test_every_python_file_begins_with_a_docstring():
    check(
        f'{name}:1: begin with """ and a sentence: what the file owns'
        for name, file in files_of(".py", ".pyi", but="^$").items()
        if not re.match(r'(?:\s*#[^\n]*\n)*\s*r?"""\S', file.read_text())
    )


def test_no_file_has_a_name_that_says_nothing():
    check(
        f"{name}:1: name the file after what it owns"
        for name, file in files().items()
        if VAGUE_NAMES & {part.partition(".")[0] for part in Path(name).parts}
    )


def source_lines(file):
    """Lines of a Rust file without its tests."""
    whole, source, _ = code_of(file)
    return sum(with_tests == without for with_tests, without in zip(whole.split("\n"), source.split("\n")))


def test_every_rust_file_belongs_to_its_crate():
    reached = {module.file for crate in crates().values() for module in crate.modules.values()}
    check(
        f"{name}:1: no `mod` leads here: declare it, or remove the file"
        for name, file in files_of(".rs").items()
        if "/src/" in name and file not in reached
    )


def test_no_file_is_too_long():
    problems = []
    for name, file in files_of(".rs", ".py").items():
        is_test = file in rust_tests() or "/tests/" in f"/{name}"
        lines = file.read_text().count("\n") if is_test or file.suffix == ".py" else source_lines(file)
        most = TEST_LINES if is_test else LINES
        if lines > most:
            problems.append(f"{name}:{most}: {lines} lines without tests, at most {most}: split it by what its parts own")
    check(problems)


def test_half_of_the_source_files_are_short():
    sizes = {
        name: source_lines(file)
        for name, file in files_of(".rs").items()
        if re.match(r"crates/[^/]+/src/", name) and file not in rust_tests()
    }
    median = statistics.median(sizes.values())
    assert median <= MEDIAN_LINES, f"half of the {len(sizes)} source files have {median} lines or more, not {MEDIAN_LINES}"


def test_no_code_has_what_the_house_rules_forbid():
    rust = files_of(".rs").items()
    whole = ((name, code_of(file)[0]) for name, file in rust)
    source = ((name, source_of(file)) for name, file in rust)
    renamed = (rf"\b({'|'.join(RENAMED)})\b", "take the name in RENAMED of tests/test_tidy.py", r"^$")
    check([*found_in(whole, [*NO_CODE, renamed]), *found_in(source, NO_SOURCE)])


def test_no_text_names_a_place_of_one_machine():
    def texts():
        for name, file in files().items():
            data = file.read_bytes()
            if name.startswith("testdata/") or b"\0" in data:
                continue
            text = data.decode()
            if file.suffix == ".rs":
                lines = zip(text.split("\n"), *(code.split("\n") for code in code_of(file)[:2]))
                text = "\n".join(line if whole == source else "" for line, whole, source in lines)
            yield name, text

    check(found_in(texts(), NO_TEXT))


def test_unsafe_code_stays_in_the_files_that_need_it():
    holders = {}
    for name, file in files_of(".rs").items():
        if found := re.search(r"\bunsafe\b(?!_code)|expect\(unsafe_code", code_of(file)[0]):
            holders[name] = line_at(code_of(file)[0], found.start())
    check(
        f"{name}:{holders.get(name, 1)}: `unsafe`: write it without, or add the file to UNSAFE with a reason"
        if name in holders
        else f"{name}:1: there is no `unsafe` any more: take the file out of UNSAFE"
        for name in holders.keys() ^ UNSAFE.keys()
    )


def climbing(place, arrows, table, is_recipe=lambda folder: False):
    """The problems of the arrows {(from, to): line} between module paths, against a table."""
    rows = list(table)
    for at, (row, allowed) in enumerate(table.items()):
        for name in set(allowed.split()) - set(rows[:at]):
            yield f"tests/test_tidy.py:1: the row {row!r} names {name!r}, which is no row above it"

    def row_of(path):
        for length in range(len(path), 0, -1):
            top = "/".join(path[:length])
            if top in table and (length == len(path) or not any(row.startswith(f"{top}/") for row in rows)):
                return top
        return "*" if path and is_recipe(path[0]) else None

    for path in sorted({path for arrow in arrows for path in arrow if path and row_of(path) is None}):
        yield f"{place(path)}:1: give {'/'.join(path)} a row in the table of tests/test_tidy.py"
    for (start, end), line in arrows.items():
        ours, theirs, where = row_of(start), row_of(end), place(start)
        if ours is None or theirs is None:
            continue
        if theirs not in [ours, *table[ours].split()] or ours == theirs == "*" and start[0] != end[0]:
            who, whom = ours.replace("*", start[0]), "/".join(end)
            yield (
                f"{where}:{line}: {who} may not import {whom}, only {table[ours] or 'nothing'}: move what both need below them, "
                "or hand it in"
            )


def test_no_stage_of_the_engine_imports_a_later_one():
    crate = crates()["crates/feedline/src/lib.rs"]
    check(climbing(lambda path: name_of(crate.modules[path].file), crate.arrows(), ENGINE))


def test_no_recipe_imports_another_and_what_they_share_imports_none():
    crate = crates()["crates/feedline-recipes/src/lib.rs"]

    def is_recipe(folder):
        return (folder, "recipe") in crate.modules

    check(climbing(lambda path: name_of(crate.modules[path].file), crate.arrows(), RECIPES, is_recipe))


@functools.cache
def package():
    return Package(ROOT / "crates/feedline-py/python/feedline")


def test_no_module_of_the_python_package_imports_a_later_one():
    check(climbing(lambda path: name_of(package().files[path]), package().arrows(), PACKAGE))


def test_no_files_import_each_other_in_a_circle():
    problems = []
    for graph, file_of in [
        *(
            (crate.arrows(), lambda path, crate=crate: crate.modules[path].file)
            for name, crate in crates().items()
            if name.startswith(("crates/", "examples/"))
        ),
        (package().arrows(), lambda path: package().files[path]),
    ]:
        for circle in circles(graph):
            steps = [f"{name_of(file_of(a))}:{graph[a, b]}" for a, b in zip(circle, circle[1:])]
            way = " -> ".join([*steps, steps[0]])
            problems.append(f"{steps[0]}: a circle of imports: {way}: move what both need below them")
    check(problems)


def test_crates_depend_on_those_below_and_outside_crates_have_one_owner():
    problems, section = [], ""
    for name, file in files_of(".toml").items():
        if not (found := re.fullmatch(r"crates/([^/]+)/Cargo\.toml", name)):
            continue
        crate = found[1]
        if crate not in CRATES:
            problems.append(f"{name}:1: give {crate} a row in CRATES of tests/test_tidy.py")
            continue
        for line, text in enumerate(file.read_text().splitlines(), 1):
            section = text if text.startswith("[") else section
            if "dependencies" in section and (named := re.match(r"([\w-]+)[ .]", text)):
                if named[1] in CRATES and named[1] not in CRATES[crate].split():
                    problems.append(f"{name}:{line}: {crate} depends on {named[1]}, and may on {CRATES[crate] or 'none of ours'}")
                if OWNERS.get(named[1], crate) != crate:
                    problems.append(f"{name}:{line}: only {OWNERS[named[1]]} depends on {named[1]}")
    check(problems)


def test_every_skipped_python_test_says_why():
    problems = []
    for name, file in files_of(".py").items():
        text = file.read_text()
        for node in ast.walk(ast.parse(text)) if re.search(r"pytest\.(mark\.)?(skip|xfail)", text) else ():
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(r"pytest\.(mark\.)?(skip|skipif|xfail)", called):
                is_said = any(word.arg == "reason" for word in node.keywords) or (called == "pytest.skip" and node.args)
                if not is_said:
                    problems.append(f"{name}:{node.lineno}: {called}: add reason=")
            for mark in getattr(node, "decorator_list", ()):
                if re.fullmatch(r"pytest\.mark\.(skip|xfail)", ast.unparse(mark)):
                    problems.append(f"{name}:{mark.lineno}: {ast.unparse(mark)}: add (reason=...)")
    check(problems)


def test_each_readme_is_short():
    check(
        f"{name}:1: {words} words, at most {README_WORDS}: move what is not needed for the first result into docs/"
        for name in ("README.md", "README.zh-CN.md")
        if (words := len((ROOT / name).read_text().split())) > README_WORDS
    )


def prose(text):
    """Markdown whose code is blank."""
    fenced = re.sub(r"(?ms)^ *(```+|~~~+).*?^ *\1", lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return re.sub(r"`[^`\n]+`", lambda found: " " * len(found[0]), fenced)


@functools.cache
def anchors(file):
    """The anchors of a Markdown file's headings, as GitHub and mdBook make them, and those written as HTML."""
    text, found = file.read_text(), []
    blank_code = re.sub(r"(?ms)^ *(```+|~~~+).*?^ *\1", "", text)
    for heading in re.findall(r"(?m)^#+ +(.*?) *#*$", blank_code):
        heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return {*found, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}


def test_every_link_in_the_documents_leads_somewhere():
    problems = []
    for name, file in files_of(".md").items():
        text = prose(file.read_text())
        for found in LINK.finditer(text):
            link = found[1] or found[2] or found[3]
            if not link or re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path).resolve() if path else file
            where = f"{name}:{line_at(text, found.start())}: {link}"
            if not target.exists() or ROOT not in target.parents:
                problems.append(f"{where}: there is no such file in the repository")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                problems.append(f"{where}: {name_of(target)} has no such heading")
    check(problems)


def test_the_files_to_imitate_hold_what_they_are_named_for():
    name, problems = "CONTRIBUTING.md", []
    text = (ROOT / name).read_text()
    tops = {path.partition("/")[0] for path in files()}
    paragraphs = list(re.finditer(r"(?ms)^To imitate: .*?(?=\n\n|\Z)", text))
    assert len(paragraphs) >= 4, "CONTRIBUTING.md names files to imitate"
    for paragraph in paragraphs:
        quoted = re.findall(r"`([^`]+)`", paragraph[0])
        words = [word.lower() for word in quoted if re.fullmatch(r"\w+", word)]
        for path in (path for path in quoted if re.fullmatch(r"[\w.-]+/[\w./-]+", path) and path.partition("/")[0] in tops):
            where = f"{name}:{line_at(text, text.index(path, paragraph.start()))}: {path}"
            file = ROOT / path
            if not file.exists():
                problems.append(f"{where}: there is no such file")
            elif file.is_file() and words and not any(word in file.read_text().lower() for word in words):
                problems.append(f"{where}: holds none of {', '.join(words)}")
    check(problems)


if __name__ == "__main__":
    ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT).resolve()
    failed = 0
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            try:
                test()
            except AssertionError as problems:
                failed += 1
                print(f"{name}: {problems}\n")
    sys.exit(f"{failed} checks failed" if failed else 0)
