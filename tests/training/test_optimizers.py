"""Optimisers against torch.optim: each of 30 steps (200 with --exhaustive), judged from the same state within the width
of the update itself."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch

from manual_bp.arithmetic.bounded import Bounded, contract_of, enter
from manual_bp.arithmetic.bounded_table import EXACT
from manual_bp.models import mlp
from manual_bp.training import EarlyStopping, MiniBatches, adam, adamw, sgd, training_step
from tests.conftest import short
from tests.training.wrong_optimizers import WRONG, wrong_adam, wrong_sgd
from torch_ref.training import optimizers as torch_optim

# The gradients repeat their pattern every 28 steps.
STEPS, MOST = 30, 200
MODEL = mlp([2, 2])

OPTIMIZERS = [
    *(sgd(lr) for lr in (0.0, 0.01, 0.5)),
    *(sgd(0.01, weight_decay=decay) for decay in (1e-4, 0.1)),
    *(sgd(0.01, momentum, dampening) for momentum, dampening in itertools.product((0.5, 0.9), (0.0, 0.3, 1.0))),
    *(sgd(0.01, momentum, nesterov=True, weight_decay=decay) for momentum, decay in ((0.5, 0.0), (0.99, 1e-3))),
    sgd(0.01, 0.9, 0.3, 1e-3),
    *(make(lr) for make in (adam, adamw) for lr in (1e-3, 0.1)),
    *(make(betas=betas) for make in (adam, adamw) for betas in ((0.0, 0.0), (0.5, 0.9), (0.9, 0.9999))),
    *(make(eps=eps, weight_decay=decay) for make in (adam, adamw) for eps, decay in ((1e-3, 0.0), (1e-8, 0.3))),
]


def named(optimizer):
    return f"{optimizer.name}-" + "-".join(f"{name}={value}" for name, value in optimizer.config.items() if value)


def begin(dtype):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in (("W1", (3, 2)), ("b1", (3,)))}


def gradients_of(number, dtype):
    """Ordinary ones, small and large ones by turns, exact zeros among them, and a few steps of nothing else."""
    generator = torch.Generator().manual_seed(number)
    scale = (1.0, 1e-6, 30.0, 1e-25)[number % 4] if number % 7 else 0.0
    found = {}
    for name, shape in (("W1", (3, 2)), ("b1", (3,))):
        found[name] = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        found[name][0] = 0
    return found


def distance(optimizer, right, gradients, state, params):
    """The worst error over allowance between the optimiser and torch's from one state, and which tensor it is; `right`
    is what the width is taken from."""
    dtype = params["W1"].dtype

    def entered(tensors):
        return {
            name: Bounded(t.double(), EXACT, t.dtype) if name == "step" else enter(t, contract_of(dtype))
            for name, t in tensors.items()
        }

    ours = optimizer.update(gradients, state, params)
    theirs = torch_optim.update(optimizer, gradients, state, params)
    bounded = right.update(entered(gradients), entered(state), entered(params))
    worst = (0.0, "")
    for mine, other, width in zip(ours, theirs, bounded, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            assert mine[name].dtype == other[name].dtype, name
            difference = (mine[name].double() - other[name].double()).abs()
            # Either may be off, in opposite directions.
            ratio = torch.where(difference == 0, 0, difference / (2 * width[name].error))
            worst = max(worst, (float(ratio.nan_to_num(torch.inf).max()), name))
    return worst, ours


def run(optimizer, dtype, steps):
    """The worst over a run along the optimiser's own states."""
    params = begin(dtype)
    state, worst = optimizer.init(params), (0.0, "")
    right = {"sgd": sgd, "adam": adam, "adamw": adamw}[optimizer.name](**optimizer.config)
    for number in range(steps):
        found, (params, state) = distance(optimizer, right, gradients_of(number + 1, dtype), state, params)
        worst = max(worst, found)
    return worst


# By default every second optimiser in each dtype, so that neighbours, which differ in one number, are in both.
RUNS = [
    pytest.param(optimizer, dtype, steps, marks=() if steps == STEPS and (i + j) % 2 else pytest.mark.exhaustive)
    for i, optimizer in enumerate(OPTIMIZERS)
    for j, dtype in enumerate((torch.float64, torch.float32))
    for steps in (STEPS, MOST)
]


