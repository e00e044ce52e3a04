"""Reading a mask off y: an element is dropped where y is what it would be without it.

The page is evaluated at the same inputs with everything dropped and with everything kept.  Where the two differ, y
tells which it was: it equals the first exactly, up to the rounding of what is there beside, or it does not, whatever it
is scaled by.  Where they are the same (x = 0, an activation that is 0) nothing can be told.  So the page must be one
whose mask has the shape of y and acts on each element by itself; that is tried, with a mask of random elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.rule import Rule

MASK = "mask"


def refusal(rule: Rule) -> str:
    """Why masks cannot be read off what a rule gives; "" if they can."""
    if MASK not in rule.inputs:
        return f"mask='own' is for a rule with an input {MASK}; {rule.name} takes {list(rule.inputs)}."
    if len(rule.outputs) > 1 or not rule.has_backward:
        return f"mask='own' is for a rule with one output and a backward; {rule.name} gives {list(rule.outputs)}."
    return ""


class Reader:
    """Of one rule at one set of inputs.

    inputs: by name, without the mask.  Raises ValueError if the mask cannot be read there.
    """

    def __init__(self, rule: Rule, inputs: Mapping[str, Tensor | None], hyper: Mapping[str, Any], shape: Any) -> None:
        self.rule, self.inputs, self.hyper = rule, inputs, hyper
        self.dropped = self.forward(torch.zeros(shape, dtype=torch.bool))
        self.kept = self.forward(torch.ones(shape, dtype=torch.bool))
        # What is beside the dropped element may be rounded otherwise, in one operation.
        self.width = 2 * torch.finfo(self.dropped.dtype).eps * self.dropped.abs()
        self.readable = (self.kept - self.dropped).abs() > 8 * self.width
        if self.dropped.shape != tuple(shape):
            raise ValueError(f"{rule.name}: y {tuple(self.dropped.shape)} must have the mask's shape {tuple(shape)}.")
        some = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
        mixed = torch.where(some, self.kept, self.dropped)
        if not torch.equal(self.forward(some), mixed):
            raise ValueError(
                f"{rule.name}: a mask can be read off y only where it acts on each element of y by itself; here an "
                "element of it changes others too. Give the mask as an input, and compare without mask='own'."
            )

    def forward(self, mask: Tensor) -> Tensor:
        named = {**self.inputs, MASK: self.as_due(mask)}
        y, _ = self.rule.forward(*(named[name] for name in self.rule.inputs), **self.hyper)
        return y  # type: ignore[no-any-return]

    def as_due(self, mask: Tensor) -> Tensor:
        """The mask in the dtype that the rule takes: of a function that multiplies by it that of its numbers."""
        is_number = hasattr(self.rule.page, "FUNCTION") and self.rule.is_number(MASK)
        dtypes = [x.dtype for x in self.inputs.values() if x is not None and x.is_floating_point()]
        return mask.to(dtypes[0]) if is_number and dtypes else mask

    def read(self, y: Tensor) -> Tensor:
        """True where y holds what was kept; False too where nothing can be told."""
        return ((y - self.dropped).abs() > self.width) | y.isnan()
