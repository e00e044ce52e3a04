"""Optimisers as they are: torch's own agree with the pages, in every way of running them, and wrong ones are named."""

from __future__ import annotations

import inspect

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare_optimizer, of_optimizer, of_transformation
from manual_bp.oracle.optimizers.causes import LOOPS, hinted
from manual_bp.oracle.optimizers.comparison import OUT_OF_RANGE
from manual_bp.oracle.optimizers.driven import NAMES, PAIRS
from manual_bp.outputs import parts
from tests.conftest import short

UPDATES = {name: rule for name, rule in bp.RULES.items() if list(rule.inputs)[:2] == ["param", "grad"]}
COUNTED = next(rule for rule in UPDATES.values() if "step" in rule.hyper and rule.absentable)
"""One that counts steps."""
LONG = 120.0
"""Seconds that a search may take on a machine that does other things too."""
TORCHS = {
    name: cls
    for cls in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
    for name in UPDATES
    if name == f"{cls.__name__.lower()}_update"
}


class Stepping:
    """A page as an optimiser, with another formula in place of its forward, or a loop that is wrong."""

    has_groups = True

    def __init__(self, rule, formula=None, wrong=""):
        self.rule, self.wrong = rule, wrong
        self.formula = formula or (lambda **given: rule.pure(*[given.pop(n) for n in rule.inputs], **given)[0])

    def takes(self, hyper):
        return True

    def begin(self, groups, hyper, lrs):
        self.params = [x.clone() for group in groups for x in group]
        self.hyper = [own for group, own in zip(groups, hyper, strict=True) for _ in group]
        self.group = [number for number, group in enumerate(groups) for _ in group]
        self.state = [self.first(x, own) for x, own in zip(self.params, self.hyper, strict=True)]
        self.t, self.steps, self.lrs = [0] * len(self.params), 0, lrs

    def first(self, x, hyper):
        names = [name for name in self.rule.inputs if name not in ("param", "grad")]
        there = [name for name in names if name not in self.rule.absentable or hyper.get(name)]
        return {name: torch.zeros_like(x) if name in there else None for name in names}

    def saved_and_loaded(self):
        if "lost" in self.wrong:
            self.state = [self.first(x, own) for x, own in zip(self.params, self.hyper, strict=True)]
        if "whole state" in self.wrong or "anew" in self.wrong:
            self.t = [0] * len(self.params)
        return self

    def rate(self, lrs, group):
        of_all = [lr[group] for lr in self.lrs]
        at = {"before": max(self.steps - 1, 0), "next": min(self.steps + 1, len(of_all) - 1), "first": 0}
        return next(
            (of_all[k] for word, k in at.items() if self.wrong.startswith("lr") and word in self.wrong), lrs[group]
        )

    def step(self, grads, lrs):
        for i, grad in enumerate(grads):
            group = 0 if "first group" in self.wrong else self.group[i]
            own = next(h for h, g in zip(self.hyper, self.group, strict=True) if g == group)
            none = grad is None or ("taken for none" in self.wrong and not bool(grad.any()))
            self.t[i] += not none or "has no gradient" in self.wrong or "as with" in self.wrong
            if none and "as with" not in self.wrong:
                continue
            grad = torch.zeros_like(self.params[i]) if none else grad
            t = (self.t[i] - 1) * len(grads) + i + 1 if "at each tensor" in self.wrong else self.t[i]
            hyper = {n: v for n, v in {**own, "lr": self.rate(lrs, group), "step": t}.items() if n in self.rule.hyper}
            found = self.formula(param=self.params[i], grad=grad, **self.state[i], **hyper)
            self.params[i], *state = parts(found)
            self.state[i] = dict(zip(self.state[i], state, strict=True))
        self.steps += 1
        return [x.clone() for x in self.params]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
@pytest.mark.parametrize("rule", UPDATES)
def test_a_page_stepped_is_right(rule, dtype):
    report = compare_optimizer(Stepping(UPDATES[rule]), rule, dtype=dtype, strict=True)
    assert report.passed, str(report)
    assert {"lr changes", "saved and loaded", "some without a gradient"} <= names_of(UPDATES[rule])


