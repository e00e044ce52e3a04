"""The Vjp of a whole batch that is made of the Vjps of its pieces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from manual_bp.oracle.accumulation.pieces import Apart, Lengths, lengths_of, require_lengths
from manual_bp.rule import Rule, Vjp

Inputs = Sequence[Tensor | None]
Weight = Callable[[Inputs, Inputs], float]
"""Inputs of a piece, inputs of the whole -> by what the piece is multiplied."""

BY = ("sum", "mean", "rows")


def accumulated(
    vjp: Vjp,
    pieces: Lengths = 2,
    *,
    by: str | Weight = "sum",
    apart: Sequence[str] | None = None,
    whole: bool = False,
) -> Vjp:
    """A candidate for `compare` that takes the batch apart, calls the Vjp of a piece for each, and adds up: as
    micro-batches are accumulated, or the shards of data-parallel workers are reduced.

    pieces: how many, as equal as can be; their lengths, over and over ([2, 1]); or a function from the length of the
        batch to their lengths.
    by: how gradients of pieces are added up: "sum" as they are, "mean" divided by the number of pieces (as an
        all-reduce does), "rows" times the piece's share of the rows; or a function (inputs of the piece, inputs of the
        whole) -> its weight, such as the share of the tokens that count.  What each row has of its own (dx) is joined;
        of a cost it has the weight of its piece.
    apart: the inputs that are taken apart; by default those that have the axis "batch", else the first of the first.
    whole: `vjp` is handed the whole batch and takes it apart itself, in these pieces: nothing is done to its results,
        and what is wrong with them is sought among what goes wrong between pieces.

    It can be called by `compare` alone, which knows the axes.  Raises ValueError for other pieces and weights.
    """
    require_lengths(pieces)
    if not callable(by) and by not in BY:
        raise ValueError(f"by must be one of {list(BY)}, or a function of inputs; came {by!r}.")

    def unbound(inputs: Inputs, dy: Any, **hyper: Any) -> Any:
        raise TypeError("accumulated(...) knows no axes of its own: pass it to compare or check.")

    def of_rule(rule: Rule) -> Vjp:
        if apart is not None and (unknown := [name for name in apart if name not in rule.inputs]):
            raise ValueError(f"accumulated: apart must name inputs of {list(rule.inputs)}; came {unknown[0]!r}.")

        def accumulated_vjp(inputs: tuple[Any, ...], dy: Any, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
            split = Apart.of(rule, inputs, dy, apart)
            lengths = lengths_of(pieces, split.length(inputs))
            every = list(split.pieces(inputs, dy, lengths))
            weights = [_weight(by, own, inputs, n, lengths) for (own, _), n in zip(every, lengths, strict=True)]
            return split.together([vjp(own, of_dy, **hyper) for own, of_dy in every], weights)

        if whole:
            return vjp
        vars(accumulated_vjp)["__signature__"] = inspect.signature(vjp)
        return accumulated_vjp

    vars(unbound)["of_rule"] = of_rule
    vars(unbound)["pieces"] = pieces
    return unbound


def _weight(by: str | Weight, piece: Inputs, inputs: Inputs, length: int, lengths: Sequence[int]) -> float:
    if callable(by):
        return float(by(piece, inputs))
    return {"sum": 1.0, "mean": 1 / len(lengths), "rows": length / max(sum(lengths), 1)}[by]
