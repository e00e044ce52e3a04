"""A linear layer, softmax and cross-entropy in one, without a tensor of rows × classes.

    y = softmax_cross_entropy(x Wᵀ, target)

with that page's log-probabilities z, costs l, ignore_index and label smoothing.  Where there are many classes, as in a
language model, logits are by far the largest tensor of a network: 1024 rows of 32 768 classes have 134 MB in float32,
which W (512 features) has half of.  So it goes through the rows in blocks, and only the logits of one block exist.

Derivation.  Let g be the cotangent of the logits x Wᵀ, which the page `softmax_cross_entropy` derives:

    g = s ( p − t )               t = (1 − ε) [k = c] + ε/K,  s = dy for a sum, dy/n for a mean of n rows that count

and 0 in a row that does not count.  Through the product, as on the page `linear`,

    dx = g W        dW = gᵀ x

The rows of g are needed one block at a time for dx, and dW is a sum over the blocks.

When.  A row's g needs nothing of other rows but n, which the targets tell, and dy only as a factor: dy is one number,
and dx and dW are linear in it.  So dx and dW for dy = 1 are made in forward, while the logits of a block are there, and
backward multiplies by dy.  That takes three products of rows × features × classes, as many as with all logits kept; to
make the logits again in backward would take four.  This page does so, since what follows a forward here is a backward.

It must not be done where dy is no single number: without a reduction each row has a dy of its own, which is not known
in forward (dx could still be scaled row by row, but dW is a sum of rows that are scaled differently).  It should not be
done where forward alone is wanted, as in validation: it takes three times as long, and keeps a tensor as large as W.
There, softmax_cross_entropy of a block of rows at a time does it with one product.

Digits.  As on the page `softmax_cross_entropy`: p_c − 1 is expm1(z_c), and log-probabilities keep their digits.

At the edges: no row that counts gives NaN for a mean, 0 for a sum, and gradients 0.

Source: Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training" (2024), section 3.2; Wijmans et al., "Cut
Your Losses in Large-Vocabulary Language Models" (2024), which makes the logits again.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Index, Input, Mistake, Value, constant, normal, require
from manual_bp.rules.loss._cross_entropy import Parts, cost, counted, given, log_softmax, slopes

ROWS, LOGITS = 128, 2**15
"""At least so many rows at a time, which products of matrices need to be fast, and more where there are few classes: so
many logits."""


class Residuals(NamedTuple):
    dx: Float[Tensor, "rows features"]
    dweight: Float[Tensor, "classes features"]
    """Both for dy = 1, made while the logits were there."""


def forward(
    x: Float[Tensor, "rows features"],
    weight: Float[Tensor, "classes features"],
    target: Int[Tensor, "rows"],
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Float[Tensor, ""], Residuals]:
    name, classes = "fused_linear_cross_entropy", len(weight)
    require(classes >= 1, f"{name}: there must be a class", classes, "Axis 0 of weight holds the classes.")
    require(0 <= label_smoothing <= 1, f"{name}: 0 ≤ label_smoothing ≤ 1", label_smoothing, "It is a share.")
    alike = given(None, weight.mT)  # classes have no weights here
    divisor = counted(alike, target, ignore_index) if reduction == "mean" else 1
    fixed = weight.detach()  # certified truth differentiates y, and takes no derivative of dx and dweight
    total, dx, dweight = x.new_zeros(()), [], torch.zeros_like(fixed)
    for rows in _blocks(x, weight):
        log_p = log_softmax(x[rows] @ weight.mT)
        total = total + cost(log_p, target[rows], alike, ignore_index, label_smoothing)
        on_target, smoothing = slopes(
            log_p.detach(), target[rows], alike, ignore_index, label_smoothing, dy=1.0, divisor=divisor
        )
        g = on_target + smoothing if label_smoothing else on_target
        dx.append(g @ fixed)
        dweight = torch.addmm(dweight, g.mT, x[rows].detach())
    return total / divisor, Residuals(torch.cat(dx), dweight)


def backward(
    residuals: Residuals, dy: Float[Tensor, ""]
) -> tuple[Float[Tensor, "rows features"], Float[Tensor, "classes features"], None]:
    return dy * residuals.dx, dy * residuals.dweight, None


def _blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Rows that are done at once; where there are none, one block of none."""
    length = max(ROWS, LOGITS // len(weight))
    for start in range(0, max(len(x), 1), length):
        yield slice(start, start + length)


INPUTS = {
    "x": Input(normal()),
    "weight": Input(normal()),
    "target": Index("classes", unless="ignore_index"),
}
USUAL = {"ignore_index": (0,), "label_smoothing": (0.1,)}

SIZES = {"rows": 4, "features": 3, "classes": 5}
SHORTEST = {"rows": 2, "features": 1, "classes": 3}

_INF = float("inf")
_X = [[0.5, -1.0], [1.0, 0.25], [-0.75, 2.0]]
_WEIGHT = [[1.0, 0.5], [-0.5, 1.5], [0.25, -2.0]]
_ONE = [[1.0], [-1.0], [0.5]]


def _logits(*logits: float) -> list[list[float]]:
    """The weight of which rows of one 1 have these logits."""
    return [[number] for number in logits]


EDGES = (
    Edge("sum", {"reduction": "sum"}),
    Edge("smoothed", {"label_smoothing": 0.1}),
    Edge("smoothed sum", {"label_smoothing": 0.3, "reduction": "sum"}),
    Edge("smoothed until the label is one of all", {"label_smoothing": 1}),
    Edge("labels at both ends", {"x": _X, "weight": _WEIGHT, "target": [0, 2, 0]}),
    Edge("all labels alike", {"x": _X, "weight": _WEIGHT, "target": [1, 1, 1]}),
    Edge("one row ignored", {"x": _X, "weight": _WEIGHT, "target": [0, -100, 2]}),
    Edge(
        "one row ignored in a smoothed sum",
        {"x": _X, "weight": _WEIGHT, "target": [-100, 1, 2], "label_smoothing": 0.2, "reduction": "sum"},
    ),
    Edge("another ignored value", {"x": _X, "weight": _WEIGHT, "target": [255, 1, 2], "ignore_index": 255}),
    Edge("-1 ignored", {"x": _X, "weight": _WEIGHT, "target": [0, -1, 2], "ignore_index": -1}),
    Edge("a class ignored", {"x": _X, "weight": _WEIGHT, "target": [0, 2, 1], "ignore_index": 0}),
    Edge("all ignored", {"x": _X, "weight": _WEIGHT, "target": [-100, -100, -100]}),
    Edge("all ignored, smoothed", {"x": _X, "weight": _WEIGHT, "target": [-100] * 3, "label_smoothing": 0.1}),
    Edge("all ignored in a sum", {"x": _X, "weight": _WEIGHT, "target": [-100] * 3, "reduction": "sum"}),
    Edge("no row", sizes={"rows": 0}),
    Edge("no row in a sum", {"reduction": "sum"}, sizes={"rows": 0}),
    Edge("one row", sizes={"rows": 1}),
    Edge("one class", sizes={"classes": 1}),
    Edge("one class, smoothed", {"label_smoothing": 0.1}, sizes={"classes": 1}),
    Edge("two classes", sizes={"classes": 2}),
    Edge("no feature", sizes={"features": 0}),
    Edge("one feature", sizes={"features": 1}),
    Edge("as many rows as classes as features", sizes={"rows": 3, "classes": 3, "features": 3}),
    Edge("rows of several blocks", sizes={"rows": 300, "classes": 270, "features": 2}),
    Edge(
        "rows of several blocks, smoothed sum",
        {"label_smoothing": 0.1, "reduction": "sum"},
        sizes={"rows": 257, "classes": 260, "features": 2},
    ),
    Edge("nearly certain and right", {"x": _ONE, "weight": _logits(20.0, 0.0, -37.0), "target": [0, 2, 0]}),
    Edge("nearly certain and wrong", {"x": _ONE, "weight": _logits(20.0, 0.0, -37.0), "target": [2, 0, 1]}),
    Edge(
        "nearly certain and smoothed",
        {"x": _ONE, "weight": _logits(20.0, 0.0, -37.0), "target": [0, 2, 1], "label_smoothing": 0.1},
    ),
    Edge("all logits equal", {"weight": constant(1.5)}),
    Edge("all logits equal and 0, smoothed", {"weight": constant(0.0), "label_smoothing": 0.1}),
    Edge("logits of ±10000", {"x": _ONE, "weight": _logits(1e4, -1e4, 9999.0), "target": [2, 0, 1]}),
    Edge("largest below -10000", {"x": [[1.0]], "weight": _logits(-12000.0, -12001.0, -12003.0), "target": [1]}),
    Edge("logits whose exponential overflows", {"x": [[1.0]], "weight": _logits(1000.0, 999.0, 998.0), "target": [1]}),
    Edge("gradual underflow", {"x": [[1.0]], "weight": _logits(0.0, -87.0, -95.0, -103.0, -110.0), "target": [0]}),
    Edge("an impossible class", {"x": [[1.0], [2.0]], "weight": _logits(-_INF, 1.0, 2.0), "target": [1, 2]}),
    Edge("an impossible target", {"x": [[1.0]], "weight": _logits(-_INF, 1.0, 2.0), "target": [0]}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge("small cotangent", {"dy": 1e-30}),
    Edge("large cotangent", {"dy": 1e4}),
    Edge("a label above the last class", {"x": _X, "weight": _WEIGHT, "target": [0, 3, 0]}, raises=ValueError),
    Edge("a negative label", {"x": _X, "weight": _WEIGHT, "target": [0, -1, 0]}, raises=ValueError),
    Edge("no class", sizes={"classes": 0}, raises=ValueError),
    Edge("negative smoothing", {"label_smoothing": -0.1}, raises=ValueError),
    Edge("smoothing above 1", {"label_smoothing": 1.5}, raises=ValueError),
)


def _from_log_sum(
    x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, reduction: str
) -> Tensor:
    logits = x @ weight.mT
    log_p, alike = logits - torch.logsumexp(logits, 1, keepdim=True), given(None, logits)
    total = cost(log_p, target, alike, ignore_index, label_smoothing)
    return total / counted(alike, target, ignore_index) if reduction == "mean" else total


VALUES = (
    Value(
        "log Σ e^x - x",
        _from_log_sum,
        forgets="that two numbers which are nearly equal leave no digits of a small cost",
        shows="where the label is nearly certain",
        seen="https://github.com/linkedin/Liger-Kernel/pull/198",
    ),
)

Cotangents = tuple[Tensor, Tensor, None]


class _Whole:
    """All rows at once, from which wrong formulas are made: the page's own, and those of cross-entropy's wrong slopes.

    changed: hyperparameters, target or dy in place of the given ones.
    """

    def __init__(self, g: dict[str, Any], **changed: Any) -> None:
        others = {**g, **changed}
        self.x, self.weight = others.pop("x"), others.pop("weight")
        self.logits = self.x @ self.weight.mT
        self.parts = Parts(self.logits, weight=None, **others)
        self.g = self.parts.dx()[0]

    def cotangents(
        self, g: Tensor | None = None, dx: Tensor | None = None, dweight: Tensor | None = None
    ) -> Cotangents:
        """The right ones, but for what is given."""
        g = self.g if g is None else g
        return (g @ self.weight if dx is None else dx, g.mT @ self.x if dweight is None else dweight, None)


def _of(formula: Callable[[_Whole], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **g: formula(_Whole(g))


def _sloping(slope: Callable[[Parts], tuple[Tensor, None, None]]) -> Callable[..., Cotangents]:
    """A formula with another cotangent of the logits than the right one."""
    return _of(lambda whole: whole.cotangents(slope(whole.parts)[0]))


def _with_every_label(**g: Any) -> _Whole:
    """As if each target that is no class were class 0."""
    return _Whole(g, target=g["target"].clamp(min=0, max=len(g["weight"]) - 1), ignore_index=-100)


def _in_blocks(g: dict[str, Any], length: int, joined: Callable[[list[Tensor]], Tensor]) -> Cotangents:
    """dweight from those of blocks of so many rows."""
    whole = _Whole(g)
    blocks = zip(torch.split(whole.g, length), torch.split(whole.x, length), strict=True)
    return whole.cotangents(dweight=joined([slope.mT @ x for slope, x in blocks]))


def _of_each_block(g: dict[str, Any], length: int) -> Cotangents:
    """Each block divided by the number of its own rows that count."""
    whole = _Whole(g)
    if g["reduction"] == "sum":
        return whole.cotangents()
    counts = torch.cat([torch.sum(block).expand(len(block)) for block in torch.split(whole.parts.counts, length)])
    return whole.cotangents(whole.g * (whole.parts.rows / counts.clamp(min=1))[:, None])


def _first_labels(g: dict[str, Any], length: int) -> Cotangents:
    """Labels of the first block for every block."""
    rows = torch.arange(len(g["target"]), device=g["target"].device) % length
    return _Whole(g, target=g["target"][rows]).cotangents()


def _padded(whole: _Whole, block: int) -> Tensor:
    """p where classes are filled up to whole blocks with logits of 0."""
    missing = -len(whole.weight) % block
    logits = torch.constant_pad_nd(whole.logits, (0, missing))
    return torch.exp(log_softmax(logits))[:, : len(whole.weight)]


MISTAKES = (
    Mistake(
        "p - 1 at the label",
        _sloping(Parts.by_log_softmax),
        forgets="that p - 1 cancels once the label is nearly certain",
        shows="at a label with p near 1; below 1 - p = 3e-8 (float32) or 6e-17 (float64) no digit is left",
        seen="https://github.com/Samyssmile/edux/issues/201",
        loses_digits=True,
    ),
    Mistake(
        "labels of the first block",
        lambda **g: _first_labels(g, 2),
        forgets="to go on in the targets with the blocks",
        shows="for more than one block, unless its labels are the same",
        seen="https://github.com/linkedin/Liger-Kernel/commit/1c0c75c3455e",
    ),
    Mistake(
        "dweight of the last block",
        lambda **g: _in_blocks(g, 2, lambda blocks: blocks[-1]),
        forgets="to add: each block writes over what the one before has written",
        shows="for more than one block",
        seen="https://github.com/linkedin/Liger-Kernel/commit/1dc655574490",
    ),
    Mistake(
        "dweight averaged over blocks",
        lambda **g: _in_blocks(g, 2, lambda blocks: sum(blocks[1:], blocks[0]) / len(blocks)),
        forgets="that blocks are parts of one sum",
        shows="for more than one block",
    ),
    Mistake(
        "mean of each block",
        lambda **g: _of_each_block(g, 2),
        forgets="that the mean is over all rows, and not over those of a block",
        shows="for a mean of more than one block",
    ),
    Mistake(
        "classes beyond the end",
        _of(lambda r: r.cotangents(r.parts.dx(p=_padded(r, 128))[0])),
        forgets="to mask the logits with which classes are filled up to whole blocks",
        shows="where classes are no multiple of 128",
    ),
    Mistake(
        "small p left out",
        _sloping(lambda parts: parts.dx(p=torch.where(parts.p < 2**-12, 0, parts.p))),
        forgets="that many small p add up (a deliberate change, which leaves out what bfloat16 cannot add to 1)",
        shows="where a class is improbable",
    ),
    Mistake(
        "label's row alone in dx",
        _of(lambda r: r.cotangents(dx=(r.g * r.parts.one_hot) @ r.weight)),
        forgets="that all classes share the denominator",
        shows="for two classes and more",
    ),
    Mistake(
        "label's row alone in dweight",
        _of(lambda r: r.cotangents(dweight=(r.g * r.parts.one_hot).mT @ r.x)),
        forgets="that all classes share the denominator",
        shows="for two classes and more",
    ),
    Mistake(
        "logits for their cotangent in dweight",
        _of(lambda r: r.cotangents(dweight=r.logits.mT @ r.x)),
        forgets="that the buffer of the logits is to be written over with their cotangent first",
        shows="everywhere",
    ),
    Mistake(
        "p in dweight",
        _of(lambda r: r.cotangents(dweight=r.parts.p.mT @ r.x)),
        forgets="the label",
        shows="everywhere",
    ),
    Mistake(
        "dweight not transposed",
        _of(lambda r: r.cotangents(dweight=(r.g.mT @ r.x).mT)),
        forgets="that weight has a row for each class",
        shows="in the shape, and for as many classes as features",
    ),
    Mistake(
        "weight not scaled by dy",
        lambda **g: _Whole(g).cotangents(dweight=_Whole(g, dy=torch.ones_like(g["dy"])).cotangents()[1]),
        forgets="dy in dweight, which was made in forward",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
    ),
    Mistake(
        "dy twice",
        _of(lambda r: r.cotangents(r.g * r.parts.dy)),
        forgets="that what was made with dy is not multiplied by it again",
        shows="wherever dy is not 1",
    ),
    Mistake(
        "cotangent dropped",
        lambda **g: _Whole(g, dy=torch.ones_like(g["dy"])).cotangents(),
        forgets="dy: dx and dweight are as they were made in forward",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
        seen="https://github.com/chainer/chainer/commit/e60dd3efbca0",
    ),
    Mistake(
        "sign",
        lambda **g: _Whole(g, dy=-g["dy"]).cotangents(),
        forgets="that the cost falls as the label's logit rises",
        shows="everywhere",
    ),
    Mistake(
        "p alone",
        _sloping(lambda parts: parts.dx(parts.p)),
        forgets="the label",
        shows="everywhere",
    ),
    Mistake(
        "p rounded before 1 is taken off",
        _sloping(lambda parts: parts.dx(p=parts.p.bfloat16().to(parts.p.dtype))),
        forgets="that p - 1 needs the digits of p that 16 bits do not hold",
        shows="everywhere, and most where the label is nearly certain",
        seen="https://github.com/linkedin/Liger-Kernel/commit/be1cdc176be7",
    ),
    Mistake(
        "1/n forgotten",
        _sloping(lambda parts: parts.dx(divisor=1.0)),
        forgets="that the cost is a mean",
        shows="for a mean of more than one row",
    ),
    Mistake(
        "1/n twice",
        _sloping(lambda parts: parts.dx(divisor=parts.rows**2)),
        forgets="that the cost is divided once: dweight is a sum of what is divided already",
        shows="for a mean of more than one row",
    ),
    Mistake(
        "a sum divided too",
        lambda **g: _Whole(g, reduction="mean").cotangents(),
        forgets="that a sum is not divided",
        shows='for reduction="sum"',
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "mean over all rows",
        _sloping(lambda parts: parts.dx(divisor=max(len(parts.target), 1))),
        forgets="that ignored rows are not counted",
        shows="for a mean, where a row is ignored",
        seen="https://github.com/linkedin/Liger-Kernel/commit/33f7f487f1b8",
    ),
    Mistake(
        "ignored rows too",
        _sloping(lambda parts: parts.dx(counts=torch.ones_like(parts.counts))),
        forgets="that what is ignored does not reach the cost",
        shows="where a row is ignored",
        seen="https://github.com/linkedin/Liger-Kernel/commit/33f7f487f1b8",
    ),
    Mistake(
        "masked by multiplication",
        _sloping(lambda parts: (parts.dx(counts=torch.ones_like(parts.counts))[0] * parts.counts[:, None], None, None)),
        forgets="that 0 times infinity is NaN",
        shows="where all rows are ignored",
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "-1 for ignore_index",
        lambda **g: _with_every_label(**g).cotangents(
            _with_every_label(**g).parts.dx(counts=g["target"] != -1, divisor=_Whole(g).parts.rows)[0]
        ),
        forgets="the value that it was told to ignore",
        shows="where ignore_index is not -1 and a row is ignored",
        seen="https://github.com/chainer/chainer/commit/a75146cc461f",
    ),
    Mistake(
        "smoothing forgotten",
        lambda **g: _Whole(g, label_smoothing=0.0).cotangents(),
        forgets="that forward smoothed the label",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "smoothing over the other classes",
        _sloping(
            lambda parts: parts.dx(
                t=parts.t(on_each=0.0)
                + parts.on_each * (parts.classes / max(parts.classes - 1, 1)) * (1 - parts.one_hot)
            )
        ),
        forgets="that the label has its part of ε too: this is ε/(K - 1) for each of the others",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "ε on each class",
        _sloping(lambda parts: parts.dx(t=parts.t(on_each=parts.on_each * parts.classes))),
        forgets="that the classes share ε",
        shows="for label_smoothing above 0 and two classes and more",
    ),
    Mistake(
        "label not scaled down",
        _sloping(lambda parts: parts.dx(t=parts.t(on_label=1.0))),
        forgets="the 1 - ε of the label",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "softmax over the rows",
        _sloping(lambda parts: parts.dx(p=torch.softmax(parts.x, 0))),
        forgets="along which axis the classes lie",
        shows="everywhere",
    ),
    Mistake(
        "exponential overflows",
        _sloping(lambda parts: parts.dx(p=torch.exp(parts.x) / torch.sum(torch.exp(parts.x), 1, keepdim=True))),
        forgets="to take the largest logit off first",
        shows="from logits of 89 (float32) or 710 (float64), where infinity over infinity is NaN, and far below -89",
    ),
)
