"""Text that a network makes up: token after token, each drawn from what it expects to come next."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manual_bp.arguments import is_finite, is_whole
from manual_bp.chain import Layer, Tensors
from manual_bp.inputs import require
from manual_bp.registry import RULES


def sample(
    layer: Layer,
    params: Tensors,
    state: Tensors,
    prompt: Tensor,
    length: int,
    *,
    context: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """The tokens of the prompt, (n,) integers, and `length` more.

    layer: the network as it is after training (`Model.inference`); it sees the last `context` tokens.
    temperature: by which its outputs are divided; the lower, the likelier what is drawn; at 0 always the likeliest.
    Raises ValueError for an empty prompt or what is none, a negative length, a context of no token, and a negative or
    infinite temperature.
    """
    is_prompt = isinstance(prompt, Tensor) and prompt.ndim == 1
    came = tuple(prompt.shape) if isinstance(prompt, Tensor) else type(prompt).__name__
    must, remedy = "sample: the prompt must be a tensor of tokens, (n,)", "Symbols.numbers makes one of a text."
    require(is_prompt, must, came, remedy)
    require(len(prompt) > 0, "sample: the prompt must have a token", 0, "Give it one, such as a line's end.")
    require(is_whole(length), "sample: length must be a number of tokens, at least 0", repr(length), "")
    require(is_whole(context, 1), "sample: context must be a number of tokens, at least 1", repr(context), "")
    must = "sample: temperature must be a finite number, at least 0"
    require(is_finite(temperature) and temperature >= 0, must, repr(temperature), "1 draws as the network expects.")
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt
    for _ in range(length):
        y, _, _ = layer.forward(params, state, tokens[None, -context:])
        tokens = torch.cat([tokens, _drawn(y[0, :, -1].double(), temperature, generator)])
    return tokens


def _drawn(y: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One number of the outputs (vocabulary,), by the probabilities that softmax makes of them."""
    if temperature == 0:
        return y.argmax(keepdim=True)
    # Relative to the largest, so that no temperature overflows.
    p, _ = RULES["softmax"].forward((y - y.max()) / max(temperature, math.ulp(0.0)))
    return torch.multinomial(p, 1, generator=generator)
