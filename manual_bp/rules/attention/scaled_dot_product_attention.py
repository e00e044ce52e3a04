"""Scaled dot-product attention: for each query a mean of the values, weighted by how well their keys fit.

For a query q_i and keys k_j, with a scale c that is 1/√width unless it is given,

    s_ij = c q_i·k_j              −∞ where query i may not look at key j
    p_ij = e^s_ij / Σ_j e^s_ij
    y_i  = Σ_j p_ij v_j

A query may look at a key if mask says True, if there is one, and under causal if the key is not later than the query:
j ≤ i counted from the start of both ("top-left"), or from their ends ("bottom-right": j ≤ i + keys − queries), which
differ where there are not as many keys as queries.  One mask (queries, keys) holds for all heads.  Consecutive heads of
q, a group, share a head of k and v: q has a multiple of their heads, and they have one at least (ValueError).

Derivation.  y is linear in v, with weights p, so that with the cotangent dp_ij = dy_i·v_j of p

    dv_j = Σ_i p_ij dy_i

By softmax's derivative (the page `softmax`), whose projection D needs no p, since dy_i may be taken out of the sum:

    ds_ij = p_ij (dp_ij − D_i)        D_i = Σ_j p_ij dp_ij = dy_i · Σ_j p_ij v_j = dy_i·y_i
    dq_i = c Σ_j ds_ij k_j            dk_j = c Σ_i ds_ij q_i

A head of k and v reaches all heads of its group: dk and dv are sums over them too.

What is kept.  p has queries × keys numbers, which is more than all else together.  It is made again from q and k; for
that it is enough to know of each row its largest score m and the weight w of that one:

    p_ij = w_i e^(s_ij − m_i)         w_i = 1 / Σ_j e^(s_ij − m_i)

Their one number m − log w, the log-sum-exp of the row, would do, but is rounded in units of the scores, and p with it:
to 3 digits where they are near 10⁴ (float32).  So many rows are done at a time that memory grows as queries and as
keys, not as their product; under causal, keys later than the last of these rows are left out.

Digits.  Where one p is near 1, dp − D cancels for it, and where values lie close together far from 0 it does for all:
what is left is off by roundings of |dy|·|v|, in any program that knows D as dy·y.

At the edges: a query that may look at no key, or whose scores are all −∞, has y = 0 and dq = 0, and none of its dy
reaches k or v.  No kinks.

Source: Vaswani et al., "Attention Is All You Need" (2017), eq. 1; D: Dao et al., "FlashAttention" (2022), appendix B.2;
groups: Ainslie et al., "GQA" (2023), section 2.2.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Shape, coin, constant, normal, require
from manual_bp.rules.attention._heads import (
    all_heads,
    by_group,
    default_scale,
    for_group,
    keys_ahead,
    largest,
    not_later,
    over_group,
)
from manual_bp.rules.attention._memory import as_if_contiguous, at_strides_of
from manual_bp.rules.attention._parts import Cotangents, Parts

ROWS, SCORES = 128, 2**15
"""At least so many rows of a head at a time, which products of matrices need to be fast, and more where there are few
keys: so many scores of a head."""


class Residuals(NamedTuple):
    q: Float[Tensor, "*batch kv_heads*group queries width"]
    k: Float[Tensor, "*batch kv_heads keys width"]
    v: Float[Tensor, "*batch kv_heads keys value_width"]
    mask: Bool[Tensor, "queries keys"] | None
    y: Float[Tensor, "*batch kv_heads*group queries value_width"]
    """For D = dy·y, and alive anyway, as the input of the next layer."""
    largest: Float[Tensor, "*batch kv_heads*group queries one"]
    its_weight: Float[Tensor, "*batch kv_heads*group queries one"]
    """m and w, two numbers for a row; p, of queries × keys numbers, is made again of them.  0 and 0 without a key."""
    causal: bool
    alignment: str
    scale: float


def forward(
    q: Float[Tensor, "*batch kv_heads*group queries width"],
    k: Float[Tensor, "*batch kv_heads keys width"],
    v: Float[Tensor, "*batch kv_heads keys value_width"],
    mask: Bool[Tensor, "queries keys"] | None = None,
    *,
    causal: bool = False,
    alignment: Literal["top-left", "bottom-right"] = "top-left",
    scale: float | None = None,
) -> tuple[Float[Tensor, "*batch kv_heads*group queries value_width"], Residuals]:
    kv_heads = k.shape[-3]
    require(kv_heads >= 1, "scaled_dot_product_attention: there must be a head", kv_heads, "Axis -3 holds the heads.")
    scale = default_scale(q) if scale is None else scale
    found = []
    for rows in _blocks(q, k, mask, causal, alignment):
        s = _scores(rows.of(q), rows.seen(k), rows.allowed, scale)
        m = largest(s)
        looks = ~torch.isneginf(m)
        p = torch.where(looks, torch.softmax(s, -1), 0)
        by_group = for_group(p, rows.seen(v)), torch.where(looks, m, 0), torch.where(looks, largest(p), 0)
        found.append([all_heads(part) for part in by_group])
    y, m, w = (torch.cat(blocks, -2) for blocks in zip(*found, strict=True))
    return y, Residuals(q, k, v, mask, y, m, w, causal, alignment, scale)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch kv_heads*group queries value_width"]
) -> tuple[
    Float[Tensor, "*batch kv_heads*group queries width"],
    Float[Tensor, "*batch kv_heads keys width"],
    Float[Tensor, "*batch kv_heads keys value_width"],
    None,
]:
    dq, dk, dv = _cotangents(residuals, dy, lambda p, dp, along: p * (dp - along))
    return dq, dk, dv, None


def terms(
    residuals: Residuals, dy: Float[Tensor, "*batch kv_heads*group queries value_width"]
) -> dict[str, dict[str, Tensor]]:
    direct = _cotangents(residuals, dy, lambda p, dp, along: p * dp)
    projection = _cotangents(residuals, dy, lambda p, dp, along: -p * along)
    return {
        "dq": {"direct": direct[0], "projection": projection[0]},
        "dk": {"direct": direct[1], "projection": projection[1]},
        "dv": {"sum": direct[2]},
    }


def _cotangents(
    residuals: Residuals, dy: Tensor, through_softmax: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv.  through_softmax: ds from p, dp and D."""
    q, k, v, mask, y, m, w, causal, alignment, scale = residuals
    dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
    for rows in _blocks(q, k, mask, causal, alignment):
        q_rows, dy_rows = rows.of(q), rows.of(dy)
        p = rows.of(w) * torch.exp(_scores(q_rows, rows.seen(k), rows.allowed, scale) - rows.of(m))
        along = torch.sum(dy_rows * rows.of(y), -1, keepdim=True)
        ds = through_softmax(p, for_group(dy_rows, rows.seen(v).mT), along)
        dq.append(all_heads(scale * for_group(ds, rows.seen(k))))
        dk = dk + rows.unseen(over_group(ds, scale * q_rows))
        dv = dv + rows.unseen(over_group(p, dy_rows))
    return torch.cat(dq, -2), dk, dv


