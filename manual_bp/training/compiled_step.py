"""A training step as one compiled program."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.chain import leaves
from manual_bp.compilation.program import Program, build, plain
from manual_bp.compilation.remembered import Remembered
from manual_bp.inputs import Index
from manual_bp.training.step import Step, TrainingState, refuse_bad_call


@dataclass(frozen=True)
class CompiledStep(Step):
    """A `Step` whose call is one compiled program for each shape of x and target that it meets.

    donate: the new state takes over the old one's memory: parameters, buffers and the optimiser's state are updated in
        place, and the dictionaries of the old state are emptied, so that it cannot be used by mistake.  Raises
        ValueError if two tensors of the state share memory.  (On a GPU a tensor whose address is no multiple of 16
        bytes is copied first.)
    The learning rate of a schedule is one more input of the program, so that all steps share one.
    The last batch of an epoch, if short, is a second program.  `accumulate`, `gradients` and `update` run uncompiled.
    `programs` are those built so far, with their kind and why.
    """

    donate: bool = False
    _built: dict[Any, _BuiltStep] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        """The state after one update, and the loss before it, penalties included.

        x: (batch, features); target: what the loss takes, of square_loss shaped like the output.  Numbers of classes
        are looked at before the program runs, for which a GPU is waited for.
        """
        refuse_bad_call(state, x, target)
        signature = (*_kind(x), *_kind(target), _precision(x.device))
        built = self._built.get(signature)
        if built is None or not built.fits(state):
            built = self._built[signature] = self._build(state, x, target)
        if built.program.kind == "eager" and not self.donate:
            return super().__call__(state, x, target)
        try:
            return built(state, x, target)
        except _OtherKind:
            built = self._built[signature] = self._build(state, x, target)
            return built(state, x, target)

    @property
    def programs(self) -> list[Program]:
        """What has been compiled so far."""
        return [built.program for built in self._built.values()]

    def _build(self, state: TrainingState, x: Tensor, target: Tensor) -> _BuiltStep:
        if not state.params:
            raise ValueError("state.params is empty; was the state donated to an earlier step? Use the newer one.")
        uncompiled = Step(**{each.name: getattr(self, each.name) for each in fields(Step)})
        uncompiled(state, x, target)  # refuses what does not fit, in the rules' own words
        return _BuiltStep(uncompiled, state, x, target, self.donate)


class _OtherKind(Exception):
    """The state's tensors are not of the kind that a program was built for."""


_Kind = tuple[torch.Size, torch.dtype, torch.device, torch.layout]


def _kind(t: Tensor) -> _Kind:
    return t.shape, t.dtype, t.device, t.layout


def _precision(device: torch.device) -> str | None:
    """How matrices of float32 are multiplied, which a captured graph does as it did when it was captured."""
    return torch.backends.cuda.matmul.fp32_precision if device.type == "cuda" else None


