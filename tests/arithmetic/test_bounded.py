"""The width: wide enough for every right program, too narrow for a wrong one."""

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

import manual_bp as bp
import torch_ref
from manual_bp import axes
from manual_bp.arithmetic.bounded import (
    Bounded,
    Contract,
    UnknownFunctionError,
    Widths,
    contract_of,
    enter,
    widths,
)
from manual_bp.arithmetic.bounded_table import gamma, precision
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES

RULES = list(bp.RULES.values())
SEEDS = range(20)
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
aten = torch.ops.aten


# ------------------------------------------------------------------------------------------- float64's own truth


class Extended(Tensor):
    """A page's text in x87 extended precision (64 bits, 2048 times finer than float64): the truth for float64.

    Its own table, in numpy: nothing of bounded.py takes part.
    """

    value: np.ndarray
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Any) -> "Extended":
        value = np.asarray(value, dtype=np.longdouble)
        extended = Tensor._make_wrapper_subclass(cls, value.shape, dtype=torch.float64)
        extended.value = value
        return extended

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "squeeze_":
            args[0].value = args[0].value.squeeze(args[1])
            with no_dispatch():
                func(*args)
            return args[0]
        if func in SHAPES:
            numbering = args[0].value
            index = func(torch.arange(numbering.size).reshape(numbering.shape), *args[1:], **(kwargs or {}))
            return Extended(numbering.reshape(-1)[index.numpy()])
        args = tree_map_only(Tensor, lambda x: x.value if isinstance(x, Extended) else x.numpy(), args)
        with np.errstate(all="ignore"):
            result = np.asarray(NUMPY[name](*args, **(kwargs or {})))
        return torch.from_numpy(result) if result.dtype in (np.bool_, np.int64) else Extended(result)


SHAPES = {
    *(aten.detach.default, aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.unsqueeze.default),
    *(aten.t.default, aten.permute.default, aten.transpose.int, aten.select.int, aten.gather.default),
}
NUMPY = {
    name: getattr(np, name)
    for name in ("where", "exp", "expm1", "log1p", "tanh", "sqrt", "sign", "argmax", "ones_like")
} | {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "pow": np.power,
    "mm": np.matmul,
    "mv": np.matmul,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "reciprocal": lambda x: 1 / x,
    "rsub": lambda a, b: b - a,
    "_to_copy": lambda x, dtype: x.astype(bool) if dtype == torch.bool else x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sum": lambda x, dim=None, keepdim=False: x.sum(tuple(dim) if dim else None, keepdims=keepdim),
    "mean": lambda x, dim: x.sum(tuple(dim)) / math.prod(x.shape[axis] for axis in dim),
}


# ------------------------------------------------------------------------------------------------------ helpers

Results = list[Tensor]
"""y and the cotangents that are not None."""


def draw(rule: Rule, seed: int, **chosen: int | tuple[int, ...]) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Any]]:
    """Ordinary inputs (float64), dy and hyperparameters."""
    generator = torch.Generator().manual_seed(seed)
    sizes: dict[str, tuple[int, ...]] = {}
    for position, (name, variadic) in enumerate(rule.axis_names.items()):
        size = chosen.get(name, (2, 3) if variadic else 4 + position)
        sizes[name] = size if isinstance(size, tuple) else (size,)
    hyper = rule.ordinary
    inputs = tuple(
        rule.inputs[name].draw(axes.shape_of(rule.annotations[name], sizes, hyper), generator) for name in rule.inputs
    )
    y, _ = rule.forward(*inputs, **hyper)
    return inputs, torch.randn(y.shape, generator=generator, dtype=torch.float64), hyper


def cast(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def flat(y: Tensor, grads: Any) -> Results:
    return [x.double() for x in (y, *grads) if x is not None]


def of_widths(found: Widths) -> Results:
    return [x for x in (*found.outputs, *found.grads) if x is not None]


def drawn(rule: Rule, seed: int, dtype: torch.dtype, **sizes: Any) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Any]]:
    inputs, dy, hyper = draw(rule, seed, **sizes)
    return cast(inputs, dtype), dy.to(dtype), hyper


def extended(rule: Rule, inputs: tuple[Tensor, ...], dy: Tensor, hyper: dict[str, Any]) -> list[np.ndarray]:
    wide = [Extended(x.double().numpy()) if x.is_floating_point() else x for x in inputs]
    y, residuals = rule.page.forward(*wide, **hyper)
    grads = rule.page.backward(residuals, Extended(dy.double().numpy()))
    return [x.value for x in (y, *grads) if x is not None]


