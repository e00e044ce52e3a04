"""What computes in place of a page while a program is traced: a module `<rule>.py` here, found by the rule's name.

It has the page's `forward` and `backward`, of the same arguments and results, in operations that a compiler makes
better code of than of the page's text; `lower()`, which tells inductor how; and some `rewrite(graph)`, to take over
what is done around them.  What it does not take it leaves to the page.  A compiled rule is judged as the page is, and
with it what stands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from manual_bp.rule import Rule, text_of

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)
"""What another shape of the same memory is called in a graph: the one where a program is called from Python, the other
where it is compiled ahead of time."""


@contextmanager
def standing_in() -> Iterator[None]:
    """Within, the rules of this thread compute by what stands in for their pages."""
    token = text_of.set(_text)
    try:
        yield
    finally:
        text_of.reset(token)


def _text(rule: Rule) -> Any:
    module = _module(rule.name)
    return rule.page if module is None or module.page is not rule.page else module


def lower() -> None:
    """Tells inductor about the operations of what has stood in so far."""
    for module in _found:
        module.lower()


def rewrite(graph: Any) -> None:
    """Lets what has stood in so far take over what is done around it."""
    for module in _found:
        if hasattr(module, "rewrite"):
            module.rewrite(graph)


_found: list[Any] = []


@cache
def _module(name: str) -> Any:
    spec = find_spec(f"{__name__}.{name}") if name.isidentifier() else None
    if spec is None:
        return None
    module = import_module(spec.name)
    _found.append(module)
    return module
