"""What the bank holds: functions in plain torch, and hand-written backwards of them with the truth about each."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
WIDE = (F64, F32)
SIXTEEN = (F16, BF16)
ALL = (*WIDE, *SIXTEEN)

Draw = Callable[[torch.Generator], Tensor]
Input = tuple[int, ...] | Draw | None  # a shape (normal numbers), a function that draws, or an optional input left out
Vjp = Callable[..., tuple[Any, tuple[Tensor | None, ...]]]


@dataclass(frozen=True, eq=False)
class Function:
    """A forward, the inputs that it is judged at, and the hyperparameters that differ from its defaults.

    dtypes: those in which it has a meaning; one that casts to float32 has none in float64.
    """

    forward: Callable[..., Any]
    inputs: Mapping[str, Input]
    hyper: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = ALL

    @property
    def name(self) -> str:
        return self.forward.__name__


@dataclass(frozen=True, eq=False)
class Candidate:
    """A hand-written backward, and the truth about it.

    cause: what is wrong with it (or, of a right one, what is unusual about it).
    shows: the dtypes in which a wrong one is visible.
    shown_by: inputs at which a wrong one is visible, where those of the function do not show it.
    """

    name: str
    function: Function
    vjp: Vjp
    right: bool
    cause: str
    shows: tuple[torch.dtype, ...] = ()
    shown_by: Mapping[str, Input] = field(default_factory=dict)


CANDIDATES: list[Candidate] = []


def right(function: Function, cause: str = "", *, inside: bool = True) -> Callable[[Vjp], Vjp]:
    """Enter a right backward; `inside=True`: it computes in float32 where its inputs have 16 bits."""

    def enter(vjp: Vjp) -> Vjp:
        program = in_float32(vjp) if inside else vjp
        CANDIDATES.append(Candidate(vjp.__name__, function, program, True, cause))
        return program

    return enter


def wrong(
    function: Function,
    cause: str,
    *,
    shows: tuple[torch.dtype, ...] | None = None,
    shown_by: Mapping[str, Input] | None = None,
    inside: bool = True,
) -> Callable[[Vjp], Vjp]:
    """Enter a wrong backward, with the sentence that names the cause."""

    def enter(vjp: Vjp) -> Vjp:
        program = in_float32(vjp) if inside else vjp
        CANDIDATES.append(
            Candidate(vjp.__name__, function, program, False, cause, shows or function.dtypes, shown_by or {})
        )
        return program

    return enter


def _each(change: Callable[[Tensor], Tensor], tensors: Any) -> Any:
    if isinstance(tensors, tuple):
        return tuple(_each(change, tensor) for tensor in tensors)
    return change(tensors) if isinstance(tensors, Tensor) and tensors.is_floating_point() else tensors


def in_float32(vjp: Vjp) -> Vjp:
    """The program computed in float32 at inputs of 16 bits, its results rounded once; in wider dtypes as it stands."""

    @functools.wraps(vjp)
    def program(inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> tuple[Any, tuple[Tensor | None, ...]]:
        dtype = next(x.dtype for x in inputs if isinstance(x, Tensor) and x.is_floating_point())
        if dtype not in SIXTEEN:
            return vjp(inputs, dy, **hyper)
        y, grads = vjp(_each(Tensor.float, inputs), _each(Tensor.float, dy), **hyper)
        return _each(lambda x: x.to(dtype), y), _each(lambda x: x.to(dtype), grads)

    return program


def as_if_contiguous(dy: Tensor) -> Tensor:
    """What a kernel reads that walks through the memory of dy in order, whatever its strides."""
    memory = dy.as_strided((dy.untyped_storage().nbytes() // dy.element_size() - dy.storage_offset(),), (1,))
    return memory[torch.arange(dy.numel()) % len(memory)].view(dy.shape)


# ------------------------------------------------------------------------------------------------------------- drawing


def uniform(*shape: int, low: float, high: float) -> Draw:
    return lambda generator: low + (high - low) * torch.rand(shape, generator=generator, dtype=F64)


def normal(*shape: int, scale: float) -> Draw:
    return lambda generator: scale * torch.randn(shape, generator=generator, dtype=F64)


def ids(*shape: int, below: int) -> Draw:
    return lambda generator: torch.randint(below, shape, generator=generator)


def mask(*shape: int) -> Draw:
    """Seven of ten are True, and the first of every row is."""

    def draw(generator: torch.Generator) -> Tensor:
        kept = torch.rand(shape, generator=generator) < 0.7
        kept[..., 0] = True
        return kept

    return draw


def probabilities(*shape: int) -> Draw:
    return lambda generator: torch.randn(shape, generator=generator, dtype=F64).softmax(-1)


def signs(*shape: int) -> Draw:
    return lambda generator: 2.0 * torch.randint(2, shape, generator=generator).double() - 1
