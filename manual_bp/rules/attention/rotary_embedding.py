"""Rotary embedding: a position as a rotation.

The numbers of a row are taken as pairs (a, b), and each pair is turned by the angle of its position, of which the
cosine c and the sine s are given, one for each position and pair:

    a' = a c − b s
    b' = a s + b c

Which numbers make a pair is the layout: "halves" joins the i-th number of the first half of the row to the i-th of the
second, "interleaved" two neighbours.  The two differ by a fixed permutation of the row, and so do the weights of the
layer before: who takes the one for the other has another function.

Derivation.  A pair reaches the cost through its own image alone, by the matrix (c, −s; s, c).  Backward multiplies with
its transpose, which turns by the same angle in the other direction:

    da =  da' c + db' s
    db = −da' s + db' c

c and s of a position are the same for the whole batch, so that their cotangents are sums over it:

    dc = Σ (da' a + db' b)        ds = Σ (db' a − da' b)

None of this asks that c² + s² = 1: where the table is scaled, backward multiplies with the same scale, and does not
divide by it.  Then the transpose is not the inverse.

No kinks.  Position 0 has c = 1, s = 0 and leaves the row as it is.  A row whose width is not all to be turned is passed
in part.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), eq. 14, 15 and 34.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, uniform
from manual_bp.rules.attention._memory import as_if_contiguous

Layout = Literal["halves", "interleaved"]


class Residuals(NamedTuple):
    x: Float[Tensor, "*batch positions 2*pairs"]
    """For dc and ds alone; dx needs the table and no more."""
    cos: Float[Tensor, "positions pairs"]
    sin: Float[Tensor, "positions pairs"]
    layout: Layout


def forward(
    x: Float[Tensor, "*batch positions 2*pairs"],
    cos: Float[Tensor, "positions pairs"],
    sin: Float[Tensor, "positions pairs"],
    *,
    layout: Literal["halves", "interleaved"] = "halves",
) -> tuple[Float[Tensor, "*batch positions 2*pairs"], Residuals]:
    a, b = _pairs(x, layout)
    return _row(a * cos - b * sin, a * sin + b * cos, layout), Residuals(x, cos, sin, layout)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch positions 2*pairs"]
) -> tuple[
    Float[Tensor, "*batch positions 2*pairs"], Float[Tensor, "positions pairs"], Float[Tensor, "positions pairs"]
]:
    x, cos, sin, layout = residuals
    a, b = _pairs(x, layout)
    da, db = _pairs(dy, layout)
    dx = _row(da * cos + db * sin, db * cos - da * sin, layout)
    return dx, _over_batch(da * a + db * b), _over_batch(db * a - da * b)


def terms(residuals: Residuals, dy: Float[Tensor, "*batch positions 2*pairs"]) -> dict[str, dict[str, Tensor]]:
    x, cos, sin, layout = residuals
    a, b = _pairs(x, layout)
    da, db = _pairs(dy, layout)
    return {
        "dx": {"cosine": _row(da * cos, db * cos, layout), "sine": _row(db * sin, -da * sin, layout)},
        "dcos": {"first": _over_batch(da * a), "second": _over_batch(db * b)},
        "dsin": {"first": _over_batch(-da * b), "second": _over_batch(db * a)},
    }


def _pairs(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The first and the second number of each pair; shape (*batch, positions, pairs)."""
    if layout == "interleaved":
        return x[..., 0::2], x[..., 1::2]
    pairs = x.shape[-1] // 2
    return x[..., :pairs], x[..., pairs:]