@pytest.mark.parametrize(
    ("optimizer", "dtype", "steps"), RUNS, ids=lambda value: named(value) if hasattr(value, "config") else short(value)
)
def test_each_step_is_torch_s(optimizer, dtype, steps):
    worst, name = run(optimizer, dtype, steps)
    assert worst <= 1, f"{name} is {worst:.3g} times its allowance away from torch's"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_optimizer_is_rejected(name, dtype):
    worst, _ = run(WRONG[name](), dtype, steps=10)
    assert worst > 1, f"{name} went unnoticed"


def test_what_the_wrong_ones_are_made_from_is_right():
    for optimizer in (
        wrong_sgd(weight_decay=0.01, dampening=0.5, wrong=""),
        wrong_sgd(nesterov=True, wrong=""),
        wrong_adam(weight_decay=0.01, wrong=""),
        wrong_adam(weight_decay=0.01, decoupled=True, wrong=""),
    ):
        worst, name = run(optimizer, torch.float64, steps=10)
        assert worst <= 1, f"{optimizer.name}: {name}"


@pytest.mark.parametrize(
    "optimizer",
    [sgd(0.5), sgd(0.25, 0.5), sgd(0.25, 0.5, 0.5), sgd(0.25, 0.5, nesterov=True), sgd(0.5, weight_decay=0.5)],
    ids=named,
)
def test_a_free_run_in_exact_arithmetic_is_torch_s_bit_for_bit(optimizer):
    """Small integers and powers of 2: float64 rounds nothing in 12 steps, so nothing may differ."""
    generator = torch.Generator().manual_seed(0)
    params = {"W1": torch.randint(-8, 9, (3, 2), generator=generator).double()}
    theirs = dict(params)
    state = their_state = optimizer.init(params)
    for _ in range(12):
        gradients = {"W1": torch.randint(-8, 9, (3, 2), generator=generator).double()}
        params, state = optimizer.update(gradients, state, params)
        theirs, their_state = torch_optim.update(optimizer, gradients, their_state, theirs)
        assert torch.equal(params["W1"], theirs["W1"])
        assert all(torch.equal(state[name], their_state[name]) for name in state)


def test_state_is_flat_under_torch_s_names():
    params = begin(torch.float64)
    assert sgd(0.1).init(params) == {}
    assert sorted(sgd(0.1, 0.9).init(params)) == ["momentum_buffer.W1", "momentum_buffer.b1"]
    state = adam().init(params)
    assert sorted(state) == ["exp_avg.W1", "exp_avg.b1", "exp_avg_sq.W1", "exp_avg_sq.b1", "step"]
    leaf = torch.nn.Parameter(params["W1"])
    leaf.grad = torch.ones_like(leaf)
    theirs = torch.optim.Adam([leaf])
    theirs.step()
    for kind, tensor in theirs.state[leaf].items():
        ours = state["step" if kind == "step" else f"{kind}.W1"]
        assert (ours.shape, ours.dtype) == (tensor.shape, tensor.dtype), kind


def test_update_is_pure():
    optimizer, params = adamw(), begin(torch.float32)
    state, gradients = optimizer.init(params), gradients_of(1, torch.float32)
    copies = {name: t.clone() for name, t in (params | state).items()}
    first, second = (optimizer.update(gradients, state, params) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)
    assert all(torch.equal((params | state)[name], copy) for name, copy in copies.items())


def after(optimizer, gradients, params, steps=3):
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.update(gradients, state, params)
    return params


