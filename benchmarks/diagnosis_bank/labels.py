"""Are the labels true?  Every program beside torch.autograd in float64, at random inputs of its domain.

    python -m benchmarks.diagnosis_bank.labels [WORD ...]        all programs, or those whose name or rule holds a word

For each: the largest error beside the largest number of a cotangent, and in how many cases it is seen.  Status 1 if a
wrong program is nowhere wrong or its keywords do not even fit its own cause, or a right one is somewhere wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

import torch_ref
from benchmarks.diagnosis_bank import PROGRAMS
from benchmarks.diagnosis_bank.program import Program, Reference
from torch_ref.functions import function

VISIBLE = 1e-5
"""Roundings to 16 bits, the finest of the mistakes, are of 2⁻¹¹ = 5e-4 or more."""
INVISIBLE = 1e-9
"""What float64 leaves to a right program on rows of 1500 numbers."""

Case = tuple[tuple[Any, ...], dict[str, Any]]
SHAPES = ((3, 5), (4, 4), (2, 3, 4), (5, 2, 6), (5,), (0, 4), (1, 7), (70, 9), (2, 1500), (33, 40))
GENERATOR = torch.Generator().manual_seed(20)


def _normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def _uniform(*shape: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=GENERATOR, dtype=torch.float64)


def _whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=GENERATOR)


def _elementwise(arguments: int = 1, **hyper: tuple[Any, ...]) -> Iterator[Case]:
    """Also numbers far out, and those that are whole, so that 0 and ties are among them."""
    for shape in SHAPES:
        for given in _each(hyper):
            yield tuple(_normal(*shape, std=2.0) for _ in range(arguments)), given
            yield tuple(_normal(*shape, std=30.0) for _ in range(arguments)), given
            yield tuple(torch.round(_normal(*shape, std=2.0)) for _ in range(arguments)), given


def _each(hyper: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in product(*hyper.values()):
        yield dict(zip(hyper, values, strict=True))


def _along_an_axis() -> Iterator[Case]:
    for shape in SHAPES:
        for dim in (-1, 0, len(shape) // 2):
            yield (_normal(*shape, std=2.0),), {"dim": dim}


def _maxout() -> Iterator[Case]:
    for x, pieces in product(((2, 6), (3, 2, 12), (6,), (0, 6), (40, 60)), (3, 2)):
        yield (_normal(*x),), {"pieces": pieces}
        yield (torch.round(_normal(*x)),), {"pieces": pieces}


def _embedding() -> Iterator[Case]:
    for batch, (entries, features) in product(((7,), (2, 5), (0,), (), (300,)), ((4, 3), (9, 1), (200, 2), (70, 5))):
        for padding_idx in (None, 0, 2, -1):
            index = _whole(entries, *batch)
            yield (index, _normal(entries, features)), {"padding_idx": padding_idx}
            yield (torch.sort(index.flatten()).values.reshape(index.shape), _normal(entries, features)), {}


def _linear() -> Iterator[Case]:
    for batch, (outputs, inputs) in product(((4,), (), (2, 3), (0,), (100,)), ((3, 5), (4, 4), (1, 40))):
        yield (_normal(*batch, inputs), _normal(outputs, inputs, std=0.5), _normal(outputs, std=0.5)), {}


def _cross_entropy() -> Iterator[Case]:
    hyper = {"label_smoothing": (0.0, 0.1), "reduction": ("mean", "sum"), "ignore_index": (-100, 0, 2, -1)}
    for (batch, classes, *space), given in product(((4, 5), (2, 3, 2, 2), (6, 3, 4), (150, 7)), _each(hyper)):
        target = _whole(classes, batch, *space)
        target = torch.where(_uniform(batch, *space, low=0, high=1) < 0.25, given["ignore_index"], target)
        for weight in (None, _uniform(classes, low=0.25, high=2.0)):
            yield (_normal(batch, classes, *space, std=2.0), target, weight), given


def _square_loss() -> Iterator[Case]:
    for shape in ((4, 3), (5,), (2, 3, 4), (80, 2)):
        yield (_normal(*shape), _normal(*shape)), {}


def _channels(running: bool) -> Iterator[Case]:
    for shape, eps in product(((4, 3), (5, 3, 2), (2, 4, 3, 5), (6, 2, 1), (70, 2, 20)), (1e-5, 1e-3, 0.1)):
        c = shape[1]
        inputs = _normal(*shape, mean=0.5, std=1.5), _normal(c, mean=1.0, std=0.5), _normal(c)
        statistics = (_normal(c, mean=0.5, std=0.3), _uniform(c, low=0.5, high=2.5)) if running else ()
        yield (*inputs, *statistics), {"eps": eps}


def _rows(arguments: int, **hyper: tuple[Any, ...]) -> Iterator[Case]:
    for shape, given in product((*SHAPES, (100, 6), (3, 8)), _each(hyper)):
        n = shape[-1]
        x, weight, bias = _normal(*shape, mean=0.5, std=1.5), _normal(n, mean=1.0, std=0.5), _normal(n)
        yield (x, weight, bias)[:arguments], given
        yield (x + 1, None, None)[:arguments], given


def _dropout() -> Iterator[Case]:
    for shape, p in product(SHAPES, (0.25, 0.0, 0.5, 0.1, 1.0)):
        mask = _uniform(*shape, low=0, high=1) >= 0.25
        yield (_normal(*shape), mask), {"p": p}
        yield (torch.round(_normal(*shape)), mask), {"p": p}


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "elu": lambda: _elementwise(alpha=(1.0, 0.5, 2.0, -0.5)),
    "gelu": lambda: _elementwise(approximate=("none", "tanh")),
    "leaky_relu": lambda: _elementwise(negative_slope=(0.01, 0.2, -0.5, 2.0)),
    "log_softmax": _along_an_axis,
    "maxout": _maxout,
    "relu": _elementwise,
    "sigmoid": _elementwise,
    "silu": _elementwise,
    "softmax": _along_an_axis,
    "softplus": lambda: _elementwise(beta=(1.0, 0.1, 3.0, -2.0)),
    "swiglu": lambda: _elementwise(2),
    "tanh": _elementwise,
    "embedding": _embedding,
    "linear": _linear,
    "softmax_cross_entropy": _cross_entropy,
    "square_loss": _square_loss,
    "batch_norm": lambda: _channels(running=False),
    "batch_norm_inference": lambda: _channels(running=True),
    "layer_norm": lambda: _rows(3, eps=(1e-5, 0.1)),
    "rms_norm": lambda: _rows(2, eps=(1e-6, 0.1), offset=(0.0, 1.0)),
    "dropout": _dropout,
    "l1_penalty": lambda: _elementwise(lam=(0.3, 2.0), n=(1, 50)),
    "l2_penalty": lambda: _elementwise(lam=(0.3, 2.0), n=(1, 50)),
    "max_norm": lambda: (case for case in _elementwise(limit=(1.5, 5.0, 0.2)) if case[0][0].ndim == 2),
}


def _of_a_function(program: Program) -> Iterator[Case]:
    """The shapes of the program, at numbers of several sizes; a tensor of the program's is taken as it is."""
    for std in (1.0, 0.3, 3.0, 1.0):
        drawn = (x if isinstance(x, Tensor) else _normal(*x, std=std) for x in program.inputs.values())
        yield tuple(drawn), {}


