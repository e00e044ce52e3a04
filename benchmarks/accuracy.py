"""How far the gradients of the element-wise rules are from certified truth: the table and the picture of the guides.

    python -m benchmarks.accuracy [--json FILE] [--figure FILE]

Every rule that maps each element of one input alone is evaluated over the whole range of float32 and float64, with
dy = 1, by hand (`manual`) and by torch.autograd (`torch`).  Both are judged against `manual_bp.arithmetic.certified`,
which encloses the derivative in ball arithmetic and uses neither of them.  tests/test_accuracy.py holds what is
measured here to 5 ulp, or to what a page promises where these are out of reach (`manual_bp.inputs.Promise`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

import manual_bp as bp
import torch_ref
from manual_bp.arithmetic.certified import ALLOWED_ULPS, Balls, truth
from manual_bp.cli.shared import usage, write_json
from manual_bp.oracle.truth.errors import ulp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DTYPES = (torch.float32, torch.float64)

Hyper = dict[str, Any]


# What is measured, and where.


def elementwise_rules() -> list[bp.Rule]:
    """The rules whose gradient is a function of one number: element-wise, with one cotangent."""
    cotangents = {name: sum(each.cotangent for each in rule.inputs.values()) for name, rule in bp.RULES.items()}
    return [rule for name, rule in bp.RULES.items() if rule.elementwise and cotangents[name] == 1]


def variants(rule: bp.Rule) -> list[Hyper]:
    """The ordinary hyperparameters first, then those that the page's edges set."""
    found = [rule.ordinary]
    for edge in rule.edges:
        hyper = {**rule.ordinary, **{name: value for name, value in edge.given.items() if name in rule.hyper}}
        if edge.raises is None and hyper not in found:
            found.append(hyper)
    return found


def reach(dtype: torch.dtype) -> float:
    """Just beyond the x at which e^-x falls below the smallest subnormal, and with it the gradient of what saturates:
    114 in float32, 819 in float64."""
    info = torch.finfo(dtype)
    return -1.1 * math.log(info.smallest_normal * info.eps)


def points(dtype: torch.dtype, per_exponent: int, near: int) -> Tensor:
    """`per_exponent` numbers of either sign in every binade from the zeros and subnormals to the largest finite number,
    half of them evenly spread (with both ends) and half at random, every subnormal power of two, and `near` numbers
    evenly over ± `reach`, where saturation and gradual underflow take place."""
    integers, mantissa_bits, exponents = {
        # IEEE 754: width of the mantissa, and the exponents' count less the one of inf and nan
        torch.float32: (torch.int32, 23, 255),
        torch.float64: (torch.int64, 52, 2047),
    }[dtype]
    generator = torch.Generator().manual_seed(0)  # any seed: the same points each time
    evenly = per_exponent // 2
    ends = torch.arange(evenly) * (2**mantissa_bits - 1) // (evenly - 1)
    inside = torch.randint(2**mantissa_bits, (exponents, per_exponent - evenly), generator=generator)
    mantissas = torch.cat([ends.expand(exponents, evenly), inside], dim=1)
    bits = (torch.arange(exponents)[:, None] << mantissa_bits) | mantissas
    subnormals = 1 << torch.arange(mantissa_bits)
    positive = torch.cat([bits.flatten(), subnormals]).to(integers).view(dtype)
    return torch.cat([positive, -positive, torch.linspace(-reach(dtype), reach(dtype), near, dtype=dtype)])


def position(rule: bp.Rule) -> int:
    """Of the one input that has a cotangent."""
    return [each.cotangent for each in rule.inputs.values()].index(True)


def inputs_at(rule: bp.Rule, x: Tensor) -> tuple[Tensor, ...]:
    """x for the input that has a cotangent; what has none (a mask) is drawn."""
    generator = torch.Generator().manual_seed(0)  # any seed: the same mask each time
    others = [each.draw(x.shape, generator) for each in rule.inputs.values() if not each.cotangent]
    inputs = [other.to(x.dtype) if other.is_floating_point() else other for other in others]
    inputs.insert(position(rule), x)
    return tuple(inputs)


