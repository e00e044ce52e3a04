"""What each torch function does to a value and to the bound on its error.  The model is explained in bounded.py.

formats         precisions, and what one rounding does
meanings        the table itself
elementary      functions of each element alone
transcendental  less common ones
sums            along axes and to places: sums, products, variance, norms
products        sums of products: matrices, convolution
matrices        inverses, determinants, triangular factors
exponentials    softmax, its logarithm, log Σ eˣ
extremes        the largest, the order of all
plain           decisions, and what only moves elements about
expanded        what the terms of an expanded result add up to
"""

from manual_bp.arithmetic.bounded_table import (
    elementary,
    exponentials,
    extremes,
    matrices,
    products,
    sums,
    transcendental,
)
from manual_bp.arithmetic.bounded_table.elementary import JUMPING
from manual_bp.arithmetic.bounded_table.expanded import ADDITIONS, CHOICES, DIVISIONS, MAGNITUDES, TERMS
from manual_bp.arithmetic.bounded_table.exponentials import APART
from manual_bp.arithmetic.bounded_table.formats import (
    EXACT,
    NO_ERROR,
    NoMeaning,
    Pair,
    Precision,
    gamma,
    holds,
    number,
    precision,
    rounded,
)
from manual_bp.arithmetic.bounded_table.matrices import OF_REGULAR
from manual_bp.arithmetic.bounded_table.meanings import ARITHMETIC, EXTREMES, SOLVED
from manual_bp.arithmetic.bounded_table.plain import BRANCHES, CONSTANTS, DECISIONS, FILLED, PLACES, SHAPES, SIGNS

__all__ = [
    "ADDITIONS",
    "APART",
    "ARITHMETIC",
    "BRANCHES",
    "CHOICES",
    "CONSTANTS",
    "DECISIONS",
    "DIVISIONS",
    "EXACT",
    "EXTREMES",
    "FILLED",
    "JUMPING",
    "MAGNITUDES",
    "NO_ERROR",
    "OF_REGULAR",
    "PLACES",
    "SHAPES",
    "SIGNS",
    "SOLVED",
    "TERMS",
    "NoMeaning",
    "Pair",
    "Precision",
    "elementary",
    "exponentials",
    "extremes",
    "gamma",
    "holds",
    "matrices",
    "number",
    "precision",
    "products",
    "rounded",
    "sums",
    "transcendental",
]
