"""Updates that were seen, and a wrong one followed through them: whether it makes what was shown.

An engine's optimiser may keep its own moments, and what it has to remember beside, from step to step; a judge gives
the right state before each step, and the engine need not look at it.  So a wrong update is followed from the first step
on, by the optimiser's state that it leaves itself, as that of an engine that keeps its own; or in each step from the
state that was given, as that of an engine that takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.training.causes.explaining import IMPOSSIBLE, fitting, named_state
from manual_bp.training.causes.updating import MOST_PAST, After, Updating
from manual_bp.training.causes.wrong_updates import mixed
from manual_bp.training.engine import StepRecord
from manual_bp.training.replaying import replayed_update
from manual_bp.training.step import Step, TrainingState
from manual_bp.wording import counted

Made = list[Tensors]
"""Parameters after each step, as something makes them."""
Found = tuple[str, Made]
MOST_NAMED = 4


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


@dataclass(frozen=True)
class Course:
    """Several steps, in which a wrong update is followed.

    is_own: by the state that it leaves itself, or by the one that was given.  names: the parameters that it is about;
    None for all.
    """

    step: Step
    dtype: torch.dtype
    steps: Sequence[Seen]
    is_own: bool
    deadline: Deadline
    names: frozenset[str] | None = None

    @cached_property
    def wrong(self) -> frozenset[str]:
        """The parameters that are not what is due in some step."""
        found: set[str] = set()
        for seen in self.steps:
            due, width = self.due(seen)
            for name in due.params.keys() & seen.shown.params.keys():
                off = (seen.shown.params[name].detach().cpu().double() - due.params[name].cpu()).abs()
                if not bool((off <= width.params[name].cpu()).all()):
                    found.add(name)
        return frozenset(found)

    def due(self, seen: Seen) -> tuple[StepRecord, StepRecord]:
        return seen.due(self.step, self.dtype, self.is_own)

    def pairs(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """In each step how a parameter moved, and how it is due to."""
        for seen in self.steps:
            start = seen.state.params[name].double().cpu()
            due, _ = self.due(seen)
            yield (
                (seen.shown.params[name].detach().double().cpu() - start).flatten(),
                (due.params[name].cpu() - start).flatten(),
            )

    @property
    def judged(self) -> list[str]:
        """The parameters of which an update is judged."""
        first = self.steps[0]
        due, _ = self.due(first)
        return [n for n in due.params if n in first.shown.params and (self.names is None or n in self.names)]

    def made(self, update: Callable[[Updating], After]) -> Iterator[tuple[Seen, After]]:
        """What a wrong update makes of each step."""
        kept: Tensors | None = None
        past: list[Tensors] = []
        for seen in self.steps:
            self.deadline.check()
            after = update(self.at(seen, kept, past))
            kept, past = dict(after[1]), [wide(seen.gradients), *past][:MOST_PAST]
            yield seen, after

    def at(self, seen: Seen, kept: Tensors | None, past: Sequence[Tensors]) -> Updating:
        before = wide(seen.state.optimizer if kept is None or not self.is_own else kept)
        state = replace(seen.state, params=wide(seen.state.params), optimizer=before)
        return Updating(self.step, state, wide(seen.gradients), tuple(past), self.is_own)

    def followed(self, update: Callable[[Updating], After]) -> Made | None:
        """The parameters after each step by a wrong update, if they are those that were shown, and visibly not right.

        An engine may also show its state of the right update, and have updated the parameters otherwise."""
        found: Made = []
        is_visible, with_state = False, True
        for seen, (params, optimizer) in self.made(update):
            due, width = self.due(seen)
            if with_state:
                whole = {**params, **named_state(optimizer)}
                due_, shown_, allowed = (
                    {**self._of(r.params), **named_state(r.optimizer)} for r in (due, seen.shown, width)
                )
                fits, visible = fitting(whole, due_, shown_, allowed)
                with_state = fits
            if not with_state:
                fits, visible = fitting(params, due.params, seen.shown.params, self._of(width.params))
            if not fits:
                return None
            is_visible |= visible
            found.append(params)
        return found if is_visible else None

    def sometimes(self, update: Callable[[Updating], After], by_name: bool) -> tuple[Made, dict[int, list[str]]] | None:
        """The same of an update that is wrong in some steps alone, and right in the others; and the parameters of which
        it is, by the numbers of those steps.

        In each step all of them, or each by itself, are the one or the other that is nearer to what was shown; the next
        goes on from what that leaves."""
        found: Made = []
        where: dict[int, list[str]] = {}
        kept: Tensors | None = None
        past: list[Tensors] = []
        for seen in self.steps:
            self.deadline.check()
            of = self.at(seen, kept, past)
            right, wrong = of.after(), update(of)
            shown = {n: p.detach().cpu().double() for n, p in self._of(seen.shown.params).items()}
            gained = {
                n: float((p - right[0][n].cpu()).norm()) - float((p - wrong[0][n].cpu()).norm())
                for n, p in shown.items()
                if n in right[0]
            }
            names = [n for n, gain in gained.items() if (gain if by_name else sum(gained.values())) > 0]
            made = mixed(right, wrong, names) if by_name else wrong if names else right
            _, width = self.due(seen)
            fits, visible = fitting(made[0], right[0], shown, self._of(width.params))
            if not fits:
                return None
            if names and visible:
                where[seen.number] = names
            kept, past = dict(made[1]), [wide(seen.gradients), *past][:MOST_PAST]
            found.append(made[0])
        return (found, where) if where else None

    def multiplied(self, factors: Sequence[Mapping[str, float]]) -> Made | None:
        """The same of parameters that move by these multiples of what is due, in each step; those that have none, as
        is due."""
        found: Made = []
        is_visible = False
        for seen, of_each in zip(self.steps, factors, strict=True):
            due, width = self.due(seen)
            start = wide(seen.state.params)
            made = {n: start[n].cpu() + of_each.get(n, 1.0) * (p.cpu() - start[n].cpu()) for n, p in due.params.items()}
            fits, visible = fitting(made, due.params, seen.shown.params, self._of(width.params))
            if not fits:
                return None
            is_visible |= visible
            found.append(made)
        return found if is_visible else None

    def each(self, those: Iterator[tuple[str, Callable[[Updating], After]]]) -> Iterator[Found]:
        """Of wrong updates those that make what was shown."""
        for words, update in those:
            with suppress(*IMPOSSIBLE):
                if (made := self.followed(update)) is not None:
                    yield words, made

    def _of(self, named: Tensors) -> dict[str, Tensor]:
        return {n: t for n, t in named.items() if self.names is None or n in self.names}


def listed(names: Sequence[str]) -> str:
    more = f" and {counted(len(names) - MOST_NAMED, 'other')}" if len(names) > MOST_NAMED else ""
    return " and ".join(names[:MOST_NAMED]) + more