def errors(rule: Rule, found: Results, inputs: tuple[Tensor, ...], dy: Tensor, hyper: dict[str, Any]) -> Results:
    """How far `found` is from the truth, which is good to 64 bits."""
    truths = extended(rule, inputs, dy, hyper)
    with np.errstate(invalid="ignore"):  # at infinities, of which the callers judge none
        wrong = [abs(f.numpy().astype(np.longdouble) - t) for f, t in zip(found, truths, strict=True)]
        return [torch.from_numpy(np.asarray(e, dtype=np.float64)) for e in wrong]


def ratio(error: Tensor, width: Tensor) -> Tensor:
    """error / width, where 0 / 0 is 0: something exact that came out exact."""
    return torch.where(error == 0, 0.0, error / width)


def worst(wrong: Results, allowed: Results) -> float:
    return max((float(ratio(e, w).max()) for e, w in zip(wrong, allowed, strict=True) if e.numel()), default=0.0)


def allowance(rule: Rule, inputs: tuple[Tensor, ...], dy: Tensor, hyper: dict[str, Any]) -> Results:
    return of_widths(widths(rule, inputs, dy, contract_of(dy.dtype), **hyper))


def with_lost_digits(rule: Rule, allowed: Results, inputs: Any, dy: Tensor, hyper: Any) -> Results:
    """The wider of the page's widths and those of its formulas that lose digits (torch uses one)."""
    for mistake in rule.mistakes:
        if mistake.loses_digits:
            own = of_widths(widths(rule, inputs, dy, contract_of(dy.dtype), backward=mistake.backward, **hyper))
            allowed = [torch.maximum(a, b) for a, b in zip(allowed, own, strict=True)]
    return allowed


# --------------------------------------------------------------------------------------------- right programs pass


def test_the_reference_is_finer_than_float64() -> None:
    assert np.finfo(np.longdouble).eps < torch.finfo(torch.float64).eps / 1000


@every_rule
@every_dtype
def test_manual_is_within_the_width(rule: Rule, dtype: torch.dtype) -> None:
    largest = 0.0
    for seed in SEEDS:
        inputs, dy, hyper = drawn(rule, seed, dtype)
        wrong = errors(rule, flat(*rule.vjp(inputs, dy, **hyper)), inputs, dy, hyper)
        largest = max(largest, worst(wrong, allowance(rule, inputs, dy, hyper)))
    print(f"error / width: {rule.name} {dtype} {largest:.3f}")
    assert largest <= 1


@every_rule
@every_dtype
def test_torch_is_within_the_width(rule: Rule, dtype: torch.dtype) -> None:
    twin = torch_ref.twin(rule.name)
    assert twin is not None
    for seed in SEEDS:
        # torch computes 16 bits in float32 only inside single kernels, so the contract is held by casting around it
        inputs, dy, hyper = drawn(rule, seed, dtype)
        contract = contract_of(dtype)
        y, grads = twin(cast(inputs, contract.compute), dy.to(contract.compute), **hyper)
        judged = [grad if spec.cotangent else None for grad, spec in zip(grads, rule.inputs.values(), strict=True)]
        found = flat(y.to(dtype), [None if grad is None else grad.to(dtype) for grad in judged])
        allowed = with_lost_digits(rule, allowance(rule, inputs, dy, hyper), inputs, dy, hyper)
        assert worst(errors(rule, found, inputs, dy, hyper), allowed) <= 1


LOOSEST = 100  # more than this is called loose


@every_rule
@every_dtype
def test_the_width_is_not_loose(rule: Rule, dtype: torch.dtype) -> None:
    """The worst error that is seen in each result is at least a hundredth of its width, unless the result is exact."""
    seen: dict[int, float] = {}
    for seed in SEEDS:
        inputs, dy, hyper = drawn(rule, seed, dtype)
        wrong = errors(rule, flat(*rule.vjp(inputs, dy, **hyper)), inputs, dy, hyper)
        for position, (e, w) in enumerate(zip(wrong, allowance(rule, inputs, dy, hyper), strict=True)):
            seen[position] = max(seen.get(position, 0.0), float(ratio(e, w).max()))
    inexact = {position: largest for position, largest in seen.items() if largest > 0}
    assert all(largest >= 1 / LOOSEST for largest in inexact.values()), inexact


def sequential(products: Tensor) -> Tensor:
    """Σ over the first axis, one after the other."""
    total = products[0]
    for term in products[1:]:
        total = total + term
    return total


