"""Judging: one training step by two engines from the same state, tensor by tensor and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import WEIGHTED, Leaf, Tensors, Visit, leaves, takers
from manual_bp.oracle.case import NOT_RECORDED, Case
from manual_bp.oracle.checking import compare
from manual_bp.oracle.errors import errors, ulp
from manual_bp.training.engine import (
    COTANGENTS,
    VALUES,
    Engine,
    ManualEngine,
    StepRecord,
    allowance_of,
    check_record,
)
from manual_bp.training.step import Step, TrainingState
from manual_bp.wording import counted

UPDATE = "it comes from the update"
LETTERS = {"weight": "W", "bias": "b"}


@dataclass
class Row:
    """One tensor of one layer, over all steps."""

    layer: str
    quantity: str
    rule: str
    error_over_allowance: float = 0.0
    ulps: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Disagreement:
    """A tensor that is beyond its allowance."""

    step: int
    layer: str
    quantity: str
    sentence: str


class Judge:
    """The hand-derived step against another engine's, judged one step at a time.

    engine: what is judged against; `against` is its name in sentences.
    rows: the worst of each tensor so far. disagreements: in the order in which they arose.
    flips: units whose branch differed because z lay within a rounding of a kink.
    diverged: a sentence once both engines have left the numbers of the dtype, else "".
    """

    def __init__(self, step: Step, engine: Engine, dtype: torch.dtype, device: str = "cpu", against: str = "") -> None:
        if not callable(getattr(engine, "step", None)):
            raise ValueError(
                f"{against}'s engine must have a method step(state, x, target) that returns a StepRecord; came "
                f"a {type(engine).__name__} without one."
            )
        self.training = step
        self.manual, self.engine = ManualEngine(step), engine
        self.dtype, self.device, self.against = dtype, device, against
        self.leaves = leaves(step.model)
        self.order, self.takers = list(self.leaves), takers(step.model.layer)
        # What several layers share is judged at the first of them, where its gradient is complete.
        self.owner: dict[str, str] = {}
        for layer, leaf in self.leaves.items():
            self.owner = {**dict.fromkeys((*leaf.names.values(), *leaf.shapes), layer), **self.owner}
        self.disagreements: list[Disagreement] = []
        self.flips = 0
        self.diverged = ""
        self._rows: dict[tuple[str, str], Row] = {}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def step(
        self, number: int, state: TrainingState, x: Tensor, target: Tensor, seed: int = 0
    ) -> tuple[StepRecord, StepRecord]:
        """Both engines' step from `state` (with its masks among the buffers); what is found is noted.

        seed: of the random errors from which the allowance is estimated.
        Once `diverged` says something, nothing is judged.
        Raises ValueError if the other engine's record lacks something.
        """
        ours, visits = self.manual.step(state, x, target), dict(self.manual.visits)
        theirs = self.engine.step(copied(state), x.clone(), target.clone())
        check_record(theirs, ours, self.against)
        self.diverged = _diverged(number, ours, theirs, self.dtype)
        if not self.diverged:
            width = allowance_of(self.training, state, x, target, self.dtype, seed)
            self._judge(number, ours, theirs, width, visits)
        return ours, theirs

    def _judge(
        self, number: int, ours: StepRecord, theirs: StepRecord, width: StepRecord, visits: dict[str, Visit]
    ) -> None:
        flipped = self._flipped(ours, theirs)
        # A layer that is wrong by itself is the cause of what is wrong behind it, so it is named first.
        alone = self._alone(number, visits)
        whole = list(self._whole(number, ours, theirs, width, flipped))
        if whole and not alone:
            tail = self._elsewhere
            whole = [d if UPDATE in d.sentence else replace(d, sentence=f"{d.sentence}; {tail}") for d in whole]
        self.disagreements += [*alone, *whole]

    def _whole(
        self, number: int, ours: StepRecord, theirs: StepRecord, width: StepRecord, flipped: str | None
    ) -> Iterator[Disagreement]:
        """In the order in which a step computes: values, the loss, cotangents from the last layer back, updates."""
        # Behind a flipped branch every gradient differs legitimately.
        judged_back = self.order if flipped is None else self.order[self.order.index(flipped) + 1 :]
        records = (ours, theirs, width)
        for layer in self.order:
            yield from self._compare(number, layer, [(k, k) for k in VALUES], [r.layers[layer] for r in records])
        yield from self._compare(number, "loss", [("J", "J")], [{"J": r.loss} for r in records])
        for layer in reversed(judged_back):
            yield from self._compare(number, layer, [(k, k) for k in COTANGENTS], [r.layers[layer] for r in records])
            yield from self._compare(number, layer, self._named(layer, "d"), [r.gradients for r in records])
        # Clipping by the norm of all gradients carries a flip into every update.
        for layer in judged_back if flipped is None or self.training.clip_norm is None else ():
            named = self._named(layer, "")
            yield from self._compare(
                number, layer, self._moments(named, ours.optimizer), [r.optimizer for r in records]
            )
            yield from self._compare(number, layer, named, [r.params for r in records])
        yield from self._compare(number, "optimizer", [("step", "step")], [r.optimizer for r in records])
        for layer, leaf in self.leaves.items():
            running = [(name, name.rpartition(".")[2]) for name in leaf.shapes if self.owner[name] == layer]
            yield from self._compare(number, layer, running, [r.buffers for r in records])

    def _named(self, layer: str, prefix: str) -> list[tuple[str, str]]:
        """The parameters that are judged at the layer: name, and letter with a prefix."""
        leaf = self.leaves[layer]
        letters = LETTERS if leaf.rule.name in WEIGHTED else {}
        owned = {local: name for local, name in leaf.names.items() if self.owner[name] == layer}
        return [(name, prefix + letters.get(local, local)) for local, name in owned.items()]

    @staticmethod
    def _moments(named: list[tuple[str, str]], state: Tensors) -> list[tuple[str, str]]:
        """What the optimiser keeps for these parameters: name, and letter with the kind in front."""
        kinds = dict.fromkeys(flat.split(".", 1)[0] for flat in state if flat != "step")
        return [(f"{kind}.{name}", f"{kind} {letter}") for kind in kinds for name, letter in named]

    def _compare(
        self, number: int, layer: str, names: list[tuple[str, str]], tensors: Sequence[Tensors]
    ) -> Iterator[Disagreement]:
        ours, theirs, allowances = tensors
        for name, letter in names:
            if name in ours:
                yield from self._compare_one(number, layer, letter, ours[name], theirs[name], allowances[name])

    def _compare_one(
        self, number: int, layer: str, letter: str, got: Tensor, other: Tensor, allowance: Tensor
    ) -> Iterator[Disagreement]:
        expected = other.detach().cpu().double()
        # Both engines may be off, in opposite directions.
        ratio, _ = errors(got, expected, 2 * allowance, self.dtype)
        # Where the allowance has no finite bound nothing can be said, and that is no agreement.
        worst = float(ratio.nan_to_num(torch.inf).max()) if ratio.numel() else 0.0
        difference = (got.detach().cpu().double() - expected).abs()
        ulps = float(difference.max() / ulp(expected.abs().max(), self.dtype)) if ratio.numel() else 0.0
        self._note(number, layer, letter, worst, ulps)
        if worst > 1:
            yield Disagreement(
                number,
                layer,
                letter,
                f"{letter} is {worst:.3g} times its allowance away from {self.against}'s; "
                f"{self._origin(layer, letter)}",
            )

    def _origin(self, layer: str, letter: str) -> str:
        """Which piece of the text computed a tensor."""
        if layer == "loss":
            return f"it is the forward of the loss{self._or_penalty}"
        if layer == "optimizer":
            return self._update
        rule = self.leaves[layer].rule.name
        if letter in VALUES or letter.startswith("running"):
            return f"it comes from the forward of {rule}"
        if letter not in COTANGENTS:
            return self._origin_of_gradient(layer, letter) if letter[0] == "d" else self._update
        takers = [f"of {self.leaves[above].rule.name} ({above})" for above in self.takers[layer]]
        return f"it comes from the backward {', or '.join(takers) or 'of the loss'}"

    def _origin_of_gradient(self, layer: str, letter: str) -> str:
        """A parameter that several layers share has one gradient, the sum of theirs."""
        leaf = self.leaves[layer]
        name = next(name for name, prefixed in self._named(layer, "d") if prefixed == letter)
        sharing = [other for other, each in self.leaves.items() if name in each.names.values()]
        shared = f", added up over {' and '.join(sharing)}, which share {name}" if len(sharing) > 1 else ""
        return f"it comes from the backward of {leaf.rule.name}{shared}{self._or_penalty}"

    @property
    def _or_penalty(self) -> str:
        return ", or of a penalty" if self.training.l1 or self.training.l2 else ""

    @property
    def _elsewhere(self) -> str:
        """Where a cause can be if every hand-derived layer is right by itself.  The other engine's are not known."""
        between = ["a sum over the branches of one x"] if any(len(above) > 1 for above in self.takers.values()) else []
        between += ["the loss"]
        between += ["the penalty"] if self._or_penalty else []
        between += ["running statistics"] if any(hasattr(leaf, "momentum") for leaf in self.leaves.values()) else []
        *first, last = between
        listed = f"{', '.join(first)} or {last}" if first else last
        return (
            f"every hand-derived layer agrees by itself: {self.against}'s step is wrong, or else the cause is between "
            f"the layers: {listed}"
        )

    @property
    def _update(self) -> str:
        parts = {"clipping": self.training.clip_norm, "max-norm": self.training.max_norm}
        names = [self.training.optimizer.name, *(name for name, limit in parts.items() if limit is not None)]
        return f"{UPDATE} ({', '.join(names)})"

    def _alone(self, number: int, visits: dict[str, Visit]) -> list[Disagreement]:
        """In the order of computation: values from the first layer on, cotangents from the last layer back."""
        found = {layer: list(self._alone_one(number, layer, visit)) for layer, visit in visits.items()}
        values = [d for some in found.values() for d in some if _is_value(d.quantity)]
        cotangents = [d for layer in reversed(found) for d in found[layer] if not _is_value(d.quantity)]
        return values + cotangents

    def _alone_one(self, number: int, layer: str, visit: Visit) -> Iterator[Disagreement]:
        leaf = visit.leaf
        case = visit_case(visit, f"step {number}")
        report = compare(None, leaf.rule, dtype=self.dtype, device=self.device, cases=[case], diagnose=0)
        for argument, worst in report.worst.items():
            self._note(number, layer, f"{argument} alone", worst.error_over_allowance, worst.ulps)
        for text in report.not_tested if not report.cases else ():
            yield Disagreement(number, layer, "alone", f"{leaf.rule.name} could not be judged: {text}")
        for mismatch in report.mismatches:
            self._note(number, layer, f"{mismatch.argument} alone", mismatch.error_over_allowance or torch.inf, 0.0)
            side = "forward" if _is_value(mismatch.argument) else "backward"
            sentence = f"the {side} of {leaf.rule.name} is wrong by itself: {mismatch}"
            yield Disagreement(number, layer, f"{mismatch.argument} alone", sentence)

    def _note(self, number: int, layer: str, quantity: str, ratio: float, ulps: float) -> None:
        rule = self.leaves[layer].rule.name if layer in self.leaves else layer
        row = self._rows.setdefault((layer, quantity), Row(layer, quantity, rule))
        if ratio > row.error_over_allowance or row.step == 0:
            row.error_over_allowance, row.ulps, row.step = ratio, ulps, number

    def _flipped(self, ours: StepRecord, theirs: StepRecord) -> str | None:
        """The last layer with a unit that took another branch in the other engine, z being a rounding from a kink."""
        last = None
        for before, layer in zip(self.order, self.order[1:], strict=False):
            leaf = self.leaves[layer]
            if leaf.names or leaf.takes > 1:  # has no kink, or none in what comes from the layer before alone
                continue
            (inputs,) = (ours.layers[before][k] for k in VALUES if k in ours.layers[before])
            (others,) = (theirs.layers[before][k] for k in VALUES if k in theirs.layers[before])
            flips = int(branches_differ(leaf, inputs, others).sum())
            if flips:
                self.flips += flips
                last = layer
        return last


