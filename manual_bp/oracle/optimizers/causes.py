"""Loops around an update that are wrong: what no single call of it shows, by what each says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations

import torch

from manual_bp.oracle.optimizers.driven import PAIRS
from manual_bp.oracle.optimizers.trajectory import Call, Change
from manual_bp.rule import Rule

# By what gradients and decays are off: counts of pieces and of workers, and scales of losses.
FACTORS = {"-1": -1.0, "1/2": 0.5, "2": 2.0, "1/3": 1 / 3, "3": 3.0, "1/4": 0.25, "4": 4.0, "1/8": 0.125, "8": 8.0}
SCALES = {f"2^{power}": 2.0**power for power in (7, 10, 16, -7, -10, -16)}
LIMITS = (1.0, 0.1, 0.5, 5.0)
"""To which gradients are usually clipped."""


def _t(of: str) -> Change:
    def change(call: Call) -> None:
        call.t = {
            "tensors": (call.t - 1) * call.tensors + call.index + 1,
            "steps": call.steps,
            "load": call.since_load,
            "twice": 2 * call.t,
            "late": max(call.t - 1, 1),
            "early": call.t + 1,
        }[of]

    return change


def _lr(of: str) -> Change:
    def change(call: Call) -> None:
        call.hyper["lr"] = getattr(call, f"lr_{of}")

    return change


def _first_group(call: Call) -> None:
    call.hyper.update(call.first_group)


def _last_group(call: Call) -> None:
    call.hyper.update(call.last_group)


def _defaults(call: Call) -> None:
    call.hyper.update(call.defaults)


def _default_lr(call: Call) -> None:
    call.hyper["lr"] = call.defaults["lr"]


def _once_loaded(change: Change, call: Call) -> None:
    if call.loads:
        change(call)


def _begins(name: str, at: float, call: Call) -> None:
    call.begins = {name: at}


def _ignored(values: Mapping[str, float], call: Call) -> None:
    call.hyper.update(values)


def _of_group(which: str, names: Sequence[str], call: Call) -> None:
    group = getattr(call, f"{which}_group")
    call.hyper.update({name: group[name] for name in names})


def _lost(call: Call) -> None:
    call.forgets = call.loaded


def _lost_with_count(call: Call) -> None:
    call.forgets = call.loaded
    call.t = call.since_load


def _part_lost(name: str, call: Call) -> None:
    call.lost = (name,) if call.loaded else ()


def _exchanged(names: tuple[str, str], call: Call) -> None:
    call.exchanged = names if call.loaded else ()


def _zero_for_none(call: Call) -> None:
    call.t = call.steps
    if call.grad is None:
        call.grad = torch.zeros(())  # of no shape of its own: what it is added to has one


def _zero_for_none_undecayed(call: Call) -> None:
    if call.grad is None:
        call.hyper["weight_decay"] = 0.0
    _zero_for_none(call)


def _decayed_without(call: Call) -> None:
    call.decays_without = True


def _none_for_zero(call: Call) -> None:
    call.t = call.t_moved
    if call.grad is not None and not bool(call.grad.any()):
        call.grad = None


def _lazy(call: Call) -> None:
    call.is_lazy = True
    call.t = call.steps


def _undecayed(of_one_axis: bool, call: Call) -> None:
    if (call.axes <= 1) == of_one_axis:
        call.hyper["weight_decay"] = 0.0


def _decayed(factor: float, call: Call) -> None:
    call.hyper["weight_decay"] *= factor


def _decayed_by_first(call: Call) -> None:
    """Decoupled, as if lr were that of the first step."""
    share = 1 - call.lr_first * call.hyper["weight_decay"]
    call.hyper["weight_decay"] = 0.0
    call.enters = lambda param, grad: (share * param, grad)


def _scaled(factor: float, call: Call) -> None:
    call.grad = None if call.grad is None else factor * call.grad


def _added_up(call: Call) -> None:
    call.grad = None if call.grad is None else call.total


def _seldom(by: float, call: Call) -> None:
    """In every second step, by the two gradients since.  Of a parameter that has one in each."""
    call.t, is_due = call.steps // 2, call.steps % 2 == 0
    if call.grad is None or not is_due or call.grad_before is None:
        call.grad = None
    else:
        call.grad = (call.grad + call.grad_before) / by


def _late(call: Call) -> None:
    call.grad = None if call.grad is None else call.grad_before


def _clipped(how: str, limit: float, call: Call, eps: float = 1e-6) -> None:
    grad = call.grad
    if grad is None:
        return
    if how == "element":
        call.grad = grad.clamp(-limit, limit)
        return
    several = [g for g in call.grads if g is not None] if how == "all" else [grad]
    norm = torch.sqrt(torch.stack([g.double().square().sum() for g in several]).sum())
    call.grad = grad * float(torch.clamp(limit / (norm + eps), max=1.0))


def _stored(dtype: torch.dtype, call: Call) -> None:
    call.stored = dtype


def _saved_in(dtype: torch.dtype, call: Call) -> None:
    call.saved = dtype if call.loaded else None


LOOPS: Mapping[str, Change] = {
    "t is counted at each tensor, and not once for each step": _t("tensors"),
    "t counts steps in which the parameter has no gradient": _t("steps"),
    "t begins anew when the state is loaded": _t("load"),
    "t is counted twice in each step": _t("twice"),
    "t is 1 in the second step too: it is counted after the step": _t("late"),
    "t is 2 in the first step": _t("early"),
    "the moments are lost when the state is saved and loaded": _lost,
    "the whole state is lost when it is saved and loaded": _lost_with_count,
    "lr is that of the step before": _lr("before"),
    "lr is that of the next step": _lr("next"),
    "lr is that of the first step for ever": _lr("first"),
    "the hyperparameters of the first group are used for all": _first_group,
    "the hyperparameters of the last group are used for all": _last_group,
    "the lr of the constructor is used for all groups and steps": _default_lr,
    "the defaults of the constructor are used for all groups and steps": _defaults,
    "a parameter without a gradient is stepped as with a gradient of 0": _zero_for_none,
    "a gradient of 0 is taken for none": _none_for_zero,
    "gradients are not set to 0 between steps: those of all steps before are added": _added_up,
    "the gradient is that of the step before": _late,
    "a step is made in every 2nd one alone, by the mean of the two gradients (accumulated)": partial(_seldom, 2.0),
    "a step is made in every 2nd one alone, by the sum of the two gradients (accumulated)": partial(_seldom, 1.0),
    "rows without a gradient are left alone, their state too (lazy)": _lazy,
}
"""Of every page."""

OF_ALL = tuple(words for words in LOOPS if "used for all" in words)
"""Of LOOPS, those that use the hyperparameters of one group for all."""

CONVENTIONS: Mapping[str, Mapping[str, str]] = {
    "schedule": {
        "this step": "",
        "the step before": "lr is that of the step before",
        "the next step": "lr is that of the next step",
    },
    "count": {
        "of its gradients": "",
        "of all steps": "t counts steps in which the parameter has no gradient",
    },
    "no gradient": {
        "left alone": "",
        "as 0": "a parameter without a gradient is stepped as with a gradient of 0",
    },
    "sparse": {
        "as zeros": "",
        "lazy": "rows without a gradient are left alone, their state too (lazy)",
    },
}
"""Loops that are right where they are declared: by name and choice, what LOOPS says of each."""


def loops(rule: Rule) -> Iterator[tuple[str, Change]]:
    """Every wrong loop around the update of a page, the likeliest first."""
    yield from LOOPS.items()
    if "weight_decay" in rule.hyper:
        yield (
            "no decay of parameters of one axis (biases, norms), though their group has weight_decay",
            partial(_undecayed, True),
        )
        yield "decay of parameters of one axis alone (biases, norms)", partial(_undecayed, False)
        yield "a parameter without a gradient is stepped as with a gradient of 0, undecayed", _zero_for_none_undecayed
        yield "a parameter without a gradient decays", _decayed_without
        yield "decay by the lr of the first step for ever", _decayed_by_first
        for words, factor in FACTORS.items():
            yield f"decay is {words} times what is due", partial(_decayed, factor)
    yield from _of_groups(rule)
    for words, change in (*_of_groups(rule), *((words, LOOPS[words]) for words in OF_ALL)):
        yield f"{words}, once the state was saved and loaded", partial(_once_loaded, change)
    for name, value in rule.ordinary.items():
        if name not in ("step", "lr") and isinstance(value, float):
            yield f"{name} is ignored: it is {value:g}, whatever is given", partial(_ignored, {name: value})
    for name, parts in PAIRS.items():
        if all(part in rule.ordinary for part in parts):
            values = {part: rule.ordinary[part] for part in parts}
            said = ", ".join(f"{value:g}" for value in values.values())
            yield f"{name} is ignored: it is ({said}), whatever is given", partial(_ignored, values)
    for words, factor in {**FACTORS, **SCALES}.items():
        ascent = ": it goes uphill (maximize=True, say)" if factor == -1 else ""
        yield f"the gradient is {words} times what is due{ascent}", partial(_scaled, factor)
    for limit in LIMITS:
        yield f"gradients are clipped element by element, to {limit:g}", partial(_clipped, "element", limit)
        yield f"gradients are clipped to {limit:g} by the norm of each tensor", partial(_clipped, "tensor", limit)
        for eps, also in ((1e-6, ""), (0.0, ", without eps")):
            words = f"gradients are clipped to {limit:g} by the norm of all tensors{also}"
            yield words, partial(_clipped, "all", limit, eps=eps)
    yield from beginnings(rule)
    state = [name for name in rule.inputs if name not in ("param", "grad")]
    for name in state:
        yield f"{name} is lost when the state is saved and loaded", partial(_part_lost, name)
    for a, b in combinations(state, 2):
        yield f"{a} and {b} are exchanged when the state is saved and loaded", partial(_exchanged, (a, b))
    for dtype in (torch.bfloat16, torch.float16):
        yield f"the state is stored in {str(dtype).removeprefix('torch.')}", partial(_stored, dtype)
        yield f"the state is saved in {str(dtype).removeprefix('torch.')}", partial(_saved_in, dtype)


def _of_groups(rule: Rule) -> Iterator[tuple[str, Change]]:
    """Hyperparameters of one group that are used for all: each alone, those that are given together, all but lr."""
    single = [name for name in rule.hyper if name not in ("step", "lr")]
    together = {name: parts for name, parts in PAIRS.items() if all(part in single for part in parts)}
    ways = {"all hyperparameters but lr": single, "lr": ["lr"], **{name: [name] for name in single}, **together}
    for which in ("first", "last"):
        for words, names in ways.items():
            verb = "is" if len(names) == 1 else "are"
            yield f"{words} of the {which} group {verb} used for all", partial(_of_group, which, names)


def beginnings(rule: Rule) -> Iterator[tuple[str, Change]]:
    """State that begins elsewhere than at 0: 0.1 is what TensorFlow and optax have for sums of squares."""
    for name in rule.inputs:
        if name not in ("param", "grad"):
            for at in (1.0, 0.1):
                yield f"{name} begins at {at:g}, and not at 0", partial(_begins, name, at)


def sharings() -> Iterator[tuple[str, Change]]:
    """State that is kept under a key which several parameters may have: see `trajectory.of_all`."""
    by_shape = "the state is kept by shape: parameters of one shape share it"
    by_place = (
        "the state is kept by the place among the parameters that have a gradient: where one has none, those behind it "
        "get that of another"
    )
    for words, place in ((by_shape, False), (by_place, True)):
        for is_lost, also in ((False, ""), (True, "; and it is lost when it is saved and loaded")):
            for counts in (True, False):
                yield words + also, partial(_kept_by, place, is_lost, counts)


def _kept_by(place: bool, is_lost: bool, counts: bool, call: Call) -> None:
    assert call.grad is not None
    number = sum(grad is not None for grad in call.grads[: call.index]) if place else None
    call.key = number, call.grad.shape, call.loads if is_lost else 0
    call.counts_by_key = counts


def hinted(words: str) -> str:
    """What is said of a wrong loop, with what is to be declared where it is meant."""
    for name, choices in CONVENTIONS.items():
        for choice, loop in choices.items():
            if loop == words:
                return f"{words}; declare conventions={{{name!r}: {choice!r}}} where it is meant"
    return words
