"""Every contestant does the step that it is timed for, and a wrong one is not timed."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from benchmarks import images, transformers
from benchmarks.contestants import jax_steps, manual, torch_steps
from benchmarks.contestants.products import GRAPHED, GraphedProducts, Products, limits_of
from benchmarks.memory import peak_bytes
from benchmarks.networks import NetworkJudge, Ours
from benchmarks.rules import manual_eager, rule_problems, torch_eager
from benchmarks.steps import StepJudge, mlp_problem, residual_problem, start_of
from benchmarks.test_rules import CHAPTERS

PROBLEMS = [
    mlp_problem([6, 5, 4, 3], 8),
    mlp_problem([6, 5, 4, 3], 8, "tanh"),
    residual_problem(8, 2, 8),
    # 128 times the same example has 128 times the same rounding errors; a loss beyond float16's largest number.
    mlp_problem([256, 256, 256], 512, "elu"),
]


def jax_step(problem):
    pytest.importorskip("jax", reason="jax is not installed")
    return jax_steps.JaxStep(problem)


# What is computed in, and whose rounding is allowed: the precisions of test_steps, TF32 as float16.
PRECISIONS = [(torch.float32, torch.float32), (torch.float32, torch.float16), (torch.bfloat16, torch.bfloat16)]


def in_few_digits_where_it_is_large(problem, dtype, width):
    """By default the large problem is for float16 and float16 for the large problem."""
    by_default = (problem is PROBLEMS[-1]) == (width is torch.float16)
    return pytest.param(problem, dtype, width, marks=[] if by_default else pytest.mark.exhaustive)


@pytest.mark.parametrize("builder", [manual.eager, torch_steps.eager, jax_step], ids=lambda b: b.__module__)
@pytest.mark.parametrize(
    ("problem", "dtype", "width"),
    [in_few_digits_where_it_is_large(problem, *each) for each in PRECISIONS for problem in PROBLEMS],
    ids=lambda value: getattr(value, "row", str(value)),
)
def test_step_is_right_and_goes_on(problem, builder, dtype, width):
    contestant = builder(problem)
    StepJudge(problem, dtype, "cpu", width).check(contestant)
    start = start_of(problem, dtype, "cpu")
    contestant.load(start)
    contestant()
    first = contestant.read()
    loss = float(first.loss)
    for _ in range(20):
        contestant()
    assert float(contestant.read().loss) < loss
    for name, p in start_of(problem, dtype, "cpu").params.items():
        assert torch.equal(start.params[name], p), f"{contestant.name} overwrote {name} of its start"


class Wrong(torch_steps.TorchStep):
    """torch's step with one thing changed."""

    def __init__(self, problem, change):
        super().__init__("wrong", problem)
        self._change = change

    def __call__(self):
        self._optimizer.zero_grad()
        loss = self._cost(self._module, *self._data)
        loss.backward()
        self._change(self._module, self._optimizer)
        self._optimizer.step()
        self._loss = loss
        return loss


def decay_everything(module, optimizer):
    for group in optimizer.param_groups:
        group["weight_decay"] = 1e-4


def halve_first_gradient(module, optimizer):
    next(module.parameters()).grad.mul_(0.5)


def decay_nothing(module, optimizer):
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0


def scale_first_gradient(module, optimizer):
    next(module.parameters()).grad.mul_(1.001)


def no_update_of_the_last(module, optimizer):
    list(module.parameters())[-1].grad = None


@pytest.mark.parametrize("change", [decay_everything, decay_nothing, scale_first_gradient, no_update_of_the_last])
def test_other_work_is_rejected(change):
    problem = mlp_problem([6, 5, 4, 3], 8)
    with pytest.raises(AssertionError, match="wrong does another step"):
        StepJudge(problem, torch.float32, "cpu").check(Wrong(problem, change))


@pytest.mark.parametrize("change", [halve_first_gradient, no_update_of_the_last])
@pytest.mark.parametrize(("dtype", "width"), PRECISIONS[1:], ids=str)
def test_other_work_is_rejected_in_few_digits_too(change, dtype, width):
    problem = mlp_problem([6, 5, 4, 3], 8, "elu")
    with pytest.raises(AssertionError, match="wrong does another step"):
        StepJudge(problem, dtype, "cpu", width).check(Wrong(problem, change))


def test_running_statistics_are_judged():
    problem = residual_problem(8, 2, 8)

    def forget_statistics(module, optimizer):
        next(b for b in module.buffers() if b.is_floating_point()).zero_()

    with pytest.raises(AssertionError, match="running_mean"):
        StepJudge(problem, torch.float32, "cpu").check(Wrong(problem, forget_statistics))