def fused(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b over the first axis by fused multiply-add: float32 rounded from float64, in which a product is exact."""
    total = torch.zeros_like(a[0])
    for x, y in zip(a, b, strict=True):
        total = (x.double() * y.double() + total.double()).float()
    return total


def batch_norm_paper(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, eps: float) -> list[Tensor]:
    """Ioffe and Szegedy's six formulas, with a reciprocal for every division, for x of two axes."""
    per_count = torch.tensor(1 / len(x))
    mean = x.sum(0) * per_count
    variance = ((x - mean) * (x - mean)).sum(0) * per_count
    s = (variance + eps).rsqrt()
    x_hat = x * s - mean * s
    g = dy * weight
    dvariance = (g * (x - mean)).sum(0) * -0.5 * s * s * s
    dmean = -(g.sum(0)) * s - 2 * dvariance * (x - mean).sum(0) * per_count
    dx = g * s + dvariance * 2 * (x - mean) * per_count + dmean * per_count
    return [x_hat * weight + bias, dx, (dy * x_hat).flip(0).sum(0), sequential(dy)]


RIGHT = {
    "linear: reversed, one after the other": (
        "linear",
        lambda x, weight, bias, dy: [
            sequential((x[:, :, None] * weight.T[None]).transpose(0, 1).flip(0)) + bias,
            sequential((dy[:, :, None] * weight[None]).transpose(0, 1)),
            sequential((dy[:, :, None] * x[:, None, :]).flip(0)),
            sequential(dy.flip(0)),
        ],
    ),
    "linear: fused multiply-add": (
        "linear",
        lambda x, weight, bias, dy: [
            fused(x.T[:, :, None].expand(-1, -1, len(weight)), weight.T[:, None].expand(-1, len(x), -1)) + bias,
            fused(dy.T[:, :, None].expand(-1, -1, x.shape[1]), weight[:, None].expand(-1, len(x), -1)),
            fused(dy[:, :, None].expand(-1, -1, x.shape[1]), x[:, None].expand(-1, len(weight), -1)),
            dy.sum(0),
        ],
    ),
    "dropout: times the reciprocal": (
        "dropout",
        lambda x, mask, dy, p: [x * mask * torch.tensor(1 / (1 - p)), dy * mask * torch.tensor(1 / (1 - p))],
    ),
    "square_loss: times the reciprocal": (
        "square_loss",
        lambda x, target, dy: [
            ((x - target) ** 2 * torch.tensor(0.5 / len(x))).sum(),
            (x - target) * (dy * torch.tensor(1 / len(x))),
            (target - x) * torch.tensor(1 / len(x)) * dy,
        ],
    ),
    "l2_penalty: another order": (
        "l2_penalty",
        lambda weight, dy, lam, n: [
            (weight * (weight * torch.tensor(lam / 2))).sum(),
            weight * dy * torch.tensor(lam) * torch.tensor(1 / n),
        ],
    ),
    "batch_norm: the paper's six formulas": ("batch_norm", batch_norm_paper),
    "batch_norm_inference: scale and shift folded": (
        "batch_norm_inference",
        lambda x, weight, bias, running_mean, running_var, dy, eps: [
            (x - running_mean) * (weight * (running_var + eps).rsqrt()) + bias,
            dy * (weight * (running_var + eps).rsqrt()),
            sequential(dy * (x - running_mean)) * (running_var + eps).rsqrt(),
            dy.flip(0).sum(0),
        ],
    ),
    "sigmoid: the other exponential": (
        "sigmoid",
        lambda x, dy: [1 / (1 + torch.exp(-x)), dy * torch.exp(-x.abs()) * (1 / (1 + torch.exp(-x.abs()))) ** 2],
    ),
    "sigmoid: of both signs": ("sigmoid", lambda x, dy: [x.sigmoid(), dy * (x.sigmoid() * (-x).sigmoid())]),
    "tanh: 1/cosh²": ("tanh", lambda x, dy: [x.tanh(), dy / torch.cosh(x) ** 2]),
    "leaky_relu: by multiplication": (
        "leaky_relu",
        lambda x, dy, negative_slope: [
            torch.maximum(x, x * negative_slope),
            dy * torch.where(x > 0, torch.ones_like(x), torch.full_like(x, negative_slope)),
        ],
    ),
    "elu: dy and alpha first": (
        "elu",
        lambda x, dy, alpha: [
            torch.where(x > 0, x, torch.expm1(x) * alpha),
            torch.where(x > 0, dy, (dy * alpha) * torch.exp(x)),
        ],
    ),
}


@pytest.mark.parametrize("size", [7, 200])
@pytest.mark.parametrize("program", RIGHT)
def test_another_right_program_is_within_the_width(program: str, size: int) -> None:
    name, compute = RIGHT[program]
    rule = bp.RULES[name]
    for seed in SEEDS:
        inputs, dy, hyper = drawn(rule, seed, torch.float32, batch=(size,) if name == "linear" else size, space=())
        named = dict(zip(rule.inputs, inputs, strict=True))
        found = [x.double() for x in compute(**named, dy=dy, **hyper)]
        assert worst(errors(rule, found, inputs, dy, hyper), allowance(rule, inputs, dy, hyper)) <= 1


def edge_case(rule: Rule, edge: Any, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Any]]:
    given = {name: value for name, value in edge.given.items() if name in rule.inputs and not callable(value)}
    draws = {name: value for name, value in edge.given.items() if name in rule.inputs and callable(value)}
    hyper = {**rule.ordinary, **{name: value for name, value in edge.given.items() if name in rule.hyper}}
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in given.items()}
    sizes: axes.Sizes = {}
    for name, tensor in tensors.items():
        assert axes.bind(rule.annotations, {name: tuple(tensor.shape)}, sizes, hyper) is None
    for position, (name, variadic) in enumerate(rule.axis_names.items()):
        size = edge.sizes.get(name, (2, 3) if variadic else 4 + position)
        sizes.setdefault(name, size if isinstance(size, tuple) else (size,))
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(
        tensors[name]
        if name in tensors
        else draws.get(name, rule.inputs[name].draw)(axes.shape_of(rule.annotations[name], sizes, hyper), generator)
        for name in rule.inputs
    )
    inputs = cast(inputs, dtype)
    y, _ = rule.forward(*inputs, **hyper)
    dy = torch.tensor(edge.given["dy"], dtype=dtype) if "dy" in edge.given else torch.ones_like(y)
    return inputs, dy, hyper


