"""Reads which file imports which from the text of Rust crates and Python packages. Compiles nothing, runs nothing.

An import points to the file that defines the name: a `mod.rs` or `__init__.py` that re-exports it is looked through. A Rust
file may use what its parent modules define (`super::`), so those imports are left out, as are those of tests.
"""

import ast
import functools
import re
from pathlib import Path

NOT_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(\#*)".*?"\1 | b?"(?:\\.|[^"\\])*" | b?'(?:\\[^']+|\\'|[^\\'])'""", re.S | re.X
)
TEST_ONLY = re.compile(r"#\[cfg\((?:all\()?test\b")
BRACKET = re.compile(r"[][(){};]")
MODULE = re.compile(r"\bmod\s+(\w+)\s*;")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
ITEM = re.compile(r"\b(?:fn|struct|enum|union|trait|type|const|static|mod|macro_rules!)\s+(?!fn\b|unsafe\b)(?:mut\s+)?(\w+)")
PATH = re.compile(r"(?<![\w:.$])(\w+(?:\s*::\s*\w+)+)")


def blank(text):
    """Spaces in place of the text; every line keeps its number."""
    return re.sub(r"[^\n]", " ", text)


@functools.cache
def code_of(file):
    """The code of a Rust file, the same without the items under `#[cfg(test)]`, and the names of the modules among these."""
    whole = NOT_CODE.sub(lambda found: blank(found[0]), file.read_text())
    parts, modules, at = [], [], 0
    while found := TEST_ONLY.search(whole, at):
        depth, end = 0, len(whole)
        for mark in BRACKET.finditer(whole, found.start()):
            depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(mark[0], 0)
            if depth == 0 and mark[0] in ";}":
                end = mark.end()
                break
        modules += MODULE.findall(whole, found.start(), end)
        parts += [whole[at : found.start()], blank(whole[found.start() : end])]
        at = end
    return whole, "".join(parts) + whole[at:], modules


def outermost(code):
    """Code in which the text between braces is blank."""
    parts, depth = [], 0
    for part in re.split(r"([{}])", code):
        depth += {"{": 1, "}": -1}.get(part, 0)
        parts.append(blank(part) if depth or part == "}" else part)
    return "".join(parts)


def use_tree(text, before=()):
    """The (path, name) pairs of the text between `use` and `;`."""
    text = text.strip()
    if text.endswith("}"):
        head, _, inner = text[:-1].partition("{")
        before = (*before, *(part.strip() for part in head.split("::") if part.strip()))
        for piece in re.findall(r"(?:[^,{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})+", inner):
            if piece.strip():
                yield from use_tree(piece, before)
        return
    path, _, name = text.partition(" as ")
    parts = (*before, *(part.strip() for part in path.split("::") if part.strip()))
    if parts[-1] == "self":
        parts = parts[:-1]
    yield parts, name.strip() or parts[-1]


class Module:
    """One Rust file: its module path, the names it defines, and the paths it uses as (path, line, is only re-exported)."""

    def __init__(self, file, path, is_test):
        self.file, self.path, self.is_test = file, path, is_test
        _, self.code, self.test_modules = code_of(file)
        self.modules = MODULE.findall(self.code)
        self.uses, self.globs, self.used = {}, [], []
        body = USE.sub(lambda found: blank(found[0]), self.code)
        words = set(re.findall(r"\w+", body))
        for found in USE.finditer(self.code):
            line = self.code.count("\n", 0, found.start()) + 1
            for parts, name in use_tree(found[2]):
                if name == "*":
                    self.globs.append(parts[:-1])
                    parts = parts[:-1]
                else:
                    self.uses.setdefault(name, parts)
                self.used.append((parts, line, bool(found[1]) and name not in words))
        for found in PATH.finditer(body):
            line = self.code.count("\n", 0, found.start()) + 1
            self.used.append((tuple(re.split(r"\s*::\s*", found[1])), line, False))
        self.items = set(ITEM.findall(outermost(body)))


