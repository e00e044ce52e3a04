"""Functions that no tracer can take for one program of tensors: each is to be refused in one sentence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle.function_bank.entry import Input


@dataclass(frozen=True)
class Refused:
    """because: what the sentence must speak of.  line: the words of the source line that it must name."""

    forward: Callable[..., Any]
    inputs: Mapping[str, Input]
    because: str
    line: str

    @property
    def name(self) -> str:
        return self.forward.__name__


def branch_on_data(x: Tensor, weight: Tensor) -> Tensor:
    h = x @ weight
    if h.sum() > 0:
        h = h * 2
    return torch.tanh(h)


def writes_on_its_input(x: Tensor, bias: Tensor) -> Tensor:
    x += bias
    return F.relu(x)


def drops_at_random(x: Tensor, weight: Tensor, *, p: float = 0.1) -> Tensor:
    h = F.dropout(torch.tanh(x), p=p, training=True)
    return h @ weight


def adds_noise(x: Tensor, scale: Tensor) -> Tensor:
    noise = torch.randn_like(x)
    return x + noise * scale


def asks_for_a_number(x: Tensor) -> Tensor:
    largest = x.abs().max().item()
    return x / largest


def through_numpy(x: Tensor, weight: Tensor) -> Tensor:
    order = torch.from_numpy(x.detach().numpy().cumsum(axis=-1))
    return order * weight


class _Opaque(torch.autograd.Function):
    """Stands for a compiled kernel: the forward is not made of torch's operations on its inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tensor([value * abs(value) for value in x.flatten().tolist()], dtype=x.dtype).view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 2 * x.abs() * dy


def calls_a_kernel(x: Tensor, weight: Tensor) -> Tensor:
    h = _Opaque.apply(x)
    return h @ weight


def loops_until_small(x: Tensor) -> Tensor:
    while x.norm() > 1:
        x = x / 2
    return x


REFUSED = [
    Refused(branch_on_data, {"x": (3, 4), "weight": (4, 5)}, "a branch on data", "if h.sum() > 0:"),
    Refused(writes_on_its_input, {"x": (3, 4), "bias": (4,)}, "an input overwritten in place", "x += bias"),
    Refused(drops_at_random, {"x": (3, 4), "weight": (4, 5)}, "randomness", "F.dropout("),
    Refused(adds_noise, {"x": (3, 4), "scale": (4,)}, "randomness", "torch.randn_like(x)"),
    Refused(asks_for_a_number, {"x": (3, 4)}, "a number taken out of a tensor", ".max().item()"),
    Refused(through_numpy, {"x": (3, 4), "weight": (4,)}, "a way out of torch, through numpy", ".detach().numpy()"),
    Refused(calls_a_kernel, {"x": (3, 4), "weight": (4, 5)}, "an autograd.Function of its own", "_Opaque.apply(x)"),
    Refused(loops_until_small, {"x": (3, 4)}, "a loop that depends on data", "while x.norm() > 1:"),
]