def evaluate(rule: bp.Rule, vjp: bp.Vjp, x: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """Value and gradient at x, with dy = 1."""
    y, grads = vjp(inputs_at(rule, x), torch.ones_like(x), **hyper)
    gradient = grads[position(rule)]
    assert gradient is not None, f"{rule.name}: a candidate gave no gradient"
    return y, gradient


def hardest(rule: bp.Rule, hyper: Hyper, keep: int) -> Tensor:
    """Of 2^20 random float32 numbers within `reach`, the ones at which float32 and float64 differ most.

    This only says where to look; what is found there is judged by certified truth like every other point.
    """
    generator = torch.Generator().manual_seed(0)  # any seed: the same points each time
    x = reach(torch.float32) * (2 * torch.rand(2**20, generator=generator) - 1)
    narrow, wide = (evaluate(rule, rule.vjp, some, hyper)[1] for some in (x, x.double()))
    gradient = rule.arguments[len(rule.outputs) + position(rule)]
    allowed = promised(rule, gradient, inputs_at(rule, x), hyper, wide) * ulp(wide, torch.float32)
    return x[((narrow - wide).abs() / allowed).topk(keep).indices]


# How it is judged.


class Judged(NamedTuple):
    """What a candidate gave, its error in ulp (nan where there is no truth, at a kink), and how many are allowed."""

    got: Tensor
    ulps: Tensor
    allowed: Tensor

    def worst(self) -> tuple[float, int]:
        """The error that is largest in comparison with what is allowed, and the position at which it occurs."""
        share = (self.ulps / self.allowed).nan_to_num(nan=-1.0, posinf=math.inf)
        position = int(share.argmax())
        return float(self.ulps[position].nan_to_num(nan=0.0, posinf=math.inf)), position

    def keeps(self) -> bool:
        """Whether no error is larger than what is allowed."""
        return not bool((self.ulps > self.allowed).any())


@dataclass(frozen=True)
class Measured:
    """Value and gradient at each x, by each candidate; and the true ones, rounded to float64 and nan at a kink."""

    rule: bp.Rule
    hyper: Hyper
    x: Tensor
    truth: dict[str, Tensor]
    candidates: dict[str, dict[str, Judged]]

    @property
    def judged(self) -> int:
        """At how many x there is a derivative."""
        return int((~self.truth["gradient"].isnan()).sum())


def candidates(rule: bp.Rule) -> dict[str, bp.Vjp]:
    """The hand-derived gradient and torch's own."""
    twin = torch_ref.twin(rule.name)
    return {"manual": rule.vjp, **({"torch": twin} if twin else {})}


def measure(rule: bp.Rule, x: Tensor, hyper: Hyper, vjps: Mapping[str, bp.Vjp]) -> Measured:
    """The errors of each Vjp of an element-wise rule at x, with dy = 1."""
    exact = truth(rule, inputs_at(rule, x), torch.ones_like(x), **hyper)
    true_gradient = exact.grads[position(rule)]
    assert true_gradient is not None  # position is that of the one cotangent
    true = {"value": exact.outputs[0], "gradient": true_gradient}
    midpoints = {what: balls.midpoint() for what, balls in true.items()}
    names = dict(zip(true, ("y", rule.arguments[len(rule.outputs) + position(rule)]), strict=True))
    inputs = inputs_at(rule, x)
    allowed = {what: promised(rule, names[what], inputs, hyper, midpoint) for what, midpoint in midpoints.items()}
    found: dict[str, dict[str, Judged]] = {}
    for name, vjp in vjps.items():
        got = dict(zip(true, evaluate(rule, vjp, x, hyper), strict=True))
        found[name] = {what: judge(balls, got[what], allowed[what]) for what, balls in true.items()}
    return Measured(rule, hyper, x, midpoints, found)


def promised(rule: bp.Rule, argument: str, inputs: tuple[Tensor, ...], hyper: Hyper, true: Tensor) -> Tensor:
    """How many ulp of the true value or cotangent of that name (y, dx, ...) the page promises to be within.

    The precision is that of the first input that is a number.
    """
    promise = rule.promises.get(argument)
    if promise is None:
        return torch.full_like(true, ALLOWED_ULPS)
    dtype = next(x.dtype for x in inputs if x.is_floating_point())
    wide = (each.double() if each.is_floating_point() else each for each in inputs)
    given = {**dict(zip(rule.inputs, wide, strict=True)), **hyper}
    more, beside = (torch.as_tensor(f(**given), dtype=torch.float64) for f in (promise.more, promise.beside))
    larger = torch.maximum(true.abs(), beside)
    return (ALLOWED_ULPS + more) * ulp(larger, dtype) / ulp(true, dtype)


def judge(exact: Balls, got: Tensor, allowed: Tensor) -> Judged:
    """Errors in ulp.  An exact 0 is right where the truth is below the smallest normal number, and an infinity where it
    is above the largest."""
    info, true = torch.finfo(got.dtype), exact.midpoint()
    flushed = (got == 0) & (true.abs() < info.smallest_normal)
    overflowed = got.isinf() & (true * got.sign() > info.max)
    return Judged(got, exact.ulps(got).masked_fill(flushed | overflowed, 0.0), allowed)


# The table.


def rows(measured: Measured) -> Iterator[dict[str, Any]]:
    """One per candidate: the largest errors, and where."""
    for name, results in measured.candidates.items():
        largest = {what: (*result.worst(), result.keeps()) for what, result in results.items()}
        yield {
            "rule": measured.rule.name,
            "hyper": measured.hyper,
            "dtype": short(measured.x.dtype),
            "points": measured.judged,
            "candidate": name,
            **{
                what: {"ulps": ulps, "x": float(measured.x[at]) if ulps else None, "keeps": keeps}
                for what, (ulps, at, keeps) in largest.items()
            },
        }


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def table(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield f"{'rule':34}{'dtype':9}{'candidate':10}{'points':>8}{'gradient':>12}{'at x':>14}{'value':>12}{'at x':>14}"
    for row in found:
        call = f"{row['rule']}({', '.join(f'{name}={value}' for name, value in row['hyper'].items())})"
        errors = "".join(
            f"{row[what]['ulps']:12.3g}" + ("" if row[what]["x"] is None else f"{row[what]['x']:.6g}").rjust(14)
            for what in ("gradient", "value")
        )
        yield f"{call:34}{row['dtype']:9}{row['candidate']:10}{row['points']:8}{errors}"


# The picture.

LINEAR = 5.0
"""Of the picture's x axis, asinh(x / LINEAR): as good as linear up to this |x|, where digits begin to be lost, and
logarithmic far beyond, where the gradient underflows."""
END = 1000.0
"""Beyond the underflow of float64 (745)."""
BINS = 180
"""Across a panel, which is 260 pixels wide in a guide."""
PER_BIN = 100
"""Points in each bin, of which the largest error is drawn."""


def panel_points(dtype: torch.dtype) -> Tensor:
    """PER_BIN points in each bin of the picture's x axis, in order."""
    end = math.asinh(END / LINEAR)
    return (LINEAR * torch.linspace(-end, end, BINS * PER_BIN, dtype=torch.float64).sinh()).to(dtype)


def in_bins(per_point: Tensor) -> Tensor:
    return per_point.reshape(-1, PER_BIN)


def draw(panels: list[Measured], file: Path) -> None:
    """A column per rule, a row per dtype: the largest error in each bin against x."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(f"--figure needs matplotlib ({error}). Run: pip install matplotlib") from None
    matplotlib.use("Agg")  # draws without a display
    import matplotlib.pyplot as plt

    columns = sorted({m.rule.name for m in panels}, key=lambda name: interest(panels, name))
    dtypes = list(dict.fromkeys(m.x.dtype for m in panels))
    style: Any = {"font.size": 9, "svg.hashsalt": "accuracy", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        # 9 x 5 inches at 100 points each are a guide's 900 pixels, where 9 pt type is 12 pixels high
        figure, grid = plt.subplots(
            len(dtypes), len(columns), figsize=(9, 5), squeeze=False, sharex=True, sharey="row", layout="constrained"
        )
        for m in panels:
            row, column = dtypes.index(m.x.dtype), columns.index(m.rule.name)
            axes: Axes = grid[row][column]
            draw_panel(axes, m)
            if row == 0:
                axes.set_title(m.rule.name, fontweight="bold")
            if column == 0:
                axes.set_ylabel(f"{short(m.x.dtype)}\ngradient's error in ulp")
            if row == len(dtypes) - 1:
                axes.set_xlabel("x")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        # white, so that it can be read on a dark page; no date, so that the same numbers give the same file
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, facecolor="white", dpi=100, metadata=metadata)
        plt.close(figure)


def interest(panels: list[Measured], name: str) -> tuple[int, str]:
    """Sorts the rules on which torch loses most digits first."""
    worst = max(m.candidates["torch"]["gradient"].worst()[0] for m in panels if m.rule.name == name)
    return -round(math.log10(worst + 1)), name


COLOURS = {"torch": "#D55E00", "manual": "#0072B2"}
"""Vermillion and blue of Okabe and Ito's palette, which the colour-blind tell apart."""
WIDTHS = {"torch": 2.6, "manual": 1.3}
"""In points: torch is drawn first and wider, so that both are seen where they coincide."""
LABELS = {"torch": "torch.autograd", "manual": "derived by hand"}
GREY, PALE = "#767676", "#ECECEC"


def draw_panel(axes: Axes, m: Measured) -> None:
    gone = 1 / torch.finfo(m.x.dtype).eps  # an error as large as the gradient is 1/eps to 2/eps ulp
    top = 1000 * gone  # room for a line of text above
    axes.set_xscale("asinh", linear_width=LINEAR)
    axes.set_yscale("symlog", linthresh=1)
    x = in_bins(m.x.double()).median(dim=1).values
    for name in COLOURS:
        got, ulps, _ = m.candidates[name]["gradient"]
        largest = in_bins(ulps.nan_to_num(nan=0.0)).amax(dim=1)
        axes.plot(x, largest, color=COLOURS[name], linewidth=WIDTHS[name], label=LABELS[name])
        vanished = m.x[(got == 0) & (ulps >= gone) & (m.x > 0)]
        if len(vanished):
            said = f"{name} gives 0 from x = {round(float(vanished.min()))}"
            axes.text(0.97, 0.96, said, transform=axes.transAxes, ha="right", va="top", color=COLOURS[name])
    tiny = in_bins(m.truth["gradient"].abs()).amax(dim=1) < torch.finfo(m.x.dtype).smallest_normal
    if tiny.any():
        axes.fill_between(
            x, 0, top, where=tiny.tolist(), color=PALE, linewidth=0, zorder=0, label="gradient underflows"
        )
    axes.axhline(ALLOWED_ULPS, color="black", linewidth=0.9, linestyle=(0, (5, 3)), label=f"{ALLOWED_ULPS} ulp")
    axes.axhline(gone, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="every digit lost")
    axes.set_xlim(float(m.x.min()), float(m.x.max()))
    axes.set_xticks([-100, -10, 0, 10, 100], ["−100", "−10", "0", "10", "100"])
    powers = range(0, math.ceil(math.log10(top)), 4)
    axes.set_ylim(0, top)
    axes.set_yticks([0, *(10.0**k for k in powers)], ["0", *("1" if k == 0 else f"$10^{{{k}}}$" for k in powers)])
    axes.minorticks_off()


# The command.

FULL = {torch.float32: (200, 20_000), torch.float64: (20, 20_000)}
"""per_exponent and near with the ordinary hyperparameters: 10^5 points of each dtype."""
HARDEST = 1000
"""float32 points that are sought where the error is large: what falls on 10^5 of 10^9 numbers misses the worst."""
VARIANT = 10
"""Every so many of these points are used with each other choice of hyperparameters."""


def shown_in_picture(rule: bp.Rule) -> bool:
    """Whether its page knows a formula that loses digits."""
    return any(mistake.loses_digits for mistake in rule.mistakes)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table as one JSON document.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the picture (.svg or .png).")] = None,
) -> None:
    """Measure the accuracy of the element-wise gradients against certified truth."""
    found: list[dict[str, Any]] = []
    panels: list[Measured] = []
    for rule in elementwise_rules():
        for dtype in DTYPES:
            spread = points(dtype, *FULL[dtype])
            for number, hyper in enumerate(variants(rule)):
                x = spread if number == 0 else spread[::VARIANT]
                if dtype == torch.float32:
                    x = torch.cat([x, hardest(rule, hyper, HARDEST)])
                found += rows(measure(rule, x, hyper, candidates(rule)))
            if figure is not None and shown_in_picture(rule):
                panels.append(measure(rule, panel_points(dtype), rule.ordinary, candidates(rule)))
    for line in table(found):
        print(line)
    passed = all(row["gradient"]["keeps"] for row in found if row["candidate"] == "manual")
    with usage():
        if figure is not None:
            draw(panels, figure)
        command = " ".join(["python -m benchmarks.accuracy", *sys.argv[1:]])
        write_json(json_file, command, passed, {"allowed_ulps": ALLOWED_ULPS, "measured": found})
    if not passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)  # nothing here is large enough for more
    typer.run(main)