def _is_value(quantity: str) -> bool:
    """Whether it is a result of forward: y, or of several outputs y.y."""
    return quantity.split()[0].partition(".")[0] == "y"


def _diverged(number: int, ours: StepRecord, theirs: StepRecord, dtype: torch.dtype) -> str:
    """Which tensor first has left, in both engines, the numbers that can be squared in the dtype; "" if none has."""
    limit = torch.finfo(dtype).max ** 0.5

    def beyond(tensor: Tensor) -> bool:
        return not bool((tensor.abs() <= limit).all())  # a NaN fails the comparison too

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        """In the order in which a step computes."""
        for letters in (VALUES, COTANGENTS):
            for layer, found in ours.layers.items() if letters is VALUES else reversed(ours.layers.items()):
                others = theirs.layers[layer]
                yield from (
                    (f"{letter} of {layer}", t, others[letter]) for letter, t in found.items() if letter in letters
                )
            if letters is VALUES:
                yield "the loss", ours.loss, theirs.loss
        yield from ((f"the gradient of {name}", t, theirs.gradients[name]) for name, t in ours.gradients.items())
        yield from ((f"the updated {name}", t, theirs.params[name]) for name, t in ours.params.items())
        yield from ((f"the updated {name}", t, theirs.optimizer[name]) for name, t in ours.optimizer.items())

    for name, our, their in pairs():
        if beyond(our) and beyond(their):
            before = f"; the {counted(number - 1, 'step')} before agree" if number > 2 else ""
            before = "; the step before agrees" if number == 2 else before
            return (
                f"training diverged in step {number}, in both engines: {name} is NaN, infinite or beyond {limit:.0e}"
                f"{before}.  Lower the learning rate."
            )
    return ""


