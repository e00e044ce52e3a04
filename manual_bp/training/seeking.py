"""Which wrong update an engine's is: the one that makes what it shows in every step.

One step seldom tells: Adam's first is the signs of the gradients, whatever became of them before.  So a wrong update is
followed from the first step on, by the optimiser's state that it leaves itself, as that of an engine that keeps its
own; or in each step from the state that was given, as that of an engine that takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.training.engine import StepRecord
from manual_bp.training.explaining import IMPOSSIBLE, fitting, frozen_moved, named_state, not_moved
from manual_bp.training.replaying import replayed_update
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.wrong_decays import wrong_decays
from manual_bp.training.wrong_formulas import wrong_formulas
from manual_bp.training.wrong_gradients import ROUNDED, clippings
from manual_bp.training.wrong_updates import After, Updating, WrongUpdate, wrong_updates
from manual_bp.wording import counted

SECONDS = 10.0
"""Of computing, for one search."""
MOST_NUMBERS = 2**24
"""Of what is remembered: 64 MB in float32.  Of a larger network the latest steps alone are looked at."""
MOST_STEPS = 16
"""After the first that disagrees: enough for moments to tell apart what they are made of."""
MOST_TOLD = 3
"""Of steps, so many may tell a limit of clipping."""
MOST_CAUSES = 3
"""Of causes that the steps do not tell apart, so many are said."""
# One number among many wrong ones is no cause: it must account for nearly all that they are off.
NEARER = 8
SAME = 1e-12
"""Relative: by how much two wrong updates in float64 that are one and the same may differ."""


@dataclass
class Seen:
    """One step: where it began, its gradients as they went into the update, and what was shown behind it.

    own: the optimiser's state that the right update has made of these gradients.  chain: how far off what comes behind
    the whole chain may be, where the gradients are the hand-derived ones, as the engine shows none.
    """

    number: int
    state: TrainingState
    own: dict[str, Tensor]
    gradients: dict[str, Tensor]
    shown: StepRecord
    chain: StepRecord | None = None
    judged: dict[bool, tuple[StepRecord, StepRecord]] = field(default_factory=dict)

    @property
    def numbers(self) -> int:
        return sum(t.numel() for some in (self.own, self.gradients, self.shown.params) for t in some.values())

    def due(self, step: Step, dtype: torch.dtype, is_own: bool) -> tuple[StepRecord, StepRecord]:
        """What is due of its gradients, and how far off it may be."""
        if is_own not in self.judged:
            state = replace(self.state, optimizer=self.own) if is_own else self.state
            due, width = replayed_update(step, state, self.gradients, dtype, self.number)
            if self.chain is not None:
                width = replace(
                    width,
                    params={n: w + self.chain.params[n] for n, w in width.params.items()},
                    optimizer={n: w + self.chain.optimizer[n] for n, w in width.optimizer.items()},
                )
            self.judged[is_own] = due, width
        return self.judged[is_own]


class UpdatesSeen:
    """What is remembered of an engine's updates, and the cause that explains them all."""

    def __init__(self, step: Step, dtype: torch.dtype) -> None:
        self.step, self.dtype = step, dtype
        self.steps: list[Seen] = []
        self.first_wrong: int | None = None

    def note(self, seen: Seen, is_wrong: bool) -> None:
        if self.first_wrong is not None and seen.number > self.first_wrong + MOST_STEPS:
            return
        if self.first_wrong is None and is_wrong:
            self.first_wrong = seen.number
        self.steps.append(seen)
        while len(self.steps) > 1 and sum(each.numbers for each in self.steps) > MOST_NUMBERS:
            if self.first_wrong is not None and self.steps[0].number >= self.first_wrong:
                self.steps.pop()
                return
            self.steps.pop(0)

    def cause(self) -> str:
        """The wrong updates that an engine's can be, in words; "" if none of those that are known."""
        for seen in self.steps:
            if moved := frozen_moved(self.step, seen.state, seen.shown):
                return moved
        if len(self.steps) > 1 and (still := self._nothing_moves()):
            return still
        found: dict[str, list[Tensors]] = {}
        deadline = Deadline(SECONDS)
        with suppress(TimeIsUp):
            for is_own in (True, False) if len(self.steps) > 1 else (False,):
                for words, made in self._explaining(is_own, deadline):
                    if not any(map(_alike, [made] * len(found), found.values())):  # the same in other words
                        found[words] = made
                if found:
                    break
        several = "these steps do" if len(self.steps) > 1 else "this step does"
        told = "; or ".join(list(found)[:MOST_CAUSES]) + ("; or others" if len(found) > MOST_CAUSES else "")
        return f"{told} ({several} not tell which)" if len(found) > 1 else told or self._still()

    def _nothing_moves(self) -> str:
        """That no parameter has moved in several steps though all were to, in words; else "".

        A loop that steps seldom would have, once, if it was seen for so long."""
        for seen in self.steps:
            due, _ = seen.due(self.step, self.dtype, False)
            moving = [n for n, p in due.params.items() if not torch.equal(p.cpu(), seen.state.params[n].double().cpu())]
            here = [n for n in moving if n in seen.shown.params]
            if not here or any(
                not torch.equal(seen.shown.params[n].to(p), p) for n, p in seen.state.params.items() if n in here
            ):
                return ""
        many = counted(len(self.steps), "step")
        return f"no parameter is moved in {many}: the optimiser makes no step, or has other tensors than the network's"

    def _still(self) -> str:
        """Which parameters never move, in words."""
        said = {not_moved(seen.state, seen.due(self.step, self.dtype, False)[0], seen.shown) for seen in self.steps}
        return said.pop() if len(said) == 1 else ""

    def _explaining(self, is_own: bool, deadline: Deadline) -> Iterator[tuple[str, list[Tensors]]]:
        shown = [(seen.state, seen.gradients, seen.shown.params) for seen in self.steps]
        yield from self._those(wrong_decays(self.step, shown, is_own), is_own, deadline)
        yield from self._those(wrong_updates(self.step), is_own, deadline)
        yield from self._factors(is_own)
        yield from self._rounded(is_own)
        yield from self._those(self._clipped(), is_own, deadline)
        yield from self._those(wrong_formulas(self.step), is_own, deadline)

    def _those(
        self, those: Iterator[WrongUpdate], is_own: bool, deadline: Deadline
    ) -> Iterator[tuple[str, list[Tensors]]]:
        for words, update in those:
            deadline.check()
            with suppress(*IMPOSSIBLE):
                made = self._followed(update, is_own, deadline)
                if made is not None:
                    yield words, made

    def _followed(self, update: Callable[[Updating], After], is_own: bool, deadline: Deadline) -> list[Tensors] | None:
        """The parameters after each step by a wrong update, if they are those that were shown, and visibly not right.

        An engine may also show its state of the right update, and have updated the parameters otherwise."""
        found: list[Tensors] = []
        is_visible, with_state = False, True
        kept: dict[str, Tensor] | None = None
        former: Tensors | None = None
        for seen in self.steps:
            deadline.check()
            before = wide(seen.state.optimizer if kept is None or not is_own else kept)
            state = replace(seen.state, params=wide(seen.state.params), optimizer=before)
            gradients = wide(seen.gradients)
            params, optimizer = update(Updating(self.step, state, gradients, former, is_own))
            kept, former = dict(optimizer), gradients
            due, width = seen.due(self.step, self.dtype, is_own)
            whole = {**params, **named_state(optimizer)}
            due_, shown_, allowed = ({**r.params, **named_state(r.optimizer)} for r in (due, seen.shown, width))
            fits, visible = fitting(whole, due_, shown_, allowed) if with_state else (False, False)
            if not fits:
                with_state = False
                fits, visible = fitting(params, due.params, seen.shown.params, width.params)
            if not fits:
                return None
            is_visible |= visible
            found.append(params)
        return found if is_visible else None

    def _factors(self, is_own: bool) -> Iterator[tuple[str, list[Tensors]]]:
        """All parameters, or some, that move by the same multiple of what is due in every step."""
        moves: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for seen in self.steps:
            due, _ = seen.due(self.step, self.dtype, is_own)
            for name in due.params.keys() & seen.shown.params.keys():
                start = seen.state.params[name].double().cpu()
                came, wanted = (r.params[name].double().cpu() - start for r in (seen.shown, due))
                moves.setdefault(name, []).append((came.flatten(), wanted.flatten()))
        if not moves:
            return
        own = {name: _multiple(pairs) for name, pairs in moves.items()}
        for some in (list(moves), *self._kinds(list(moves))):
            c = _multiple([pair for name in some for pair in moves[name]])
            # What does not move at all is told as such.
            if c is None or abs(c) < 1 / NEARER**2 or any(own[name] is None for name in some):
                continue
            made = self._moved({name: c if name in some else 1.0 for name in moves}, is_own)
            if made is None:
                continue
            whose = "the parameters move" if len(some) == len(moves) else f"{_listed(some)} move, and no other,"
            said = "another learning rate, a factor of the gradients, or a mean of parameters in place of these"
            yield f"{whose} by {c:.6g} times what is due: {said}", made

    def _kinds(self, names: list[str]) -> Iterator[list[str]]:
        """Weights, all others, and each by itself."""
        weights = [name for name in names if name in self.step.weights]
        yield weights
        yield [name for name in names if name not in weights]
        yield from ([name] for name in names)

    def _rounded(self, is_own: bool) -> Iterator[tuple[str, list[Tensors]]]:
        """Parameters that are numbers of 16 bits in every step, within one place there of what is due."""
        for dtype in ROUNDED:
            found: list[Tensors] = []
            is_visible = False
            for seen in self.steps:
                due, width = seen.due(self.step, self.dtype, is_own)
                shown = {n: p.detach().cpu() for n, p in seen.shown.params.items() if n not in self.step.frozen}
                if not all(torch.equal(p.to(dtype).to(p.dtype), p) for p in shown.values()):
                    break
                off = {n: (p.double() - due.params[n].cpu()).abs() for n, p in shown.items()}
                # Both where the update begins and where it ends may be rounded, by half a place each.
                place = {n: torch.finfo(dtype).eps * due.params[n].cpu().abs() + width.params[n].cpu() for n in off}
                if not all(bool((off[n] <= place[n]).all()) for n in off):
                    break
                is_visible |= any(bool((off[n] > width.params[n].cpu()).any()) for n in off)
                found.append(wide(shown))
            else:
                if is_visible:
                    yield f"the parameters are rounded to {str(dtype).removeprefix('torch.')}", found

    def _clipped(self) -> Iterator[WrongUpdate]:
        """Clipping to a limit that nobody gave, where the update is plain enough to tell the gradients that it had."""
        own, plain = self.step.optimizer, replace(self.step, clip_norm=None)
        is_plain = own.name == "sgd" and not any(own.config.get(name) for name in ("momentum", "weight_decay"))
        if not is_plain or self.step.schedule is not None or self.step.max_norm is not None:
            return
        for seen in self.steps[:MOST_TOLD]:
            lr = float(own.config["lr"])  # type: ignore[arg-type]
            moved = {
                n: (seen.state.params[n].double().cpu() - p.double().cpu()) / lr
                for n, p in seen.shown.params.items()
                if n in seen.gradients
            }
            rounding = max(torch.finfo(self.dtype).eps * float(p.abs().max()) for p in seen.state.params.values()) / lr
            for words, clipped in clippings(moved, rounding):
                yield (
                    f"the gradients are clipped, {words}",
                    lambda of, clipped=clipped: of.after(plain, gradients=clipped(of.gradients)),  # type: ignore[misc]
                )

    def _moved(self, factors: dict[str, float], is_own: bool) -> list[Tensors] | None:
        found: list[Tensors] = []
        is_visible = False
        for seen in self.steps:
            due, width = seen.due(self.step, self.dtype, is_own)
            start = wide(seen.state.params)
            made = {n: start[n].cpu() + factors.get(n, 1.0) * (p.cpu() - start[n].cpu()) for n, p in due.params.items()}
            fits, visible = fitting(made, due.params, seen.shown.params, width.params)
            if not fits:
                return None
            is_visible |= visible
            found.append(made)
        return found if is_visible else None


def _multiple(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    """By how much what came is what is due, where one number accounts for it."""
    came, due = (torch.cat(some) for some in zip(*pairs, strict=True))
    if not float(due.norm()) or not bool(came.isfinite().all()):
        return None
    c = float(came @ due / (due @ due))
    if float((came - c * due).norm()) * NEARER > float((came - due).norm()):
        return 1.0 if float((came - due).norm()) <= float(due.norm()) / NEARER else None
    return c


def _alike(first: list[Tensors], other: list[Tensors]) -> bool:
    return all(
        bool(((a[n] - b[n]).abs() <= SAME * a[n].abs()).all())
        for a, b in zip(first, other, strict=True)
        for n in a.keys() & b.keys()
    )


def _listed(names: list[str]) -> str:
    return " and ".join(names[:4]) + (f" and {counted(len(names) - 4, 'other')}" if len(names) > 4 else "")