EDGES = [(rule, edge) for rule in RULES for edge in rule.edges if edge.raises is None]


@pytest.mark.parametrize(("rule", "edge"), EDGES, ids=[f"{rule.name}: {edge.name}" for rule, edge in EDGES])
@every_dtype
def test_manual_is_within_the_width_at_every_edge(rule: Rule, edge: Any, dtype: torch.dtype) -> None:
    """Where the truth is a number of the dtype; and there the width is finite."""
    inputs, dy, hyper = edge_case(rule, edge, dtype)
    found = flat(*rule.vjp(inputs, dy, **hyper))
    truths = [torch.from_numpy(np.asarray(t, dtype=np.float64)) for t in extended(rule, inputs, dy, hyper)]
    wrong = errors(rule, found, inputs, dy, hyper)
    for e, w, truth in zip(wrong, allowance(rule, inputs, dy, hyper), truths, strict=True):
        representable = truth.abs() < precision(dtype).max
        assert (ratio(e, w)[representable] <= 1).all()
        assert w[representable].isfinite().all()


# ------------------------------------------------------------------------------------------- wrong programs do not

FACTOR = {torch.float64: 1e-6, torch.float32: 1e-3}  # scale errors that must be rejected
CANCELLED = 1e-2  # of the largest element: what is smaller may be what is left of terms that cancel


