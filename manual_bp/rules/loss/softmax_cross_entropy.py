"""Softmax and cross-entropy in one: what it costs that a class is true which the logits x find improbable.

Along axis 1 the logits of a row (one position of batch and space) become log-probabilities

    z_k = log p_k = x_k − log Σ_j e^x_j

With the target c, the weight w_c of a class (1 if none are given), K classes and label smoothing ε, a row costs

    l = −(1 − ε) w_c z_c − ε/K Σ_k w_k z_k

    y = Σ l                reduction = "sum"
    y = Σ l / Σ w_c        reduction = "mean"

Both sums go over the rows that count: those whose target is not ignore_index.

Derivation.  Since Σ_j e^x_j has the derivative e^x_k, ∂z_i/∂x_k = [i = k] − p_k.  With t_k = (1 − ε) w_c [k = c] +
ε/K w_k the cost of a row is l = −Σ_i t_i z_i, hence ∂l/∂x_k = p_k Σ_i t_i − t_k.  Let s be dy for a sum, dy / Σ w_c for
a mean; then

    dx_k = s ( (1 − ε) w_c (p_k − [k = c]) + ε/K (p_k Σ_i w_i − w_k) )
                  target                       smoothing

and 0, whatever it holds, in a row that does not count.  The class weights are constants.

Digits.  p_c − 1 cancels where the target is nearly certain, which is where training ends: below 1 − p_c = 3e-8
(float32) p_c has rounded to 1.  But p_c − 1 = e^z_c − 1 is expm1(z_c), which keeps all digits, if z_c does.  For that,
let m be the largest logit, at k = a.  Then

    z_k = (x_k − m) − log(1 + Σ_{j≠a} e^(x_j − m))

whose two parts have one sign, and whose logarithm is log1p: it is small, and still exact, where p_a is near 1.  torch
takes the logarithm of the sum and subtracts 1; its cost and its gradient are then 0.

At the edges: if no row counts, a mean is 0/0 = NaN and dx is 0.  A row of −∞ has no probabilities: NaN.  A logit of −∞
is a class of probability 0 and gets 0, if it is not the target and nothing is smoothed.

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990); Bishop, "Pattern
Recognition and Machine Learning" (2006), eq. 4.108 and 4.109; smoothing: Szegedy et al., "Rethinking the Inception
Architecture", CVPR 2016, section 7.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Index, Input, Mistake, Value, constant, normal, require, uniform
from manual_bp.rules.loss._cross_entropy import Parts, cost, counted, given, log_softmax, per_class, slopes


class Residuals(NamedTuple):
    log_p: Float[Tensor, "batch classes *space"]
    """z and not p: p_c − 1 cannot be had from a p_c that has rounded to 1."""
    target: Int[Tensor, "batch *space"]
    weight: Float[Tensor, "classes"]
    """Ones if none were given."""
    ignore_index: int
    label_smoothing: float
    reduction: Literal["mean", "sum"]


def forward(
    x: Float[Tensor, "batch classes *space"],
    target: Int[Tensor, "batch *space"],
    weight: Float[Tensor, "classes"] | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Float[Tensor, ""], Residuals]:
    classes = x.shape[1]
    require(classes >= 1, "softmax_cross_entropy: there must be a class", classes, "Axis 1 of x holds the classes.")
    require(
        0 <= label_smoothing <= 1, "softmax_cross_entropy: 0 ≤ label_smoothing ≤ 1", label_smoothing, "It is a share."
    )
    weight = given(weight, x)
    residuals = Residuals(log_softmax(x), target, weight, ignore_index, label_smoothing, reduction)
    return _value(residuals), residuals


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "batch classes *space"], None, None]:
    found = terms(residuals, dy)["dx"]
    dx = found["target"] + found["smoothing"] if residuals.label_smoothing else found["target"]
    return dx, None, None


def terms(residuals: Residuals, dy: Float[Tensor, ""]) -> dict[str, dict[str, Tensor]]:
    """The summands of the derivation."""
    log_p, target, weight, ignore_index, label_smoothing, reduction = residuals
    divisor = counted(weight, target, ignore_index) if reduction == "mean" else 1
    target_term, smoothing = slopes(log_p, target, weight, ignore_index, label_smoothing, dy, divisor)
    return {"dx": {"target": target_term, "smoothing": smoothing}}


def _value(residuals: Residuals) -> Tensor:
    """y."""
    log_p, target, weight, ignore_index, label_smoothing, reduction = residuals
    total = cost(log_p, target, weight, ignore_index, label_smoothing)
    return total / counted(weight, target, ignore_index) if reduction == "mean" else total


INPUTS = {
    "x": Input(normal(std=2.0)),
    "target": Index("classes", unless="ignore_index"),
    "weight": Input(uniform(0.25, 2.0), cotangent=False),
}
USUAL = {"ignore_index": (0,), "label_smoothing": (0.1,)}

_INF = float("inf")

EDGES = (
    Edge("sum", {"reduction": "sum"}),
    Edge("no weight", {"weight": None}),
    Edge("sum without weight", {"weight": None, "reduction": "sum"}),
    Edge("smoothed", {"label_smoothing": 0.1}),
    Edge("smoothed without weight", {"label_smoothing": 0.1, "weight": None}),
    Edge("smoothed sum", {"label_smoothing": 0.3, "reduction": "sum"}),
    Edge("smoothed until the label is one of all", {"label_smoothing": 1}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("square images", sizes={"space": (3, 3)}),
    Edge("smoothed images", {"label_smoothing": 0.1}, sizes={"space": (2, 3)}),
    Edge("sequences without weight", {"weight": None}, sizes={"space": (5,)}),
    Edge("vectors", sizes={"space": ()}),
    Edge("labels at both ends", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]], "target": [0, 2]}),
    Edge("all labels alike", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]], "target": [1, 1]}),
    Edge("one row ignored", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.0, 1.0, 3.0]], "target": [0, -100, 2]}),
    Edge(
        "one row ignored in a smoothed sum",
        {
            "x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.0, 1.0, 3.0]],
            "target": [-100, 1, 2],
            "label_smoothing": 0.2,
            "reduction": "sum",
        },
    ),
    Edge("another ignored value", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [255, 1], "ignore_index": 255}),
    Edge("-1 ignored", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [0, -1], "ignore_index": -1}),
    Edge("a class ignored", {"x": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]], "target": [0, 2], "ignore_index": 0}),
    Edge("all ignored", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [-100, -100]}),
    Edge("all ignored, smoothed", {"x": [[0.5, -1.0]], "target": [-100], "label_smoothing": 0.1, "weight": None}),
    Edge("all ignored in a sum", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [-100, -100], "reduction": "sum"}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("empty batch in a sum", {"reduction": "sum"}, sizes={"batch": 0}),
    Edge("no position", sizes={"space": (0,)}),
    Edge("one example", sizes={"batch": 1}),
    Edge("one class", sizes={"classes": 1}),
    Edge("one class, smoothed", {"label_smoothing": 0.1}, sizes={"classes": 1}),
    Edge("two classes", sizes={"classes": 2}),
    Edge("a class of weight 0", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [0, 1], "weight": [0.0, 2.0]}),
    Edge("weights that add up to 0", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [0, 0], "weight": [0.0, 2.0]}),
    Edge("weights far apart", {"x": [[0.5, -1.0], [1.0, 0.0]], "target": [0, 1], "weight": [1e-3, 1e3]}),
    Edge(
        "nearly certain and right", {"x": [[20.0, 0.0, 1.0], [-3.0, 37.0, -2.0], [0.0, 1.0, 80.0]], "target": [0, 1, 2]}
    ),
    Edge("nearly certain and wrong", {"x": [[20.0, 0.0, 1.0], [-3.0, 37.0, -2.0]], "target": [1, 2]}),
    Edge(
        "nearly certain and smoothed",
        {"x": [[20.0, 0.0, 1.0], [-3.0, 37.0, -2.0]], "target": [0, 0], "label_smoothing": 0.1},
    ),
    Edge("all equal", {"x": constant(1.5)}),
    Edge("all equal, smoothed, without weight", {"x": constant(0.0), "label_smoothing": 0.1, "weight": None}),
    Edge("signed zeros and subnormal numbers", {"x": [[0.0, -0.0, 1e-310], [1e-40, -1e-40, -0.0]], "target": [1, 0]}),
    Edge("large logits", {"x": [[1e4, -1e4, 9999.0], [-1e4, -10001.0, -10002.0]], "target": [2, 0]}),
    Edge("largest below -10000", {"x": [[-12000.0, -12001.0, -12003.0]], "target": [1]}),
    Edge("logits whose exponential overflows", {"x": [[1000.0, 999.0, 998.0]], "target": [1]}),
    Edge("gradual underflow", {"x": [[0.0, -87.0, -95.0, -103.0, -110.0]], "target": [0]}),
    Edge("an impossible class", {"x": [[-_INF, 1.0, 2.0]], "target": [1]}),
    Edge("an impossible target", {"x": [[-_INF, 1.0, 2.0]], "target": [0]}),
    Edge("all impossible", {"x": [[-_INF, -_INF], [0.0, 1.0]], "target": [0, 1]}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge("cotangent near float32's smallest", {"dy": 2e-38}, sizes={"batch": 100, "space": ()}),
    Edge("a label above the last class", {"x": [[0.5, -1.0]], "target": [2]}, raises=ValueError),
    Edge("a negative label", {"x": [[0.5, -1.0]], "target": [-1]}, raises=ValueError),
    Edge("no class", sizes={"classes": 0}, raises=ValueError),
    Edge("negative smoothing", {"label_smoothing": -0.1}, raises=ValueError),
    Edge("smoothing above 1", {"label_smoothing": 1.5}, raises=ValueError),
)

VALUES = (
    Value(
        "log Σ e^x - x",
        lambda x, target, weight, **hyper: _value(
            Residuals(x - torch.logsumexp(x, 1, keepdim=True), target, given(weight, x), **hyper)
        ),
        forgets="that two numbers which are nearly equal leave no digits of a small cost",
        shows="where the label is nearly certain",
        seen="https://github.com/linkedin/Liger-Kernel/pull/198",
    ),
)


Cotangents = tuple[Tensor, None, None]


def _of(formula: Callable[[Parts], Cotangents]) -> Callable[..., Cotangents]:
    return lambda **g: formula(Parts(**g))


def _with_every_label(target: Tensor, **others: Any) -> Parts:
    """As if each target that is no class were class 0."""
    return Parts(target=target.clamp(min=0, max=others["x"].shape[1] - 1), **{**others, "ignore_index": -100})


def _on_top(parts: Parts) -> Cotangents:
    ((dx, *_), p) = (parts.dx(), parts.p)
    return p * (dx - torch.sum(p * dx, 1, keepdim=True)), None, None


def _smoothed_over_others(parts: Parts) -> Cotangents:
    """ε/(K − 1) for each class but the label."""
    on_others = parts.on_each * (parts.classes / max(parts.classes - 1, 1)) * (1 - parts.one_hot)
    return parts.dx(t=parts.t(on_each=0.0) + on_others * per_class(parts.weight, parts.x))


MISTAKES = (
    Mistake(
        "p - 1 at the label",
        _of(Parts.by_log_softmax),
        forgets="that p - 1 cancels once the label is nearly certain",
        shows="at a label with p near 1; below 1 - p = 3e-8 (float32) or 6e-17 (float64) no digit is left",
        seen="https://github.com/Samyssmile/edux/issues/201",
        loses_digits=True,
    ),
    Mistake(
        "p rounded before 1 is taken off",
        _of(lambda r: r.dx(p=r.p.bfloat16().to(r.x.dtype))),
        forgets="that p - 1 needs the digits of p that 16 bits do not hold",
        shows="everywhere, and most where the label is nearly certain",
        seen="https://github.com/linkedin/Liger-Kernel/commit/be1cdc176be7",
    ),
    Mistake(
        "cotangent dropped",
        _of(lambda r: r.dx(dy=1.0)),
        forgets="dy",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
        seen="https://github.com/chainer/chainer/commit/e60dd3efbca0",
    ),
    Mistake(
        "sign",
        _of(lambda r: r.dx(dy=-r.dy)),
        forgets="that the cost falls as the label's logit rises",
        shows="everywhere",
        seen="https://github.com/deeplearning4j/deeplearning4j/issues/345",
    ),
    Mistake(
        "p alone",
        _of(lambda r: r.dx(torch.sum(r.t(), 1, keepdim=True) * r.p)),
        forgets="the label",
        shows="everywhere",
    ),
    Mistake(
        "1 taken off every class",
        _of(lambda r: r.dx(torch.sum(r.t(), 1, keepdim=True) * (r.p - 1))),
        forgets="that only the label's own logit is subtracted",
        shows="for two classes and more",
    ),
    Mistake(
        "1/n forgotten",
        _of(lambda r: r.dx(divisor=1.0)),
        forgets="that the cost is a mean",
        shows="for a mean of more than one row",
        seen="https://github.com/tensorflow/swift-apis/pull/42",
    ),
    Mistake(
        "1/n twice",
        _of(lambda r: r.dx(divisor=r.rows**2)),
        forgets="that the cost is divided once",
        shows="for a mean of more than one row",
    ),
    Mistake(
        "a sum divided too",
        lambda **g: Parts(**{**g, "reduction": "mean"}).dx(),
        forgets="that a sum is not divided",
        shows='for reduction="sum"',
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "mean over all rows",
        _of(lambda r: r.dx(divisor=max(r.target.numel(), 1))),
        forgets="that ignored rows are not counted, and that each counts with its weight",
        shows="for a mean, where a row is ignored or classes are weighted",
        seen="https://github.com/eladhoffer/utils.pytorch/issues/4",
    ),
    Mistake(
        "weights forgotten in the mean",
        _of(lambda r: r.dx(divisor=r.counts.sum())),
        forgets="that a weighted mean is divided by the sum of the weights",
        shows="for a mean with weights",
    ),
    Mistake(
        "mean over the batch alone",
        _of(lambda r: r.dx(divisor=max(len(r.x), 1))),
        forgets="that every position of space is a row",
        shows="for a mean, where a row has space axes",
    ),
    Mistake(
        "mean over the classes too",
        _of(lambda r: r.dx(divisor=r.rows * r.classes)),
        forgets="that the classes of a row share one cost",
        shows="for a mean of two classes and more",
    ),
    Mistake(
        "class weight forgotten",
        _of(lambda r: r.dx(t=r.t(weight=torch.ones_like(r.weight)))),
        forgets="the weight of the label's class",
        shows="with weights",
    ),
    Mistake(
        "weight of each class in its own column",
        _of(lambda r: r.dx(per_class(r.weight, r.x) * (r.p - r.t(weight=torch.ones_like(r.weight))))),
        forgets="that all of a row is weighted as its label",
        shows="with weights",
    ),
    Mistake(
        "ignored rows too",
        _of(lambda r: r.dx(counts=torch.ones_like(r.counts))),
        forgets="that what is ignored does not reach the cost",
        shows="where a row is ignored",
        seen="https://github.com/PaddlePaddle/Paddle/pull/28622",
    ),
    Mistake(
        "-1 for ignore_index",
        lambda **g: _with_every_label(**g).dx(counts=g["target"] != -1, divisor=Parts(**g).rows),
        forgets="the value that it was told to ignore",
        shows="where ignore_index is not -1 and a row is ignored",
        seen="https://github.com/chainer/chainer/commit/a75146cc461f",
    ),
    Mistake(
        "nothing ignored unless asked",
        lambda **g: (_with_every_label(**g) if g["ignore_index"] == -100 else Parts(**g)).dx(),
        forgets="that -100 is ignored too: it is a value as any other",
        shows="where a row has the target -100",
        seen="https://github.com/flagos-ai/FlagGems/pull/73",
    ),
    Mistake(
        "masked by multiplication",
        _of(lambda r: (r.dx(counts=torch.ones_like(r.counts))[0] * r.counts[:, None], None, None)),
        forgets="that 0 times infinity is NaN",
        shows="where all rows are ignored",
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "smoothing forgotten",
        lambda **g: Parts(**{**g, "label_smoothing": 0.0}).dx(),
        forgets="that forward smoothed the label",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "smoothing over the other classes",
        _of(_smoothed_over_others),
        forgets="that the label has its part of ε too: this is ε/(K - 1) for each of the others",
        shows="for label_smoothing above 0",
        seen="https://github.com/pytorch/pytorch/issues/7455",
    ),
    Mistake(
        "nothing of ε at the label",
        _of(lambda r: r.dx(t=r.t(on_each=0.0) + r.on_each * (1 - r.one_hot) * per_class(r.weight, r.x))),
        forgets="that the label has its part of ε too: this is 1 - ε for it, and ε/K for each of the others",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "smoothing at full strength",
        _of(lambda r: r.dx(t=r.t(on_each=1 / r.classes if r.on_each else 0.0))),
        forgets="the ε of ε/K",
        shows="for label_smoothing between 0 and 1",
        seen="https://github.com/TimDettmers/ConvE/issues/55",
    ),
    Mistake(
        "ε on each class",
        lambda **g: Parts(**g).dx(t=Parts(**g).t(on_each=g["label_smoothing"])),
        forgets="that the classes share ε",
        shows="for label_smoothing above 0 and two classes and more",
    ),
    Mistake(
        "label not scaled down",
        _of(lambda r: r.dx(t=r.t(on_label=1.0))),
        forgets="the 1 - ε of the label",
        shows="for label_smoothing above 0",
    ),
    Mistake(
        "p - t",
        _of(lambda r: r.dx(r.p - r.t())),
        forgets="that p is multiplied with the sum of t, which is not 1 once classes are weighted",
        shows="with weights",
        seen="https://github.com/kvark/meganeura/pull/102",
    ),
    Mistake(
        "softmax over the batch",
        _of(lambda r: r.dx(p=torch.softmax(r.x, 0))),
        forgets="along which axis the classes lie",
        shows="everywhere",
        seen="https://github.com/deeplearning4j/deeplearning4j/issues/345",
    ),
    Mistake(
        "softmax twice",
        _of(lambda r: r.dx(p=torch.softmax(r.p, 1))),
        forgets="that what it was given has already been through softmax",
        shows="for two classes and more",
        seen="https://github.com/vahidk/EffectiveTensorflow/issues/9",
    ),
    Mistake(
        "softmax's derivative on top",
        _of(_on_top),
        forgets="that p - 1 is the derivative with respect to the logits already",
        shows="for two classes and more",
    ),
    Mistake(
        "exponential overflows",
        _of(lambda r: r.dx(p=torch.exp(r.x) / torch.sum(torch.exp(r.x), 1, keepdim=True))),
        forgets="to take the largest logit off first",
        shows="from x = 89 (float32) or 710 (float64), where infinity over infinity is NaN, and far below -89",
        seen="https://github.com/apache/singa/pull/540",
    ),
)