def _scores(q: Tensor, k: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """s, of a group's rows (..., kv_heads, group, rows, width) and its keys."""
    s = for_group(scale * q, k.mT)
    return s if allowed is None else torch.where(allowed, s, -torch.inf)


class _Block(NamedTuple):
    """Some rows of all heads, the first keys, as far as these rows can see, and which of them they may look at."""

    rows: slice
    keys: int
    unseen_keys: int
    allowed: Tensor | None
    heads: tuple[int, int]

    def of(self, x: Tensor) -> Tensor:
        """These rows, by group: (..., kv_heads, group, rows, ·) from (..., kv_heads·group, queries, ·)."""
        return by_group(x[..., self.rows, :], self.heads)

    def seen(self, x: Tensor) -> Tensor:
        """The keys or values that these rows can see."""
        return x[..., : self.keys, :]

    def unseen(self, x: Tensor) -> Tensor:
        """What is for the keys that are seen, and 0 for the others."""
        return torch.constant_pad_nd(x, (0, 0, 0, self.unseen_keys)) if self.unseen_keys else x


def _blocks(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, alignment: str) -> Iterator[_Block]:
    """All rows, in order; where there are none, one block without rows."""
    kv_heads, (queries, keys) = k.shape[-3], (q.shape[-2], k.shape[-2])
    length = max(ROWS, SCORES // max(keys, 1))
    for start in range(0, max(queries, 1), length):
        stop = min(start + length, queries)
        seen = min(max(stop + keys_ahead(queries, keys, alignment), 0), keys) if causal else keys
        allowed = None if mask is None else mask[start:stop, :seen]
        if causal:
            order = not_later(torch.arange(start, stop, device=q.device), seen, keys_ahead(queries, keys, alignment))
            allowed = order if allowed is None else allowed & order
        yield _Block(slice(start, stop), seen, keys - seen, allowed, (kv_heads, q.shape[-3] // kv_heads))


def _mostly(shape: Shape, generator: torch.Generator) -> Tensor:
    """A mask under which every query may look at a key: the first, if at no other."""
    return coin(0.7)(shape, generator) | (torch.arange(shape[-1]) == 0)


INPUTS = {
    "q": Input(normal(std=1.5)),
    "k": Input(normal(std=1.5)),
    "v": Input(normal()),
    "mask": Input(_mostly, cotangent=False),
}
USUAL = {"scale": (0.5,)}

SIZES = {"batch": (2,), "kv_heads": 2, "group": 2, "queries": 3, "keys": 5, "width": 4, "value_width": 3}
LONGEST = {"kv_heads": 33, "group": 33}
SHORTEST = {"kv_heads": 1, "group": 1, "queries": 1, "keys": 3, "width": 1, "value_width": 1}

_INF = float("inf")
_ALONE: dict[str, int | tuple[int, ...]] = {"batch": (), "kv_heads": 1, "group": 1}
_LONG: dict[str, int | tuple[int, ...]] = {**_ALONE, "queries": 300, "keys": 270, "width": 4, "value_width": 5}


def _rows_of(*rows: list[float]) -> list[list[list[float]]]:
    """One head of one width: a number for each position."""
    return [[[number] for number in row] for row in rows]


EDGES = (
    Edge("no mask", {"mask": None}),
    Edge("causal", {"causal": True, "mask": None}),
    Edge("causal from the end", {"causal": True, "mask": None, "alignment": "bottom-right"}),
    Edge("causal and a mask", {"causal": True}),
    Edge("causal from the end and a mask", {"causal": True, "alignment": "bottom-right"}),
    Edge("causal, as many queries as keys", {"causal": True, "mask": None}, sizes={"queries": 4, "keys": 4}),
    Edge("causal, fewer keys", {"causal": True, "mask": None}, sizes={"queries": 5, "keys": 3}),
    Edge(
        "causal from the end, fewer keys: the first queries see none",
        {"causal": True, "mask": None, "alignment": "bottom-right"},
        sizes={"queries": 5, "keys": 3},
    ),
    Edge("from the end, but not causal", {"alignment": "bottom-right", "mask": None}),
    Edge("as many queries as keys", sizes={"queries": 4, "keys": 4}),
    Edge("scale", {"scale": 0.3, "mask": None}),
    Edge("scale, causal", {"scale": 0.3, "causal": True, "mask": None}),
    Edge("negative scale", {"scale": -0.7, "mask": None}),
    Edge("scale of 0", {"scale": 0.0, "mask": None}),
    Edge("one head", sizes={"kv_heads": 1, "group": 1}),
    Edge("one head of keys for all", sizes={"kv_heads": 1, "group": 3}),
    Edge("a head of keys for each", sizes={"kv_heads": 3, "group": 1}),
    Edge("groups of three", sizes={"kv_heads": 2, "group": 3}),
    Edge("no batch", sizes={"batch": ()}),
    Edge("two batch axes", sizes={"batch": (2, 2), "queries": 2}),
    Edge("empty batch", sizes={"batch": (0,)}),
    Edge("one key", {"mask": None}, sizes={"keys": 1}),
    Edge("one query", {"mask": None}, sizes={"queries": 1}),
    Edge("one query, causal", {"mask": None, "causal": True}, sizes={"queries": 1}),
    Edge(
        "one query, causal from the end",
        {"mask": None, "causal": True, "alignment": "bottom-right"},
        sizes={"queries": 1},
    ),
    Edge("one query and one key", {"mask": None}, sizes={"queries": 1, "keys": 1}),
    Edge("no query", sizes={"queries": 0}),
    Edge("no key", sizes={"keys": 0}),
    Edge("no key, causal", {"mask": None, "causal": True}, sizes={"keys": 0}),
    Edge("no query and no key", sizes={"queries": 0, "keys": 0}),
    Edge("width of 1", sizes={"width": 1, "value_width": 1}),
    Edge("no width", {"mask": None}, sizes={"width": 0}),
    Edge("values without width", sizes={"value_width": 0}),
    Edge("values wider than keys", {"mask": None}, sizes={"width": 2, "value_width": 5}),
    Edge("keys and values alike in width", {"mask": None}, sizes={"width": 3, "value_width": 3}),
    Edge("rows of several blocks", {"mask": None}, sizes=_LONG),
    Edge("rows of several blocks, causal", {"mask": None, "causal": True}, sizes=_LONG),
    Edge("rows of several blocks, causal and a mask", {"causal": True}, sizes=_LONG),
    Edge(
        "rows of several blocks, causal from the end: the first sees no key",
        {"mask": None, "causal": True, "alignment": "bottom-right"},
        sizes={**_LONG, "keys": 150},
    ),
    Edge(
        "a long batch",
        sizes={"batch": (1017,), "kv_heads": 1, "group": 2, "queries": 2, "keys": 2, "width": 2, "value_width": 1},
    ),
    Edge("one score masked", {"mask": [[True, False, True], [True, True, True]]}, sizes={**_ALONE}),
    Edge("one query sees nothing", {"mask": [[False, False, False], [True, False, True]]}),
    Edge("one query sees nothing beside causal", {"mask": [[False, True, True], [True] * 3], "causal": True}),
    Edge("no query sees anything", {"mask": [[False, False], [False, False]]}),
    Edge("one key is seen by none", {"mask": [[True, False, True], [True, False, True]]}),
    Edge("a mask that is not its own transpose", {"mask": [[True, True, False], [False, True, True], [True] * 3]}),
    Edge("a mask of True", {"mask": [[True] * 3] * 2}),
    Edge("all scores equal", {"q": constant(1.0), "k": constant(0.5), "mask": None}),
    Edge("all scores 0", {"q": constant(0.0), "mask": None}),
    Edge(
        "scores of ±10000",
        {"q": _rows_of([1.0, -1.0, 100.0]), "k": _rows_of([1e4, -1e4, 9999.0]), "mask": None},
        _ALONE,
    ),
    Edge(
        "largest below -10000",
        {
            "q": _rows_of([-1.0, -2.0]),
            "k": _rows_of([12000.0, 12001.0, 12003.0]),
            "mask": [[True, True, False], [False, True, True]],
        },
        _ALONE,
    ),
    Edge("all scores equal and below -65504", {"q": constant(1.0), "k": constant(-1e5), "mask": None}),
    Edge("largest below -10000, causal", {"q": constant(-150.0), "k": constant(80.0), "mask": None, "causal": True}),
    Edge(
        "scores whose exponential overflows",
        {"q": _rows_of([1.0]), "k": _rows_of([1000.0, 999.0, 998.0]), "mask": None},
        _ALONE,
    ),
    Edge("one winner", {"q": normal(std=9.0), "k": normal(std=9.0), "mask": None}),
    Edge(
        "nearly certain",
        {"q": _rows_of([1.0, -1.0]), "k": _rows_of([20.0, 0.0, 1.0, -37.0]), "mask": None},
        {**_ALONE, "value_width": 2},
    ),
    Edge(
        "gradual underflow",
        {"q": _rows_of([1.0]), "k": _rows_of([0.0, -87.0, -95.0, -103.0, -110.0]), "mask": None},
        _ALONE,
    ),
    Edge("values far from 0, close together", {"v": normal(mean=1e3), "mask": None}),
    Edge("values far below 0", {"v": normal(mean=-1e11, std=1e10), "mask": None}),
    Edge("all values alike", {"v": constant(1.5), "mask": None}),
    Edge("cotangent constant", {"dy": constant(0.75), "mask": None}),
    Edge("signed zeros", {"q": constant(-0.0), "v": constant(-0.0), "mask": None}),
    Edge("subnormal values", {"v": constant(1e-40), "mask": None}),
    Edge("a value that is infinite", {"v": _rows_of([1.0, _INF]), "mask": None}, _ALONE),
    Edge(
        "heads that are no multiple",
        {"q": [[[1.0]]] * 3, "k": [[[1.0]]] * 2, "v": [[[1.0]]] * 2, "mask": None},
        raises=ValueError,
    ),
    Edge("no head", {"mask": None}, sizes={"kv_heads": 0}, raises=ValueError),
    Edge("a mask of one row", {"q": [[[1.0]] * 2], "mask": [[True] * 3]}, sizes=_ALONE, raises=ValueError),
)


def _of(formula: Callable[[Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **g: formula(Parts(**g))


def _with(g: dict[str, Any], **changed: Any) -> Cotangents:
    """The cotangents with p and c of another mask or other hyperparameters than forward's, but its y, m and w."""
    parts, other = Parts(**g), Parts(**{**g, **changed})
    return parts.cotangents(p=parts.from_scores(other.s), scale=other.scale)


def _seeing(g: dict[str, Any], allowed: Callable[[Parts], Tensor]) -> Cotangents:
    """The cotangents where queries may look at other keys than in forward."""
    parts = Parts(**g)
    return parts.cotangents(p=parts.from_scores(parts.scores(allowed(parts))))


def _earlier(parts: Parts) -> Tensor:
    """Keys that are not later, the other way round: not earlier."""
    return parts.allowed(parts.keys) & ~parts.allowed(parts.ahead - 1) if parts.causal else parts.allowed()


def _of_first_values(parts: Parts) -> Tensor:
    """ds of the first half of the values' width."""
    some = (parts.v.shape[-1] + 1) // 2
    dp = for_group(parts.dy[..., :some], parts.v[..., :some].mT)
    return parts.p * (dp - parts.rows(parts.dy[..., :some] * parts.y[..., :some]))


def _padded(parts: Parts, block: int) -> Tensor:
    """p where keys up to a multiple of a block are there, all zeros, and none is masked."""
    missing = -parts.keys % block
    return parts.p / (1 + missing * torch.exp(-parts.m) * parts.w)


def _without_diagonal(parts: Parts, block: int) -> Tensor:
    """ds for dq, of which causal attention has left out the last block that a query reaches."""
    ds = parts.p * (parts.dp - parts.along)
    if not parts.causal:
        return ds
    reach = torch.arange(parts.queries, device=ds.device)[:, None] + parts.ahead + 1
    return torch.where(torch.arange(parts.keys, device=ds.device) < reach // block * block, ds, 0)


def _by_remainder(parts: Parts) -> Cotangents:
    """Head h with head h mod kv_heads of k and v, and not with head h // group."""
    kv_heads, group = parts.heads
    shared = torch.arange(kv_heads * group, device=parts.k.device) % kv_heads
    q, dy, y, m, w = (all_heads(x) for x in (parts.q, parts.dy, parts.y, parts.m, parts.w))
    k, v = parts.k[..., shared, :, :], parts.v[..., shared, :, :]
    p = w * torch.exp(torch.where(parts.allowed(), parts.scale * q @ k.mT, -torch.inf) - m)
    ds = p * (dy @ v.mT - torch.sum(dy * y, -1, keepdim=True))

    def over_heads(x: Tensor) -> Tensor:
        return torch.sum(by_group(x, (group, kv_heads)), -4)

    return parts.scale * ds @ k, over_heads(parts.scale * ds.mT @ q), over_heads(p.mT @ dy), None


def _y_at_strides_of_dy(parts: Parts, dy: Tensor) -> Cotangents:
    y = by_group(at_strides_of(dy, all_heads(parts.y)), parts.heads)
    return parts.cotangents(along=parts.rows(parts.dy * y))


def _not_a_number_without_queries(parts: Parts) -> Cotangents:
    dq, dk, dv, _ = parts.cotangents()
    return (dq, dk, dv, None) if parts.queries else (dq, dk + torch.nan, dv + torch.nan, None)


def _masked_by_a_number(parts: Parts) -> Cotangents:
    """Scores of what may not be looked at are -10000."""
    allowed = parts.allowed()
    s = torch.where(allowed, parts.scores(torch.ones_like(allowed)), -1e4)
    return parts.cotangents(p=torch.softmax(s, -1) if parts.keys else None)


def _not_transposed(ds: Tensor, q: Tensor) -> Tensor:
    """Σ ds q over the heads of a group, where the shapes let it."""
    return torch.sum(ds @ q, -3) if ds.shape[-2] == ds.shape[-1] else over_group(ds, q)


MISTAKES = (
    Mistake(
        "projection dropped",
        _of(lambda r: r.cotangents(along=0.0)),
        forgets="that the sum of a row is in every p of it: D",
        shows="everywhere but where dy and y are orthogonal",
    ),
    Mistake(
        "projection's sign",
        _of(lambda r: r.cotangents(along=-r.along)),
        forgets="that D is subtracted",
        shows="everywhere but where dy and y are orthogonal",
    ),
    Mistake(
        "projection without p",
        _of(lambda r: r.cotangents(along=r.rows(r.dp))),
        forgets="that D is the mean of dp by the weights p",
        shows="for more than one key",
    ),
    Mistake(
        "projection without p before it",
        _of(lambda r: r.cotangents(ds=r.p * r.dp - r.along)),
        forgets="the factor p of D",
        shows="for more than one key",
    ),
    Mistake(
        "projection over the queries",
        _of(lambda r: r.cotangents(along=torch.sum(r.p * r.dp, -2, keepdim=True))),
        forgets="along which axis p adds up to 1",
        shows="everywhere",
    ),
    Mistake(
        "D averaged over the values' width",
        _of(lambda r: r.cotangents(along=r.along / max(r.v.shape[-1], 1))),
        forgets="that dy·y is a sum",
        shows="for values of more than one number",
    ),
    Mistake(
        "softmax over the queries",
        _of(lambda r: r.cotangents(p=torch.where(r.allowed(), torch.softmax(r.s, -2), 0) if r.queries else None)),
        forgets="along which axis scores are normalised",
        shows="everywhere",
    ),
    Mistake(
        "p not normalised",
        _of(lambda r: r.cotangents(p=torch.exp(r.s - r.m))),
        forgets="to divide by the sum of exponentials",
        shows="for more than one key",
    ),
    Mistake(
        "2 for e",
        _of(lambda r: r.cotangents(p=r.w * torch.exp2(r.s - r.m))),
        forgets="the log₂ e with which a kernel that takes powers of 2 multiplies the scores",
        shows="for more than one key",
    ),
    Mistake(
        "largest not subtracted",
        _of(lambda r: r.cotangents(p=torch.exp(r.s) / r.rows(torch.exp(r.s)) if r.keys else None)),
        forgets="to take the largest score off first",
        shows="from scores of 89 (float32) or 710 (float64) on, and where nothing may be looked at: NaN",
    ),
    Mistake(
        "scale missing",
        _of(lambda r: r.cotangents(scale=1.0)),
        forgets="that c stands between q·k and s",
        shows="wherever c is not 1",
    ),
    Mistake(
        "scale missing in dk",
        _of(lambda r: r.cotangents(dk=r.cotangents(scale=1.0)[1])),
        forgets="that c is in dk as it is in dq: q was scaled in a buffer of its own",
        shows="wherever c is not 1",
    ),
    Mistake(
        "scale twice",
        _of(lambda r: r.cotangents(scale=r.scale**2)),
        forgets="that what was multiplied is scaled already",
        shows="wherever c is not 1 or 0",
    ),
    Mistake(
        "scale not taken",
        lambda **g: _with(g, scale=None),
        forgets="that the caller gave a scale",
        shows="for a scale that is not 1/√width",
    ),
    Mistake(
        "1/width",
        lambda **g: _with(g, scale=1 / max(g["q"].shape[-1], 1) if g["scale"] is None else g["scale"]),
        forgets="the root",
        shows="for more than one number in a row",
    ),
    Mistake(
        "the root of the values' width",
        lambda **g: _with(g, scale=default_scale(g["v"]) if g["scale"] is None else g["scale"]),
        forgets="whose width it is",
        shows="where values have another width than keys",
    ),
    Mistake(
        "first values alone",
        _of(lambda r: r.cotangents(ds=_of_first_values(r))),
        forgets="to add up dp over all blocks of the values' width",
        shows="for values of more than one number",
        seen="https://github.com/fla-org/flash-linear-attention/commit/e4c7f88008da",
    ),
    Mistake(
        "dv like k",
        _of(lambda r: r.cotangents(dv=torch.constant_pad_nd(r.cotangents()[2], (0, r.k.shape[-1] - r.v.shape[-1])))),
        forgets="that v has its own width and strides, and with it dv",
        shows="in the shape, where widths differ",
        seen="https://github.com/Dao-AILab/flash-attention/commit/2423cca3ad20",
    ),
    Mistake(
        "keys beyond the end",
        _of(lambda r: r.cotangents(p=_padded(r, 128))),
        forgets="to mask the zeros with which keys are filled up to whole blocks",
        shows="where keys are no multiple of 128",
        seen="https://github.com/Dao-AILab/flash-attention/commit/a4f148b6abe0",
    ),
    Mistake(
        "y at dy's strides",
        lambda **g: _y_at_strides_of_dy(Parts(**g), g["dy"]),
        forgets="that y and dy lie in memory in ways of their own",
        shows="where dy is not contiguous",
        seen="https://github.com/Dao-AILab/flash-attention/commit/9ee0ff1d9b6a",
    ),
    Mistake(
        "dy read as if contiguous",
        lambda **g: Parts(**{**g, "dy": as_if_contiguous(g["dy"])}).cotangents(),
        forgets="the strides of dy",
        shows="where dy is not contiguous",
    ),
    Mistake(
        "NaN without queries",
        _of(_not_a_number_without_queries),
        forgets="that keys which no query looks at have gradients, which are 0",
        shows="where there is no query",
        seen="https://github.com/Dao-AILab/flash-attention/commit/b46c5875374d",
    ),
    Mistake(
        "last block left out of dq",
        _of(lambda r: r.cotangents(dq=all_heads(r.scale * for_group(_without_diagonal(r, 2), r.k)))),
        forgets="to round up how many blocks of keys a query reaches",
        shows="for causal",
        seen="https://github.com/Dao-AILab/flash-attention/commit/ab66326aaa4f",
    ),
    Mistake(
        "first head of each group",
        _of(lambda r: r.cotangents(over_group=lambda a, b: a[..., 0, :, :].mT @ b[..., 0, :, :])),
        forgets="the sum over the heads that share k and v",
        shows="where heads of keys are shared",
        seen="https://github.com/marin-community/levanter/pull/449",
    ),
    Mistake(
        "last head of each group",
        _of(lambda r: r.cotangents(over_group=lambda a, b: a[..., -1, :, :].mT @ b[..., -1, :, :])),
        forgets="to add: each head writes over what the one before has written",
        shows="where heads of keys are shared",
    ),
    Mistake(
        "mean over the group",
        _of(lambda r: r.cotangents(over_group=lambda a, b: over_group(a, b) / max(a.shape[-3], 1))),
        forgets="that what is shared gets a sum",
        shows="where heads of keys are shared",
    ),
    Mistake(
        "dk and dv of every head",
        _of(lambda r: r.cotangents(over_group=lambda a, b: (a.mT @ b).flatten(-4, -3))),
        forgets="the sum over the heads that share k and v",
        shows="in the shape, where heads of keys are shared",
        seen="https://github.com/marin-community/levanter/pull/449",
    ),
    Mistake(
        "heads shared in turn",
        _of(_by_remainder),
        forgets="that consecutive heads share: this is head h mod kv_heads",
        shows="for more than one head of keys, where they are shared",
    ),
    Mistake(
        "mask forgotten",
        lambda **g: _with(g, mask=None),
        forgets="that p is 0 where forward masked",
        shows="with a mask",
    ),
    Mistake(
        "mask inverted",
        lambda **g: _with(g, mask=None if g["mask"] is None else ~g["mask"]),
        forgets="that True means: may be looked at",
        shows="with a mask",
    ),
    Mistake(
        "mask transposed",
        lambda **g: _seeing(g, lambda parts: parts.allowed().mT if parts.queries == parts.keys else parts.allowed()),
        forgets="that rows of the mask are queries",
        shows="for as many queries as keys, with a mask that is not its own transpose, and for causal",
    ),
    Mistake(
        "masked by -10000",
        _of(_masked_by_a_number),
        forgets="that scores may be below -10000",
        shows="where all that a query may look at is below -9900, and where it may look at nothing",
    ),
    Mistake(
        "NaN where nothing is seen",
        _of(lambda r: r.cotangents(p=torch.softmax(r.s, -1) if r.keys else None)),
        forgets="that a row of -∞ has no softmax: 0/0",
        shows="where a query may look at no key",
        seen="https://github.com/NVIDIA/cudnn-frontend/pull/676",
    ),
    Mistake(
        "all alike where nothing is seen",
        _of(lambda r: r.cotangents(p=torch.where(r.allowed().any(-1, keepdim=True), r.p, 1 / max(r.keys, 1)))),
        forgets="that a query which may look at no key looks at none: scores of the lowest finite number are all alike",
        shows="where a query may look at no key",
    ),
    Mistake(
        "causal forgotten",
        lambda **g: _with(g, causal=False),
        forgets="that p is 0 for later keys",
        shows="for causal",
    ),
    Mistake(
        "causal the other way round",
        lambda **g: _seeing(g, _earlier),
        forgets="which of the two is earlier",
        shows="for causal",
    ),
    Mistake(
        "causal without the query's own position",
        lambda **g: _seeing(g, lambda parts: parts.allowed(parts.ahead - 1)),
        forgets="that j ≤ i, and not j < i",
        shows="for causal",
    ),
    Mistake(
        "causal one key late",
        lambda **g: _seeing(g, lambda parts: parts.allowed(parts.ahead + 1)),
        forgets="that j ≤ i, and not j ≤ i + 1",
        shows="for causal",
    ),
    Mistake(
        "aligned at the start",
        lambda **g: _with(g, alignment="top-left"),
        forgets="that the last query stands beside the last key",
        shows='for causal, alignment="bottom-right" and not as many queries as keys',
    ),
    Mistake(
        "aligned at the end",
        lambda **g: _with(g, alignment="bottom-right"),
        forgets="that the first query stands beside the first key",
        shows='for causal, alignment="top-left" and not as many queries as keys',
    ),
    Mistake(
        "mask in place of causal",
        lambda **g: _with(g, causal=g["causal"] and g["mask"] is None),
        forgets="that where both are given both hold",
        shows="for causal with a mask",
    ),
    Mistake(
        "ds not transposed",
        _of(lambda r: r.cotangents(over_group=_not_transposed)),
        forgets="that dk and dv are sums over the queries",
        shows="for as many queries as keys",
    ),
    Mistake(
        "dv from ds",
        _of(lambda r: r.cotangents(dv=over_group(r.p * (r.dp - r.along), r.dy))),
        forgets="that the buffer of p has been written over, and holds ds by now",
        shows="everywhere",
    ),
    Mistake(
        "dv from dp",
        _of(lambda r: r.cotangents(dv=over_group(r.dp, r.dy))),
        forgets="that values are weighted by p",
        shows="everywhere",
    ),
    Mistake(
        "dk and dv exchanged",
        _of(lambda r: r.cotangents(dk=r.cotangents()[2], dv=r.cotangents()[1])),
        forgets="the order of the inputs",
        shows="everywhere",
    ),
    Mistake(
        "softmax forgotten",
        _of(lambda r: r.cotangents(ds=torch.where(r.allowed(), r.dp, 0))),
        forgets="the derivative of softmax: dp is not ds",
        shows="everywhere",
    ),
    Mistake(
        "cotangent dropped",
        lambda **g: Parts(**{**g, "dy": torch.ones_like(g["dy"])}).cotangents(),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
