"""Half squared error, summed over the outputs and averaged over the batch.

    y = 1/(2n) Σ_i Σ_k (x_ik − target_ik)²,   n = batch size

The course notes' cost of one example is ½ Σ_k (a_k − y_k)²; this is its mean over n examples.

Derivation.  ∂/∂x_ik of ½ (x_ik − t_ik)² is x_ik − t_ik, and no other summand contains x_ik; t_ik enters with the
opposite sign:

    dx      = dy (x − target) / n
    dtarget = −dx

The 1/n enters here and, through dx, is in every δ further down: no rule divides by n again.  With n = 0 the value is
0/0 = NaN and the cotangents are empty.  x and target must have one shape: a broadcast (n, k) − (k,) would be another
cost.

Source: the course notes; Bishop, "Pattern Recognition and Machine Learning" (2006), eq. 5.11.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    difference: Float[Tensor, "batch *outputs"]
    """x − target: one tensor where x and target would be two."""


def forward(
    x: Float[Tensor, "batch *outputs"], target: Float[Tensor, "batch *outputs"]
) -> tuple[Float[Tensor, ""], Residuals]:
    n = x.shape[0]
    difference = x - target
    y = torch.sum(difference**2) / (2 * n)
    return y, Residuals(difference)


def backward(
    residuals: Residuals, dy: Float[Tensor, ""]
) -> tuple[Float[Tensor, "batch *outputs"], Float[Tensor, "batch *outputs"]]:
    n = residuals.difference.shape[0]
    dx = dy * (residuals.difference / n)
    return dx, -dx


INPUTS = {"x": Input(normal()), "target": Input(normal(), optional=True)}

EDGES = (
    Edge("exact fit", {"x": [[1.0, 2.0]], "target": [[1.0, 2.0]]}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("no output", sizes={"outputs": (0,)}),
    Edge("one example", sizes={"batch": 1}),
    Edge("one number each", sizes={"batch": 4, "outputs": ()}),
    Edge("images", sizes={"batch": 2, "outputs": (3, 4)}),
    Edge("large batch", sizes={"batch": 1000, "outputs": (3,)}),
    Edge(
        "cotangent near float32's smallest", {"x": normal(std=1e4), "dy": 2e-38}, sizes={"batch": 100, "outputs": (2,)}
    ),
    Edge(
        "cotangent near float64's smallest", {"x": normal(std=1e4), "dy": 3e-308}, sizes={"batch": 100, "outputs": (2,)}
    ),
    Edge("nearly fitted", {"x": [[1.0, 1.0]], "target": [[1.0, 1.0078125]]}),
    Edge("no batch axis", sizes={"outputs": ()}, given={"x": 1.0, "target": 2.0}, raises=ValueError),
    Edge("a target that would broadcast", given={"x": [[1.0, 2.0]], "target": [1.0, 2.0]}, raises=ValueError),
)


def _dx(x: Tensor, target: Tensor, dy: Tensor) -> Tensor:
    return dy * (x - target) / len(x)


MISTAKES = (
    Mistake(
        "sign",
        lambda x, target, dy: (-_dx(x, target, dy), _dx(x, target, dy)),
        forgets="that the cost rises with x − target",
        shows="everywhere",
        seen="https://github.com/jack-brolin/neural-networks/blob/7820a3c015526483445e28efdc28cf03fe58bb14/neural-network-from-scratch/utils/loss.py",
    ),
    Mistake(
        "factor 2",
        lambda x, target, dy: (2 * _dx(x, target, dy), -2 * _dx(x, target, dy)),
        forgets="the ½ of the cost",
        shows="everywhere",
    ),
    Mistake(
        "1/n forgotten",
        lambda x, target, dy: (dy * (x - target), dy * (target - x)),
        forgets="that the cost is a mean over the batch",
        shows="for more than one example",
        seen="https://github.com/louiseblade/RNN_FS/blob/54f1d30cde50be4ee85c5347dedca90bd78498fc/loss.py",
    ),
    Mistake(
        "mean over all numbers",
        lambda x, target, dy: (dy * (x - target) / max(x.numel(), 1), dy * (target - x) / max(x.numel(), 1)),
        forgets="that only the batch is averaged, the outputs are summed",
        shows="for more than one output",
    ),
    Mistake(
        "1/n twice",
        lambda x, target, dy: (_dx(x, target, dy) / len(x), -_dx(x, target, dy) / len(x)),
        forgets="that the cost is divided by n once",
        shows="for more than one example",
    ),
    Mistake(
        "dy/(2n) first",
        lambda x, target, dy: (dy / (2 * len(x)) * (2 * (x - target)), -dy / (2 * len(x)) * (2 * (x - target))),
        forgets="that dy/(2n) may fall below the smallest normal number and lose digits, which the difference does not",
        shows="where dy/(2n) is subnormal; torch's own order in float16",
        loses_digits=True,
    ),
    Mistake(
        "target's sign",
        lambda x, target, dy: (_dx(x, target, dy), _dx(x, target, dy)),
        forgets="that the target enters with the opposite sign",
        shows="everywhere",
    ),
    Mistake(
        "cost for residual",
        lambda x, target, dy: (dy * ((x - target) ** 2 - target) / len(x), -dy * ((x - target) ** 2 - target) / len(x)),
        forgets="that the derivative starts from the output and not from the cost",
        shows="everywhere",
        seen="https://github.com/uhmann112/nn1/blob/12483072aeaafea1c6fcf364684c34fc60e4cb2e/singleNeuron.py",
    ),
    Mistake(
        "averaged to one number",
        lambda x, target, dy: (_dx(x, target, dy).mean().expand(x.shape), -_dx(x, target, dy).mean().expand(x.shape)),
        forgets="that every output has a derivative of its own",
        shows="for more than one number",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, target, dy: ((x - target) / len(x), (target - x) / len(x)),
        forgets="dy",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
    ),
)
