"""Other ways to call a candidate, whose results must be the same: state that it keeps shows there.

A Vjp is one call, so what a forward leaves behind for its backward is right in every case.  In a program forward and
backward of several inputs interleave, a backward may be called twice, and not every input requires grad.  Whoever makes
a Vjp of two functions or of autograd knows how to do that, and puts such Vjps beside it, as `vars(vjp)["ways"]`, by the
names below.

The words for what is wrong stand here, so that nothing but numbers comes from a candidate in another process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from manual_bp.rule import Vjp

# Rules have at most this many inputs (an LSTM has 7).
INPUTS = 16

BEFORE_OTHER = "backward(a) after forward(b)"
AFTER_OTHER = "backward(a) after forward(b) and forward(a)"
TWICE = "backward twice after one forward"
ORDERS = {
    BEFORE_OTHER: "the state of the last forward is used",
    AFTER_OTHER: "the state of an earlier forward is used",
    TWICE: "the first backward overwrites what forward kept",
}
"""Why, in words, by name."""


def only(position: int) -> str:
    """The name of the way in which one input alone requires grad."""
    return f"only input {position} requires grad"


def without(position: int) -> str:
    """The name of the way in which all inputs but one require grad."""
    return f"input {position} requires no grad"


NAMES = (*ORDERS, *map(only, range(INPUTS)), *map(without, range(INPUTS)))


def ways(candidate: Any) -> dict[str, Vjp]:
    """The ways that a candidate offers, by name."""
    found = inspect.getattr_static(candidate, "ways", None)  # which a class of the user's may call something else
    if not isinstance(found, dict):
        return {}
    return {name: way for name, way in found.items() if name in NAMES and callable(way)}


Forward = Callable[[tuple[Tensor, ...], Mapping[str, Any]], tuple[Any, Any]]
Backward = Callable[[Any, Tensor], tuple[Any, ...]]


def orders(forward: Forward, backward: Backward) -> dict[str, Vjp]:
    """Vjps that call two functions in other orders.  forward: (inputs, hyper) -> (y, what it kept); backward: (what was
    kept, dy) -> cotangents."""

    def before_other(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        y, kept = forward(inputs, hyper)
        between = tuple(map(_other, inputs))  # alive until the end, so that no memory is shared by chance
        forward(between, other_hyper(hyper))
        return y, backward(kept, dy)

    def after_other(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        earlier = tuple(map(_other, inputs))
        forward(earlier, other_hyper(hyper))
        y, kept = forward(inputs, hyper)
        return y, backward(kept, dy)

    def twice(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        y, kept = forward(inputs, hyper)
        backward(kept, _other(dy))
        return y, backward(kept, dy)

    return {BEFORE_OTHER: before_other, AFTER_OTHER: after_other, TWICE: twice}


def other(x: Tensor) -> Tensor:
    """Other numbers of the same shape and kind, in memory of their own: moved by one place and halved.  A mask stays
    one, what is positive stays so, and an even, a homogeneous and a constant derivative change all the same."""
    moved = x.detach().reshape(-1).roll(1).reshape(x.shape)
    return moved / 2 if x.is_floating_point() else moved.clone()


def _other(x: Any) -> Any:
    """The same of what may be absent, or several."""
    return tuple(map(_other, x)) if isinstance(x, tuple) else None if x is None else other(x)


def other_hyper(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Half of each that is no count: what is positive, or a probability, stays so."""
    return {name: value / 2 if isinstance(value, float) else value for name, value in hyper.items()}


def tried(rule_inputs: Mapping[str, Any], offered: Mapping[str, Vjp]) -> Iterator[tuple[str, Vjp, list[int]]]:
    """The ways to try, each with the positions of the inputs whose cotangents are judged.

    rule_inputs: per input, whether it has a cotangent.  First all but one require grad, which says whose absence harms;
    with two such inputs that is the same as one alone.
    """
    numbers = [position for position, has in enumerate(rule_inputs.values()) if has]
    for name in ORDERS:
        if name in offered:
            yield name, offered[name], numbers
    if len(numbers) < 2:
        return
    for position in numbers:
        if without(position) in offered:
            yield without(position), offered[without(position)], [p for p in numbers if p != position]
    for position in numbers if len(numbers) > 2 else ():
        if only(position) in offered:
            yield only(position), offered[only(position)], [position]


def named(name: str, inputs: list[str]) -> str:
    """A way's name with the input's own name."""
    for position, own in enumerate(inputs):
        for of in (only, without):
            if name == of(position):
                return name.replace(f"input {position}", own)
    return name


def words(name: str, arguments: Sequence[str], are_none: bool, is_others: bool) -> str:
    """What is wrong with these arguments, in a sentence.  name: as `named` gives it; is_others: they are those of b."""
    what = " and ".join(arguments)
    if name not in ORDERS:
        came = f"{'is' if len(arguments) == 1 else 'are'} {'None' if are_none else 'wrong'}"
        return f"{what} {came} where {name}: backward must ask for each input by its own needs_input_grad"
    if name == TWICE:
        return f"the second backward after one forward gives another {what} than the first: {ORDERS[name]}"
    what = f"gradient ({what})"
    return f"{name} gives b's {what}: {ORDERS[name]}" if is_others else f"{name} does not give a's {what}"


def refused(name: str, kind: str) -> str:
    """What to say of one that raises an exception of this kind."""
    if name == TWICE:
        return f"a second backward after one forward raises {kind}, as after retain_graph=True"
    return f"{name} raises {kind}" if name in ORDERS else f"{kind} is raised where {name}"