def copied(state: TrainingState) -> TrainingState:
    """The same state in memory of its own."""
    params, buffers, optimizer = (
        {name: tensor.clone() for name, tensor in tensors.items()}
        for tensors in (state.params, state.buffers, state.optimizer)
    )
    return replace(state, params=params, buffers=buffers, optimizer=optimizer)


def branches_differ(leaf: Leaf, x: Tensor, other: Tensor) -> Tensor:
    """Where the slope at x and at another x, a rounding away, belongs to different branches: of an activation its sign,
    of a largest value its winner."""
    y, _ = leaf.rule.forward(x, **leaf.hyper)
    one = torch.ones_like(y)
    _, (slope,) = leaf.rule.vjp((x,), one, **leaf.hyper)
    _, (slope_of_other,) = leaf.rule.vjp((other,), one, **leaf.hyper)
    assert slope is not None
    assert slope_of_other is not None
    # Between two roundings of one x a smooth slope moves by about eps; √eps separates that from a change of branch.
    threshold = float(torch.finfo(x.dtype).eps) ** 0.5
    return torch.gt((slope - slope_of_other).abs(), threshold)


def visit_case(visit: Visit, name: str) -> Case:
    """A visit as a recorded case: the layer alone, with the inputs and the upstream cotangent that it had."""
    leaf = visit.leaf
    given = visit.dx if isinstance(visit.dx, tuple) else (visit.dx,)
    recorded: list[Any] = []
    for position, (local, spec) in enumerate(leaf.rule.inputs.items()):
        parameter = leaf.names.get(local)
        if position < leaf.takes:
            found = given[position]
        elif parameter in leaf.initial() or (parameter is None and visit.inputs[position] is not None):
            found = NOT_RECORDED  # a constant of the layer, for whose cotangent nobody asks
        else:
            found = None if parameter is None else visit.dparams.get(parameter)
        recorded.append(found if spec.cotangent else NOT_RECORDED)
    y, dy = leaf.of_all_outputs(visit.y, NOT_RECORDED), leaf.of_all_outputs(visit.dy, None)
    return Case(visit.inputs, dy, leaf.hyper, name, y, tuple(recorded))
