"""What each torch function means on jets, by its name.

A function, a method and an operator of one name have one meaning.  Each part fills `balls.MEANINGS`:

elementary      of each element alone: value and derivative
transcendental  less common ones
sums            along axes and to places: sums, products, norms, variance, softmax
products        sums of products: matrices, einsum, convolution
matrices        inverses, determinants, triangular factors
decisions       comparisons, masks, and what is chosen by them
extremes        the largest, the order of all, clamp, abs
shapes          what moves elements about in another way than `balls.rearranged` can tell
"""

from manual_bp.arithmetic.balls import MEANINGS, SHAPING
from manual_bp.arithmetic.balls_table import (
    decisions,
    elementary,
    extremes,
    matrices,
    products,
    shapes,
    sums,
    transcendental,
)

__all__ = [
    "MEANINGS",
    "SHAPING",
    "decisions",
    "elementary",
    "extremes",
    "matrices",
    "products",
    "shapes",
    "sums",
    "transcendental",
]