def _cotangents(y: Any) -> Iterator[Any]:
    """A dense one, one that is transposed, and one that is expanded."""
    if isinstance(y, tuple):
        yield tuple(_normal(*part.shape) for part in y)
        return
    yield _normal(*y.shape)
    if y.ndim > 1:
        yield _normal(*y.mT.shape).mT
        yield _normal(*y.shape[1:]).expand(y.shape)


def errors(reference: Reference, programs: Sequence[Program]) -> dict[str, list[float]]:
    """Of each program and in each case the largest error of a cotangent, beside the largest number in the true one."""
    forward = function(reference) if isinstance(reference, str) else reference
    cases = CASES[reference]() if isinstance(reference, str) else _of_a_function(programs[0])
    found: dict[str, list[float]] = {program.name: [] for program in programs}
    for inputs, hyper in cases:
        for again, dy in enumerate(_cotangents(forward(*inputs, **hyper))):
            if again:  # the same memory, with other numbers in it
                for x in inputs:
                    if x is not None and x.is_floating_point():
                        x.copy_(x.flip(0))
            y, due = torch_ref.vjp(forward)(inputs, dy, **hyper)
            for program in programs:
                its_y, grads = program.vjp(inputs, dy, **hyper)
                found[program.name].append(max(_error(a, b) for a, b in zip(grads, due, strict=True)))
                value = max(_error(a, b) for a, b in zip(_tuple(its_y), _tuple(y), strict=True))
                assert value < INVISIBLE, f"{program.name}: y is off by {value:.1e}"
    return found


def _tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def _error(found: Tensor | None, due: Tensor | None) -> float:
    if due is None:
        return 0.0 if found is None or not found.count_nonzero() else torch.inf
    if found is None or found.shape != due.shape:
        return torch.inf
    if not found.numel():
        return 0.0
    off = torch.where(found.isnan() & due.isnan() | (found == due), 0, (found - due).abs())
    scale = due.abs().nan_to_num(posinf=0).amax().clamp(min=1e-4)  # where it is 0, roundings are no error
    return float((off / scale).nan_to_num(nan=torch.inf).amax())


def main(words: list[str]) -> int:
    untrue = 0
    by_reference: dict[Reference, list[Program]] = {}
    for program in PROGRAMS:
        by_reference.setdefault(program.reference, []).append(program)
    for reference, programs in by_reference.items():
        title = reference if isinstance(reference, str) else reference.__name__
        chosen = [one for one in programs if not words or any(word in f"{title} {one.name}" for word in words)]
        found = errors(reference, chosen) if chosen else {}
        for program in chosen:
            of_it = found[program.name]
            visible = sum(error > VISIBLE for error in of_it)
            true = max(of_it) < INVISIBLE if program.right else visible > 0
            true &= program.right or program.is_named_in(program.cause)  # its own words, if anybody's
            untrue += not true
            label, mark = ("right" if program.right else "wrong"), ("" if true else "   UNTRUE")
            print(f"{title:24} {program.name:32} {label}  {max(of_it):8.1e}  {visible:4} of {len(of_it):4}{mark}")
    print(f"{len(PROGRAMS)} programs; {untrue} labels are not true")
    return int(untrue > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
