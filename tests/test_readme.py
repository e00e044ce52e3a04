"""The README's snippets run, and print what the README says."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if not block.startswith(">>>")]
"""Worked examples for libraries that need not be installed."""


def imported(program: str) -> list[str]:
    return [alias.name for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Import) for alias in node.names]


def test_snippets():
    failed, attempted = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert attempted > 20
    assert failed == 0


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: "-".join(imported(program)))
def test_programs(program, tmp_path):
    for module in imported(program):
        pytest.importorskip(module)
    path = tmp_path / "example.py"  # Triton reads its kernels' text
    path.write_text(program)
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_there_is_an_example_for_each():
    assert {module for program in PROGRAMS for module in imported(program)} >= {"triton", "jax"}
    for words in ("autograd.Function", "from_functions(forward, backward)", "compare(None"):
        assert words in README


@pytest.mark.parametrize(
    "path", re.findall(r"\]\((?!http)([^)#]+)\)", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
)
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
