"""What Adam has, with coupled decay of weights or with decoupled: two moments, and a step made of them."""

import math
from collections.abc import Callable, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, Value, constant, normal, require, uniform

Varied = Callable[..., Any]
"""names; inputs and hyperparameters by name -> the page's outputs but for what is named."""

IN_PRECISION, INTERPOLATED = "1 − β in the precision of the numbers", "first moment by interpolation"
BOTH_INTERPOLATED = "both moments by interpolation"


def check_adam(
    name: str, step: int | Tensor, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
) -> None:
    """Raises ValueError, as torch.optim does, for what is no step, rate or decay."""
    # In a compiled step the count and a rate that changes are tensors, whose values nobody looks at.
    require(isinstance(step, Tensor) or step >= 1, f"{name}: step must be 1 or more", step, "The first step is 1.")
    for what, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        require(isinstance(value, Tensor) or value >= 0, f"{name}: {what} must not be negative", value, "0 is none.")
    for what, value in (("beta1", beta1), ("beta2", beta2)):
        require(0 <= value < 1, f"{name}: {what} must lie in [0, 1)", value, "Usual are 0.9 and 0.999.")


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None,
    step: int | Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """param, m, v and the largest v after one step."""
    m = beta1 * exp_avg + (1 - beta1) * grad
    v = beta2 * exp_avg_sq + (1 - beta2) * grad**2
    largest = None if max_exp_avg_sq is None else torch.maximum(max_exp_avg_sq, v)
    m_hat = m / _correction(beta1, step, param)
    v_hat = (v if largest is None else largest) / _correction(beta2, step, param)
    return param - lr * m_hat / (torch.sqrt(v_hat) + eps), m, v, largest


def _correction(beta: float, step: int | Tensor, like: Tensor) -> float | Tensor:
    """1 − βᵗ in float64, rounded once: in float32, 1 − 0.999 has four digits left.  In a training step, which counts in
    a tensor so that it can be compiled, it is one too."""
    correction = 1 - beta**step
    return correction.to(like.dtype) if isinstance(correction, Tensor) else correction


ADAM_INPUTS = {
    "param": Input(normal(), cotangent=False),
    "grad": Input(normal(), cotangent=False),
    "exp_avg": Input(normal(std=0.5), cotangent=False),
    "exp_avg_sq": Input(uniform(0.25, 2.0), cotangent=False),
    "max_exp_avg_sq": Input(uniform(0.5, 2.5), cotangent=False),
}
ADAM_HYPER = {"step": 3}
ADAM_USUAL = {
    "step": (1000,),
    "lr": (0.1,),
    "beta1": (0.95, 0.0),  # 0 as in GANs; an update is no longer than lr else, unless gradients grow for long
    "beta2": (0.95,),
    "eps": (1e-3,),
    "weight_decay": (0.1,),
}

_ZEROS = {"exp_avg": constant(0.0), "exp_avg_sq": constant(0.0), "max_exp_avg_sq": constant(0.0)}
# An update as large as the parameter, moments that forget fast, and an eps that is felt: what is wrong is wrong in
# every precision.  At lr = 1e-3 a parameter of bfloat16 moves by a quarter of its last place.
_LARGE = {"lr": 0.5, "beta1": 0.5, "beta2": 0.75, "eps": 0.25, "weight_decay": 0.0}

