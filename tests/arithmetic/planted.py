"""Rules from bare functions."""

import inspect
from types import ModuleType
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input
from manual_bp.rule import Rule


def rule_of(forward) -> Rule:
    """A rule from a bare forward, as if it were a page.  Its backward is wrong."""

    class Residuals(NamedTuple):
        pass

    def page_forward(*inputs, **hyper):
        return forward(*inputs, **hyper), Residuals()

    def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Tensor, ...]:
        return tuple(3 * dy for _ in page.INPUTS)

    page_forward.__signature__ = inspect.signature(forward)
    returned = tuple[forward.__annotations__["return"], Residuals]
    page_forward.__annotations__ = {**forward.__annotations__, "return": returned}
    page = ModuleType("pages.testing.planted")
    page.forward, page.backward, page.Residuals, page.EDGES, page.MISTAKES = page_forward, backward, Residuals, (), ()
    parameters = inspect.signature(forward).parameters.values()
    page.INPUTS = {p.name: Input() for p in parameters if p.kind is not p.KEYWORD_ONLY}
    return Rule("planted", page)