class _BuiltStep:
    """The program for one shape of x and target, and one set of names in the state."""

    def __init__(self, step: Step, state: TrainingState, x: Tensor, target: Tensor, donate: bool) -> None:
        self._step, self._donate = step, donate
        self._loss, self._loss_hyper = step.loss.rule, step.loss.rule.check_hyper(step.loss.hyper)
        _, self._target, *_ = self._loss.inputs
        self._masks = step.model.masks
        self._names = (list(state.params), self._kept(state.buffers), list(state.optimizer))
        flat = [plain(t) for t in self._tensors(state)]
        if donate:
            self._refuse_shared_memory(flat)
            flat = [t.clone() for t in flat]  # views of one storage may be donated, but not traced
        self._classes = self._classes_of(state, x, target)
        self._first = next(iter(leaves(step.model).values()), None)
        masks = self._drawn(state, x)
        for name, mask in zip(self._masks, masks, strict=True):
            if mask.dtype != torch.bool:
                raise ValueError(f"a compiled step takes masks of bool; came {name} of {mask.dtype}. Pass mask.bool().")
        self._kinds = [_kind(t) for t in flat]
        self._kinds_of_masks = [_kind(t) for t in masks]
        self._last = Remembered([])
        example = [*flat, *(plain(t) for t in (x, target, *masks)), *self._rate(state, x.device)]
        self.program = build(self._updated, example, step=True, written=len(flat) if donate else 0)

    def fits(self, state: TrainingState) -> bool:
        """Whether the state has the names that the program was built for."""
        params, buffers, optimizer = self._names
        if state.params.keys() == set(params) and state.optimizer.keys() == set(optimizer):
            return state.buffers.keys() - self._masks == set(buffers)
        return False

    def __call__(self, state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        if self._classes is not None:  # before anything is written
            self._loss.check_positions(self._target, target, self._classes, self._loss_hyper)
        if self._first is not None and not x.is_floating_point():  # numbers of tokens, at which no program looks either
            inputs = self._first.inputs(state.params, state.buffers, x)
            self._first.rule.check_inputs(inputs, self._first.rule.check_hyper(self._first.hyper))
        flat = self._tensors(state)
        known = self._last.are(flat)
        if not known:
            flat = self._checked(flat)
        batch = [plain(x), plain(target), *(self._checked_masks(state, x) if self._masks else ())]
        rate = self._rate(state, x.device)
        results = self.program.run([*flat, *(map(self._apart, batch) if self._donate else batch), *rate])
        *new, cost = (*flat, *results) if self._donate else results
        if not (known and self._donate):  # donated tensors are the same ones again
            self._last = Remembered(new)
        return self._next(state, new), cost

    def _classes_of(self, state: TrainingState, x: Tensor, target: Tensor) -> int | None:
        """How many classes the output tells apart, if the target is the number of one.  A program does not look at the
        values of what it is given, so the step looks at the target."""
        spec = self._loss.inputs[self._target]
        if not isinstance(spec, Index):
            return None
        masks = dict(zip(self._masks, self._drawn(state, x), strict=True))
        y, _, _ = self._step.model.forward(state.params, {**state.buffers, **masks}, x)
        sizes: axes.Sizes = {}
        shapes = dict(zip(self._loss.inputs, (tuple(y.shape), tuple(target.shape)), strict=False))
        axes.bind(self._loss.annotations, shapes, sizes, self._loss_hyper)
        (classes,) = sizes[spec.axis]
        return classes

    def _updated(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The flat function that is compiled: state, x, target, masks and the rate of a schedule -> new state and loss;
        the loss alone if the new state is written into the old."""
        remaining = iter(flat)
        params, buffers, optimizer = ({name: next(remaining) for name in names} for names in self._names)
        x, target = next(remaining), next(remaining)
        masks = {name: next(remaining) for name in self._masks}
        rate = next(remaining, None)
        state = TrainingState(params, {**buffers, **masks}, optimizer, seed=0)
        cost, gradients, after_buffers = self._step.gradients(self._step.model, state, x, target)
        after = self._tensors(self._step.update(state, gradients, after_buffers, rate))
        if not self._donate:
            return (*after, cost)
        for old, new in zip(flat, after, strict=False):
            old.copy_(new)
        return (cost,)

    def _rate(self, state: TrainingState, device: torch.device) -> list[Tensor]:
        """The learning rate of the step if there is a schedule: in float64, so that it is rounded as a number is."""
        schedule, optimizer = self._step.schedule, self._step.optimizer
        if schedule is None:
            return []
        rate = schedule.at(optimizer, state.steps).config["lr"]
        return [torch.tensor(rate, dtype=torch.float64, device=device)]

    def _tensors(self, state: TrainingState) -> list[Tensor]:
        params, buffers, optimizer = self._names
        return [
            *[state.params[name] for name in params],
            *[state.buffers[name] for name in buffers],
            *[state.optimizer[name] for name in optimizer],
        ]

    def _next(self, state: TrainingState, new: list[Tensor]) -> TrainingState:
        params, buffers, optimizer = self._names
        remaining = iter(new)
        after = TrainingState(
            {name: next(remaining) for name in params},
            {name: next(remaining) for name in buffers},
            {name: next(remaining) for name in optimizer},
            state.seed,
            state.steps + 1,
        )
        if self._donate:
            for donated in (state.params, state.buffers, state.optimizer):
                donated.clear()
        return after

    def _checked(self, flat: list[Tensor]) -> list[Tensor]:
        """Tensors that this step has not made itself, laid out as the program takes them.

        Raises _OtherKind for those of another shape, dtype, device or layout.
        """
        self._refuse_other_kinds(flat, self._kinds)
        taken = [plain(t) for t in flat]
        if self._donate:
            self._last = Remembered([])  # where its tensors lie is forgotten now
            self._refuse_shared_memory(taken)
        return taken

    def _checked_masks(self, state: TrainingState, x: Tensor) -> list[Tensor]:
        masks = self._drawn(state, x)
        self._refuse_other_kinds(masks, self._kinds_of_masks)
        return [plain(mask) for mask in masks]

    @staticmethod
    def _refuse_other_kinds(tensors: list[Tensor], kinds: list[_Kind]) -> None:
        for t, kind in zip(tensors, kinds, strict=True):
            if not isinstance(t, Tensor) or _kind(t) != kind:
                raise _OtherKind

    def _refuse_shared_memory(self, flat: list[Tensor]) -> None:
        """Raises ValueError if two of the tensors overlap, and else notes where they lie."""
        named = zip(self._flat_names(), flat, strict=True)
        spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in named if t.nbytes)
        for (_, end, first), (begin, _, second) in pairwise(spans):
            if begin < end:
                raise ValueError(
                    f"a donated state is updated in place; {first} and {second} share memory. Clone one of them."
                )
        self._begins, self._ends = [begin for begin, *_ in spans], [end for _, end, _ in spans]

    def _apart(self, t: Tensor) -> Tensor:
        """`t`, or a copy if it shares memory with the donated state, which is written while `t` is read."""
        begin = t.data_ptr()
        before = bisect_left(self._begins, begin + t.nbytes)  # so many tensors of the state begin before t ends
        return t.clone() if before and self._ends[before - 1] > begin else t

    def _flat_names(self) -> list[str]:
        return [name for names in self._names for name in names]

    def _kept(self, buffers: Iterable[str]) -> list[str]:
        return [name for name in buffers if name not in self._masks]

    def _drawn(self, state: TrainingState, x: Tensor) -> list[Tensor]:
        """The masks of the step: those in the state, else drawn from its seed and number of steps."""
        if all(name in state.buffers for name in self._masks):
            return [state.buffers[name] for name in self._masks]
        drawn = {**self._step.masks(state, len(x), str(x.device)), **state.buffers}
        return [drawn[name] for name in self._masks]
