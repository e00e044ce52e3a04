"""torch's own function for each rule."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache

import torch.nn.functional as F
from torch import Tensor


@cache
def function(rule: str) -> Callable[..., Tensor] | None:
    """`torch_ref.twins.<rule>` or else `torch.nn.functional.<rule>`, or None."""
    if importlib.util.find_spec(f"torch_ref.twins.{rule}"):
        found: Callable[..., Tensor] = getattr(importlib.import_module(f"torch_ref.twins.{rule}"), rule)
        return found
    return getattr(F, rule, None)
