"""Where the entries of the bank were compared with torch.autograd (see `truth`); `probes(rule)` makes these by name."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tests.oracle.third_bank.entry import F64

Inputs = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Probe:
    inputs: Inputs
    dy: Tensor
    hyper: dict[str, Any] = field(default_factory=dict)
    ordinary: bool = True
    """Right programs are within a few roundings here, whatever their formula."""
    floor: float = 0.1
    """Errors are relative to a result, and to this part of the largest result and dy."""
    before: "Probe | None" = None
    """A call that comes first."""


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def ids(entries: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(entries, shape, generator=torch.Generator().manual_seed(seed + entries))


def in_reverse(x: Tensor) -> Tensor:
    """The same numbers in memory with axes in reverse; a vector with gaps."""
    if x.ndim == 1:
        wide = x.new_zeros(2 * len(x))
        wide[::2] = x
        return wide[::2]
    order = tuple(reversed(range(x.ndim)))
    return x.permute(order).contiguous().permute(order)


def _everywhere(inputs: Callable[[int], Inputs], shaped: Callable[[Inputs], tuple[int, ...]]) -> dict[str, Probe]:
    """What every rule is tried at: `inputs` by seed, and the shape of y."""
    first, second = inputs(0), inputs(1)
    dy, other = normal(*shaped(first), seed=5) + 0.3, normal(*shaped(second), seed=6)
    strided = tuple(x if x is None else in_reverse(x) for x in first)
    plain = Probe(first, dy)
    return {
        "plain": plain,
        "second call": Probe(second, other, before=plain),
        "large dy": Probe(first, 1000 * dy),
        "strided dy": Probe(first, in_reverse(dy) if dy.ndim else dy),
        "strided input": Probe(strided, dy),
    }


def _like(x: Tensor, seed: int = 9) -> Tensor:
    return normal(*x.shape, seed=seed)


def _of(x: Tensor, dy: Tensor | None = None, **hyper: Any) -> Probe:
    return Probe((x,), _like(x) if dy is None else dy, hyper)


def _extreme(probe: Probe, floor: float = 0.01) -> Probe:
    return replace(probe, ordinary=False, floor=floor)


def _spread(rows: int, classes: int) -> Tensor:
    """Rows from a spread of 3000 down to one of 4."""
    return normal(rows, classes) * torch.tensor([3000.0, 60.0, 4.0], dtype=F64).repeat(rows)[:rows, None]


def _softmax() -> dict[str, Probe]:
    first_masked, late, one_masked, all_masked = normal(2, 70), normal(2, 1101), normal(3, 11), normal(3, 11)
    first_masked[:, :40] = -math.inf
    late[:, 1050] = 2000
    one_masked[0, 2] = one_masked[1, 5] = -math.inf
    all_masked[1] = -math.inf
    peaked = normal(3, 11, scale=0.1)
    peaked[:, 4] = 11
    one_hot = torch.zeros(4, 11, dtype=F64)
    one_hot[torch.arange(4), ids(11, 4)] = 1.5
    return {
        **_everywhere(lambda s: (normal(4, 11, scale=2, seed=s),), lambda i: i[0].shape),
        "dim 0": _of(normal(5, 4), dim=0),
        "dim -2": _of(normal(3, 5, 4), dim=-2),
        "wide": _of(normal(2, 1101, scale=2)),
        "blocks": _of(normal(4, 45)),
        "rows": _of(normal(1101, 5)),
        "one class": _of(normal(4, 1)),
        "two classes": _of(normal(4, 2)),
        "batch 0": _of(normal(0, 4)),
        "constant dy": _of(normal(4, 11), torch.full((4, 11), 1.5, dtype=F64)),
        "one-hot dy": _of(normal(4, 11), one_hot),
        "rows apart": _extreme(_of(normal(3, 11) - 2000 * torch.arange(3.0, dtype=F64)[:, None])),
        "first masked": _of(first_masked),
        "one masked": _of(one_masked),
        "largest late": _of(late),
        "large": _extreme(_of(_spread(3, 11))),
        "far below": _extreme(_of(normal(3, 11, scale=20) - 20_000)),
        "all masked": _extreme(_of(all_masked)),
        "peaked": _extreme(_of(peaked), 0),
    }


def _cross() -> dict[str, Probe]:
    def of(x: Tensor, target: Tensor, weight: Tensor | None = None, dy: float = 1.7, **hyper: Any) -> Probe:
        return Probe((x, target, weight), torch.tensor(dy, dtype=F64), hyper)

    x, target, weight = normal(7, 11, scale=2), ids(11, 7), normal(11, seed=8).exp()
    space, squares = (normal(3, 5, 4, 2), ids(5, 3, 4, 2)), (normal(2, 5, 4, 4), ids(5, 2, 4, 4))
    holes, ones = target.clone(), target.clone()
    holes[[1, 4]] = -100
    ones[[0, 5]] = 1
    masked, certain, far = x.clone(), normal(7, 11, scale=0.1), normal(3, 11, scale=20) - 20_000
    masked[torch.arange(7), (target + 1) % 11] = -math.inf
    certain[torch.arange(7), target] = 11
    return {
        **_everywhere(lambda s: (normal(7, 11, scale=2, seed=s), ids(11, 7, seed=s), None), lambda i: ()),
        "negative dy": of(x, target, dy=-2.0),
        "weighted": of(x, target, weight),
        "smoothing": of(x, target, label_smoothing=0.3),
        "weighted smoothing": of(x, target, weight, label_smoothing=0.3),
        "ignored": of(x, holes),
        "ignored smoothing": of(x, holes, label_smoothing=0.3),
        "ignore 1": of(x, ones, ignore_index=1),
        "sum": of(x, target, reduction="sum"),
        "everything": of(*space, weight[:5], ignore_index=2, label_smoothing=0.1, reduction="sum"),
        "spaces": of(*space),
        "squares": of(*squares),
        "rows": of(normal(1101, 5), ids(5, 1101), reduction="sum"),
        "many rows": _extreme(of(normal(70_000, 3), ids(3, 70_000), reduction="sum"), 0.1),
        "wide": of(normal(4, 1101, scale=2), ids(1101, 4)),
        "vocabulary": of(normal(3, 70_000), torch.tensor([66_000, 40_000, 7])),
        "last class": of(x, torch.full((7,), 10)),
        "class 0": of(x, torch.zeros(7, dtype=torch.long)),
        "two classes": of(normal(5, 2), ids(2, 5)),
        "one class": of(normal(5, 1), torch.zeros(5, dtype=torch.long)),
        "one token": of(normal(1, 5), torch.tensor([3])),
        "one masked": of(masked, target),
        "batch 0": _extreme(of(normal(0, 5), torch.zeros(0, dtype=torch.long))),
        "all ignored": _extreme(of(x, torch.full((7,), -100))),
        "large": _extreme(of(_spread(6, 11), ids(11, 6))),
        "far below": _extreme(of(far, ids(11, 3))),
        "certain": _extreme(of(certain, target), 0),
    }


def _norm(extra: int) -> dict[str, Probe]:
    """`extra`: weight alone (1), or weight and bias (2)."""

    def parameters(features: int, seed: int = 0) -> Inputs:
        return (normal(features, seed=seed + 2) + 0.5, normal(features, seed=seed + 3))[:extra]

    def of(x: Tensor, *others: Any, **hyper: Any) -> Probe:
        return Probe((x, *(others or parameters(x.shape[-1]))), _like(x) + 0.2, hyper)

    constant, weight_0 = normal(6, 11), normal(11) + 0.5
    constant[2] = 0.0 if extra == 1 else 3.0
    weight_0[3] = 0
    return {
        **_everywhere(lambda s: (normal(6, 11, seed=s) + 0.4, *parameters(11, s)), lambda i: i[0].shape),
        "even rows": of(normal(6, 11)),
        "spaces": of(normal(2, 3, 11)),
        "wide": of(normal(4, 1101)),
        "rows": of(normal(1101, 5)),
        "many rows": _extreme(of(normal(70_000, 5)), 0.1),
        "one row": of(normal(11)),
        "batch 0": of(normal(0, 5)),
        "large eps": of(normal(6, 11), eps=0.5),
        "weight 0": of(normal(6, 11), weight_0, *parameters(11)[1:]),
        "no weight": of(normal(6, 11), None, *parameters(11)[1:]),
        "nothing": of(normal(6, 11), *[None] * extra),
        "constant rows": of(constant),
        "rows alike": _extreme(of(normal(5).expand(6000, 5) * 1.0)),
        "mean far": _extreme(of(normal(6, 11) + 10_000)),
        "hundreds": _extreme(of(300 + normal(6, 11, scale=50))),
    }


def _layer() -> dict[str, Probe]:
    of = _norm(2)
    x, weight, bias = of["plain"].inputs
    alike = of["rows alike"]
    return {
        **of,
        "bias alone": Probe((x, None, bias), of["plain"].dy),
        "weight alone": Probe((x, weight, None), of["plain"].dy),
        "rows alike": replace(alike, dy=torch.ones_like(alike.dy)),
    }


def _rms() -> dict[str, Probe]:
    of = _norm(1)
    alike = of["rows alike"]
    return {
        **of,
        "offset": replace(of["plain"], hyper={"offset": 1.0}),
        "rows alike": replace(alike, dy=torch.ones_like(alike.dy)),
    }


def _elementwise(tails: tuple[float, ...], inputs: int = 1, **hyper: Any) -> dict[str, Probe]:
    def of(x: Tensor) -> Probe:
        return Probe((x, _like(x, 4) + 0.1)[:inputs], _like(x), hyper)

    zeros, beyond = normal(4, 11), torch.tensor(tails, dtype=F64)
    zeros[0, 3] = zeros[2, 7] = 0
    at_zero = of(zeros)
    if inputs == 2:
        at_zero.inputs[1][1, 1] = 0
    far = Probe((beyond, torch.linspace(-10, 10, len(tails), dtype=F64))[:inputs], 1 + _like(beyond).abs(), hyper)
    return {
        **_everywhere(
            lambda s: (normal(4, 11, scale=2, seed=s), normal(4, 11, seed=s + 7))[:inputs], lambda i: i[0].shape
        ),
        "zeros": at_zero,
        "rows": of(normal(1101, 5)),
        "many rows": _extreme(of(normal(70_000, 5)), 0.1),
        "batch 0": of(normal(0, 5)),
        "tails": _extreme(far, 0),
    }


_SIGMOID_TAILS = (
    -800.0,
    -80.0,
    -70.5,
    -40.0,
    -20.25,
    -17.0,
    -12.5,
    -9.0,
    -6.0,
    -3.0,
    4.0,
    8.5,
    12.0,
    17.5,
    21.0,
    800.0,
)
_GELU_TAILS = (-10.0, -8.5, -7.0, -6.0, -5.5, -4.5, -3.5, -3.0, 3.25, 4.0, 5.5, 7.0, 10.0)


def _gelus() -> dict[str, Probe]:
    of = _elementwise(_GELU_TAILS)
    tanh = {"approximate": "tanh"}
    return {
        **of,
        "tanh": replace(of["plain"], hyper=tanh),
        "tails, tanh": replace(of["tails"], hyper=tanh),
        "thousands, tanh": _extreme(Probe((normal(9, scale=5000),), _like(normal(9)), tanh)),
    }


def _silus() -> dict[str, Probe]:
    return {**_elementwise(_SIGMOID_TAILS), "huge": _extreme(_of(torch.tensor([1e8, 1e20, -1e8, 3.0], dtype=F64)), 0)}


def _softpluses() -> dict[str, Probe]:
    of = _elementwise(_SIGMOID_TAILS)
    small = Probe((torch.tensor([-30.0, 5.0, 25.0, 40.0], dtype=F64),), normal(4), {"beta": 0.1})
    return {**of, "beta": replace(of["plain"], hyper={"beta": 2.5}), "small beta": small}


def _table() -> dict[str, Probe]:
    def of(index: Tensor, entries: int, features: int = 5, **hyper: Any) -> Probe:
        return Probe((index, normal(entries, features)), normal(*index.shape, features, seed=3) + 0.2, hyper)

    first, last = ids(9, 12), ids(9, 12) % 4 + 33
    first[3], skewed = 0, ids(9, 400)
    skewed[torch.arange(400) % 8 > 0] = 4
    last[5], last_of_9 = 36, ids(9, 12)
    last_of_9[2] = 8
    alike = of(torch.full((3000,), 2), 5, 3)
    return {
        **_everywhere(lambda s: (ids(9, 14, seed=s), normal(9, 5, seed=s)), lambda i: (14, 5)),
        "repeats": of(torch.tensor([3, 1, 3, 1, 1, 0, 3, 8]), 9),
        "skewed": of(skewed, 9),
        "one id": replace(alike, dy=alike.dy.abs() * 0.2 + 0.9, ordinary=False),
        "sorted": of(ids(9, 40).sort().values, 9),
        "unused": of(torch.tensor([3, 5]), 9),
        "first id": of(first, 9),
        "last id": of(last, 37),
        "rows": of(ids(9, 1101), 9),
        "many rows": _extreme(of(ids(5, 70_000), 5, 2), 0.1),
        "vocabulary": of(torch.tensor([66_000, 40_000, 300, 7]), 70_000, 2),
        "two axes": of(ids(9, 3, 4), 9),
        "batch 0": of(torch.zeros(0, dtype=torch.long), 9),
        "padding": of(torch.tensor([3, 2, 3, 2, 5]), 9, padding_idx=2),
        "padding 0": of(first, 9, padding_idx=0),
        "padding -1": of(last_of_9, 9, padding_idx=-1),
        "padding last": of(last_of_9, 9, padding_idx=8),
    }


_PROBES: dict[str, Callable[[], dict[str, Probe]]] = {
    "softmax": _softmax,
    "log_softmax": _softmax,
    "softmax_cross_entropy": _cross,
    "layer_norm": _layer,
    "rms_norm": _rms,
    "gelu": _gelus,
    "silu": _silus,
    "softplus": _softpluses,
    "swiglu": lambda: _elementwise(_SIGMOID_TAILS, 2),
    "embedding": _table,
}


@functools.cache
def probes(rule: str) -> dict[str, Probe]:
    return _PROBES[rule]()