def test_coupled_and_decoupled_decay_coincide_for_plain_descent_and_not_for_adam():
    """The penalty λ/2 ΣW² has the gradient λW; decoupled decay shrinks W by lr λ W beside the update."""
    lr, decay = 0.25, 0.5  # powers of 2 and integers: nothing is rounded
    params = {"W1": torch.tensor([[4.0, -8.0]])}
    gradients = {"W1": torch.tensor([[2.0, 16.0]])}
    coupled, weights = after(sgd(lr, weight_decay=decay), gradients, params), params["W1"]
    for _ in range(3):
        weights = weights - lr * decay * weights - lr * gradients["W1"]
    assert torch.equal(coupled["W1"], weights)

    # Adam's first step has the size lr whatever the gradient is, so a penalty inside it changes only signs ...
    plain, inside = (after(adam(lr, eps=0.0, weight_decay=d), gradients, params, 1)["W1"] for d in (0.0, decay))
    assert torch.equal((params["W1"] - inside).sign(), (gradients["W1"] + decay * params["W1"]).sign())
    assert torch.equal((plain - inside)[0, 0], torch.tensor(0.0))  # 2 + 0.5 · 4 > 0 as 2 > 0: no decay at all
    # ... while decoupled decay shrinks every weight by lr · decay of itself.
    beside = after(adamw(lr, eps=0.0, weight_decay=decay), gradients, params, 1)["W1"]
    assert torch.equal(beside, plain - lr * decay * params["W1"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(-0.1), "sgd: lr must be a finite number and not negative; came -0.1"),
        (lambda: sgd(float("nan")), "lr must be a finite number"),
        (lambda: sgd(0.1, momentum=-0.5), "momentum must be"),
        (lambda: sgd(0.1, weight_decay=-1.0), "weight_decay must be"),
        (lambda: sgd(0.1, 0.9, float("inf")), "dampening must be finite"),
        (lambda: sgd(0.1, nesterov=True), "nesterov needs a momentum above 0 and no dampening"),
        (lambda: sgd(0.1, 0.9, 0.1, nesterov=True), "came momentum=0.9, dampening=0.1"),
        (lambda: adam(-1e-3), "adam: lr must be"),
        (lambda: adam(eps=-1e-8), "eps must be"),
        (lambda: adam(betas=(1.0, 0.999)), r"adam: betas must be two numbers in \[0, 1\); came \(1.0, 0.999\)"),
        (lambda: adamw(betas=(0.9, -0.1)), r"adamw: betas must be two numbers in \[0, 1\)"),
        (lambda: adamw(weight_decay=-0.1), "adamw: weight_decay must be"),
    ],
)
def test_bad_arguments_are_refused_as_by_torch(make, message):
    with pytest.raises(ValueError, match=message):
        make()


NO_NUMBERS = ["a", None, True, math.nan, math.inf, -math.inf, 10**400, 1j, [0.1], torch.tensor(0.1)]


@pytest.mark.parametrize("make", [sgd, adam, adamw], ids=lambda make: make.__name__)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_what_is_no_number_is_refused_in_words(make, value):
    """Every argument of every optimiser, as it is found in the signature."""
    for name in inspect.signature(make).parameters:
        good = {} if name == "lr" else {"lr": 0.1}
        if name == "nesterov" and value is True:
            continue
        if name == "betas":
            for betas in (value, (value, 0.9), (0.9, value), (0.9,), (0.9, 0.9, 0.9)):
                with pytest.raises(ValueError, match=r"betas must be two numbers in \[0, 1\)"):
                    make(**good, betas=betas)
            continue
        with pytest.raises(ValueError, match=f"{make.__name__}: {name} must be"):
            make(**good, **{name: value})


def test_numbers_of_numpy_are_numbers():
    assert sgd(np.float32(0.5), momentum=np.float64(0.25), weight_decay=0).config["lr"] == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda bad: MiniBatches(10, bad, 0), "batch_size"),
        (lambda bad: MiniBatches(bad, 2, 0), "n ≥ 1"),
        (lambda bad: MiniBatches(10, 2, bad), "seed"),
        (lambda bad: EarlyStopping(bad), "patience"),
        (lambda bad: EarlyStopping(2, bad), "min_delta"),
        (lambda bad: training_step(MODEL, optimizer=sgd(0.1), l2=bad), "l2 must be a finite number and not negative"),
        (lambda bad: training_step(MODEL, optimizer=sgd(0.1), l1=bad), "l1 must be a finite number and not negative"),
        (lambda bad: training_step(MODEL, optimizer=sgd(0.1), max_norm=bad or -1.0), "max_norm must be"),
        (lambda bad: training_step(MODEL, optimizer=sgd(0.1), clip_norm=bad or -1.0), "clip_norm must be"),
        (lambda bad: training_step(MODEL, optimizer=bad), "optimizer must be an Optimizer"),
        (lambda bad: training_step(bad, optimizer=sgd(0.1)), "model must be a Model"),
    ],
)
def test_every_other_argument_of_training_likewise(make, message):
    for value in NO_NUMBERS:
        with pytest.raises(ValueError, match=message):
            make(value)
