"""torch's own function for each rule."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import torch.nn.functional as F

from manual_bp.registry import GROUP


@cache
def function(rule: str) -> Callable[..., Any] | None:
    """`torch_ref.twins.<rule>`, `_twins.<rule>` in a package of pages that somebody registered (see
    `manual_bp.registry`), or else `torch.nn.functional.<rule>`; None if there is none of these."""
    for package in ("torch_ref.twins", *(f"{point.value}._twins" for point in entry_points(group=GROUP))):
        if _is_there(f"{package}.{rule}"):
            found: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{rule}"), rule)
            return found
    return getattr(F, rule, None)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package
        return False
