"""README and guides: their snippets run and print what they say, their links lead somewhere, their commands exist."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CODE = ("manual_bp", "torch_ref", "benchmarks", "tests")
# Not in hidden folders: pytest leaves a README in its cache, benchmarks/.pytest_cache.
FOUND = [path for folder in CODE for path in (ROOT / folder).rglob("*.md")]
GUIDES = sorted([ROOT / "README.md", *(path for path in FOUND if "/." not in path.relative_to(ROOT).as_posix())])
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in GUIDES}
BLOCKS = [
    (name, language, block)
    for name, text in TEXTS.items()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]
FILES = [(name, re.match(r"# (\S+)\n", block), block) for name, language, block in BLOCKS if language == "python"]
PROGRAMS = [(name, block) for name, file, block in FILES if not file and not block.startswith(">>>")]
"""Worked examples for libraries that need not be installed."""

# Lines of the README and of a guide: two screens of the one, and what is read at one sitting of the other.
LONGEST = {"README.md": 220}
LONGEST_GUIDE = 200


def imported(program: str) -> list[str]:
    return [alias.name for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Import) for alias in node.names]


@pytest.mark.parametrize("name", TEXTS)
def test_snippets(name, tmp_path, monkeypatch):
    """A block that begins with the name of a file is that file, which the snippets import."""
    monkeypatch.chdir(tmp_path)  # what a snippet writes
    monkeypatch.syspath_prepend(tmp_path)
    for _, file, block in (each for each in FILES if each[0] == name and each[1]):
        (tmp_path / file[1]).write_text(block.partition("\n")[2])
    failed, _ = doctest.testfile(
        str(ROOT / name),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert failed == 0


@pytest.mark.parametrize(("name", "program"), PROGRAMS, ids=lambda part: part if part in TEXTS else "")
def test_programs(name, program, tmp_path):
    for module in imported(program):
        pytest.importorskip(module)
    path = tmp_path / "example.py"  # Triton reads its kernels' text
    path.write_text(program)
    # Else inductor tries every instruction set that the processor has, which takes 6 CPU seconds.
    environment = {**os.environ, "TORCHINDUCTOR_VEC_ISA_OK": "1"}
    environment |= {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_there_is_an_example_for_each():
    assert {module for _, program in PROGRAMS for module in imported(program)} >= {"triton", "jax"}
    for words in ("autograd.Function", "from_functions(", "compare(None", "inputs={"):
        assert words in TEXTS["README.md"]


@pytest.mark.parametrize("name", TEXTS)
def test_is_short(name):
    lines = TEXTS[name].count("\n")
    assert lines <= LONGEST.get(name, LONGEST_GUIDE)


def anchors(text: str) -> set[str]:
    """What a heading can be linked to, as GitHub names it."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    prose = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    for path, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!http)([^)]+)\)", prose)):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text("utf-8")), f"{path}#{anchor}"


def test_every_guide_is_reached_from_the_readme():
    reached, found = set(), {"README.md"}
    while name := next(iter(found - reached), None):
        reached.add(name)
        for path in re.findall(r"\]\((?!http)([^)#]+\.md)", TEXTS[name]):
            found.add(str(((ROOT / name).parent / path).resolve().relative_to(ROOT)))
    assert set(TEXTS) <= reached


def test_every_chapter_has_a_row():
    rules = ROOT / "manual_bp" / "rules"
    chapters = {path.parent.name for path in rules.glob("[!_]*/[!_]*.py")}
    assert set(re.findall(r"^\| \[(\w+)\]\(manual_bp/rules/\1\) \|", TEXTS["README.md"], re.MULTILINE)) == chapters


COMMANDS = sorted({
    line.split("  #")[0].strip()
    for _, language, block in BLOCKS
    if language != "python"
    for part in block.splitlines()
    for line in part.split("&&")
    if line.strip().startswith("manual-bp ")
})  # fmt: skip


def test_commands_exist():
    """Every command in a block is one, with these options."""
    typer = pytest.importorskip("typer")
    from manual_bp.cli import app

    group = typer.main.get_command(app)
    assert COMMANDS
    for line in COMMANDS:
        _, name, *words = shlex.split(re.sub(r"[\[\]]", "", line))
        assert name in group.commands or name.startswith("--"), line
        options = {o for p in group.commands[name].params for o in p.opts} if name in group.commands else set()
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line