def test_products_are_those_of_the_step():
    """Two for the first layer, whose input needs no gradient, three for every other."""
    for limit in limits_of(mlp_problem([6, 5, 4], 8), torch.float32, "cpu"):
        limit()
        assert [tuple(out.shape) for *_, out in limit.products] == [(8, 5), (5, 6), (8, 4), (4, 5), (8, 5)]
    by_torch = Products(mlp_problem([6, 5, 4], 8), torch.float32, "cpu")
    by_torch()
    for a, b, out in by_torch.products:
        assert torch.equal(out, a @ b)


def test_products_in_a_graph_are_captured_once_and_replayed():
    """What stands for CUDA's capture here runs the products, as it would, and counts the replays."""
    ran = []

    def capture(run):
        run()
        return lambda: ran.append("replayed")

    graphed = GraphedProducts(mlp_problem([6, 5, 4], 8), torch.float32, "cpu", capture)
    for a, b, out in graphed.products:
        assert torch.equal(out, a @ b)
        out.zero_()
    graphed()
    assert ran == ["replayed"]
    assert not any(out.any() for *_, out in graphed.products)  # no product is launched by itself
    assert GRAPHED in graphed.name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_products_are_right():
    _, graphed = limits_of(mlp_problem([6, 5, 4], 8), torch.float32, "cuda")
    for *_, out in graphed.products:
        out.zero_()
    graphed()
    torch.cuda.synchronize()
    for a, b, out in graphed.products:
        assert torch.allclose(out, a @ b)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", [name for name, rule in bp.RULES.items() if rule.chapter in CHAPTERS])
def test_rules_are_right_at_their_size(name):
    for problem in rule_problems(bp.RULES[name], 2**12):
        assert 2**11 < problem.inputs[0].numel() <= 2**12
        for build in (manual_eager, torch_eager):
            problem.check(build.__name__, build(problem))


def test_a_wrong_rule_is_rejected():
    problem = next(rule_problems(bp.tanh, 2**12))
    right = manual_eager(problem)
    with pytest.raises(AssertionError, match="dx"):
        problem.check("wrong", lambda: (right()[0], (1.001 * right()[1][0],)))
    with pytest.raises(AssertionError, match="a cotangent is missing"):
        problem.check("wrong", lambda: (right()[0], (None,)))


def test_bytes_are_those_of_the_tensors():
    (problem,) = rule_problems(bp.tanh, 2**12)
    assert problem.bytes == 4 * 2**12 * 4  # x, dy, y, dx of four bytes


class Allocating:
    """Holds 1000 numbers throughout, with 5000 at the beginning of a step and 4500 at its end."""

    def load(self, start):
        self._device = start.x.device
        self._kept = torch.empty(1000, device=self._device)

    def __call__(self):
        a = torch.empty(5000, device=self._device)
        del a
        return torch.empty(2000, device=self._device), torch.empty(2500, device=self._device)


def test_peak_is_what_is_held_at_once(device):
    start = start_of(PROBLEMS[0], torch.float32, device)
    rounding = {"cpu": 64, "cuda": 512}[device]  # of each allocation, upwards
    assert 0 <= peak_bytes(Allocating, start) - 4 * 6000 < 2 * rounding


NETWORKS = {"gpt": (transformers, transformers.TINY), **{kind: (images, tiny) for kind, tiny in images.TINY.items()}}


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_of_networks_are_the_same_work(name):
    """Ours and torch's pass; with a learning rate that is 1 % larger neither would."""
    module, tiny = NETWORKS[name]
    judge = NetworkJudge(tiny, module.start_of(tiny))
    contestants = [Ours("ours", tiny), module.Torchs("torch", tiny)]
    for contestant in contestants:
        judge.check(contestant)
    contestants[1].load(judge._start)
    contestants[1]._optimizer.param_groups[0]["lr"] *= 1.01
    contestants[1].load = lambda start: None
    with pytest.raises(AssertionError, match=f"torch does another step than {name}"):
        judge.check(contestants[1])


def test_steps_of_images_are_judged_as_they_are_timed():
    tiny = images.TINY["cnn"]
    judge, contestant = images.Judge(tiny, images.start_of(tiny)), images.Torchs("torch", tiny, side_by_side=True)
    judge.check(contestant)
    contestant._module.block2.batch_norm.momentum = 0.2  # of running statistics: no parameter sees it
    with pytest.raises(AssertionError, match=r"another step than cnn.*: block2.batch_norm.running_mean is 1 of"):
        judge.check(contestant)
