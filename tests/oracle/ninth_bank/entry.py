"""What an entry of the ninth bank is made with, and parts of its programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.oracle.eighth_bank.entry import Entry

__all__ = ["Entry", "into", "per_axis", "pulled", "rows"]


def into(entries: list[Entry]) -> Callable[..., Any]:
    """A decorator that puts what it decorates into a list; wrong: a piece of its text, and right: what should stand
    there."""

    def entry(reference: Any, keywords: tuple[str, ...], wrong: str, right: str, **options: Any) -> Any:
        def add(vjp: Any) -> Any:
            words = tuple(word.lower() for word in keywords)
            cause = vjp.__name__.replace("_", " ")
            entries.append(Entry(vjp.__name__, reference, vjp, cause, words, (wrong, right), options))
            return vjp

        return add

    return entry


def rows(t):
    return t.reshape(t.shape[:-1].numel(), t.shape[-1])


def per_axis(number, axes):
    return (number,) * axes if isinstance(number, int) else tuple(number)


def pulled(f, x, dy):
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(x), x, dy)[0]
