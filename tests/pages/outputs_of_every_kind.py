"""A number that is summed up where there is a sum, counted, and looked at: no backward, outputs of every kind.

sum ← sum + rate · x, where there is a sum,   count ← count + 1,   is_large = |x| > 1,   y = −rate · x
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, integers


class Outputs(NamedTuple):
    y: Float[Tensor, "*shape"]
    sum: Float[Tensor, "*shape"] | None
    count: Int[Tensor, ""]
    is_large: Bool[Tensor, "*shape"]


def forward(
    x: Float[Tensor, "*shape"],
    count: Int[Tensor, ""],
    sum: Float[Tensor, "*shape"] | None = None,
    *,
    rate: float = 0.25,
) -> Outputs:
    return Outputs(-rate * x, None if sum is None else sum + rate * x, count + 1, x.abs() > 1)


INPUTS = {
    "x": Input(cotangent=False),
    "count": Input(integers(0, 100), cotangent=False),
    "sum": Input(cotangent=False),
}
EDGES = (Edge("a large one", {"x": [0.5, -3.0]}),)
MISTAKES = (
    Mistake(
        "never counted",
        lambda x, count, sum, rate: forward(x, count - 1, sum, rate=rate),
        forgets="to count",
        shows="everywhere",
    ),
    Mistake(
        "summed downhill",
        lambda x, count, sum, rate: forward(x, count, sum, rate=rate)._replace(
            sum=None if sum is None else sum - rate * x
        ),
        forgets="that the sum is of x, not of y",
        shows="where there is a sum",
    ),
)
