"""What another engine shows of a step, judged alone: each layer, the loss, each gradient, the update, evaluation.

Nothing here looks at the hand-derived step's tensors but to name a cause: what is due follows from the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors, summed
from manual_bp.oracle.truth.errors import errors
from manual_bp.training.causes.explaining import cause_of_step, frozen_moved, not_moved
from manual_bp.training.causes.following import Seen
from manual_bp.training.causes.moment import Moment
from manual_bp.training.causes.seeking import MOST_CAUSES, UpdatesSeen
from manual_bp.training.causes.updating import MOST_PAST
from manual_bp.training.engine import COTANGENTS, VALUES, StepRecord
from manual_bp.training.judging.chance import by_chance
from manual_bp.training.judging.compared import Compared
from manual_bp.training.judging.disagreement import UPDATE, UPDATE_OR_GRADIENT, Disagreement, Judged
from manual_bp.training.judging.evaluating import wrong_evaluation
from manual_bp.training.judging.own_layers import cause_of_own_layer
from manual_bp.training.judging.own_options import OwnOptions
from manual_bp.training.replaying import Replay, replayed, replayed_update
from manual_bp.training.visits import copied

# Where the wrong layers of an engine that shows none may be, so many are tried.
MOST_SUSPECTS = 40
BLUNT = ("adam", "adamw")
"""Optimisers from whose first step the size of the gradients cannot be told."""


class OwnJudge:
    """Of one engine, step after step; it remembers what the step before showed."""

    def __init__(self, judge: Compared) -> None:
        self.judge = judge
        self.before: Moment | None = None
        self.kept: Tensors | None = None
        self.explained = False
        self.updates = UpdatesSeen(judge.training, judge.dtype)
        self.options = OwnOptions(judge.training)
        self.update_found: Disagreement | None = None
        self.at_update: tuple[Moment, Moment | None, Judged] | None = None
        self.without_cause, self.told_by_gradients = "", False
        self._told: tuple[int, str] = (0, "")

    def judged(self, judged: Judged, whole: list[Disagreement]) -> list[Disagreement]:
        """What is wrong with a step, first what is wrong by itself.

        whole: where it differs from the hand-derived step, whose layers are all right by themselves.
        """
        step, theirs, state = self.judge.training, judged.theirs, judged.state
        found: list[Disagreement] = []
        replay = None
        if whole or self._is_asked(judged.number):
            replay = replayed(step, state, judged.x, judged.target, theirs, self.judge.dtype, judged.number)
            found += self._layers(judged, replay)
        total = {} if self.before is None else dict(self.before.total)
        past = () if self.before is None else (self.before.due.gradients, *self.before.past)
        now = Moment(state, judged.x, judged.target, _wide(judged.ours), theirs, total, past[:MOST_PAST])
        if (found or whole) and replay is not None:
            shows_gradients = self.judge.shows_gradients
            others = [d for d in whole if not (shows_gradients and UPDATE in d.sentence)]
            found = self._explained(judged, replay, now, found, others)
        found += self._update(judged, now, whole)
        found += self._evaluation(judged) if not found else []
        self.before = replace(now, total=summed(total, theirs.gradients))
        return found

    def _is_asked(self, number: int) -> bool:
        """Whether a step is judged alone in which nothing disagrees: 1, 2, 4, ..., as each costs as much as another
        run of the random errors."""
        return not self.judge.trusted and number & (number - 1) == 0

    # ------------------------------------------------------------------------------------------------------ layers

    def _layers(self, judged: Judged, replay: Replay) -> list[Disagreement]:
        """In the order in which a step computes."""
        judge, theirs, due, width = self.judge, judged.theirs, replay.due, replay.width
        found: list[Disagreement] = []

        def compare(layer: str, names: list[tuple[str, str]], tensors: tuple[Tensors, Tensors, Tensors]) -> None:
            shown, wanted, allowed = tensors
            for name, letter in names:
                if name in shown and name in wanted:
                    found.extend(self._one(judged, layer, letter, shown[name], wanted[name], allowed[name]))

        for layer in judge.order:
            at = tuple(r.layers.get(layer, {}) for r in (theirs, due, width))
            compare(layer, [(k, k) for k in VALUES], at)  # type: ignore[arg-type]
        compare("loss", [("J", "J")], ({"J": theirs.loss}, {"J": due.loss}, {"J": width.loss}))
        for layer in reversed(judge.order):
            at = tuple(r.layers.get(layer, {}) for r in (theirs, due, width))
            compare(layer, [(k, k) for k in COTANGENTS], at)  # type: ignore[arg-type]
            compare(layer, judge.named(layer, "d"), (theirs.gradients, due.gradients, width.gradients))
        for layer, leaf in judge.leaves.items():
            running = [(name, name.rpartition(".")[2]) for name in leaf.shapes if judge.owner[name] == layer]
            compare(layer, [n for n in running if n[0] in due.buffers], (theirs.buffers, due.buffers, width.buffers))
        return found

    def _one(
        self, judged: Judged, layer: str, letter: str, shown: Tensor, due: Tensor, allowance: Tensor
    ) -> Iterator[Disagreement]:
        if not shown.is_floating_point():
            return
        worst = _worst(shown, due, allowance, self.judge.dtype)
        self.judge.note(judged.number, layer, f"{letter} of {self.judge.against} alone", worst, 0.0)
        if worst > 1:
            shows = any(judged.theirs.layers.get(name) for name in self.judge.order)
            what = "inputs" if letter in VALUES or layer == "loss" else "tensors"
            of = f" of {self.judge.against}'s own {what}" if shows else ""
            yield Disagreement(
                judged.number,
                layer,
                letter,
                f"{letter} is {worst:.3g} times its allowance away from what is due{of}; "
                f"{self.judge.origin(layer, letter)}",
            )

    # ------------------------------------------------------------------------------------------------------ causes

    def _explained(
        self, judged: Judged, replay: Replay, now: Moment, found: list[Disagreement], whole: list[Disagreement]
    ) -> list[Disagreement]:
        """The disagreements, of which the first names a cause, and which side's layers are right by themselves."""
        judge, theirs = self.judge, judged.theirs
        first = (found or whole)[:1]
        is_bare = False
        cause, shows = "", any(theirs.layers.get(layer) for layer in judge.order)
        if first and not self.explained:
            self.explained = True
            wrong = list(dict.fromkeys(d.layer for d in found if d.layer in judge.leaves)) or [first[0].layer]
            below = [t for layer in wrong for t in judge.takers.get(layer, [])]
            suspects = {*wrong[:4], *below[:4]} if shows and found else set(judge.order[:MOST_SUSPECTS])
            cause = getattr(judge.engine, "beside", "")
            # What does not move is seen; a layer that would leave it there is not.
            still = ""
            if not judge.shows_gradients:
                still = frozen_moved(judge.training, judged.state, theirs) or not_moved(
                    judged.state, judged.ours, theirs
                )
            is_update = not cause and not judge.shows_gradients and UPDATE_OR_GRADIENT in first[0].sentence
            named = {letter: name for name, letter in judge.named(first[0].layer, "")} if is_update else {}
            cause = cause or (still if named.get(first[0].quantity) in still.split() else "")
            # Adam's first step is the gradients' signs, which many wrong gradients share.
            is_blunt = is_update and judge.training.optimizer.name in BLUNT
            most = MOST_CAUSES if is_blunt else 1
            cause = cause or cause_of_step(judge.training, now, self.before, judged.width, suspects, most)
            cause = cause or by_chance(judge.fresh, judged, judge.dtype)
            # Of an engine that shows no layers, one that is wrong in more than one place may have another wrong layer.
            is_there = bool(found) and (shows or len({d.layer for d in found}) == 1)
            cause = cause or (cause_of_own_layer(judge, replay, judged, found[0]) if is_there else "")
            self.told_by_gradients = is_blunt and cause not in ("", still)
            is_bare = is_update and (is_blunt or cause in ("", still))
            cause = cause or still
        said = self._said(theirs, found)
        result = [replace(d, sentence=f"{d.sentence}; {said}") for d in (found or whole)]
        without_cause = result[0].sentence if result else ""
        if cause:
            # The layer stands before the sentence, as the place: of an engine that shows none it is the cause's.
            place, colon, words = cause.partition(": ")
            if colon and place in judge.leaves and (place == result[0].layer or not shows):
                result[0], cause = replace(result[0], layer=place), words
            result[0] = replace(result[0], sentence=f"{cause} ({result[0].sentence})")
        if is_bare and result:
            self.update_found, self.without_cause = result[0], without_cause
        return result + ([replace(d, sentence=f"{d.sentence}; {said}") for d in whole] if found else [])

    def _said(self, theirs: StepRecord, found: list[Disagreement]) -> str:
        """Which side's layers agree by themselves."""
        judge, against = self.judge, self.judge.against
        shown = [layer for layer in judge.order if theirs.layers.get(layer)]
        if found and all(len(judge.takers.get(d.layer, [])) < 2 for d in found[:1]):
            return "every hand-derived layer agrees by itself"
        if found or not shown:
            also = "" if shown else f"; {against} shows no layers"
            return f"{judge.elsewhere}{also}"
        some = "every layer" if len(shown) == len(judge.order) else f"each of the {len(shown)} layers"
        return f"{judge.elsewhere}; {some} that {against} shows agrees by itself too"

    # ------------------------------------------------------------------------------------------------------ update

    def _update(self, judged: Judged, now: Moment, whole: list[Disagreement]) -> list[Disagreement]:
        """The update by its page, alone, on the engine's own gradients."""
        judge, theirs, state = self.judge, judged.theirs, judged.state
        if not theirs.params:
            return []
        if not judge.shows_gradients:
            self._note_bare(judged, whole)
            return []
        # An engine whose optimiser keeps its moments has those of its own gradients.
        own = state if self.kept is None else replace(state, optimizer=dict(self.kept))
        gradients = {
            name: theirs.gradients[name].detach().to(p)
            for name, p in state.params.items()
            if name not in judge.training.frozen
        }
        self.kept = judge.training.update(own, gradients, {}).optimizer
        found: list[Disagreement] = []
        if not (whole or self._is_asked(judged.number)):
            self.updates.note(Seen(judged.number, state, dict(own.optimizer), gradients, theirs), False)
            return []
        step, limit = judge.training, judge.training.clip_norm
        ways = [(step, state)] + ([(step, own)] if own is not state else [])
        if limit is not None and float(torch.stack([g.norm() for g in gradients.values()]).norm()) <= limit:
            # Gradients that are shown clipped are wrong as such; clipped once more they would be a little shorter.
            ways.append((replace(step, clip_norm=None), state))
        for made, begun in ways:
            due, width = replayed_update(made, begun, gradients, judge.dtype, judged.number)
            wrong = self._compared_update(judged, due, width)
            found = wrong if not wrong or not found else found
            if not wrong:
                break
        self.updates.note(Seen(judged.number, state, dict(own.optimizer), gradients, theirs), bool(found))
        if found and self.update_found is None:
            self.update_found, self.at_update = found[0], (now, self.before, judged)
        return found

    def _note_bare(self, judged: Judged, whole: list[Disagreement]) -> None:
        """Remember an update of gradients that are not shown, in whose place the hand-derived ones stand."""
        judge, state = self.judge, judged.state
        own = state if self.kept is None else replace(state, optimizer=dict(self.kept))
        gradients = {
            n: judged.ours.gradients[n].to(p) for n, p in state.params.items() if n not in judge.training.frozen
        }
        self.kept = judge.training.update(own, gradients, {}).optimizer
        is_wrong = any(UPDATE_OR_GRADIENT in d.sentence for d in whole)
        seen = Seen(judged.number, state, dict(own.optimizer), gradients, judged.theirs, judged.width)
        self.updates.note(seen, is_wrong)

    def told(self, disagreements: list[Disagreement]) -> list[Disagreement]:
        """With the cause in the sentence of the first wrong update, as all steps so far tell it."""
        if self.update_found is None or not any(d is self.update_found for d in disagreements):
            return disagreements
        if self._told[0] != len(self.updates.steps):
            self._told = len(self.updates.steps), self.updates.cause() or self._of_other_gradients()
        _, cause = self._told
        if self.told_by_gradients and len(self.updates.steps) < 2:
            return disagreements
        unexplained = self.without_cause or self.update_found.sentence
        said = self.options.otherwise(self.before.state.params) if self.before else ""
        if not cause and said:
            sentence = f"{said} ({unexplained})"
        elif not cause or cause in self.update_found.sentence:
            return disagreements
        elif self.judge.shows_gradients:
            sentence = f"the update is wrong: {cause}{f'; {said}' if said else ''} ({self.update_found.sentence})"
        else:
            told = "as the parameters alone tell, since no gradients are shown"
            sentence = f"{cause} ({told}; {f'{said}; ' if said else ''}{unexplained})"
        return [replace(d, sentence=sentence) if d is self.update_found else d for d in disagreements]

    def _of_other_gradients(self) -> str:
        """Of which gradients an update is that is none of those that are shown, in words; "" if none are found."""
        if self.at_update is None or not self.judge.shows_gradients:
            return ""
        now, before, judged = self.at_update
        step = self.judge.training
        bare = replace(now, shown=StepRecord(now.shown.loss, params=now.shown.params))
        most = MOST_CAUSES if step.optimizer.name in BLUNT else 1
        cause = cause_of_step(step, bare, before, judged.width, set(), most, of_the_loss=False)
        if not cause:
            return by_chance(self.judge.fresh, judged, self.judge.dtype, of_update=True)
        return f"it is made of other gradients than those that are shown: {cause}"

    def _compared_update(self, judged: Judged, due: StepRecord, width: StepRecord) -> list[Disagreement]:
        judge, theirs = self.judge, judged.theirs
        found = []
        for layer in judge.order:
            named = judge.named(layer, "")
            moments = judge.moments(named, due.optimizer)
            for names, (shown, wanted, allowed) in (
                (moments, (theirs.optimizer, due.optimizer, width.optimizer)),
                (named, (theirs.params, due.params, width.params)),
            ):
                for name, letter in names:
                    if name not in shown:
                        continue
                    worst = _worst(shown[name], wanted[name], allowed[name], judge.dtype)
                    judge.note(judged.number, layer, f"{letter} of {judge.against} alone", worst, 0.0)
                    if worst > 1:
                        sentence = (
                            f"{letter} is {worst:.3g} times its allowance away from what is due of "
                            f"{judge.against}'s own gradients; {judge.origin(layer, letter)}"
                        )
                        found.append(Disagreement(judged.number, layer, letter, sentence))
        return sorted(found, key=lambda d: d.quantity not in ("W", "b", "weight", "bias"))

    # -------------------------------------------------------------------------------------------------- evaluation

    def _evaluation(self, judged: Judged) -> list[Disagreement]:
        """The network's output once training is over, of an engine that has it."""
        judge = self.judge
        evaluate = getattr(judge.engine, "evaluate", None)
        if not callable(evaluate) or not self._is_asked(judged.number):
            return []
        ratio, words = wrong_evaluation(judge.training, evaluate, copied(judged.state), judged.x, judge.against)
        judge.note(judged.number, "output", f"evaluation of {judge.against} alone", ratio, 0.0)
        said = f"{words} (it is {ratio:.3g} times its allowance away from what is due)"
        return [Disagreement(judged.number, "output", "evaluation", said)] if words else []


def _worst(shown: Tensor, due: Tensor, allowance: Tensor, dtype: torch.dtype) -> float:
    ratio, _ = errors(shown.detach().cpu(), due, allowance, dtype)
    return float(ratio.nan_to_num(torch.inf).max()) if ratio.numel() else 0.0


def _wide(record: StepRecord) -> StepRecord:
    def each(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return wide(tensors)

    return replace(
        record,
        loss=record.loss.detach().cpu().double(),
        layers={name: each(found) for name, found in record.layers.items()},
        gradients=each(record.gradients),
        params=each(record.params),
        buffers=each(record.buffers),
        optimizer=each(record.optimizer),
    )
