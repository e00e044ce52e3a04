"""The README's snippets run, and print what the README says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_snippets():
    failed, attempted = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert attempted > 20
    assert failed == 0


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