def names_of(rule):
    from manual_bp.oracle.optimizers.scenarios import scenarios

    found, untried = scenarios(rule, Stepping(rule), torch.float32)
    assert not untried
    return {scenario.name for scenario in found}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("options", [{}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("rule", TORCHS)
def test_torch_s_own_is_right(rule, options):
    report = compare_optimizer(of_optimizer(TORCHS[rule], **options), rule)
    assert report.passed, str(report)
    assert not report.notes


OPTIONS = [
    (rule, option)
    for rule, cls in TORCHS.items()
    for option in inspect.signature(cls).parameters
    if any(of_optimizer(cls).takes(n) and option in (n, *NAMES.get(n, ())) for n in UPDATES[rule].hyper)
    or option in PAIRS
]


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("rule", "option"), OPTIONS)
def test_an_option_that_a_constructor_drops_is_missed(rule, option):
    def dropping(params, **options):
        return TORCHS[rule](params, **{name: value for name, value in options.items() if name != option})

    dropping.__signature__ = inspect.signature(TORCHS[rule])
    assert not compare_optimizer(of_optimizer(dropping), rule, diagnose=0).passed


@pytest.mark.thinned(2)
@pytest.mark.parametrize("rule", [name for name, cls in TORCHS.items() if "fused" in cls.__init__.__annotations__])
def test_torch_s_fused_one_is_right(rule):
    assert compare_optimizer(TORCHS[rule], rule, fused=True).passed


@pytest.mark.thinned(4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=short)
@pytest.mark.parametrize("rule", TORCHS)
def test_arithmetic_in_16_bits_is_a_note(rule, dtype):
    """Where its numbers stay in the range of the dtype, which squares in float16 do not."""
    report = compare_optimizer(TORCHS[rule], rule, dtype=dtype)
    if dtype is torch.float16 and "eps" in UPDATES[rule].hyper:
        assert report.diagnoses == [OUT_OF_RANGE], str(report)
    else:
        assert not report.mismatches, str(report)


WRONG = [(name, m) for name, rule in UPDATES.items() for m in rule.mistakes]


@pytest.mark.thinned(32)
@pytest.mark.parametrize(("rule", "mistake"), WRONG, ids=[f"{name}-{m.name}" for name, m in WRONG])
def test_a_mistake_of_the_page_is_named(rule, mistake):
    report = compare_optimizer(Stepping(UPDATES[rule], mistake.backward), rule, diagnose=LONG)
    assert not report.passed
    same = [m for m in UPDATES[rule].mistakes if f"'{m.name}'" in report.diagnoses[0]]
    assert same, str(report)


STEPPED = (
    "at each tensor",
    "has no gradient",
    "anew",
    "moments are lost",
    "whole state",
    "lr is",
    "first group",
    "as with a",
)
"""What of LOOPS `Stepping` does; programs of other people's shape stand in the bank of updates."""


@pytest.mark.thinned(4)
@pytest.mark.parametrize("words", [words for words in LOOPS if any(known in words for known in STEPPED)])
def test_a_wrong_loop_is_named(words):
    report = compare_optimizer(Stepping(COUNTED, wrong=words), COUNTED, diagnose=LONG)
    assert not report.passed
    assert report.diagnoses == [hinted(words)], str(report)


class WithMasters:
    """An optimiser of float32 masters, whose parameters are their roundings."""

    has_groups = True

    def __init__(self, rule):
        self.inner = Stepping(rule)

    def takes(self, hyper):
        return True

    def begin(self, groups, hyper, lrs):
        self.dtype = groups[0][0].dtype
        self.inner.begin([[x.float() for x in group] for group in groups], hyper, lrs)

    def step(self, grads, lrs):
        wide = [None if grad is None else grad.float() for grad in grads]
        return [x.to(self.dtype) for x in self.inner.step(wide, lrs)]

    def saved_and_loaded(self):
        self.inner = self.inner.saved_and_loaded()
        return self


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=short)
@pytest.mark.parametrize("rule", UPDATES)
def test_masters_lose_no_updates(rule, dtype):
    report = compare_optimizer(WithMasters(UPDATES[rule]), rule, dtype=dtype, strict=True)
    assert report.passed, str(report)
    assert not report.findings


@pytest.mark.thinned(3)
@pytest.mark.parametrize("rule", TORCHS)
def test_updates_that_are_lost_are_told(rule):
    report = compare_optimizer(TORCHS[rule], rule, dtype=torch.bfloat16)
    told = [text for text in report.findings if text.startswith("lost updates: in bfloat16")]
    moves = torch.tensor(1.0).bfloat16()
    assert told or not bool(stays(TORCHS[rule], moves)), str(report)
    strict = compare_optimizer(TORCHS[rule], rule, dtype=torch.bfloat16, strict=True)
    assert any("lost updates" in m.detail for m in strict.mismatches) == bool(told)


def stays(kind, start):
    """Whether a parameter of 1 stays where it is, at steps of a quarter of its last place."""
    leaf = start.clone().requires_grad_()
    optimizer = kind([leaf], lr=2**-10)
    for _ in range(40):
        leaf.grad = torch.ones_like(leaf)
        optimizer.step()
    return leaf.detach() == start


def of_optax(rule, **options):
    """optax's constructor of the same name, with those of the options that it takes."""
    optax = pytest.importorskip("optax", reason="optax is an optional peer")
    make = getattr(optax, rule.removesuffix("_update"))
    return of_transformation(make, **{k: v for k, v in options.items() if k in inspect.signature(make).parameters})


@pytest.mark.parametrize("rule", UPDATES)
def test_optax_s_own_is_right_or_has_eps_elsewhere(rule):
    candidate = of_optax(rule, eps_in_sqrt=False, initial_accumulator_value=0.0)
    report = compare_optimizer(candidate, rule)
    assert report.passed or "'eps inside the root'" in report.diagnoses[0], str(report)
    assert "parameters in groups, and without a gradient: it has neither" in report.not_tested


