"""Of activations, and of units that they gate."""

import manual_bp as bp
from manual_bp.rules.activation._gelu import gelu, gelu_slope
from manual_bp.rules.activation._swish import swish, swish_slope  # noqa: F401 (swish: once mended)
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


@bank.wrong(
    "gelu",
    "swish_slope(x, 1.702 * x, 1.702)",
    "gelu_slope(x, approximate)",
    cause="the slope is that of x σ(1.702 x), the quick approximation, while forward is GELU",
    keywords=("quick", "1.702", "sigmoid", "σ(1.7"),
)
def gelu_with_the_quick_slope(inputs, dy, approximate="none"):
    (x,) = inputs
    y, _ = bp.gelu.forward(x, approximate=approximate)
    return y, (dy * swish_slope(x, 1.702 * x, 1.702),)


@bank.wrong(
    "geglu",
    'gelu_slope(gate, "none")',
    "gelu_slope(gate, approximate)",
    cause="dgate has the exact GELU's slope, where forward took the approximation by tanh",
    keywords=("approximate", "tanh", "exact"),
)
def geglu_dgate_ignores_approximate(inputs, dy, approximate="none"):
    gate, up = inputs
    y, _ = bp.geglu.forward(gate, up, approximate=approximate)
    dgate = dy * up * gelu_slope(gate, "none")
    dup = dy * gelu(gate, approximate)
    return y, (dgate, dup)


@bank.wrong(
    "swiglu",
    "(y / up)",
    "swish(gate, gate)",
    cause="silu(gate) is recovered as y / up, which is 0/0 where up is 0",
    keywords=("y / up", "up is 0", "0/0", "0 / 0", "divid", "where up"),
)
def swiglu_silu_recovered_by_division(inputs, dy):
    gate, up = inputs
    y, _ = bp.swiglu.forward(gate, up)
    dup = dy * (y / up)
    return y, (dy * up * swish_slope(gate, gate, 1.0), dup)


def as_it_lies(dy):
    """Its numbers in the order in which they lie in memory, as a kernel finds them that goes along one pointer."""
    order = sorted(range(dy.ndim), key=lambda axis: -dy.stride(axis))
    return dy.permute(order).reshape(dy.shape)


@bank.wrong(
    "silu",
    "as_it_lies(dy)",
    "dy",
    cause="dy is read in the order in which it lies in memory, as if it were contiguous",
    keywords=("contiguous", "stride", "layout", "transposed", "memory"),
)
def silu_reads_dy_as_it_lies(inputs, dy):
    (x,) = inputs
    y, _ = bp.silu.forward(x)
    return y, (as_it_lies(dy) * swish_slope(x, x, 1.0),)
