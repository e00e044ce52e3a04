"""One entry of the bank: a program as somebody might ship it, and in words what is wrong with it.

A program is a Vjp, `vjp(inputs, dy, **hyper) -> (y, grads)`.  Its value y is right; what is wrong is in its cotangents.
Numbers of 16 bits are computed in float32 and rounded once, as kernels do; where a program rounds further, that is its
mistake.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Vjp = Callable[..., tuple[Any, tuple[Tensor | None, ...]]]
Reference = str | Callable[..., Any]
"""The name of a rule, or a function in plain torch."""

OUT = "left out|missing|misses|without|omit|dropped|forg|lack|ignor|not multiplied|not divided|removed|replaced by 1"
"""How a sentence may say that something is not there."""
STATE = "first call|last call|call before|calls before|other calls|previous|earlier|state|remember|cache|stale|repeated"
"""How a sentence may say that a program remembers what it must not."""


@dataclass(frozen=True)
class Program:
    """A program and its label."""

    name: str
    reference: Reference
    vjp: Vjp
    cause: str = ""
    """What is wrong with it, as a person would say; empty if nothing is."""
    keywords: tuple[tuple[str, ...], ...] = ()
    """Groups of synonyms: a sentence names the cause if it holds one of each group.  A synonym is the beginning of a
    word; one of one or two letters, and a number, is all of it."""
    right: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """For a function: the shape of each argument, or a tensor that is taken as it is."""

    def is_named_in(self, sentence: str) -> bool:
        """Whether a diagnosis says what is wrong with this program."""
        plain = _plain(sentence)
        return all(any(_holds(plain, word) for word in group) for group in self.keywords)


def _plain(text: str) -> str:
    return text.lower().replace("\N{MINUS SIGN}", "-").replace("`", "")


def _holds(sentence: str, word: str) -> bool:
    word = _plain(word)
    begin = r"(?<![a-z0-9'])" if word[0].isalnum() else ""
    if len(word) <= 2 and word.isalnum() and not word.isdigit():
        end = r"(?![a-z0-9])"
    else:
        end = r"(?![0-9]|\.[0-9])" if word[-1].isdigit() else ""
    return re.search(begin + re.escape(word) + end, sentence) is not None


def wrong(
    reference: Reference, cause: str, *keywords: str, inputs: Mapping[str, Any] | None = None
) -> Callable[[Vjp], Program]:
    """A wrong program, under the name of its function; keywords: one string per group, its synonyms between bars."""
    groups = tuple(tuple(group.split("|")) for group in keywords)
    return lambda vjp: Program(vjp.__name__, reference, _wide(vjp), cause, groups, inputs=inputs or {})


def right(reference: Reference, inputs: Mapping[str, Any] | None = None) -> Callable[[Vjp], Program]:
    """A right program, written unusually."""
    return lambda vjp: Program(vjp.__name__, reference, _wide(vjp), right=True, inputs=inputs or {})


def _wide(vjp: Vjp) -> Vjp:
    """16-bit numbers enter as float32, and results are rounded to their type once."""

    @functools.wraps(vjp)
    def wide(inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> Any:
        narrow = {x.dtype for x in inputs if x is not None and x.is_floating_point() and x.element_size() == 2}
        if not narrow:
            return vjp(inputs, dy, **hyper)
        (dtype,) = narrow
        y, grads = vjp(tuple(_to(x, torch.float32) for x in inputs), _to(dy, torch.float32), **hyper)
        return _to(y, dtype), tuple(_to(grad, dtype) for grad in grads)

    return wide


def _to(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, tuple):
        return tuple(_to(part, dtype) for part in x)
    return x.to(dtype) if x is not None and x.is_floating_point() else x


def rows(x: Tensor) -> Tensor:
    """All axes but the last as one, also where there is nothing in it."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as it is left when it was stored in another type."""
    return x.to(dtype).to(x.dtype)


def as_if_contiguous(x: Tensor) -> Tensor:
    """What a kernel reads that walks from x's first element on, whatever the strides; past the end it begins anew."""
    if not x.numel():
        return x
    memory = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
    place = x.storage_offset() + torch.arange(x.numel(), device=x.device)
    return memory[place % memory.numel()].reshape(x.shape)
