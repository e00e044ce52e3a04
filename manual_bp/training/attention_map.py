"""Where each head looks: the weights of attention over a piece of text, and a picture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manual_bp.chain import Layer, Tensors, probe
from manual_bp.training.pictures import captioned, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 32
"""Positions in one picture: of more the characters could not be read."""


def weights(layer: Layer, params: Tensors, state: Tensors, tokens: Tensor) -> dict[str, Tensor]:
    """The weights (heads, queries, keys) of each layer of attention, by its dotted name, for tokens (n,).

    With the unit vectors for values, what attention gives is its weights.
    """
    probed, visits = probe(layer)
    probed.forward(params, state, tokens[None])
    found = {}
    for name, visit in visits.items():
        rule = visit.leaf.rule
        if list(rule.inputs)[:3] == ["q", "k", "v"]:
            q, k, *_ = visit.inputs
            assert q is not None
            assert k is not None
            one = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device).expand(*k.shape[:-1], k.shape[-2])
            found[name] = rule.forward(q, k, one, **visit.leaf.hyper)[0][0]
    return found


def attention_map(found: Mapping[str, Tensor], characters: Sequence[str], about: str = "") -> Figure:
    """A square for each head, a row of squares for each layer: dark where a query (row) looks at a key (column).

    found: what `weights` returned. characters: what stands at each position. about: what was trained, for the head.
    Raises ValueError if there is no attention, and if matplotlib is not installed.
    """
    if not found:
        raise ValueError("attention_map: there must be a layer of attention; came none. Leave this picture out.")
    heads = max(len(each) for each in found.values())
    with style():
        figure = new_figure(2.4 * heads + 0.8, 2.5 * len(found) + 0.6)
        squares = figure.subplots(len(found), heads, squeeze=False)
        shown = [" ↵"[character == "\n"] if character.isspace() else character for character in characters]
        for row, (name, each) in zip(squares, found.items(), strict=True):
            for number, axes in enumerate(row):
                axes.set_xticks([])
                axes.set_yticks([])
                if number < len(each):
                    axes.imshow(each[number].double().numpy(), cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
                    axes.set_title(f"head {number + 1}", fontsize=8, fontweight="normal")
            row[0].set_ylabel(name, fontsize=8)
            row[0].set_yticks(range(len(shown)), shown, fontsize=4)
        for axes in squares[-1]:
            axes.set_xticks(range(len(shown)), shown, fontsize=4)
        captioned(figure, about)
    return figure
