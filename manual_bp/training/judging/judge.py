"""Judging: one training step by two engines from the same state, tensor by tensor and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.chain import Tensors, Visit
from manual_bp.oracle.checking import compare
from manual_bp.oracle.truth.errors import errors, ulp
from manual_bp.training.engine import (
    COTANGENTS,
    VALUES,
    Engine,
    ManualEngine,
    StepRecord,
    allowance_of,
    check_record,
)
from manual_bp.training.judging.alone import OwnJudge
from manual_bp.training.judging.compared import Compared
from manual_bp.training.judging.disagreement import Disagreement, Judged
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.visits import branches_differ, copied, diverged, visit_case


class Judge(Compared):
    """The hand-derived step against another engine's, judged one step at a time.

    Each of the hand-derived layers is judged alone; of the other engine what it shows is judged alone too, in every
    step in which something disagrees, and, unless it is trusted, in the first, the second, the fourth and so on
    (`manual_bp.training.judging.alone`).

    engine: what is judged against; `against` is its name in sentences. trusted: whether it is the reference, so that
        agreement with it is all that is asked.
    fresh: makes another engine like it, which is asked whether it does the same by other random numbers.
    rows: the worst of each tensor so far. disagreements: in the order in which they arose.
    flips: units whose branch differed because z lay within a rounding of a kink.
    diverged: a sentence once both engines have left the numbers of the dtype, else "".
    unshown: what the other engine does not show, so that it is not judged, in words.
    """

    def __init__(
        self,
        step: Step,
        engine: Engine,
        dtype: torch.dtype,
        device: str = "cpu",
        against: str = "",
        trusted: bool = False,
        fresh: Callable[[], Engine] | None = None,
    ) -> None:
        super().__init__(step, engine, dtype, against, trusted, fresh)
        self.manual, self.device = ManualEngine(step), device
        self._found: list[Disagreement] = []
        self.flips = 0
        self.diverged = ""
        self.unshown: list[str] = []
        self._own = OwnJudge(self)

    @property
    def disagreements(self) -> list[Disagreement]:
        return self._own.told(self._found)

    def step(
        self, number: int, state: TrainingState, x: Tensor, target: Tensor, seed: int = 0
    ) -> tuple[StepRecord, StepRecord]:
        """Both engines' step from `state` (with its masks among the buffers); what is found is noted.

        seed: of the random errors from which the allowance is estimated.
        Once `diverged` says something, nothing is judged.
        Dropout masks that the other engine shows among its buffers, since it has drawn its own, are those of the step.
        Raises ValueError for a record that cannot be judged.
        """
        self._own.options.read(self.engine)
        theirs = self.engine.step(copied(state), x.clone(), target.clone())
        self._own.options.read(self.engine)
        drawn = {
            name: mask for name, mask in getattr(theirs, "buffers", {}).items() if name in self.training.model.masks
        }
        state = replace(state, buffers={**state.buffers, **drawn})
        ours, visits = self.manual.step(state, x, target), dict(self.manual.visits)
        lacking = check_record(theirs, ours, self.against)
        self.shown = theirs.layers
        self.unshown += [words for words in lacking if words not in self.unshown]
        self.shows_gradients = theirs.gradients.keys() >= ours.gradients.keys() - self.training.frozen
        self.diverged = diverged(number, ours, theirs, self.dtype)
        if not self.diverged:
            width = allowance_of(self.training, state, x, target, self.dtype, seed)
            flipped = self._flipped(ours, theirs)
            # A layer that is wrong by itself is the cause of what is wrong behind it, so it is named first.
            alone = self._alone(number, visits)
            whole = list(self._whole(number, ours, theirs, width, flipped))
            self._found += alone or self._own.judged(Judged(number, state, x, target, ours, theirs, width), whole)
            self._found += whole if alone else []
        return ours, theirs

    def _whole(
        self, number: int, ours: StepRecord, theirs: StepRecord, width: StepRecord, flipped: str | None
    ) -> Iterator[Disagreement]:
        """In the order in which a step computes: values, the loss, cotangents from the last layer back, updates."""
        # Behind a flipped branch every gradient differs legitimately.
        judged_back = self.order if flipped is None else self.order[self.order.index(flipped) + 1 :]
        records = (ours, theirs, width)
        for layer in self.order:
            yield from self._compare(
                number, layer, [(k, k) for k in VALUES], [r.layers.get(layer, {}) for r in records]
            )
        yield from self._compare(number, "loss", [("J", "J")], [{"J": r.loss} for r in records])
        for layer in reversed(judged_back):
            yield from self._compare(
                number, layer, [(k, k) for k in COTANGENTS], [r.layers.get(layer, {}) for r in records]
            )
            yield from self._compare(number, layer, self.named(layer, "d"), [r.gradients for r in records])
        # Clipping by the norm of all gradients carries a flip into every update.
        for layer in judged_back if flipped is None or self.training.clip_norm is None else ():
            named = self.named(layer, "")
            yield from self._compare(number, layer, self.moments(named, ours.optimizer), [r.optimizer for r in records])
            yield from self._compare(number, layer, named, [r.params for r in records])
        yield from self._compare(number, "optimizer", [("step", "step")], [r.optimizer for r in records])
        for layer, leaf in self.leaves.items():
            running = [(name, name.rpartition(".")[2]) for name in leaf.shapes if self.owner[name] == layer]
            yield from self._compare(number, layer, running, [r.buffers for r in records])

    def _compare(
        self, number: int, layer: str, names: list[tuple[str, str]], tensors: Sequence[Tensors]
    ) -> Iterator[Disagreement]:
        ours, theirs, allowances = tensors
        for name, letter in names:
            if name in ours and name in theirs:
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
        self.note(number, layer, letter, worst, ulps)
        if worst > 1:
            yield Disagreement(
                number,
                layer,
                letter,
                f"{letter} is {worst:.3g} times its allowance away from {self.against}'s; {self.origin(layer, letter)}",
            )

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
            self.note(number, layer, f"{argument} alone", worst.error_over_allowance, worst.ulps)
        for text in report.not_tested if not report.cases else ():
            yield Disagreement(number, layer, "alone", f"{leaf.rule.name} could not be judged: {text}")
        for mismatch in report.mismatches:
            self.note(number, layer, f"{mismatch.argument} alone", mismatch.error_over_allowance or torch.inf, 0.0)
            side = "forward" if _is_value(mismatch.argument) else "backward"
            sentence = f"the {side} of {leaf.rule.name} is wrong by itself: {mismatch}"
            yield Disagreement(number, layer, f"{mismatch.argument} alone", sentence)

    def _flipped(self, ours: StepRecord, theirs: StepRecord) -> str | None:
        """The last layer with a unit that took another branch in the other engine, z being a rounding from a kink."""
        last = None
        for before, layer in zip(self.order, self.order[1:], strict=False):
            leaf = self.leaves[layer]
            if leaf.names or leaf.takes > 1:  # has no kink, or none in what comes from the layer before alone
                continue
            (inputs,) = (ours.layers[before][k] for k in VALUES if k in ours.layers[before])
            shown = theirs.layers.get(before, {})
            others = next((shown[k].to(inputs) for k in VALUES if k in shown), None)
            if others is None:  # what is not shown may flip too: the random errors of the allowance do as well
                continue
            flips = int(branches_differ(leaf, inputs, others).sum())
            if flips:
                self.flips += flips
                last = layer
        return last


def _is_value(quantity: str) -> bool:
    """Whether it is a result of forward: y, or of several outputs y.y."""
    return quantity.split()[0].partition(".")[0] == "y"