@pytest.mark.parametrize("rule", [name for name, page in UPDATES.items() if "alpha" in page.hyper])
def test_optax_s_eps_is_inside_the_root(rule):
    assert "'eps inside the root'" in compare_optimizer(of_optax(rule), rule).diagnoses[0]


def test_optax_s_other_defaults_are_named():
    """Two things at once: where its state begins, and where eps is; and an option of the page that is on."""
    pytest.importorskip("optax", reason="optax is an optional peer")
    report = compare_optimizer(of_optax("adagrad_update"), "adagrad_update", diagnose=LONG)
    assert report.diagnoses == ["sum begins at 0.1, and not at 0; and there is the convention eps='inside the root'"]
    report = compare_optimizer(of_optax("amsgrad"), "adam_update", diagnose=LONG)
    assert report.diagnoses[0].startswith("amsgrad is on, though nobody asked for it; and there is the convention")


@pytest.mark.parametrize("kind", [torch.optim.RAdam, torch.optim.Adafactor])
def test_that_there_is_no_page_is_said(kind):
    report = compare_optimizer(kind, "adam_update", diagnose=0.25)
    assert report.diagnoses[0].startswith(f"no page is about {kind.__name__}: what can be judged is whether it is adam")
    with pytest.raises(ValueError, match=r"Updates that have a page: .*adamw_update"):
        compare_optimizer(kind, f"{kind.__name__.lower()}_update")


def test_an_ascent_is_named():
    rule = next(name for name, cls in TORCHS.items() if "maximize" in inspect.signature(cls).parameters)
    report = compare_optimizer(TORCHS[rule], rule, maximize=True, diagnose=LONG)
    assert "uphill" in report.diagnoses[0] or "against the gradient" in report.diagnoses[0]


def test_what_a_constructor_does_not_take_is_said():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self):
            for group in self.param_groups:
                for x in group["params"]:
                    if x.grad is not None:
                        x.data -= group["lr"] * x.grad

    rule = next(name for name, page in UPDATES.items() if page.absentable and "nesterov" in page.hyper)
    report = compare_optimizer(Plain, rule)
    assert report.passed
    assert "momentum: it takes none" in report.not_tested


def test_a_candidate_that_raises_is_wrong():
    class Broken(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self):
            raise ArithmeticError("no")

    report = compare_optimizer(Broken, next(iter(TORCHS)))
    assert not report.passed
    assert "raised ArithmeticError: no" in report.mismatches[0].detail


@pytest.mark.parametrize(
    ("candidate", "given"), [(torch.optim.Adam, {"declared": "8 bits"}), (of_optimizer(torch.optim.Adam), {"eps": 1.0})]
)
def test_an_unknown_argument_is_told_what_there_is(candidate, given):
    with pytest.raises(ValueError, match="state_error=1/127"):
        compare_optimizer(candidate, "adam_update", **given)


def test_only_updates_are_judged():
    other = next(name for name, rule in bp.RULES.items() if rule.has_backward)
    with pytest.raises(ValueError, match="rule must be the update of a parameter"):
        compare_optimizer(torch.optim.SGD, other)


class Forgetful(torch.optim.AdamW):
    """Its own update: a moment that is the gradient itself, or another thing that is no update at all."""

    aliased = True

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if self.aliased:
                    m = self.state[p].setdefault("m", p.grad)
                    m.mul_(group["betas"][0]).add_(p.grad, alpha=1 - group["betas"][0])
                    p.sub_(group["lr"] * m)
                else:
                    p.sub_(group["lr"] * torch.tanh(3 * p.grad + p.sin()))


@pytest.mark.parametrize(
    ("aliased", "words"),
    [
        (True, "diagnosis: its state shares memory with the gradient: state['m'] is p.grad itself"),
        (False, "no cause was found: param: wrong in "),
    ],
)
def test_where_no_formula_explains_it_what_is_seen_is_said(aliased, words):
    report = compare_optimizer(type("Own", (Forgetful,), {"aliased": aliased}), "adamw_update", diagnose=30)
    assert words in str(report), str(report)


def test_a_learning_rate_that_is_a_tensor_stays_one():
    """With the value of each group and step, in place: so that what is judged is torch's path for such."""
    x, grad = torch.ones(2), torch.ones(2)
    driven = of_optimizer(torch.optim.SGD, lr=torch.tensor(1e-3))
    driven.begin([[x], [x]], [{"lr": 0.5}, {"lr": 0.25}], [])
    held = [group["lr"] for group in driven.optimizer.param_groups]
    assert [float(lr) for lr in held] == [0.5, 0.25]
    moved = driven.step([grad, grad], [0.125, 0.5])
    assert [group["lr"] for group in driven.optimizer.param_groups] == held == [torch.tensor(0.125), torch.tensor(0.5)]
    assert [float(p[0]) for p in moved] == [0.875, 0.5]
