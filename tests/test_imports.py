"""No module imports what imports it back: then neither can be read, or moved, alone.

An import inside a function counts, and one that only a type checker sees: what speaks of a type has to know it.  Nor do
the folders of a package, or of a folder, each as a whole.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("manual_bp", "torch_ref", "benchmarks")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
Graph = dict[str, set[str]]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules named by every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: an import names its module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(name: str, files) -> str | None:
    """The module of ours that a name is, or is part of."""
    return name if name in files else module(name.rpartition(".")[0], files) if name else None


def graph(files) -> Graph:
    """Of each module those of ours that it imports."""
    named = {name: {module(other, files) for other in imported(ast.parse(files[name].read_text()))} for name in files}
    return {name: found - {name, None} for name, found in named.items()}


def rooms(modules: Graph, depth: int = 2) -> Graph:
    """The same of what lies so deep (2: right below a package): a folder as a whole, or a file."""
    found: Graph = {}
    for name, others in modules.items():
        room, *far = (".".join(each.split(".")[:depth]) for each in (name, *others))
        found.setdefault(room, set()).update({*far} - {room})
    return found


def circle(modules: Graph) -> list[str] | None:
    """Modules each of which imports the next, and the first again at the end."""
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # graphlib names what is needed first
    return None


def test_there_is_no_import_circle():
    assert len(FILES) > len(PACKAGES)
    modules = graph(FILES)
    for found in (circle(modules), circle(rooms(modules)), circle(rooms(modules, depth=3))):
        assert found is None, "imports in a circle: " + " -> ".join(found)


@pytest.mark.parametrize("hidden", ["def f():\n    from p import d", "if TYPE_CHECKING:\n    from p.d import g"])
def test_a_hidden_circle_is_seen(hidden, tmp_path):
    texts = {"p": "from p import a", "p.a": "import os, p.b.c", "p.b": "", "p.b.c": hidden, "p.d": "from p.a import g"}
    files = {}
    for name, text in texts.items():
        files[name] = tmp_path / name
        files[name].write_text(text)
    found = circle(graph(files))
    assert found[0] == found[-1]
    assert set(pairwise(found)) == {("p.a", "p.b.c"), ("p.b.c", "p.d"), ("p.d", "p.a")}
    files["p.b.c"].write_text("")
    assert circle(graph(files)) is None


def test_a_circle_of_rooms_is_seen():
    modules = {"p.a.x": {"p.b"}, "p.b": {"p.a.y"}, "p.a.y": set()}
    assert circle(modules) is None
    assert set(pairwise(circle(rooms(modules)))) == {("p.a", "p.b"), ("p.b", "p.a")}