ADAM_EDGES = (
    Edge("the first step", {**_ZEROS, "step": 1}),
    Edge("the first step, from 0", {**_ZEROS, "step": 1, "param": constant(0.0)}),
    Edge("from 0", {"param": constant(0.0)}),
    Edge("the first step, everything large", {**_LARGE, **_ZEROS, "step": 1, "weight_decay": 0.5}),
    Edge("the second step, everything large", {**_LARGE, "step": 2, "weight_decay": 0.5}),
    Edge("a long run, everything large", {**_LARGE, "step": 1000, "weight_decay": 0.5}),
    Edge("everything large, no decay", _LARGE),
    Edge("everything large, from 0", {**_LARGE, "param": constant(0.0)}),
    Edge("everything large, from 0, no largest", {**_LARGE, "param": constant(0.0), "max_exp_avg_sq": None}),
    Edge("everything large, no largest", {**_LARGE, "weight_decay": 0.5, "max_exp_avg_sq": None}),
    Edge("the largest is of the past", {"param": constant(0.0), "max_exp_avg_sq": constant(50.0)}),
    Edge("the largest is new", {"param": constant(0.0), "grad": constant(9.0), "max_exp_avg_sq": constant(0.01)}),
    Edge("a large eps", {"param": constant(0.0), "eps": 1.0}),
    Edge("eps beside tiny moments", {**_ZEROS, "param": constant(0.0), "grad": constant(1e-8), "step": 1}),
    Edge("no eps", {"eps": 0.0}),
    Edge("no gradient, moments alone", {"grad": constant(0.0), "param": constant(0.0)}),
    Edge("no gradient and no moments", {**_ZEROS, "grad": [0.0, -0.0], "param": [1.0, -1.0]}),
    Edge("no gradient, no moments, no eps", {**_ZEROS, "grad": [0.0], "param": [1.0], "eps": 0.0}),
    Edge("no memory", {"beta1": 0.0, "beta2": 0.0, "param": constant(0.0)}),
    Edge("decay alone", {**_ZEROS, "grad": constant(0.0), "weight_decay": 0.5, "lr": 0.5}),
    Edge("gradients of every size", {**_ZEROS, "param": constant(0.0), "grad": [1e4, -1e2, 1e-2, -1e-4], "step": 1}),
    Edge("a huge gradient", {"grad": [1e18, -1e18, 1.0]}),
    Edge("a gradient whose square underflows", {**_ZEROS, "param": [0.0, 1.0], "grad": [1e-30, -1e-30], "step": 1}),
    Edge("an update below half an ulp of the parameter", {"param": constant(1e6)}),
    Edge("an infinite gradient", {"grad": [torch.inf, 1.0, -torch.inf]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("step 0", {"step": 0}, raises=ValueError),
    Edge("negative lr", {"lr": -1e-3}, raises=ValueError),
    Edge("beta1 of 1", {"beta1": 1.0}, raises=ValueError),
    Edge("negative beta2", {"beta2": -0.1}, raises=ValueError),
    Edge("negative eps", {"eps": -1e-8}, raises=ValueError),
    Edge("negative weight decay", {"weight_decay": -0.1}, raises=ValueError),
)


def varied_step(
    names: Set[str],
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`adam_step`, line by line in its order, but for the things of these names: mistakes, other conventions, and what
    loses digits.  Several names at once are several changes, which is how others' optimisers are told apart."""
    if "betas swapped" in names:
        beta1, beta2 = beta2, beta1
    one = torch.ones_like(param) if IN_PRECISION in names else 1.0
    b1, b2 = beta1 * one, beta2 * one
    t = step - ("t from 0" in names) + ("t from 2" in names)
    t = 1 if "t frozen at 1" in names else 2 * step if "t counted twice a step" in names else t
    fresh1 = 1.0 if "first moment without 1 − β₁" in names else one - b1
    fresh2 = 1.0 if "second moment without 1 − β₂" in names else one - b2
    if "1 − β₁ in both moments" in names:
        fresh2 = one - b1
    m = b1 * exp_avg + fresh1 * (-grad if "sign of the first moment" in names else grad)
    if "first moment begun with the gradient" in names and step == 1:
        m = grad
    if names & {INTERPOLATED, BOTH_INTERPOLATED}:
        m = exp_avg + fresh1 * (grad - exp_avg)
    square = grad.abs() if "the gradient unsquared" in names else grad**2
    if "square of the mean gradient" in names:
        square = m**2
    if "square of what the mean does not foretell" in names:
        square = (grad - m) ** 2
    if "one square for the whole tensor" in names and square.numel():
        square = torch.mean(square).expand(square.shape)
    v = b2 * exp_avg_sq + fresh2 * square
    if BOTH_INTERPOLATED in names:
        v = exp_avg_sq + fresh2 * (square - exp_avg_sq)
    correction1 = 1.0 if names & {"first moment uncorrected", "moments uncorrected"} else one - b1**t
    correction2 = 1.0 if names & {"second moment uncorrected", "moments uncorrected"} else one - b2**t
    if "both moments corrected by β₁" in names:
        correction2 = one - b1**t
    if "corrections by β t" in names:
        correction1, correction2 = one - b1 * t, one - b2 * t
    ahead = b1 * m + (one - b1) * grad if "Nesterov's moment" in names else m
    m_hat = ahead / _tensor(correction1, m)
    if "Nesterov's moment, corrected ahead" in names:
        m_hat = b1 * m / (one - b1 ** (t + 1)) + (one - b1) * grad / _tensor(correction1, m)
    if "NAdam's moments" in names:
        now, ahead_ = (beta1 * (1 - 0.5 * 0.96 ** (0.004 * k)) for k in (step, step + 1))
        so_far = math.prod(beta1 * (1 - 0.5 * 0.96 ** (0.004 * k)) for k in range(1, step + 1))
        m_hat = ahead_ * m / (1 - so_far * ahead_) + (1 - now) * grad / (1 - so_far)
    largest = None if max_exp_avg_sq is None else torch.maximum(max_exp_avg_sq, v)
    if largest is not None and "largest of what came before" in names:
        largest = max_exp_avg_sq
    is_of_corrected = max_exp_avg_sq is not None and "largest of the corrected" in names
    if max_exp_avg_sq is not None and is_of_corrected:
        largest = torch.maximum(max_exp_avg_sq, v / correction2)
    used = v if largest is None or "largest forgotten" in names else largest
    v_hat = used if is_of_corrected and "largest forgotten" not in names else used / _tensor(correction2, v)
    if "root of the correction" in names:
        v_hat = used / torch.sqrt(_tensor(correction2, v))
    denominator = torch.sqrt(v_hat) + eps
    if "eps inside the root" in names:
        denominator = torch.sqrt(v_hat + eps)
    elif "eps squared inside the root" in names:
        denominator = torch.sqrt(v_hat + eps**2)
    elif "eps before the correction" in names:
        denominator = torch.sqrt(v_hat) + eps / torch.sqrt(_tensor(correction2, v))
    elif "eps forgotten" in names:
        denominator = torch.sqrt(v_hat)
    elif "the larger of root and eps" in names:
        denominator = torch.sqrt(v_hat).clamp(min=eps)
    elif "no root" in names:
        denominator = v_hat + eps
    elif "correction outside the root" in names:
        denominator = torch.sqrt(used) / correction2 + eps
    update = lr * m_hat / denominator
    if "the step clamped to lr" in names:
        update = lr * (m_hat / denominator).clamp(-1, 1)
    if "the step's root mean square held to lr" in names:
        size = torch.sqrt(torch.mean((m_hat / denominator) ** 2))
        update = update / torch.clamp(size, min=1.0)
    if "lr inside the moment" in names:
        m = b1 * exp_avg + lr * (one - b1) * grad
        update = m / (one - b1**t) / denominator
    after = param + update if "uphill" in names else param - update
    stored1 = names & {"corrected moments stored", "corrected first moment stored"}
    stored2 = names & {"corrected moments stored", "corrected second moment stored"}
    return after, m_hat if stored1 else m, v_hat if stored2 else v, largest


def _tensor(correction: float | Tensor, like: Tensor) -> Tensor:
    """A divisor that may be 0, which Python's own division refuses."""
    return correction if isinstance(correction, Tensor) else torch.full_like(like, correction)


def adam_values(varied: Varied) -> tuple[Value, ...]:
    return (
        Value(
            IN_PRECISION,
            partial(varied, frozenset({IN_PRECISION})),
            forgets="that 1 − 0.999 has four digits left in float32 (in C programs, and in the corrections of torch's "
            "capturable=True)",
            shows="where β is near 1",
        ),
        Value(
            INTERPOLATED,
            partial(varied, frozenset({INTERPOLATED})),
            forgets="that grad − exp_avg may overflow where neither does (torch's lerp)",
            shows="near the largest numbers, of opposite signs",
        ),
        Value(
            BOTH_INTERPOLATED,
            partial(varied, frozenset({BOTH_INTERPOLATED})),
            forgets="that grad² − exp_avg_sq rounds at the size of the larger: of a square far below what is "
            "remembered digits are lost, and with β₂ = 0 nothing but these is left (torch.optim.SparseAdam)",
            shows="where β₂ is small and a gradient far below the one before",
        ),
    )


ADAM_CONVENTIONS = {
    "eps": {
        "outside the root": Convention("√v̂ + eps: torch, optax, the paper's algorithm 1"),
        "before the correction": Convention(
            '√v + eps, the paper\'s "epsilon hat": TensorFlow and Keras', varied="eps before the correction"
        ),
        "inside the root": Convention(
            "√(v̂ + eps): optax's eps_root, with eps=0 beside it", varied="eps inside the root"
        ),
    },
    "amsgrad": {
        "uncorrected": Convention("the largest v, corrected then: torch, Keras"),
        "corrected": Convention("the largest v̂: optax", varied="largest of the corrected"),
    },
    "correction": {
        "both": Convention("both moments are corrected"),
        "none": Convention("neither is, as in BERT's Adam", varied="moments uncorrected"),
    },
}


def adam_mistakes(varied: Varied) -> tuple[Mistake, ...]:
    """The wrong formulas that do not depend on where the decay is."""

    def mistake(name: str, forgets: str, shows: str, seen: str | None = None) -> Mistake:
        return Mistake(name, partial(varied, frozenset({name})), forgets, shows, seen)

    return (
        mistake("uphill", "that a step goes against the gradient", "everywhere"),
        mistake(
            "sign of the first moment", "that the moment is a mean of gradients, not of their negatives", "everywhere"
        ),
        mistake("first moment without 1 − β₁", "that a mean's newest part counts 1 − β₁", "everywhere"),
        mistake("second moment without 1 − β₂", "that a mean's newest part counts 1 − β₂", "everywhere"),
        mistake("1 − β₁ in both moments", "that the second moment has a β of its own", "unless both are the same"),
        mistake("betas swapped", "which moment β₁ belongs to", "unless both are the same"),
        mistake("the gradient unsquared", "the square in the second moment", "wherever |grad| is neither 0 nor 1"),
        mistake(
            "square of the mean gradient",
            "that the second moment is the mean of squares, not the square of a mean",
            "unless all gradients so far are alike",
        ),
        mistake(
            "square of what the mean does not foretell",
            "that the second moment is of grad, and not of grad − m; this is AdaBelief",
            "wherever grad is not twice m",
        ),
        mistake("both moments corrected by β₁", "that v has a β of its own", "unless both are the same"),
        mistake(
            "moments uncorrected",
            "the bias corrections: the first steps are too short by 1 − β₁ᵗ and too long by √(1 − β₂ᵗ)",
            "in the first 1/(1 − β) steps",
        ),
        mistake("first moment uncorrected", "m / (1 − β₁ᵗ)", "in the first 1/(1 − β₁) steps"),
        mistake("second moment uncorrected", "v / (1 − β₂ᵗ)", "in the first 1/(1 − β₂) steps"),
        mistake("corrections by β t", "that the correction is 1 − β to the power t", "from the second step on"),
        mistake(
            "corrected moments stored",
            "that m and v are stored as they are, and corrected afresh in each step",
            "at once",
        ),
        mistake("corrected first moment stored", "that m is stored as it is", "at once"),
        mistake("corrected second moment stored", "that v is stored as it is", "at once"),
        mistake("t from 0", "that the first step is t = 1: 1 − β⁰ is 0", "at first: it divides by 0"),
        mistake(
            "t from 2",
            "that t counts once a step: one that is shared and counted at each tensor runs ahead in the same way",
            "in the first steps",
        ),
        mistake("t counted twice a step", "that t grows by 1: it is counted where it is made, and again", "at once"),
        mistake(
            "t frozen at 1",
            "to count: it corrects each step as the first, by 1 − β",
            "from the second step on",
            seen="https://github.com/eriklindernoren/ML-From-Scratch/issues/35",
        ),
        mistake(
            "eps before the correction",
            "that eps is added to √v̂, as in the paper's algorithm 1; TensorFlow and Keras add it to √v, before the "
            "correction, and mean another eps",
            "where eps is felt beside √v; at eps = 1e-8 in float32 only for gradients below 0.1",
            seen="https://github.com/pytorch/pytorch/pull/22628",
        ),
        mistake(
            "eps inside the root",
            "that eps is outside the root (optax calls the one inside eps_root)",
            "where √eps is felt beside √v",
        ),
        mistake(
            "eps squared inside the root",
            "that eps is added to the root: √(v̂ + eps²) is √v̂ in all but tiny numbers",
            "where eps is felt beside √v",
        ),
        mistake("eps forgotten", "eps", "for gradients that are 0 so far (NaN), or small"),
        mistake("the larger of root and eps", "that eps is added", "where eps is felt beside √v"),
        mistake("no root", "the root of the second moment", "wherever v̂ is not 1"),
        mistake("root of the correction", "that v is divided by 1 − β₂ᵗ, not by its root", "in the first steps"),
        mistake(
            "one square for the whole tensor",
            "that each number has a second moment of its own, not one that is the mean over its tensor",
            "for more than one number",
        ),
        mistake(
            "the step clamped to lr", "that a step may be longer than lr", "where the newest gradient is the longest"
        ),
        mistake(
            "the step's root mean square held to lr",
            "that a step may be longer than lr: what Adafactor and StableAdamW divide by is no part of Adam",
            "where most of the newest gradients are longer than those before",
        ),
        mistake("correction outside the root", "that the correction divides v, below the root", "in the first steps"),
        mistake(
            "lr inside the moment",
            "that lr multiplies the step and not the gradient: what is stored depends on it, and a schedule acts late",
            "at once in exp_avg",
        ),
        mistake("Nesterov's moment", "that Adam's step is along m; this is NAdam's", "wherever grad is not m"),
        mistake(
            "Nesterov's moment, corrected ahead",
            "that Adam's step is along m̂; this is NAdam's with one β₁ (optax.nadam, Keras)",
            "wherever grad is not m",
        ),
        mistake(
            "NAdam's moments",
            "that Adam's step is along m̂, and its β₁ the same in every step; this is torch.optim.NAdam",
            "wherever grad is not m",
        ),
        mistake(
            "first moment begun with the gradient",
            "that m begins at 0, which is what its correction makes up for",
            "in the first steps",
        ),
        mistake("largest forgotten", "amsgrad: the largest v so far makes the step", "with max_exp_avg_sq"),
        mistake("largest of what came before", "that the newest v may be the largest", "where it is"),
        mistake(
            "largest of the corrected",
            "that torch takes the largest v and corrects it then; optax takes the largest v̂",
            "with max_exp_avg_sq, in the first steps",
        ),
    )
