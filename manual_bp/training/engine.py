"""Engines: who can do one training step and show its tensors; the hand-derived one, and how far a step may be off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Running
from manual_bp.arithmetic.perturbed import Analysis, Errors, RandomErrors, wide
from manual_bp.chain import Tensors, probe
from manual_bp.rule import Rule
from manual_bp.training.step import Step, TrainingState

VALUES = ("z", "a", "y")
COTANGENTS = ("delta", "da", "dy")
"""The letters of what a layer puts out, and of its cotangent."""


@dataclass(frozen=True)
class StepRecord:
    """What one step of an engine shows: the loss, gradients or updated parameters, and as much else as it has.

    loss: the cost before the update, penalties included.
    layers: by dotted layer name, its tensors by letter: z and delta, a and da, or y and dy.
    gradients, params: by parameter name, the gradient (penalties included, not clipped) and the updated value.
    buffers: running statistics by name, and the dropout masks of an engine that draws its own.
    optimizer: the optimiser's state after the update, by name.
    """

    loss: Tensor
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    params: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def combine(f: Callable[..., Tensor], *records: StepRecord) -> StepRecord:
        """f of the corresponding tensors of several records."""

        def each(*tensors: Tensors) -> dict[str, Tensor]:
            return {name: f(*(t[name] for t in tensors)) for name in tensors[0]}

        return StepRecord(
            f(*(r.loss for r in records)),
            {layer: each(*(r.layers[layer] for r in records)) for layer in records[0].layers},
            each(*(r.gradients for r in records)),
            each(*(r.params for r in records)),
            each(*(r.buffers for r in records)),
            each(*(r.optimizer for r in records)),
        )


@runtime_checkable  # so that annotations can be checked under test
class Engine(Protocol):
    """Whoever can do one training step and show it.

    A judge calls `step` once for each step of the training, in order, on an engine that does nothing else, with copies
    that the engine may keep or write into.  Where a step is wrong for no cause that is known, the factory is asked for
    two more engines, which make this step alone, each by other random numbers.  `state` is where every step starts
    from, which need not be where the engine's last one ended: parameters, and in `state.buffers` running statistics and
    the dropout masks of the step, are to be taken from there.  `state.optimizer` is flat, under torch.optim's names
    (manual_bp.training.optimizers); an engine whose optimiser keeps its own moments from step to step may leave it
    aside.

    Three more attributes are used where an engine has them.  `evaluate(state, x)` returns the network's output once
    training is over, and is judged.  `beside` is a sentence about what the engine knows to be there beside the model,
    such as a dropout; "" for nothing: where a step is wrong, that is told as the cause.  `optimizer`, with
    `param_groups` as torch.optim's: where an update is wrong for no cause that is known, it is told which options there
    are not those that were declared.
    """

    def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord: ...


class EngineError(ValueError):
    """What is given for an engine is none, or cannot be made for this network."""


def built(factory: Callable[..., Engine], against: str, name: str, options: Mapping[str, object]) -> Any:
    """factory(name, **options).  Raises EngineError for what is none, refuses the options, or makes no engine."""
    due = f"{against}: a factory of engines is due, factory(name, **options), which returns an engine"
    if _is_module(factory):
        raise EngineError(f"{due}; came a torch module, {type(factory).__name__}: {WRAP}")
    if not callable(factory):
        raise EngineError(f"{due}; came an object of {type(factory).__name__}.")
    try:
        signature(factory).bind(name, **options)
    except TypeError as error:
        raise EngineError(f"{due}; it is called with name={name!r} and {', '.join(options)}: {error}.") from error
    except ValueError:  # one in C, which does not tell what it takes
        pass
    try:
        engine = factory(name, **options)
    except ValueError as error:
        raise EngineError(str(error)) from error
    if not callable(getattr(engine, "step", None)):
        raise EngineError(
            f"{against}: an engine must have a method step(state, x, target) that returns a StepRecord; came "
            f"a {type(engine).__name__} without one.{f' As a torch module, {WRAP}' if _is_module(engine) else ''}"
        )
    return engine


WRAP = "wrap it: torch_ref.engine_of(module)."


def _is_module(x: object) -> bool:
    """Told by what it has, as torch.nn is not imported here."""
    return hasattr(x, "named_parameters") and hasattr(x, "forward")


def check_record(record: object, due: StepRecord, against: str) -> list[str]:
    """What an engine's record does not show of what is `due`, in words.

    against: the engine's name.  Raises ValueError for what is no record, for what is no tensor of the shape that is
    due, and for a record without gradients and without updated parameters: nothing could be said of it.
    """
    kind = type(record).__name__
    lacking: list[str] = []
    for each in fields(StepRecord):
        wanted = getattr(due, each.name)
        what = f"{against}'s step must return a StepRecord, in which {each.name}"
        if not hasattr(record, each.name):
            raise ValueError(f"{what} is due; came a {kind} without it.")
        found = getattr(record, each.name)
        if isinstance(wanted, Tensor):
            _check_tensor(what, found, wanted)
            continue
        if not isinstance(found, Mapping):
            raise ValueError(f"{what} is a dictionary with {_listed(wanted)}; came {type(found).__name__}.")
        shown = []
        for name, due_there in wanted.items():
            if name not in found:
                continue
            shown.append(name)
            place = f"{what}[{name!r}]"
            if each.name != "layers":
                _check_tensor(place, found[name], due_there)
                continue
            if not isinstance(found[name], Mapping):
                raise ValueError(f"{place} is a dictionary with {_listed(due_there)}; came {_kind(found[name])}.")
            for letter in due_there.keys() & found[name].keys():
                _check_tensor(f"{place}[{letter!r}]", found[name][letter], due_there[letter])
            lacking += [f"{letter} of {name}" for letter in due_there if letter not in found[name]]
        missing = [name for name in wanted if name not in shown]
        others = [name for name in found if name not in wanted]
        if missing:
            also = f" (it shows {_listed(others)}, which the model does not have)" if others else ""
            lacking.append(f"{FIELDS[each.name]} {_listed(missing)}{also}" if shown else f"{FIELDS[each.name]}{also}")
    gradients, params = (getattr(record, name).keys() & getattr(due, name).keys() for name in ("gradients", "params"))
    if not (gradients or params):
        raise ValueError(
            f"{against}'s step must return a StepRecord with gradients or updated params, by the names "
            f"{_listed(due.params)}; came none of them."
        )
    return lacking


FIELDS = {
    "layers": "layers",
    "gradients": "gradients",
    "params": "updated parameters",
    "buffers": "running statistics",
    "optimizer": "the optimiser's state",
}
"""The fields of a record in words."""


def _kind(value: object) -> str:
    return type(value).__name__


def _check_tensor(what: str, found: object, wanted: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"{what} must be a torch.Tensor; came {type(found).__name__}.")
    if found.shape != wanted.shape or found.is_complex():
        raise ValueError(
            f"{what} must be real and of shape {tuple(wanted.shape)}; came {found.dtype}, {tuple(found.shape)}."
        )


def _listed(names: Iterable[object]) -> str:
    shown = [repr(name) for name in names]
    rest = f" and {len(shown) - MOST_LISTED} more" if len(shown) > MOST_LISTED else ""
    return ", ".join(shown[:MOST_LISTED]) + rest if shown else "nothing"


# Names in one sentence.
MOST_LISTED = 12


class ManualEngine:
    """The hand-derived step, probed; `visits` keeps what passed each layer in the latest step.

    errors: of every layer, the loss, the penalties and the update.
    """

    def __init__(self, step: Step, errors: Errors | None = None) -> None:
        self._step = step
        self._errors = errors
        self._layer, self.visits = probe(step.model, errors.leaf if errors else None)

    def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        vjp = self._errors.vjp if self._errors else Rule.vjp
        cost, gradients, buffers = self._step.gradients(self._layer, state, x, target, vjp)
        if self._errors:
            # Adding the penalties is one rounding; what the summands bring along is in them.
            cost = self._errors.rounded(cost)
            gradients = {name: self._errors.rounded(g) for name, g in gradients.items()}
            after = erring_update(self._step, self._errors, state, gradients, buffers)
        else:
            after = self._step.update(state, gradients, buffers)
        layers = {
            name: {letter: t for letter, t in visit.quantities().items() if letter in VALUES + COTANGENTS}
            for name, visit in self.visits.items()
        }
        return StepRecord(cost, layers, gradients, after.params, after.buffers, after.optimizer)


def erring_update(
    step: Step, errors: Errors, state: TrainingState, gradients: Tensors, buffers: Tensors
) -> TrainingState:
    """Clipping, the optimiser and max-norm with rounding errors, as any layer has them."""
    params, optimizer = (_entered(errors, tensors) for tensors in (state.params, state.optimizer))
    after = step.update(replace(state, params=params, optimizer=optimizer), _entered(errors, gradients), buffers)
    return replace(after, params=_left(errors, after.params), optimizer=_left(errors, after.optimizer))


def _entered(errors: Errors, tensors: Tensors) -> dict[str, Tensor]:
    return {name: errors.exact(t) if name == "step" else errors.enter(t) for name, t in tensors.items()}


def _left(errors: Errors, tensors: Tensors) -> dict[str, Tensor]:
    return {name: errors.leave(t) for name, t in tensors.items()}


# Runs with random rounding errors from which the allowance of a step is estimated.  Eight leave the size of one
# element's error uncertain by a factor of about 2, hence the floor at the tensor's own root mean square.
RUNS = 8
# The allowance in units of that size.  A normal error beyond 6 has probability 2e-9, and actual errors are about a
# third of the widths that the random ones fill.
SIZES = 6.0


def allowance_of(
    step: Step, state: TrainingState, x: Tensor, target: Tensor, dtype: torch.dtype, seed: int
) -> StepRecord:
    """How far each tensor of a step may be off after the whole chain: runs with random rounding errors of `dtype`."""
    _, width = with_allowance(lambda errors: ManualEngine(step, errors), state, x, target, dtype, seed)
    return width


def with_allowance(
    engine: Callable[[Errors], Engine], state: TrainingState, x: Tensor, target: Tensor, dtype: torch.dtype, seed: int
) -> tuple[StepRecord, StepRecord]:
    """What an engine's step makes in float64, and how far off each tensor may be in `dtype`.

    engine: makes one that has the given rounding errors.
    """
    state = replace(state, params=wide(state.params), buffers=wide(state.buffers), optimizer=wide(state.optimizer))
    data = wide({"x": x, "target": target}).values()
    analysis = Analysis(dtype)
    with Running():
        exact = engine(analysis).step(state, *data)
    erring = engine(RandomErrors(analysis.widths, torch.Generator().manual_seed(seed)))
    noisy = [erring.step(state, *data) for _ in range(RUNS)]
    return exact, StepRecord.combine(_error_size, exact, *noisy)


def _error_size(exact: Tensor, *noisy: Tensor) -> Tensor:
    """SIZES times the root mean square of the error: of each element, and at least of the whole tensor."""
    square = torch.stack([(t.double() - exact.double()) ** 2 for t in noisy]).mean(0)
    return SIZES * torch.sqrt(torch.maximum(square, square.mean()))