def _row(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """The rows of which these are the pairs."""
    return torch.stack((a, b), -1).flatten(-2) if layout == "interleaved" else torch.cat((a, b), -1)


def _over_batch(x: Tensor) -> Tensor:
    """Σ over all axes but position and pair."""
    return torch.sum(x.reshape(x.shape[:-2].numel(), *x.shape[-2:]), 0)


INPUTS = {
    "x": Input(normal()),
    # Not of one angle, so that nothing may rely on c² + s² = 1.
    "cos": Input(uniform(-1.0, 1.0), optional=True),
    "sin": Input(uniform(-1.0, 1.0), optional=True),
}

_HALF = 0.7071067811865476
_INF = float("inf")

EDGES = (
    Edge("interleaved", {"layout": "interleaved"}),
    Edge("no batch", sizes={"batch": ()}),
    Edge("no batch, interleaved", {"layout": "interleaved"}, sizes={"batch": ()}),
    Edge("empty batch", sizes={"batch": (0, 3)}),
    Edge("batch and heads", sizes={"batch": (2, 3)}),
    Edge("batch and heads, interleaved", {"layout": "interleaved"}, sizes={"batch": (2, 3)}),
    Edge("as many heads as positions", sizes={"batch": (2, 4), "positions": 4}),
    Edge("one position", sizes={"positions": 1}),
    Edge("no position", sizes={"positions": 0}),
    Edge("one pair", sizes={"pairs": 1}),
    Edge("one pair, interleaved", {"layout": "interleaved"}, sizes={"pairs": 1}),
    Edge("two pairs, interleaved", {"layout": "interleaved"}, sizes={"pairs": 2}),
    Edge("no pair", sizes={"pairs": 0}),
    Edge("no pair, interleaved", {"layout": "interleaved"}, sizes={"pairs": 0}),
    Edge(
        "no turn, quarter and half of a turn",
        {"x": [[[1.0, 2.0]] * 4], "cos": [[1.0], [0.0], [-1.0], [0.0]], "sin": [[0.0], [1.0], [0.0], [-1.0]]},
    ),
    Edge(
        "what cancels at an eighth of a turn",
        {"x": [[[3.0, 3.0], [3.0, -3.0]]], "cos": [[_HALF], [_HALF]], "sin": [[_HALF], [-_HALF]]},
    ),
    Edge("a table of more than length 1", {"cos": constant(1.2), "sin": constant(0.9)}),
    Edge("a table of zeros", {"cos": constant(0.0), "sin": constant(0.0)}),
    Edge("zeros", {"x": constant(0.0)}),
    Edge("signed zeros and subnormal numbers", {"x": [[[0.0, -0.0, 1e-40, -1e-310]]], "sin": [[0.0, -0.0]]}),
    Edge("numbers far apart in one pair", {"x": [[[1e4, 1e-4], [1e-4, -1e4]]]}),
    Edge("infinite cotangent", {"x": [[[1.0, 2.0]]], "dy": [[[_INF, 1.0]]], "cos": [[0.5]], "sin": [[0.5]]}),
    Edge("an odd width", {"x": [[[1.0, 2.0, 3.0]]], "cos": [[1.0]], "sin": [[0.0]]}, raises=ValueError),
    Edge("a table of whole rows", {"x": [[[1.0, 2.0]]], "cos": [[1.0, 1.0]], "sin": [[0.0, 0.0]]}, raises=ValueError),
    Edge("a table of more positions", {"x": [[[1.0, 2.0]]], "cos": [[1.0]] * 2, "sin": [[0.0]] * 2}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(self, x: Tensor, cos: Tensor, sin: Tensor, dy: Tensor, layout: Layout) -> None:
        self.cos, self.sin, self.layout = cos, sin, layout
        self.a, self.b = _pairs(x, layout)
        self.da, self.db = _pairs(dy, layout)
        self.rows = x.shape[:-2].numel()

    def turned(self, cos: Tensor | None = None, sin: Tensor | None = None) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos if cos is None else cos, self.sin if sin is None else sin
        return self.da * cos + self.db * sin, self.db * cos - self.da * sin

    def cotangents(
        self,
        pair: tuple[Tensor, Tensor] | None = None,
        dcos: Tensor | None = None,
        dsin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The right ones, but for those that are given."""
        return (
            _row(*(self.turned() if pair is None else pair), self.layout),
            _over_batch(self.da * self.a + self.db * self.b) if dcos is None else dcos,
            _over_batch(self.db * self.a - self.da * self.b) if dsin is None else dsin,
        )


def _in_place(parts: _Parts) -> tuple[Tensor, Tensor]:
    """The second of each pair from a first that has been written over."""
    da, _ = parts.turned()
    return da, parts.db * parts.cos - da * parts.sin


def _of_heads(table: Tensor, x: Tensor) -> Tensor:
    """The table as met by rows that are taken to lie position by position, head by head, while they lie head by head:
    shape (*batch, positions, pairs)."""
    heads, positions = (x.shape[-3] if x.ndim > 2 else 1), x.shape[-2]
    row = torch.arange(heads * positions, device=x.device)
    met = table[row // max(heads, 1)].reshape(heads, positions, -1) if len(row) else table.expand(heads, -1, -1)
    return met if x.ndim > 2 else met[0]


MISTAKES = (
    Mistake(
        "turned the same way again",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned(sin=-g["sin"])),
        forgets="that backward turns back: the sign of the sine",
        shows="wherever the sine is not 0",
    ),
    Mistake(
        "halves exchanged without a sign",
        lambda **g: _Parts(**g).cotangents(
            (
                _Parts(**g).da * g["cos"] + _Parts(**g).db * g["sin"],
                _Parts(**g).db * g["cos"] + _Parts(**g).da * g["sin"],
            )
        ),
        forgets="the minus of one of the two: this is a reflection",
        shows="wherever the sine is not 0",
    ),
    Mistake(
        "not turned",
        lambda **g: (g["dy"], *_Parts(**g).cotangents()[1:]),
        forgets="the rotation",
        shows="wherever an angle is not 0",
    ),
    Mistake(
        "cosine alone",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned(sin=torch.zeros_like(g["sin"]))),
        forgets="that each number of a pair reaches both",
        shows="wherever the sine is not 0",
    ),
    Mistake(
        "sine and cosine exchanged",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned(cos=g["sin"], sin=g["cos"])),
        forgets="which is which",
        shows="unless both are equal",
    ),
    Mistake(
        "halves for neighbours",
        lambda **g: (
            _Parts(**{**g, "layout": "halves"}).cotangents()[0],
            *_Parts(**g).cotangents()[1:],
        ),
        forgets="that forward joined neighbours: the layout is not passed on",
        shows='for layout="interleaved" and more than one pair',
        seen="https://github.com/Dao-AILab/flash-attention/pull/569",
    ),
    Mistake(
        "neighbours for halves",
        lambda **g: (
            _Parts(**{**g, "layout": "interleaved"}).cotangents()[0],
            *_Parts(**g).cotangents()[1:],
        ),
        forgets="that forward joined the halves",
        shows='for layout="halves" and more than one pair',
    ),
    Mistake(
        "written in the other layout",
        lambda **g: (
            _row(*_Parts(**g).turned(), "halves" if g["layout"] == "interleaved" else "interleaved"),
            *_Parts(**g).cotangents()[1:],
        ),
        forgets="to put dx where x was",
        shows="for more than one pair",
    ),
    Mistake(
        "numbers of a pair exchanged",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned()[::-1]),
        forgets="which of the two is the first",
        shows="everywhere",
    ),
    Mistake(
        "second from the first that is written over",
        lambda **g: _Parts(**g).cotangents(_in_place(_Parts(**g))),
        forgets="to keep the first number of a pair until the second is done, in place",
        shows="wherever an angle is not 0",
    ),
    Mistake(
        "divided by the length",
        lambda **g: _Parts(**g).cotangents(
            tuple(each / (g["cos"] ** 2 + g["sin"] ** 2) for each in _Parts(**g).turned())
        ),
        forgets="that the transpose is asked for, and not the inverse",
        shows="wherever c² + s² is not 1, as in a table that is scaled",
    ),
    Mistake(
        "one position late",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned(g["cos"].roll(1, 0), g["sin"].roll(1, 0))),
        forgets="at which position forward began",
        shows="for more than one position",
    ),
    Mistake(
        "position 0 throughout",
        lambda **g: _Parts(**g).cotangents(_Parts(**g).turned(g["cos"][:1], g["sin"][:1])),
        forgets="to advance in the table",
        shows="for more than one position",
    ),
    Mistake(
        "heads counted as positions",
        lambda **g: _Parts(**g).cotangents(
            _Parts(**g).turned(_of_heads(g["cos"], g["x"]), _of_heads(g["sin"], g["x"]))
        ),
        forgets="whether heads or positions lie inside",
        shows="for more than one head and position",
    ),
    Mistake(
        "dy read as if contiguous",
        lambda **g: _Parts(**{**g, "dy": as_if_contiguous(g["dy"])}).cotangents(),
        forgets="the strides of dy (a test for them that is never called)",
        shows="for an expanded dy, whose strides are 0, and wherever dy is not contiguous",
        seen="https://github.com/unslothai/unsloth/commit/dabf2a901bf1",
    ),
    Mistake(
        "dcos and dsin of each",
        lambda **g: _Parts(**g).cotangents(
            dcos=_Parts(**g).da * _Parts(**g).a + _Parts(**g).db * _Parts(**g).b,
            dsin=_Parts(**g).db * _Parts(**g).a - _Parts(**g).da * _Parts(**g).b,
        ),
        forgets="the sum over the batch",
        shows="always, in the shape, unless there is no batch",
    ),
    Mistake(
        "dcos and dsin averaged",
        lambda **g: _Parts(**g).cotangents(
            dcos=_Parts(**g).cotangents()[1] / max(_Parts(**g).rows, 1),
            dsin=_Parts(**g).cotangents()[2] / max(_Parts(**g).rows, 1),
        ),
        forgets="that the table reaches all of the batch, so that its cotangent is a sum",
        shows="for more than one row of a position",
    ),
    Mistake(
        "sign of dsin",
        lambda **g: _Parts(**g).cotangents(dsin=-_Parts(**g).cotangents()[2]),
        forgets="which of the two is subtracted",
        shows="everywhere",
    ),
    Mistake(
        "dcos and dsin exchanged",
        lambda **g: _Parts(**g).cotangents(dcos=_Parts(**g).cotangents()[2], dsin=_Parts(**g).cotangents()[1]),
        forgets="the order of the inputs",
        shows="everywhere",
    ),
    Mistake(
        "dcos from what was turned",
        lambda **g: _Parts(**g).cotangents(
            dcos=_over_batch(
                _Parts(**g).da * (_Parts(**g).a * g["cos"] - _Parts(**g).b * g["sin"])
                + _Parts(**g).db * (_Parts(**g).a * g["sin"] + _Parts(**g).b * g["cos"])
            )
        ),
        forgets="that the buffer of x has been written over, and holds y by now",
        shows="wherever an angle is not 0",
    ),
    Mistake(
        "cotangent dropped",
        lambda **g: _Parts(**{**g, "dy": torch.ones_like(g["dy"])}).cotangents(),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
