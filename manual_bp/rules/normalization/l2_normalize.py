"""L2 normalisation: every vector divided by its length.

Along the axis dim, with the norm ‖x‖ = √Σ x_j²,

    y = x / max(‖x‖, eps)

so that y is the direction u of x, a vector of length 1, unless x is shorter than eps.

Derivation.  As ∂‖x‖/∂x_j = x_j/‖x‖ = u_j,

    ∂y_i/∂x_j = ([i = j] − u_i u_j) / ‖x‖

This matrix is symmetric, so that the transposed one, applied to dy, is the same:

    dx = ( dy − u (u · dy) ) / ‖x‖        ‖x‖ ≥ eps
          direct  projection
    dx = dy / eps                         ‖x‖ < eps

The projection takes away what points along the vector, since a longer one has the same direction; dx is orthogonal to
x.  Below eps the divisor is a constant, and so it is for a vector of zeros, where the direction does not exist: dx is
dy / eps, as large as eps is small.

At ‖x‖ = eps there is a kink, whose two sides differ by the projection.  This page takes the derivative from outside, as
torch does.  eps is positive (ValueError): it is what zeros are divided by.

The squares overflow from |x| = 1.8e19 in float32 (1.3e154 in float64); y and dx are 0 then, as in torch.  Where they
underflow the norm is below any usual eps.

Source: Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", ACM Multimedia 2017, eq. 3 and 9.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal, require


class Residuals(NamedTuple):
    y: Float[Tensor, "*batch last"]
    """y and not x: it is the direction already, where there is one."""
    norm: Float[Tensor, "*norms"]
    """One number for each vector, along an axis of length 1; it also says which vectors are short."""
    eps: float
    dim: int


def forward(
    x: Float[Tensor, "*batch last"], *, dim: int = -1, eps: float = 1e-12
) -> tuple[Float[Tensor, "*batch last"], Residuals]:
    require(-x.ndim <= dim < x.ndim, f"l2_normalize: dim must be one of x's {x.ndim} axes", dim, "The last one is -1.")
    require(eps > 0, "l2_normalize: eps must be positive", eps, "It is what a vector of zeros is divided by.")
    norm = torch.sqrt(torch.sum(x * x, dim, keepdim=True))
    y = x / torch.where(norm >= eps, norm, eps)
    return y, Residuals(y, norm, eps, dim)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch last"]) -> tuple[Float[Tensor, "*batch last"]]:
    y, norm, eps, dim = residuals
    along = torch.sum(y * dy, dim, keepdim=True)
    return (torch.where(norm >= eps, (dy - y * along) / norm, dy / eps),)


def terms(residuals: Residuals, dy: Float[Tensor, "*batch last"]) -> dict[str, dict[str, Tensor]]:
    y, norm, eps, dim = residuals
    is_long = norm >= eps
    along = torch.sum(y * dy, dim, keepdim=True)
    return {
        "dx": {
            "direct": torch.where(is_long, dy / norm, dy / eps),
            "projection": torch.where(is_long, -y * along / norm, 0),
        }
    }


INPUTS = {"x": Input(normal())}
USUAL = {"eps": (1e-6, 1e-8), "dim": (0, 1)}

# The direction of a vector of one number is 1 or -1, and of two it moves on a circle: little is left of dx.
SIZES = {"last": 5}


def _from_inside(x: Tensor, dy: Tensor, dim: int, eps: float) -> tuple[Tensor]:
    return (dy / eps,)


CONVENTIONS = {
    "tie": {
        "outside": Convention("at a norm of eps the derivative from outside, with the projection"),
        "inside": Convention("at a norm of eps the derivative from inside, dy / eps", gradient=_from_inside),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

EDGES = (
    Edge("first axis", {"dim": 0}, sizes={"batch": (4,)}),
    Edge("axis in the middle", {"dim": 1}, sizes={"batch": (2, 4)}),
    Edge("axis in the middle, from the end", {"dim": -2}, sizes={"batch": (2, 4)}),
    Edge("one vector", sizes={"batch": ()}),
    Edge("no vector", sizes={"batch": (0,)}),
    Edge("one number", sizes={"last": 1}),
    Edge("two numbers", sizes={"last": 2}),
    Edge("no number", sizes={"last": 0}),
    Edge("as many vectors as numbers", sizes={"batch": (4,), "last": 4}),
    Edge("a vector of zeros", {"x": [[0.0, -0.0, 0.0], [3.0, 4.0, 0.0]]}),
    Edge("all zero", {"x": constant(0.0)}),
    Edge("all zero, large eps", {"x": constant(0.0), "eps": 0.5}),
    Edge("norm of eps exactly", {"x": [[3.0, 4.0], [0.0, -5.0], [3.0, -4.5]], "eps": 5.0}),
    Edge("norms on both sides of eps", {"x": [[0.5, 0.25], [-2.0, 1.0], [0.0, 0.0]], "eps": 1}),
    Edge("all shorter than eps", {"eps": 100.0}),
    Edge("norm far below eps", {"x": [[1e-13, -2e-13, 0.0], [1e-20, 0.0, 1e-21]]}),
    Edge("squares that underflow", {"x": normal(std=1e-22)}),
    Edge("small numbers, above eps", {"x": normal(std=1e-9)}),
    Edge("large numbers", {"x": normal(std=1e4)}),
    Edge("one number beside zeros", {"x": [[0.0, 3.0, 0.0, -0.0], [0.0, 0.0, -0.002, 0.0]]}),
    Edge("one large number beside small ones", {"x": [[3e4, 1.0, -1.0, 0.5], [1e-3, -2e-3, 50.0, 1e-3]]}),
    Edge("all equal", {"x": constant(1.5)}),
    Edge("vectors of length 1", {"x": [[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]]}),
    Edge("dy along the vector", {"x": [[3.0, 4.0]], "dy": [[6.0, 8.0]]}),
    Edge("dy across the vector", {"x": [[3.0, 4.0]], "dy": [[-8.0, 6.0]]}),
    Edge("another eps", {"eps": 1e-6}),
    Edge("eps of 0", {"eps": 0.0}, raises=ValueError),
    Edge("negative eps", {"eps": -1e-12}, raises=ValueError),
    Edge("no such axis", {"dim": 2}, sizes={"batch": (3,)}, raises=ValueError),
    Edge("no such axis from the end", {"dim": -3}, sizes={"batch": (3,)}, raises=ValueError),
)


def _gradient(
    x: Tensor,
    dy: Tensor,
    dim: int | tuple[int, ...],
    eps: float,
    direct: float = 1.0,
    projection: float | Tensor = 1.0,
    norm: Tensor | None = None,
    short: Tensor | float | None = None,
    always: bool = False,
    power: int = 1,
) -> tuple[Tensor]:
    """The right formula, from which wrong ones are made."""
    norm = torch.sqrt(torch.sum(x * x, dim, keepdim=True)) if norm is None else norm
    u = x / norm
    along = torch.sum(u * dy, dim, keepdim=True)
    long = (direct * dy - projection * u * along) / norm**power
    return (torch.where((norm >= eps) | always, long, dy / eps if short is None else short),)


def _norm(x: Tensor, dim: int) -> Tensor:
    return torch.sqrt(torch.sum(x * x, dim, keepdim=True))


def _over_all_vectors(x: Tensor, dy: Tensor, dim: int, eps: float) -> tuple[Tensor]:
    norm = _norm(x, dim)
    u = x / torch.where(norm >= eps, norm, 1)
    return (torch.where(norm >= eps, (dy - u * torch.sum(u * dy)) / norm, dy / eps),)


def _projected(x: Tensor, dy: Tensor, dim: int) -> Tensor:
    """dy without what points along x, unless that is 0."""
    norm = _norm(x, dim)
    u = x / torch.where(norm > 0, norm, 1)
    return dy - u * torch.sum(u * dy, dim, keepdim=True)


MISTAKES = (
    Mistake(
        "norm as a constant",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=0.0),
        forgets="that the norm depends on x: the projection term",
        shows="for vectors longer than eps, unless dy lies across the vector",
    ),
    Mistake(
        "projection alone",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, direct=0.0),
        forgets="the direct path",
        shows="for vectors longer than eps",
    ),
    Mistake(
        "projection's sign",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=-1.0),
        forgets="that a longer vector has the same direction",
        shows="for vectors longer than eps, unless dy lies across the vector",
    ),
    Mistake(
        "projection halved",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=0.5),
        forgets="that the 2 of the square cancels the ½ of the root",
        shows="for vectors longer than eps, unless dy lies across the vector",
    ),
    Mistake(
        "projection doubled",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=2.0),
        forgets="the ½ of the root: this is a reflection",
        shows="for vectors longer than eps, unless dy lies across the vector",
    ),
    Mistake(
        "projection averaged",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=1 / max(x.shape[dim], 1)),
        forgets="that the squares are added up, and not averaged as in RMS normalisation",
        shows="for two numbers and more",
    ),
    Mistake(
        "x in place of the direction",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=_norm(x, dim) ** 2),
        forgets="to divide x by its norm, twice",
        shows="for vectors longer than eps whose length is not 1",
    ),
    Mistake(
        "x once in place of the direction",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, projection=_norm(x, dim)),
        forgets="to divide x by its norm, once",
        shows="for vectors longer than eps whose length is not 1",
    ),
    Mistake(
        "1/norm forgotten",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, power=0),
        forgets="that y does not grow as x does",
        shows="for vectors longer than eps whose length is not 1",
    ),
    Mistake(
        "square of the norm",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, power=2),
        forgets="the root: dx is divided by the sum of the squares",
        shows="for vectors longer than eps whose length is not 1",
    ),
    Mistake(
        "identity",
        lambda x, dy, dim, eps: (dy,),
        forgets="the normalisation",
        shows="everywhere",
    ),
    Mistake(
        "norm of all numbers",
        lambda x, dy, dim, eps: _gradient(x, dy, tuple(range(x.ndim)), eps),
        forgets="that each vector has a norm of its own",
        shows="for more than one vector",
    ),
    Mistake(
        "projection over all vectors",
        lambda x, dy, dim, eps: _over_all_vectors(x, dy, dim, eps),
        forgets="that each vector has a sum of its own: this one is of all that a block holds",
        shows="for more than one vector",
        seen="https://github.com/flagos-ai/FlagGems/commit/3dd5b0665592",
    ),
    Mistake(
        "last axis always",
        lambda x, dy, dim, eps: _gradient(x, dy, -1, eps),
        forgets="along which axis the vectors lie",
        shows="where dim is not the last axis",
    ),
    Mistake(
        "first axis always",
        lambda x, dy, dim, eps: _gradient(x, dy, 0, eps),
        forgets="along which axis the vectors lie",
        shows="where dim is not the first axis",
    ),
    Mistake(
        "sum of magnitudes",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, norm=torch.sum(torch.abs(x), dim, keepdim=True)),
        forgets="which norm it is",
        shows="for vectors of more than one number that is not 0",
    ),
    Mistake(
        "norm + eps",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, norm=_norm(x, dim) + eps, always=True),
        forgets="where forward put eps: it is the least divisor, and not added",
        shows="where the norm is not large against eps",
        seen="https://github.com/flagos-ai/FlagGems/commit/c0e3141d465f",
    ),
    Mistake(
        "eps under the root",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, norm=torch.sqrt(_norm(x, dim) ** 2 + eps), always=True),
        forgets="where forward put eps: it is the least divisor, and not added to the squares",
        shows="where the sum of the squares is not large against eps",
        seen="https://github.com/flagos-ai/FlagGems/commit/c0e3141d465f",
    ),
    Mistake(
        "eps forgotten",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, always=True),
        forgets="that a shorter vector is divided by eps: 0/0 is NaN for zeros",
        shows="for vectors shorter than eps",
    ),
    Mistake(
        "nothing for short vectors",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, short=0.0),
        forgets="that x/eps has a slope: it is the norm that is cut off, and not y",
        shows="for vectors shorter than eps",
    ),
    Mistake(
        "short vectors left alone",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, short=dy),
        forgets="that forward divided them by eps",
        shows="for vectors shorter than eps, unless eps is 1",
    ),
    Mistake(
        "projection for short vectors too",
        lambda x, dy, dim, eps: _gradient(x, dy, dim, eps, short=_projected(x, dy, dim) / eps),
        forgets="that the divisor is a constant below eps",
        shows="for vectors shorter than eps that are not 0",
    ),
    Mistake(
        "from inside at a norm of eps",
        lambda x, dy, dim, eps: (torch.where(_norm(x, dim) == eps, dy / eps, _gradient(x, dy, dim, eps)[0]),),
        forgets="which side the convention takes at the kink: this one is valid, and not this page's nor torch's",
        shows="where the norm is eps exactly",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, dim, eps: _gradient(x, torch.ones_like(dy), dim, eps),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
