"""Pictures of element-wise pages: the function and its derivatives, and how far these are from certified truth."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.truth.certified import certified_module
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# Beyond ± 5 what saturates is flat and what does not is a straight line.
SPAN = 5.0
POINTS = 301
# Of the picture of errors: asinh(x / LINEAR) is as good as linear up to this |x|, and logarithmic out to END, beyond
# where gradients underflow in float32 (114).
LINEAR, END = 5.0, 200.0
BINS, PER_BIN = 110, 6
# An error in ulp of float32 that is as large as the number.
GONE = 1 / torch.finfo(torch.float32).eps
# In inches: at 9 pt its text is as large as a caption.
WIDTH = 4.6
# A jump by this share of a curve's height between neighbours is a jump.
JUMP = 0.08
INK, OURS, THEIRS, SOFT = "#010203", "#010204", "#010205", "#010206"
"""Stand for colours that the page decides, in the light and in the dark: replaced by variables of its style."""
VARIABLES = {INK: "currentColor", OURS: "var(--ours)", THEIRS: "var(--theirs)", SOFT: "var(--soft)"}


@dataclass(frozen=True)
class Picture:
    svg: str
    caption: str
    label: str


def is_drawn(rule: Rule) -> bool:
    """Whether a rule is a function of one number, or of a few, at each element."""
    return rule.elementwise and rule.has_backward


def graphs(rule: Rule) -> Iterator[Picture]:
    """y and its derivative against each input that has a cotangent, the other ones 1."""
    for name in [name for name, spec in rule.inputs.items() if spec.cotangent]:
        x = torch.linspace(-SPAN, SPAN, POINTS, dtype=torch.float64)
        inputs = at(rule, name, x)
        y, grads = rule.vjp(inputs, torch.ones_like(x), **rule.ordinary)
        slope = grads[list(rule.inputs).index(name)]
        assert slope is not None
        with axes(2.5) as (drawn, svg):
            drawn.axhline(0, color=SOFT, linewidth=0.6)
            drawn.axvline(0, color=SOFT, linewidth=0.6)
            drawn.plot(x, broken(y), color=OURS, linewidth=2, label="y")
            drawn.plot(x, broken(slope), color=THEIRS, linewidth=1.6, linestyle=(0, (5, 2)), label=f"∂y/∂{name}")
            drawn.set_xlabel(name)
            drawn.set_xlim(-SPAN, SPAN)
            drawn.legend(frameon=False, loc="best", labelcolor=INK, handlelength=2.4)
        others = [other for other in rule.inputs if other != name]
        caption = f"y and ∂y/∂{name} against {name}{_setting(rule.ordinary)}"
        caption += f"; {', '.join(others)} = {'True' if not rule.is_number(others[0]) else '1'}." if others else "."
        yield Picture(svg[0], caption, f"graph of {rule.name} and its derivative by {name}")


def errors(rule: Rule) -> Iterator[Picture]:
    """How far the gradients of the page and of torch are from certified truth in float32, against each input."""
    balls = certified_module()
    if balls is None:
        return
    twin = candidate("torch")(rule.name)
    x = bent(END, BINS * PER_BIN)
    for name in [name for name, spec in rule.inputs.items() if spec.cotangent]:
        inputs, dy, position = at(rule, name, x), torch.ones_like(x), list(rule.inputs).index(name)
        true = balls.truth(rule, inputs, dy, **rule.ordinary).grads[position]
        assert true is not None
        tiny = true.midpoint().abs() < torch.finfo(torch.float32).smallest_normal
        with axes(2.1) as (drawn, svg):
            of_lost_digits(drawn, name, END)
            middle = x.double().reshape(BINS, PER_BIN).median(1).values
            for label, vjp, colour, width in (("torch", twin, THEIRS, 2.6), ("the page", rule.vjp, OURS, 1.4)):
                if vjp is None:
                    continue
                got = vjp(inputs, dy, **rule.ordinary)[1][position]
                assert got is not None
                ulps = torch.where((got == 0) & tiny, 0, true.ulps(got)).nan_to_num(nan=0.0, posinf=1e9)
                worst = ulps.reshape(BINS, PER_BIN).amax(1)
                drawn.plot(middle, worst, color=colour, linewidth=width, label=f"{label}: {_three(float(worst.max()))}")
            drawn.annotate(
                "every digit lost",
                (0.995, GONE),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=SOFT,
            )
            drawn.legend(
                frameon=False, loc="upper left", labelcolor=INK, ncols=2, bbox_to_anchor=(0, 1.2), borderaxespad=0
            )
        caption = f"Error of d{name} in float32 against certified truth, the largest of each {PER_BIN} neighbours"
        yield Picture(
            svg[0], f"{caption}{_setting(rule.ordinary)}.", f"error of d{name} in ulp, of the page and of torch"
        )


def at(rule: Rule, name: str, x: Tensor) -> tuple[Tensor, ...]:
    """x for one input; 1, or True, for the other ones."""
    return tuple(
        x
        if each == name
        else torch.ones_like(x)
        if rule.is_number(each)
        else torch.ones_like(x, dtype=rule.kind(each) or x.dtype)
        for each in rule.inputs
    )


def broken(values: Tensor) -> Tensor:
    """Without a line across a jump."""
    shown = parts(values)[0].clone()
    finite = shown[shown.isfinite()]
    height = float(finite.max() - finite.min()) if len(finite) else 0.0
    steps = (shown[1:] - shown[:-1]).abs()
    usual = steps[steps.isfinite()].median() if len(steps) else 0.0
    jumps = (steps > JUMP * height) & (steps > 8 * usual)
    shown[1:][jumps] = torch.nan
    return shown


def of_lost_digits(drawn: Any, name: str, far: float) -> None:
    """Axes for errors in ulp, up to beyond where every digit is lost, against an input up to ± far."""
    drawn.set_xscale("asinh", linear_width=LINEAR)
    drawn.set_yscale("symlog", linthresh=1)
    drawn.axhline(GONE, color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)))
    drawn.set_ylim(0, 50 * GONE)
    drawn.set_yticks([0, 1, 100, 10**4, 10**6], ["0", "1", "100", "10⁴", "10⁶"])
    drawn.set_xticks([-100, -10, 0, 10, 100], ["−100", "−10", "0", "10", "100"])
    drawn.minorticks_off()
    drawn.set_xlim(-far, far)
    drawn.set_xlabel(name)
    drawn.set_ylabel("error in ulp")


def bent(far: float, points: int) -> Tensor:
    """Points up to ± far that are evenly spread on such axes, in float32."""
    end = math.asinh(far / LINEAR)
    return (LINEAR * torch.linspace(-end, end, points, dtype=torch.float64).sinh()).float()


@contextmanager
def axes(height: float) -> Iterator[tuple[Any, list[str]]]:
    """Axes of WIDTH inches, and a list that holds them as inline SVG in the colours of the page once they are drawn."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the book needs matplotlib. Run: pip install 'manual-bp[book]'") from None
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "manual_bp",
        "font.size": 9,
        "font.family": ["sans-serif"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
    }
    with matplotlib.rc_context(settings | dict.fromkeys(coloured, INK)):
        figure = Figure(figsize=(WIDTH, height))
        # By hand, as a layout that is computed takes as long as the picture.
        figure.subplots_adjust(0.5 / WIDTH, 0.42 / height, 1 - 0.08 / WIDTH, 1 - 0.25 / height)
        made: list[str] = []
        yield figure.add_subplot(), made
        made.append(_svg(figure))  # while the settings hold


def _svg(figure: Any) -> str:
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in VARIABLES.items():
        svg = svg.replace(stand_in, colour)
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{own}-", svg)  # several pictures are on one page
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)  # a hundredth of a point is not seen
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r"^<svg[^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), svg)  # the viewBox stays


def _setting(hyper: Mapping[str, Any]) -> str:
    return "".join(f", {name} = {value}" for name, value in hyper.items())


def _three(value: float) -> str:
    if value >= 1e6:
        return "all digits" if value >= GONE else f"{value:.0e} ulp"
    return f"{value:.2g} ulp"
