"""The hinge cost of several classes: the score of the right one must be larger than any other by a margin.

With the class c that is right, a row of scores x costs

    l = Σ_{k≠c} max(0, z_k) / K        z_k = x_k − x_c + margin

    y = Σ l / n

where K is the number of classes and n of rows.  That K divides is torch's choice, and no more than a scale; Weston and
Watkins have none.

Derivation.  Where z_k > 0 the k-th summand has the slope 1 by x_k and −1 by x_c, elsewhere it is constant:

    dx_k = dy / (n K)            k ≠ c and z_k > 0
    dx_k = 0                     k ≠ c and z_k ≤ 0
    dx_c = −dy/(n K) · (the number of k ≠ c with z_k > 0)

A row of dx adds up to 0: what pushes the others down pushes the right class up.  At z_k = 0, where a class keeps the
margin exactly, there is a kink, and every slope in [0, 1] is a subgradient; this page takes 0, as torch does.

Of one class there is nothing to compare: y = 0.  Without rows y is 0/0 = NaN (torch's own is whatever stood in memory).
The margin may be 0 or negative.

Source: Weston & Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999, eq. 6 and 7.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Index, Input, Mistake, normal, require


class Residuals(NamedTuple):
    violated: Bool[Tensor, "batch classes"]
    """Which z_k of another class than the right one are above 0: all that backward asks of x, in a byte each."""
    target: Int[Tensor, "batch"]


def forward(
    x: Float[Tensor, "batch classes"], target: Int[Tensor, "batch"], *, margin: float = 1.0
) -> tuple[Float[Tensor, ""], Residuals]:
    require(x.shape[1] >= 1, "multi_margin: there must be a class", x.shape[1], "Axis 1 of x holds the classes.")
    is_right = _is_right(target, x.shape[1])
    right = torch.gather(x, 1, target[:, None].long())
    z = x - right + margin
    violated = (z > 0) & ~is_right
    cost = torch.where(is_right, 0, torch.clamp(z, min=0))
    return torch.sum(cost) / x.numel(), Residuals(violated, target)


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "batch classes"], None]:
    found = terms(residuals, dy)["dx"]
    return found["others"] + found["right"], None


def terms(residuals: Residuals, dy: Float[Tensor, ""]) -> dict[str, dict[str, Tensor]]:
    violated, target = residuals
    others = torch.where(violated, dy / max(violated.numel(), 1), 0)
    right = torch.where(_is_right(target, violated.shape[1]), -torch.sum(others, 1, keepdim=True), 0)
    return {"dx": {"others": others, "right": right}}


def _is_right(target: Tensor, classes: int) -> Tensor:
    """Where the right class stands in each row."""
    return target[:, None] == torch.arange(classes, device=target.device)


INPUTS = {"x": Input(normal(), outweighs=2.0**12), "target": Index("classes")}
USUAL = {"margin": (0.1, 0.5, 2.0)}


def _z(x: Tensor, target: Tensor, margin: float) -> Tensor:
    return x - torch.gather(x, 1, target[:, None].long()) + margin


def _gradient(
    violated: Tensor,
    target: Tensor,
    dy: Tensor,
    divisor: float | None = None,
    others: Tensor | float = 1.0,
    right: Tensor | float = 1.0,
) -> tuple[Tensor, None]:
    """Another mask, another divisor, other weights of the others or of the right class."""
    is_right = _is_right(target, violated.shape[1])
    each = torch.where(
        violated & ~is_right, others * (dy / max(violated.numel() if divisor is None else divisor, 1)), 0
    )
    return torch.where(is_right, -right * each.sum(1, keepdim=True), each), None


def _passing(x: Tensor, target: Tensor, dy: Tensor, margin: float) -> tuple[Tensor, None]:
    return _gradient(_z(x, target, margin) >= 0, target, dy)


CONVENTIONS = {
    "tie": {
        "closed": Convention("a class that keeps the margin exactly gets nothing"),
        "open": Convention(
            "a class that keeps the margin exactly gets as much as one that does not", gradient=_passing
        ),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

_INF = float("inf")

EDGES = (
    Edge("margin exactly kept", {"x": [[1.0, 0.0, 2.0], [0.5, 1.5, -0.5]], "target": [0, 1]}),
    Edge("margin exactly kept by all", {"x": [[2.0, 1.0, 1.0]], "target": [0]}),
    Edge("margin exactly kept, another margin", {"x": [[1.0, 0.5, 0.75]], "target": [0], "margin": 0.5}),
    Edge("nothing violated", {"x": [[5.0, 0.0, 1.0], [0.0, 0.0, 9.0]], "target": [0, 2]}),
    Edge("all violated", {"x": [[0.0, 5.0, 4.0], [3.0, 0.0, 2.0]], "target": [0, 1]}),
    Edge("all scores equal", {"x": [[0.25, 0.25, 0.25]], "target": [1]}),
    Edge("scores equal, margin 0", {"x": [[0.25, 0.25, -1.0], [1.0, 2.0, 0.0]], "target": [1, 0], "margin": 0.0}),
    Edge("small margin", {"margin": 0.1}),
    Edge("large margin, an integer", {"margin": 10}),
    Edge("negative margin", {"margin": -0.5}),
    Edge("labels at both ends", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]], "target": [0, 2]}),
    Edge("all labels alike", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]], "target": [1, 1]}),
    Edge("scores far apart", {"x": [[1e4, -1e4, 0.0], [-3e4, 3e4, 1.0]], "target": [1, 0]}),
    Edge("signed zeros and subnormal numbers", {"x": [[0.0, -0.0, 1e-310], [1e-40, -1e-40, -0.0]], "target": [1, 0]}),
    Edge("an impossible class", {"x": [[-_INF, 1.0, 2.0]], "target": [1]}),
    Edge("one example", sizes={"batch": 1}),
    Edge("one class", sizes={"classes": 1}),
    Edge("two classes", sizes={"classes": 2}),
    Edge("as many examples as classes", sizes={"batch": 3, "classes": 3}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge("cotangent near float32's smallest", {"dy": 2e-38}, sizes={"batch": 100}),
    Edge("a label above the last class", {"x": [[0.5, -1.0]], "target": [2]}, raises=ValueError),
    Edge("a negative label", {"x": [[0.5, -1.0]], "target": [-1]}, raises=ValueError),
    Edge("no class", sizes={"batch": 0, "classes": 0}, raises=ValueError),
)


MISTAKES = (
    Mistake(
        "right class once",
        lambda x, target, dy, margin: _gradient(
            _z(x, target, margin) > 0,
            target,
            dy,
            right=1 / torch.clamp(((_z(x, target, margin) > 0) & ~_is_right(target, x.shape[1])).sum(1, True), min=1),
        ),
        forgets="that the right class is in every violated summand",
        shows="for two violations and more in a row",
    ),
    Mistake(
        "right class forgotten",
        lambda x, target, dy, margin: _gradient(_z(x, target, margin) > 0, target, dy, right=0.0),
        forgets="that each z contains the right score too",
        shows="wherever a margin is violated",
    ),
    Mistake(
        "right class counted among the violations",
        lambda x, target, dy, margin: (
            _gradient(_z(x, target, margin) > 0, target, dy)[0]
            - dy * (_is_right(target, x.shape[1]).to(x.dtype) * (margin > 0) / max(x.numel(), 1)),
            None,
        ),
        forgets="to leave out the right class, whose own z is the margin",
        shows="everywhere, if the margin is positive",
    ),
    Mistake(
        "every other class",
        lambda x, target, dy, margin: _gradient(torch.ones_like(x, dtype=torch.bool), target, dy),
        forgets="that what keeps the margin costs nothing",
        shows="wherever a margin is kept",
    ),
    Mistake(
        "most violating class alone",
        lambda x, target, dy, margin: _gradient(
            (_z(x, target, margin) > 0)
            & (
                torch.argmax(torch.where(_is_right(target, x.shape[1]), -torch.inf, x), 1)[:, None]
                == torch.arange(x.shape[1], device=x.device)
            ),
            target,
            dy,
        ),
        forgets="that all violations are added up: this is the cost of Crammer and Singer",
        shows="for two violations and more in a row",
    ),
    Mistake(
        "margin forgotten",
        lambda x, target, dy, margin: _gradient(_z(x, target, 0.0) > 0, target, dy),
        forgets="that the right score must be larger by the margin",
        shows="where a score is below the right one by less than the margin",
    ),
    Mistake(
        "margin 1 always",
        lambda x, target, dy, margin: _gradient(_z(x, target, 1.0) > 0, target, dy),
        forgets="that the margin is a hyperparameter",
        shows="where a margin is kept or violated by that, and it is not 1",
    ),
    Mistake(
        "margin on the other side",
        lambda x, target, dy, margin: _gradient(_z(x, target, -margin) > 0, target, dy),
        forgets="the sign of the margin",
        shows="where a score is nearer to the right one than the margin",
    ),
    Mistake(
        "scores the other way round",
        lambda x, target, dy, margin: _gradient(
            margin + torch.gather(x, 1, target[:, None].long()) - x > 0, target, dy
        ),
        forgets="which of the two scores shall be larger",
        shows="wherever a score is further from the right one than the margin",
    ),
    Mistake(
        "tie passes",
        lambda x, target, dy, margin: _passing(x, target, dy, margin),
        forgets="which subgradient the convention takes at z = 0: this one is valid, and not this page's nor torch's",
        shows="where a margin is kept exactly",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/cac552ace5e0",
    ),
    Mistake(
        "squared hinge",
        lambda x, target, dy, margin: _gradient(
            _z(x, target, margin) > 0, target, dy, others=2 * torch.clamp(_z(x, target, margin), min=0)
        ),
        forgets="that the violation itself is the cost, and not its square",
        shows="wherever a margin is violated",
    ),
    Mistake(
        "violation for its slope",
        lambda x, target, dy, margin: _gradient(
            _z(x, target, margin) > 0, target, dy, others=torch.clamp(_z(x, target, margin), min=0)
        ),
        forgets="to differentiate: this is the cost",
        shows="wherever a margin is violated",
    ),
    Mistake(
        "softmax's gradient",
        lambda x, target, dy, margin: (
            dy * ((torch.softmax(x, 1) - _is_right(target, x.shape[1]).to(x.dtype)) / max(len(x), 1)),
            None,
        ),
        forgets="which cost it is: this is that of softmax and cross-entropy",
        shows="everywhere",
    ),
    Mistake(
        "not divided by the classes",
        lambda x, target, dy, margin: _gradient(_z(x, target, margin) > 0, target, dy, divisor=len(x)),
        forgets="that the costs of a row are averaged over the classes",
        shows="for two classes and more",
    ),
    Mistake(
        "divided by the other classes",
        lambda x, target, dy, margin: _gradient(
            _z(x, target, margin) > 0, target, dy, divisor=len(x) * max(x.shape[1] - 1, 1)
        ),
        forgets="that the divisor counts the right class too",
        shows="for two classes and more",
    ),
    Mistake(
        "1/n forgotten",
        lambda x, target, dy, margin: _gradient(_z(x, target, margin) > 0, target, dy, divisor=x.shape[1]),
        forgets="that the cost is a mean over the rows",
        shows="for more than one row",
    ),
    Mistake(
        "divided by the violations",
        lambda x, target, dy, margin: _gradient(
            _z(x, target, margin) > 0,
            target,
            dy,
            divisor=float(((_z(x, target, margin) > 0) & ~_is_right(target, x.shape[1])).sum()),
        ),
        forgets="that what keeps the margin is counted in the mean",
        shows="wherever a margin is kept",
    ),
    Mistake(
        "sign",
        lambda x, target, dy, margin: _gradient(_z(x, target, margin) > 0, target, -dy),
        forgets="that the cost falls as the right score rises",
        shows="wherever a margin is violated",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, target, dy, margin: _gradient(_z(x, target, margin) > 0, target, torch.ones_like(dy)),
        forgets="dy",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
        seen="https://github.com/chainer/chainer/commit/e60dd3efbca0",
    ),
)