class Crate:
    """The modules of one crate by their paths; `root` is its `lib.rs` or `main.rs`."""

    def __init__(self, root):
        self.modules = {}
        self._add(Path(root), (), False)

    def _add(self, file, path, is_test):
        module = self.modules[path] = Module(file, path, is_test)
        owns_folder = file.name in ("lib.rs", "main.rs", "mod.rs")
        folder = file.parent if owns_folder else file.with_suffix("")
        for names, test in ((module.modules, is_test), (module.test_modules, True)):
            for name in names:
                for candidate in (folder / f"{name}.rs", folder / name / "mod.rs"):
                    if candidate.is_file():
                        self._add(candidate, (*path, name), test)

    def _find(self, module, parts, seen=()):
        """The module that a path within `module` leads to, and whether to an item of it; None for a path into another crate."""
        at, parts = module, list(parts)
        if parts[0] == "crate":
            at, parts = self.modules[()], parts[1:]
        elif parts[0] in ("self", "super"):
            while parts and parts[0] in ("self", "super"):
                if parts.pop(0) == "super":
                    at = self.modules[at.path[:-1]]
        elif (*at.path, parts[0]) not in self.modules and parts[0] not in at.uses:
            return None
        for number, name in enumerate(parts):
            if (*at.path, name) in self.modules:
                at = self.modules[(*at.path, name)]
            elif name in at.items or (at.path, name) in seen:
                return at, True
            elif name in at.uses:
                return self._find(at, (*at.uses[name], *parts[number + 1 :]), (*seen, (at.path, name)))
            else:
                for path in at.globs:
                    through = self._find(at, path, seen)
                    if through and not through[1] and through[0] is not at and (through[0].path, name) not in seen:
                        found = self._find(through[0], ("self", *parts[number:]), (*seen, (at.path, name)))
                        if found and name in found[0].items:
                            return found
                return at, True
        return at, False

    def arrows(self):
        """{(importing module, imported module): line of the first import}."""
        arrows = {}
        for module in self.modules.values():
            if module.is_test:
                continue
            for parts, line, is_reexported in module.used:
                found = None if is_reexported else self._find(module, parts)
                # A `use` of a module imports nothing yet: the paths through its name do.
                if found and found[1] and module.path[: len(found[0].path)] != found[0].path:
                    arrows.setdefault((module.path, found[0].path), line)
        return arrows


class Package:
    """The modules of one Python package by their paths, from the folder of its `__init__.py` on."""

    def __init__(self, folder):
        self.files, self.trees = {}, {}
        for file in sorted(folder.rglob("*.py*")):
            if file.suffix in (".py", ".pyi"):
                path = file.relative_to(folder).with_suffix("").parts
                path = path[:-1] if path[-1] == "__init__" else path
                self.files[path], self.trees[path] = file, ast.parse(file.read_text())
        self.name = folder.name

    def _module(self, path, node):
        """The module after `from`; None for one outside of the package."""
        names = tuple(node.module.split(".")) if node.module else ()
        if not node.level:
            return names[1:] if names[0] == self.name else None
        ups = node.level - (self.files[path].name == "__init__.py")
        return (*path[: len(path) - ups], *names)

    def _defining(self, module, name):
        """The module that defines what `from module import name` gives."""
        if (*module, name) in self.files:
            return (*module, name)
        for node in self.trees[module].body if self.files[module].name == "__init__.py" else ():
            if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
                source = self._module(module, node)
                return self._defining(source, name) if source in self.files else module
        return module

    def arrows(self):
        """{(importing module, imported module): line}; imports within functions and for type checkers count."""
        arrows = {}
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                found = []
                if isinstance(node, ast.ImportFrom):
                    module = self._module(path, node)
                    found = [self._defining(module, alias.name) for alias in node.names] if module in self.files else []
                elif isinstance(node, ast.Import):
                    names = [tuple(alias.name.split(".")) for alias in node.names]
                    found = [name[1:] for name in names if name[0] == self.name and name[1:] in self.files]
                for target in found:
                    if target != path:
                        arrows.setdefault((path, target), node.lineno)
        return arrows


def circles(arrows):
    """The circles among the arrows: through each node the shortest one, unless a circle before held that node."""
    after = {}
    for start, end in arrows:
        after.setdefault(start, []).append(end)
    found, done = [], set()
    for start in sorted(after):
        if start in done:
            continue
        ways, rows = {start: [start]}, [start]
        for at in rows:
            for end in sorted(after.get(at, ())):
                if end == start:
                    found.append([*ways[at], start])
                    done.update(ways[at])
                    rows.clear()
                    break
                if end not in ways:
                    ways[end] = [*ways[at], end]
                    rows.append(end)
    return found
