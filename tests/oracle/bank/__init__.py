"""Backwards as people write them: wrong ones, each with the cause that a diagnosis should name, and right ones.

Every entry is code of its own, with its own forward and its own formula: none is the page's result changed afterwards,
so that what is measured here does not share its mechanism with the detectors.  One file per rule; the tests and
`python -m benchmarks.diagnoses` read it, and nothing in manual_bp does.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from tests.oracle.bank.entry import Entry


def entries() -> Iterator[Entry]:
    """Every entry of every rule, in the order in which they are written."""
    for found in iter_modules(__path__):
        yield from getattr(import_module(f"{__name__}.{found.name}"), "bank", ())
