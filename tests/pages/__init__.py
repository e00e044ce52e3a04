"""Tiny pages for tests, one for each thing that a page may have and few have: together they are the widest contract.

They are no operations that anybody needs, so that no test of a kind of page depends on which rules there are.
"""

from __future__ import annotations

from pathlib import Path

from manual_bp.registry import Rules

PAGES = Rules(__name__, Path(__file__).parent, group="")
"""Every page of this folder, by name."""