@every_rule
@pytest.mark.parametrize("dtype", FACTOR, ids=str)
def test_a_scaled_gradient_is_outside(rule: Rule, dtype: torch.dtype) -> None:
    for seed in SEEDS:
        inputs, dy, hyper = drawn(rule, seed, dtype)
        _, *truths = extended(rule, inputs, dy, hyper)
        _, *allowed = allowance(rule, inputs, dy, hyper)
        assert truths
        for truth, width in zip(truths, allowed, strict=True):
            size = torch.from_numpy(np.asarray(truth, dtype=np.float64)).abs()
            plain = size > CANCELLED * size.max()
            assert plain.any()
            assert (size[plain] * FACTOR[dtype] > width[plain]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_sixteen_bits_reject_a_wrong_factor_of_a_small_gradient(dtype: torch.dtype, factor: float) -> None:
    inputs, dy, hyper = drawn(bp.square_loss, 0, dtype, batch=1000, outputs=(3,))
    _, *truths = extended(bp.square_loss, inputs, torch.ones_like(dy), hyper)
    _, *allowed = allowance(bp.square_loss, inputs, torch.ones_like(dy), hyper)
    for truth, width in zip(truths, allowed, strict=True):
        wrong = torch.from_numpy(np.abs((factor - 1) * truth).astype(np.float64))
        assert (wrong > width).double().mean() > 0.99  # all but differences that happen to be 0


@pytest.mark.parametrize(
    ("name", "x", "dtype"),
    [
        ("sigmoid", 20.0, torch.float32),
        ("sigmoid", 40.0, torch.float64),
        ("tanh", 10.0, torch.float32),
        ("tanh", 20.0, torch.float64),
        ("elu", -20.0, torch.float32),
    ],
)
def test_lost_digits_are_outside_the_page_and_inside_their_own_formula(name: str, x: float, dtype: torch.dtype) -> None:
    rule = bp.RULES[name]
    (mistake,) = (m for m in rule.mistakes if m.loses_digits)
    inputs, dy = (torch.tensor([x], dtype=dtype),), torch.ones(1, dtype=dtype)
    _, (lost,) = rule.mistaken(mistake.backward)(inputs, dy, **rule.ordinary)
    _, error = errors(rule, flat(dy, (lost,)), inputs, dy, rule.ordinary)
    page = widths(rule, inputs, dy, contract_of(dtype), **rule.ordinary).grads[0]
    formula = widths(rule, inputs, dy, contract_of(dtype), backward=mistake.backward, **rule.ordinary).grads[0]
    assert page is not None
    assert formula is not None
    assert error > page
    assert error <= formula


def through(contract: Contract, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """linear, then batch_norm, by the same lines in any arithmetic: a bias that batch_norm subtracts again.

    Bounded's value and width of dbias, float32's dbias, and the size of the terms that cancel in it.
    """
    (x, weight, bias), _, _ = drawn(bp.linear, seed, contract.storage, batch=(16,))
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.rand(2, len(bias), generator=generator, dtype=torch.float64).to(contract.storage)
    dy = torch.randn(16, len(bias), generator=generator, dtype=torch.float64).to(contract.storage)

    def run(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        z, of_linear = bp.linear.forward(x, weight, bias)
        _, of_batch_norm = bp.batch_norm.forward(z, scale, shift)
        dz = bp.batch_norm.backward(of_batch_norm, dy)[0]
        assert dz is not None
        dbias = bp.linear.backward(of_linear, dz)[2]
        assert dbias is not None
        return dz, dbias

    given = (x, weight, bias, scale, shift, dy)
    _, bounded = run(*(enter(t, contract) for t in given))
    dz, dbias = run(*given)
    assert isinstance(bounded, Bounded)
    return bounded.value, bounded.error, dbias.double(), dz.double().abs().sum(0)


def test_a_structural_zero_is_judged_on_the_scale_of_what_cancels() -> None:
    u = precision(torch.float32).u
    for seed in SEEDS:
        value, width, found, terms = through(contract_of(torch.float32), seed)
        assert (value.abs() <= u * u * terms).all()  # 0, as far as float64 can tell
        assert (found.abs() <= width).all()
        assert (width > u * terms).all()
        assert (width < 1e-3 * terms).all()  # a bias gradient that is really there is not excused


# --------------------------------------------------------------------------------------------------- the table


@every_rule
def test_every_page_and_mistake_runs(rule: Rule) -> None:
    """A page that uses a function which the table lacks is named here."""
    inputs, dy, hyper = draw(rule, 0)
    for backward in (None, *(mistake.backward for mistake in rule.mistakes)):
        result = widths(rule, inputs, dy, contract_of(torch.float32), backward=backward, **hyper)
        assert result.outputs[0].shape == dy.shape
        assert result.outputs[0].dtype == torch.float64
        if backward is None:
            given = [x.shape for x, grad in zip(inputs, result.grads, strict=True) if grad is not None]
            assert [grad.shape for grad in result.grads if grad is not None] == given
        assert all((grad >= 0).all() for grad in result.grads if grad is not None)


def test_a_function_that_the_table_lacks_is_named() -> None:
    x = torch.ones(2)
    with pytest.raises(UnknownFunctionError, match=r"tanh: aten\.lgamma\.default"):
        widths(bp.tanh, (x,), x, contract_of(torch.float32), backward=lambda x, dy: (torch.lgamma(x) * dy,))
    with pytest.raises(UnknownFunctionError, match=r"tanh: aten\.linalg_vector_norm.*order 3"):
        widths(bp.tanh, (x,), x, contract_of(torch.float32), backward=lambda x, dy: (x.norm(3) * dy,))


FUNCTIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "from a number": lambda a, b: 1 - a,
    "multiply": lambda a, b: a * b,
    "scale": lambda a, b: 0.1 * a,
    "divide": lambda a, b: a / b,
    "divide a number": lambda a, b: 3 / b,
    "square": lambda a, b: a**2,
    "cube": lambda a, b: a**3,
    "inverse square": lambda a, b: b**-2,
    "a number to a power": lambda a, b: 0.7**b,
    "sqrt": lambda a, b: b.sqrt(),
    "half power": lambda a, b: b**0.5,
    "rsqrt": lambda a, b: b.rsqrt(),
    "exp": lambda a, b: a.exp(),
    "expm1": lambda a, b: a.expm1(),
    "log": lambda a, b: b.log(),
    "log1p": lambda a, b: b.log1p(),
    "tanh": lambda a, b: a.tanh(),
    "sigmoid": lambda a, b: a.sigmoid(),
    "erf": lambda a, b: a.erf(),
    "abs": lambda a, b: a.abs(),
    "neg": lambda a, b: -a,
    "relu": lambda a, b: a.relu(),
    "clamp": lambda a, b: a.clamp(-0.3, 0.7),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "sum": lambda a, b: a.sum(0),
    "sum of all": lambda a, b: a.sum(),
    "mean": lambda a, b: a.mean(1, keepdim=True),
    "amax": lambda a, b: a.amax(1),
    "amin": lambda a, b: a.amin(1),
    "matrix product": lambda a, b: a.T @ b,
    "matrix times vector": lambda a, b: a @ b[0],
    "batched product": lambda a, b: a[None].expand(2, -1, -1) @ b.T[None].expand(2, -1, -1),
    "where": lambda a, b: torch.where(torch.arange(a.shape[1]) % 2 == 0, a, 0),
    "reshaped": lambda a, b: a.T.reshape(-1).flip(0)[3:],
    "concatenated": lambda a, b: torch.cat([a, b]),
}


@pytest.mark.parametrize("uncertain", [0.0, 1e-4, 1e-1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_meaning_encloses_the_program(name: str, uncertain: float) -> None:
    """float32 on operands anywhere in their intervals, the ends above all, stays within value ± error."""
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 30, generator=generator).double()
    b = torch.rand(40, 30, generator=generator).double() + 0.5
    # half the error is left to the rounding of the perturbed operand to float32
    ea, eb = (uncertain * torch.rand(40, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    u = precision(torch.float32).u
    bounded = function(*(Bounded(x, e + u * (x.abs() + e), torch.float32) for x, e in ((a, ea), (b, eb))))
    for _ in range(30):
        signs = [torch.randint(-1, 2, a.shape, generator=generator) for _ in range(2)]
        program = function((a + ea * signs[0]).float(), (b + eb * signs[1]).float())
        assert program.shape == bounded.shape
        assert program.dtype == bounded.dtype
        assert ((program.double() - bounded.value).abs() <= bounded.error).all()


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"where", "reshaped", "concatenated"}))
def test_every_meaning_is_tight(name: str) -> None:
    """The error is at most twice what ends of the intervals really do (with large errors, where roundings vanish)."""
    function = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 3, generator=generator).double() * 0.7
    b = torch.rand(3, 3, generator=generator).double() + 1.1
    e = torch.full((3, 3), 1e-3, dtype=torch.float64)
    bounded = function(Bounded(a, e, torch.float64), Bounded(b, e, torch.float64))
    reached = torch.zeros(bounded.shape, dtype=torch.float64)
    for _ in range(4000):
        da, db = (e * (2 * torch.randint(0, 2, (3, 3), generator=generator) - 1) for _ in range(2))
        reached = torch.maximum(reached, (function(a + da, b + db) - bounded.value).abs())
    loose = bounded.error > 2 * reached
    if name in ("clamp", "relu", "maximum", "minimum", "amax", "amin"):  # what is cut off keeps the bound of what cut
        assert (bounded.error <= 1.001e-3).all()
    else:
        assert not loose.any()


def of(value: float, error: float, dtype: torch.dtype = torch.float32) -> Bounded:
    return Bounded(torch.tensor([value], dtype=torch.float64), torch.tensor([error], dtype=torch.float64), dtype)


def error_of(x: Any) -> float:
    assert isinstance(x, Bounded)
    return float(x.error)


def test_the_contract_is_in_the_dtypes() -> None:
    x = of(1.0, 0.0, torch.bfloat16)
    assert error_of(x.to(torch.float32)) == 0
    assert error_of(of(1.0, 0.0).to(torch.bfloat16)) == 2**-8
    assert error_of(of(1.0, 0.0, torch.float16).to(torch.bfloat16)) == 2**-8
    assert (x * of(1.0, 0.0)).dtype == torch.float32
    without_axes = of(1.0, 0.0, torch.float64)[0]
    assert (of(1.0, 0.0) * without_axes).dtype == torch.float32
    assert (without_axes * of(1.0, 0.0)).dtype == torch.float32
    assert error_of(x * of(3.0, 0.0, torch.bfloat16)) == 3 * 2**-8


def test_powers_of_two_and_signs_are_exact() -> None:
    assert error_of(2 * of(3.0, 0.0)) == 0
    assert error_of(of(3.0, 0.0) / 4) == 0
    assert error_of(-of(3.0, 0.5)) == 0.5
    assert error_of(3 * of(3.0, 0.0)) == 9 * 2**-24
    # 0.1 has been rounded twice before it is multiplied
    assert error_of(0.1 * of(1.0, 0.0)) == pytest.approx(0.3 * 2**-24, rel=1e-6, abs=0)
    assert error_of(0.1 * of(1.0, 0.0, torch.float64)) == pytest.approx(0.3 * 2**-53, rel=1e-6, abs=0)


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt"])
def test_a_library_function_is_granted_what_is_documented(name: str) -> None:
    """Between ½ ulp (2 u at most: u) and the 2½ ulps of the worst of them (5 u)."""
    bounded = getattr(of(1.5, 0.0), name)()
    assert 1 < error_of(bounded) / (float(bounded.value.abs()) * 2**-24) < 5.001


def test_an_uncertain_denominator_has_no_bound() -> None:
    assert error_of(1 / of(1.0, 1.0)) == math.inf
    assert error_of(1 / of(0.5, 0.75)) == math.inf
    assert error_of(1 / of(0.0, 0.0)) == math.inf
    assert error_of(of(0.5, 0.75).sqrt()) == math.inf
    assert error_of(of(0.5, 0.75).log()) == math.inf
    assert error_of(of(0.0, 0.0).sqrt()) == 0


def test_a_sum_of_squares_that_underflows_has_a_root() -> None:
    """g² of float32 gradients below 1e-23: the program has a root between 0 and a little more than the true one."""
    gradients = torch.tensor([1e-23, 3e-23, 1e-25, 0.0])
    bounded = (enter(gradients, contract_of(torch.float32)) ** 2 * 1e-3).sqrt()
    program = (gradients**2 * 1e-3).sqrt()
    assert isinstance(bounded, Bounded)
    assert ((program.double() - bounded.value).abs() <= bounded.error).all()
    assert bounded.error.isfinite().all()
    assert error_of((of(1e-23, 1e-23) ** 2 - of(1e-40, 1e-37)).sqrt()) == math.inf


def test_powers_of_a_number_at_its_edges() -> None:
    assert error_of(0.0 ** of(3.0, 0.0)) == 0
    assert error_of(0.0 ** of(0.5, 0.5)) == math.inf
    assert error_of(torch.pow(-2.0, of(3.0, 0.0))) == math.inf
    assert 0 < error_of(0.999 ** of(200.0, 0.0, torch.float64)) < 1e-12


def test_overflow_has_no_bound_and_does_not_poison() -> None:
    large = of(1e30, 0.0) * 1e30
    assert error_of(large) == math.inf
    assert error_of(0 * large) == math.inf  # inf times 0 is NaN in the program
    assert error_of(of(math.inf, 0.0) * of(1.0, math.inf)) == math.inf  # and so is inf times what may be 0
    assert error_of(of(math.inf, 0.0) * of(1.0, 0.5)) == 0
    assert error_of(torch.where(of(1.0, 0.0) > 0, of(1.0, 0.25), large)) == 0.25
    assert error_of(torch.cat([of(3e38, 0.0), of(3e38, 0.0)]).sum()) == math.inf
    assert error_of(of(1e5, 0.0).to(torch.float16)) == math.inf
    assert error_of(of(1e5, 0.0).to(torch.bfloat16)) < math.inf


def test_an_infinite_input_is_exact() -> None:
    infinite = enter(torch.tensor([math.inf, -math.inf]), contract_of(torch.float32))
    assert isinstance(infinite, Bounded)
    assert (infinite.error == 0).all()
    (dx,) = widths(bp.sigmoid, (torch.tensor([math.inf]),), torch.ones(1), contract_of(torch.float32)).grads
    assert dx is not None
    assert float(dx) < precision(torch.float32).tiny


def test_inputs_carry_one_rounding() -> None:
    float32 = precision(torch.float32)
    x = torch.tensor([1.0, 0.0, 1e-42])
    entered = enter(x, contract_of(torch.float32))
    assert isinstance(entered, Bounded)
    assert entered.error.tolist() == [float32.u, 0.0, float32.eta]
    sixteen = enter(x.half(), contract_of(torch.float16))
    assert isinstance(sixteen, Bounded)
    assert (sixteen.dtype, float(sixteen.error[0])) == (torch.float32, float32.u)
    mask = torch.tensor([True])
    assert type(enter(mask, contract_of(torch.float16))) is Tensor


def test_underflow_is_counted_where_it_can_happen() -> None:
    float32 = precision(torch.float32)
    assert error_of(of(1e-30, 0.0) * of(1e-12, 0.0)) == float32.eta
    assert error_of(of(1e-42, 0.0) + of(1e-42, 0.0)) == 2e-42 * float32.u
    assert error_of(of(0.0, 0.0) * of(1.0, 0.0)) == 0
    assert error_of(of(-1000.0, 0.0).exp()) >= float32.eta
    tiny_product = of(1e-30, 0.0)[None] @ of(1e-12, 0.0)[:, None]
    assert error_of(tiny_product) == pytest.approx(float32.eta, rel=1e-3, abs=0)


def test_gamma_takes_the_smaller_bound() -> None:
    u = precision(torch.float32).u
    assert gamma(0, u) == 0
    assert gamma(10, u) == pytest.approx(10 * u, rel=1e-5, abs=0)
    assert gamma(10_000, u) == pytest.approx(600 * u, rel=1e-3, abs=0)  # λ √n = 6 · 100
    assert gamma(500, 2**-8) < 1  # the worst case has no bound here: n u > 1
    assert gamma(10**9, 2**-8) == math.inf


def test_a_rule_runs_on_bounded_numbers_unchanged() -> None:
    """Rule checks shapes, detaches and casts; the width is that of the page."""
    for rule in RULES:
        inputs, dy, hyper = drawn(rule, 0, torch.float32)
        contract = contract_of(torch.float32)
        y, grads = rule.vjp(tuple(enter(x, contract) for x in inputs), enter(dy, contract), **hyper)
        wanted = widths(rule, inputs, dy, contract, **hyper)
        for found, width in zip((y, *grads), (*wanted.outputs, *wanted.grads), strict=True):
            assert (found is None) == (width is None)
            if width is not None:
                assert isinstance(found, Bounded)
                assert torch.equal(found.error, width)


def test_low_precision_arithmetic_is_wider_than_one_rounding() -> None:
    inputs, dy, hyper = drawn(bp.batch_norm, 0, torch.bfloat16)
    once = widths(bp.batch_norm, inputs, dy, contract_of(torch.bfloat16), **hyper).grads[0]
    always = widths(bp.batch_norm, inputs, dy, Contract(torch.bfloat16, torch.bfloat16), **hyper).grads[0]
    assert once is not None
    assert always is not None
    assert (always > 2 * once).all()


# ------------------------------------------------------------------------------------------------ checks and time


def test_contracts_are_checked() -> None:
    assert contract_of(torch.float16) == Contract(torch.float32, torch.float16)
    assert contract_of(torch.float64) == Contract(torch.float64, torch.float64)
    for compute, storage in (
        (torch.int32, torch.float32),
        (torch.float32, torch.int8),
        (torch.float32, torch.float64),
        (torch.float16, torch.bfloat16),
    ):
        with pytest.raises(ValueError, match="contract"):
            Contract(compute, storage)
    with pytest.raises(ValueError, match="contract"):
        contract_of(torch.int64)


def test_arguments_are_checked() -> None:
    x, contract = torch.ones(3), contract_of(torch.float32)
    with pytest.raises(ValueError, match="takes 1 inputs"):
        widths(bp.tanh, (x, x), x, contract)
    with pytest.raises(ValueError, match="dy must have y's shape"):
        widths(bp.tanh, (x,), torch.ones(4), contract)
    with pytest.raises(ValueError, match="alhpa"):
        widths(bp.elu, (x,), x, contract, alhpa=1.0)


def test_inputs_that_require_grad_are_accepted_and_nothing_is_recorded() -> None:
    x = torch.ones(3, requires_grad=True)
    result: Widths = widths(bp.tanh, (x,), torch.ones(3), contract_of(torch.float32))
    assert not result.outputs[0].requires_grad


@every_rule
def test_a_width_takes_less_than_ten_milliseconds(rule: Rule) -> None:
    inputs, dy, hyper = draw(rule, 0)
    allowance(rule, inputs, dy, hyper)
    times = []
    for _ in range(10):
        start = time.process_time()  # of computing, because other tests run beside this one
        allowance(rule, inputs, dy, hyper)
        times.append(time.process_time() - start)
    assert min(times) < 0.01
