"""Lockstep: two engines train side by side on the same data, and every step is judged layer by layer.

Each step starts both engines from the same state, on the same mini-batch and with the same dropout masks, so a
disagreement belongs to that step and not to the ones before.  Two questions are asked:

- whole: z, a, delta, dW, db of every layer after the whole chain, running statistics and updated parameters, against
the other
  engine;
- alone: each layer by itself, given the inputs and the upstream cotangent that it had, against its own reference.

A third run, free, is never resynchronised; it is shown and not judged, as rounding errors may grow from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Leaf, Visit, leaves
from manual_bp.models.model import Model
from manual_bp.oracle.cases import NOT_RECORDED, Case
from manual_bp.oracle.comparison import compare
from manual_bp.oracle.errors import errors, ulp
from manual_bp.training.data import Dataset
from manual_bp.training.engine import COTANGENTS, VALUES, Engine, ManualEngine, StepRecord, Tensors, allowance_of
from manual_bp.training.minibatches import MiniBatches
from manual_bp.training.optimizers import sgd
from manual_bp.training.step import TrainingState, training_step

BETWEEN = (
    "yet every layer agrees by itself, so the cause is between the layers: a residual connection, the loss, the "
    "penalty, running statistics or the update"
)
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


@dataclass
class LockstepReport:
    """The result of `lockstep`.

    rows: the worst of each tensor; ulps are in the last place of the tensor's largest element. disagreements: in the
    order in which they arose; empty if all holds. flips: units whose branch (the sign at a kink, the winner of a
    maximum) differed because z lay within its allowance of the
        kink; the whole-chain gradients of that step and of the layers before are not judged, each layer alone is.
    losses: per step, (manual, other engine) in lockstep and in the free run.
    """

    model: str
    config: dict[str, Any]
    data: str
    dtype: str
    device: str
    against: str
    steps: int
    rows: list[Row] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    flips: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    free_losses: list[tuple[float, float]] = field(default_factory=list)
    free_drift: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.disagreements and self.steps > 0

    @property
    def verdict(self) -> str:
        if self.passed:
            return f"every layer agrees in {self.steps} steps"
        first = self.disagreements[0]
        if not first.layer:
            return first.sentence
        return f"first disagreement in step {first.step} at {first.layer}: {first.sentence}"

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "verdict": self.verdict, **asdict(self)}


def lockstep(
    model: Model,
    data: Dataset,
    *,
    engine: Callable[..., Engine],
    against: str = "torch",
    steps: int = 50,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    loss: str = "square_loss",
    lr: float = 0.01,
    l2: float = 1e-4,
    seed: int = 0,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> LockstepReport:
    """Train `model` on `data` by hand, and side by side with what `engine(name, loss=, lr=, l2=, **config)` builds.

    progress: wraps the step numbers, to show how far it is.
    Raises ValueError if the data's features or classes are not the model's.
    """
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(
            f"lockstep: dtype must be float64 or float32; came {dtype}. In 16 bits two right engines round every layer "
            "differently; judge the rules one by one: manual-bp verify --dtype bfloat16."
        )
    step = training_step(model, loss, optimizer=sgd(lr), l2=l2)
    manual = ManualEngine(step)
    other = engine(model.name, loss=loss, lr=lr, l2=l2, **model.config)
    report = LockstepReport(
        model.name, model.config, data.name, str(dtype).removeprefix("torch."), device, against, steps
    )
    judge = _Judge(model, report, dtype)
    state = step.init(torch.Generator().manual_seed(seed), dtype=dtype, device=device)
    free = {"manual": state, "other": state}
    batches = MiniBatches(len(data.x), min(batch_size, len(data.x)), seed, drop_last=True).after(0)
    x_all, targets = data.x.to(device, dtype), data.targets(dtype).to(device)
    for number in progress(iter(range(1, steps + 1))):
        index = next(batches).to(device)
        x, target = x_all[index], targets[index]
        masks = step.masks(state, len(index), device)
        ours = manual.step(state.params, {**state.buffers, **masks}, x, target)
        visits = dict(manual.visits)
        theirs = other.step(state.params, {**state.buffers, **masks}, x, target)
        width = allowance_of(step, state.params, {**state.buffers, **masks}, x, target, dtype, seed + number)
        judge.step(number, ours, theirs, width, visits)
        state = replace(state, params=ours.params, buffers=ours.buffers, steps=number)
        report.losses.append((float(ours.loss), float(theirs.loss)))
        _run_free(free, manual, other, masks, x, target, report)
    report.free_drift = _drift(free)
    return report


def failed(model: Model, data: str, why: str) -> LockstepReport:
    """The report of a run that did not come to its end."""
    report = LockstepReport(model.name, model.config, data, "", "", "", steps=0)
    report.disagreements.append(Disagreement(0, "", "", why))
    return report


def _run_free(
    free: dict[str, TrainingState],
    manual: Engine,
    other: Engine,
    masks: Tensors,
    x: Tensor,
    target: Tensor,
    report: LockstepReport,
) -> None:
    losses = []
    for name, engine in (("manual", manual), ("other", other)):
        record = engine.step(free[name].params, {**free[name].buffers, **masks}, x, target)
        free[name] = replace(free[name], params=record.params, buffers=record.buffers)
        losses.append(float(record.loss))
    report.free_losses.append((losses[0], losses[1]))


def _drift(free: dict[str, TrainingState]) -> float:
    """The largest difference of a parameter, relative to the largest parameter."""
    ours, theirs = free["manual"].params, free["other"].params
    difference = max(float((ours[name].double() - p.double()).abs().max()) for name, p in theirs.items())
    return difference / max(float(p.abs().max()) for p in theirs.values())


class _Judge:
    """Judges steps and keeps the worst of each tensor."""

    def __init__(self, model: Model, report: LockstepReport, dtype: torch.dtype) -> None:
        self.report = report
        self.dtype = dtype
        self.leaves = leaves(model)
        self.order = list(self.leaves)
        self.rows: dict[tuple[str, str], Row] = {}

    def step(
        self, number: int, ours: StepRecord, theirs: StepRecord, width: StepRecord, visits: dict[str, Visit]
    ) -> None:
        flipped = self._flipped(ours, theirs)
        # A layer that is wrong by itself is the cause of what is wrong behind it, so it is named first.
        alone = self._alone(number, visits)
        whole = list(self._whole(number, ours, theirs, width, flipped))
        if whole and not alone:
            whole = [replace(d, sentence=f"{d.sentence}; {BETWEEN}") for d in whole]
        found = [*alone, *whole]
        self.report.rows = list(self.rows.values())
        self.report.disagreements += found

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
        for layer in judged_back:
            yield from self._compare(number, layer, self._named(layer, ""), [r.params for r in records])
        for layer, leaf in self.leaves.items():
            running = [(name, name.rpartition(".")[2]) for name in leaf.shapes]
            yield from self._compare(number, layer, running, [r.buffers for r in records])

    def _named(self, layer: str, prefix: str) -> list[tuple[str, str]]:
        """The layer's parameters: name, and letter with a prefix."""
        leaf = self.leaves[layer]
        letters = LETTERS if leaf.rule.name == "linear" else {}
        return [(name, prefix + letters.get(local, local)) for local, name in leaf.names.items()]

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
                f"{letter} is {worst:.3g} times its allowance away from {self.report.against}'s; "
                f"{self._origin(layer, letter)}",
            )

    def _origin(self, layer: str, letter: str) -> str:
        """Which piece of the text computed a tensor."""
        if layer not in self.leaves:
            return "it is the forward of the loss, or of the penalty"
        rule = self.leaves[layer].rule.name
        if letter in VALUES or letter.startswith("running"):
            return f"it comes from the forward of {rule}"
        if letter not in COTANGENTS:
            return (
                f"it comes from the backward of {rule}, or from the penalty"
                if letter[0] == "d"
                else "it comes from the update"
            )
        position = self.order.index(layer) + 1
        if position == len(self.order):
            return "it comes from the backward of the loss"
        above = self.order[position]
        return f"it comes from the backward of {self.leaves[above].rule.name} ({above}), or from a residual connection"

    def _alone(self, number: int, visits: dict[str, Visit]) -> list[Disagreement]:
        """In the order of computation: values from the first layer on, cotangents from the last layer back."""
        found = {layer: list(self._alone_one(number, layer, visit)) for layer, visit in visits.items()}
        values = [d for some in found.values() for d in some if d.quantity.startswith("y ")]
        cotangents = [d for layer in reversed(found) for d in found[layer] if not d.quantity.startswith("y ")]
        return values + cotangents

    def _alone_one(self, number: int, layer: str, visit: Visit) -> Iterator[Disagreement]:
        leaf = visit.leaf
        case = visit_case(visit, f"step {number}")
        report = compare(None, leaf.rule, dtype=self.dtype, device=self.report.device, cases=[case])
        for argument, worst in report.worst.items():
            self._note(number, layer, f"{argument} alone", worst.error_over_allowance, worst.ulps)
        for text in report.not_tested if not report.cases else ():
            yield Disagreement(number, layer, "alone", f"{leaf.rule.name} could not be judged: {text}")
        for mismatch in report.mismatches:
            self._note(number, layer, f"{mismatch.argument} alone", mismatch.error_over_allowance or torch.inf, 0.0)
            side = "forward" if mismatch.argument == "y" else "backward"
            sentence = f"the {side} of {leaf.rule.name} is wrong by itself: {mismatch}"
            yield Disagreement(number, layer, f"{mismatch.argument} alone", sentence)

    def _note(self, number: int, layer: str, quantity: str, ratio: float, ulps: float) -> None:
        rule = self.leaves[layer].rule.name if layer in self.leaves else "loss"
        row = self.rows.setdefault((layer, quantity), Row(layer, quantity, rule))
        if ratio > row.error_over_allowance or row.step == 0:
            row.error_over_allowance, row.ulps, row.step = ratio, ulps, number

    def _flipped(self, ours: StepRecord, theirs: StepRecord) -> str | None:
        """The last layer with a unit that took another branch in the other engine, z being a rounding from a kink."""
        last = None
        for before, layer in zip(self.order, self.order[1:], strict=False):
            leaf = self.leaves[layer]
            if leaf.rule.chapter != "activation":
                continue
            (inputs,) = (ours.layers[before][k] for k in VALUES if k in ours.layers[before])
            (others,) = (theirs.layers[before][k] for k in VALUES if k in theirs.layers[before])
            flips = int(branches_differ(leaf, inputs, others).sum())
            if flips:
                self.report.flips += flips
                last = layer
        return last


def branches_differ(leaf: Leaf, x: Tensor, other: Tensor) -> Tensor:
    """Where the activation's slope at x and at another x, a rounding away, belongs to different branches."""
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
    grads = [visit.dx] + [visit.dparams.get(leaf.names[local]) for local in list(leaf.rule.inputs)[1:]]
    recorded = tuple(
        g if spec.cotangent else NOT_RECORDED for g, spec in zip(grads, leaf.rule.inputs.values(), strict=True)
    )
    return Case(visit.inputs, visit.dy, leaf.hyper, name, visit.y, recorded)
