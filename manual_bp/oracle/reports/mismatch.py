"""What a comparison notes of one argument: a place where it is not what it should be, and its largest error."""

from __future__ import annotations

from dataclasses import dataclass, field

from manual_bp.oracle.words import beside_one, told_apart

# An allowance whose largest error in so many cases is below 1/100 of it says little about what it lets pass.
LOOSE = 0.01
CASES_TO_JUDGE_LOOSENESS = 10


@dataclass(frozen=True)
class Mismatch:
    """One place where the candidate is not what it should be.

    kind: "wrong" (a value beyond its allowance), "convention" (a valid subgradient at a kink or tie, and not the
        declared one), "trap" (shape, dtype, device, None, an exception, an overwritten argument); under strict also
        "digits" (lost digits) and "16-bit" (right for arithmetic in 16 bits).
    argument: "y", one of several outputs ("y.h_n"), or the name of a cotangent, such as "dweight".
    index: of the worst element, or None where the mismatch is not about an element.
    ulps: error in units of the last place of the expected value.
    pattern: where the wrong elements of this argument lie, in words (see `manual_bp.oracle.pattern`).
    """

    kind: str
    argument: str
    case: str
    detail: str = ""
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    ulps: float | None = None
    error_over_allowance: float | None = None
    pattern: str = ""

    @property
    def where(self) -> str:
        """The kind of the pattern alone, such as "a column": without indices."""
        return self.pattern.partition(":")[0].rstrip("0123456789 ()of")

    def __str__(self) -> str:
        where = f"{self.argument}{list(self.index) if self.index else ''} in case {self.case!r}"
        if self.expected is None or self.got is None:
            return f"{self.kind}: {where}: {self.detail}"
        expected, got = told_apart(self.expected, self.got)
        said = (f"expected {expected}, got {got}", self.size, self.pattern, self.detail)
        return f"{self.kind}: {where}: {'; '.join(filter(None, said))}"

    @property
    def size(self) -> str:
        """How far off it is, in words; "" where that is infinitely far, which the numbers say."""
        ulps, ratio = self.ulps, self.error_over_allowance
        if ulps is None or ratio is None or not max(ulps, ratio) < float("inf"):
            return ""
        return f"{ulps:.3g} ulp, {beside_one(ratio, 3)} times the allowance"


@dataclass
class Worst:
    """The largest error of one argument over all cases, and in each of them."""

    ulps: float = 0.0
    error_over_allowance: float = 0.0
    by_case: list[float] = field(default_factory=list)

    def note(self, ratio: float, ulps: float) -> None:
        """Take in the largest error over allowance, and the largest error in ulp, of one more case."""
        self.ulps = max(self.ulps, ulps)
        self.error_over_allowance = max(self.error_over_allowance, ratio)
        self.by_case.append(ratio)

    @property
    def loose(self) -> bool:
        """Whether the allowance is more than a hundred times every error seen.  Exact results say nothing about it."""
        return len(self.by_case) >= CASES_TO_JUDGE_LOOSENESS and 0 < self.error_over_allowance < LOOSE
