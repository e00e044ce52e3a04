"""What a user declares of a candidate, and what becomes of the cases then.

**Required hyperparameters.**  Nothing passes by default, so a candidate has to take every hyperparameter of the rule of
which some case has another value than the default: as long as its signature cannot take those values, `passed` is
False, and `not_tested` names them.  Whoever promises one value alone declares it, `hyper={"alpha": 1.0}`.  That value
then stands for the default: only cases with it are made, a signature need not take it, and what is left out is said in
`not_tested` without keeping the report from passing.  It may be any value that the rule allows.

`ndim=(2,)` keeps the cases whose first input has one of these numbers of axes, and `min_size=1` those in which no input
has an axis of a length below it.  What can stand there is made there instead of being left out: ordinary cases, memory
layouts, and edges that are about values.

`given=("weight",)` says of inputs that may be absent that the candidate always has them: no case without is made.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Draw, Edge, Shape
from manual_bp.oracle.calling.invocation import parameters_of
from manual_bp.oracle.cases.values import given_tensors
from manual_bp.rule import Rule

if TYPE_CHECKING:
    from manual_bp.oracle.case import Case

# The shortest axis of an ordinary case (cases.SMALL).
SHORTEST = 2
# Many of torch's functions refuse more than 64, and an allowance puts a few axes of its own in front.
MOST_AXES = 60
# Numbers of the smallest case that is declared, which is made dozens of times: 128 MiB in float64.
MOST_NUMBERS = 2**24


@dataclass(frozen=True)
class Declared:
    """hyper: names and values; ndim: numbers of axes of the first input, None for any; min_size: the shortest axis;
    given: inputs that are never absent.

    assumed: those of `hyper` that nobody declared, but that the candidate of a function does not take.
    """

    hyper: tuple[tuple[str, Any], ...] = ()
    ndim: tuple[int, ...] | None = None
    min_size: int = 0
    assumed: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rule: Rule,
        hyper: Mapping[str, Any] | None = None,
        ndim: Any = None,
        min_size: int = 0,
        given: str | Sequence[str] = (),
    ) -> Declared:
        """From what `compare` takes; ndim may be one number, and given one name.  Raises ValueError for what no case
        can have."""
        fixed = getattr(rule.page, "FIXED", ())  # by a function as reference, whatever it is
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (hyper or {}).items()
            if name not in fixed
        }
        checked = rule.check_hyper({**rule.ordinary, **values})
        if isinstance(min_size, bool) or not isinstance(min_size, int) or min_size < 0:
            raise ValueError(f"min_size must be an integer of 0 or more; came {min_size!r}.")
        ranks = _ranks(rule, ndim)
        if min_size ** max(ranks or (0,)) > MOST_NUMBERS:
            must = f"ndim and min_size: the smallest case must have at most {MOST_NUMBERS} numbers"
            raise ValueError(f"{must}; came {min_size} on each of {max(ranks or (0,))} axes.")
        names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
        if unknown := [name for name in names if name not in rule.inputs]:
            raise ValueError(f"given: {rule.name} takes {list(rule.inputs)}; came {unknown[0]!r}.")
        always = tuple(name for name in names if name in rule.absentable)  # the others are anyway
        return cls(tuple((name, checked[name]) for name in values), ranks, min_size, given=always)

    @classmethod
    def from_options(cls, rule: Rule, options: Mapping[str, Any]) -> Declared:
        """From the keywords of `compare`."""
        return cls.of(rule, **{name: options[name] for name in KEYWORDS if name in options})

    def taking(self, rule: Rule, candidate: Any) -> Declared:
        """Of a function as reference, what the candidate's signature does not take is as the function has it: a fused
        kernel takes few of its options."""
        parameters = None if candidate is None else parameters_of(candidate)
        variadic = parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if variadic or not hasattr(rule.page, "FUNCTION"):
            return self
        assert parameters is not None
        declared = dict(self.hyper)
        lacking = {n: v for n, v in rule.defaults.items() if n not in parameters and n not in declared}
        return replace(self, hyper=(*self.hyper, *lacking.items()), assumed=tuple(lacking))

    def __bool__(self) -> bool:
        """Whether anything is declared."""
        return self != NOTHING

    def __str__(self) -> str:
        words = [f"{name} = {value}" for name, value in self.hyper if name not in self.assumed]
        words += [] if self.ndim is None else [f"ndim = {self.ndim}"]
        words += [f"min_size = {self.min_size}"] if self.min_size else []
        return ", ".join(words + [f"{name} given" for name in self.given])

    def rule(self, rule: Rule) -> Rule:
        """The rule with the declared values for its defaults."""
        return _with_defaults(rule, self.hyper) if self.hyper else rule

    def fits(self, rule: Rule, inputs: Sequence[Tensor | None], hyper: Mapping[str, Any]) -> bool:
        """Whether a case is one for which the candidate is meant."""
        return (
            (self.ndim is None or (inputs[0] is not None and inputs[0].ndim in self.ndim))
            and all(length >= self.min_size for x in inputs if x is not None for length in x.shape)
            and all(hyper.get(name, rule.defaults.get(name)) == value for name, value in self.hyper)
            and not any(x is None and name in self.given for name, x in zip(rule.inputs, inputs, strict=True))
        )

    def completed(self, case: Case) -> Case:
        """A case with the declared values where it says none."""
        return replace(case, hyper={**dict(self.hyper), **case.hyper}) if self.hyper else case

    def edges(self, rule: Rule, edges: Iterable[Edge], sizes: axes.Sizes) -> Iterator[Edge]:
        """The edges that are left, with other axes where theirs do not fit.  sizes: the usual lengths."""
        for edge in edges:
            if all(edge.given.get(name, value) == value for name, value in self.hyper):
                yield self._fitted(rule, edge, sizes)

    def sizes(self, rule: Rule, edges: Iterable[Edge], sizes: axes.Sizes) -> Iterator[Edge]:
        """Edges that are about sizes alone: with axes in front where they have too few, once each, and one for every
        declared number of axes."""
        variadic, ranks = self._ranks(rule)
        seen: set[object] = set()
        for edge in edges:
            lengths = edge.sizes.get(variadic) if variadic else None
            if ranks is None or not isinstance(lengths, tuple):
                yield from self.edges(rule, [edge], sizes)
                continue
            for rank in [len(lengths)] if len(lengths) in ranks else [rank for rank in ranks if rank > len(lengths)]:
                padded = (max(1, self.min_size),) * (rank - len(lengths)) + lengths
                others = {name: length for name, length in edge.sizes.items() if name != variadic}
                key = (padded, tuple(others.items()), tuple(edge.given.items()))
                if key not in seen:
                    seen.add(key)
                    words = f"{edge.name}, {variadic} = {padded}" if others else f"{variadic} = {padded}"
                    named = edge if padded == lengths else replace(edge, name=words)
                    yield from self.edges(rule, [replace(named, sizes={**edge.sizes, variadic: padded})], sizes)

    def left_out(self, rule: Rule, made: Iterable[str]) -> str:
        """What was left out, in words; "" if nothing was declared.  made: the names of the cases that were made."""
        if not str(self):
            return ""
        names = set(made)
        lost = [edge.name for edge in rule.edges if not edge.raises and edge.name not in names]
        which = f"; so the edges {', '.join(map(repr, lost))} were left out" if lost else ""
        return f"as declared, only cases with {self} were made{which}"

    # ------------------------------------------------------------------------------------------------------- axes

    def _ranks(self, rule: Rule) -> tuple[str, list[int] | None]:
        """The axis list of the first input, and how many axes it may stand for; None if any number."""
        variadic, before, after = _variadic(rule.annotations[next(iter(rule.inputs))])
        return variadic, None if self.ndim is None or not variadic else [n - before - after for n in self.ndim]

    def _fitted(self, rule: Rule, edge: Edge, sizes: axes.Sizes) -> Edge:
        """An edge with its list of axes made longer, by axes in front, or shorter, by joining the first ones, and with
        axes that are too short repeated.  One that is about sizes alone stays as it is."""
        if self.ndim is None and self.min_size <= SHORTEST:
            return edge
        variadic, ranks = self._ranks(rule)
        given, bound = _bound(rule, edge)
        longer = max(0, self.min_size - SHORTEST)
        chosen: dict[str, int | tuple[int, ...]] = {
            name: tuple(length + longer for length in lengths) for name, lengths in sizes.items() if name not in bound
        }
        if variadic and (variadic not in edge.sizes or edge.given):
            lengths = bound.get(variadic) or axes.as_tuple(edge.sizes.get(variadic, chosen.get(variadic, ())))
            rank = len(lengths) if ranks is None or len(lengths) in ranks else _nearest(len(lengths), ranks)
            new = _lengths(lengths, rank, max(1, self.min_size))
            given = {name: _reshaped(x, rule.annotation(name), variadic, new) for name, x in given.items()}
            drawn = {
                name: _redrawn(draw, rule.annotation(name), variadic, lengths, new)
                for name, draw in edge.given.items()
                if callable(draw) and new != lengths
            }
            fitted = {name: axes.as_tuple(n) for name, n in {**chosen, **edge.sizes, variadic: new}.items()}
            alike = [name for name in rule.alike if name in fitted]  # a kernel has as many axes as what it moves over
            fitted = axes.with_ranks(fitted, [variadic], alike)
            return replace(edge, given={**edge.given, **given, **drawn}, sizes={**edge.sizes, **fitted})
        return replace(edge, sizes={**chosen, **edge.sizes})

    def notes(self) -> list[str]:
        """What was assumed, in words."""
        values = dict(self.hyper)
        return [
            f"{name}: the candidate takes no {name}, so it was judged where that is {values[name]}, as the function "
            "has it"
            for name in self.assumed
        ]


NOTHING = Declared()
KEYWORDS = ("hyper", "ndim", "min_size", "given")
"""Of `compare`: what makes a declaration."""


def untaken(name: str, cases: Sequence[str], default: Any, whose: str) -> str:
    """What to say of a hyperparameter that a candidate does not take, and of the cases that set it.

    default: None if the rule has none.  whose: what the reference is called.
    """
    cases_ = f"{len(cases)} case{'' if len(cases) == 1 else 's'} (such as {cases[0]!r})"
    other = f"which {whose} needs, so" if default is None else f"so its values other than {default} were not tried in"
    value = "..." if default is None else default
    return (
        f"{name}: the candidate takes no {name}, {other} {cases_}{' were not tried' if default is None else ''}; "
        f'take it, or declare hyper={{"{name}": {value}}} if that value is all that it promises'
    )


@lru_cache(maxsize=64)  # so that evidence is kept for it too
def _with_defaults(rule: Rule, hyper: tuple[tuple[str, Any], ...]) -> Rule:
    found = copy.copy(rule)
    found.defaults = {**rule.defaults, **dict(hyper)}
    return found


def _ranks(rule: Rule, ndim: Any) -> tuple[int, ...] | None:
    """The declared numbers of axes of the first input; None for any.  Raises ValueError for what it cannot have."""
    if ndim is None:
        return None
    wanted = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if not wanted or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in wanted):
        raise ValueError(f"ndim must be numbers of axes, such as (2,) or (2, 4); came {ndim!r}.")
    if max(wanted) > MOST_AXES:
        must = f"ndim: there must be at most {MOST_AXES} axes (of torch's 64 some are needed to judge)"
        raise ValueError(f"{must}; came {max(wanted)}.")
    name = next(iter(rule.inputs))
    variadic, before, after = _variadic(rule.annotations[name])
    least = before + after
    if impossible := [n for n in wanted if n < least or (n > least and not variadic)]:
        at_least = "at least " if variadic else ""
        raise ValueError(
            f"ndim: {name} of {rule.name} has {at_least}{least} axes ({rule.annotations[name].dim_str}); "
            f"came {impossible[0]}."
        )
    return tuple(dict.fromkeys(wanted))


def _variadic(annotation: Any) -> tuple[str, int, int]:
    """The axis list of an annotation ("" if it has none), and how many single axes stand before and after it."""
    tokens = axes.tokens(annotation)
    for position, token in enumerate(tokens):
        if token.startswith("*"):
            return token[1:], position, len(tokens) - position - 1
    return "", len(tokens), 0


def _bound(rule: Rule, edge: Edge) -> tuple[dict[str, Tensor], axes.Sizes]:
    """The tensors that an edge gives, and the lengths of axes that they fix."""
    given = given_tensors(rule, edge)
    bound: axes.Sizes = {}
    hyper = {**rule.ordinary, **{name: value for name, value in edge.given.items() if name in rule.hyper}}
    shapes = {name: tuple(x.shape) for name, x in given.items() if name in rule.inputs}
    axes.bind(rule.annotations, shapes, bound, hyper)
    return given, bound


def _nearest(rank: int, ranks: Sequence[int]) -> int:
    """The smallest that is large enough, or else the largest."""
    return min((r for r in ranks if r >= rank), default=max(ranks))


def _lengths(lengths: tuple[int, ...], rank: int, least: int) -> tuple[int, ...]:
    """So many lengths, none too short unless it is 0."""
    if rank == 0:
        return ()
    surplus = max(0, len(lengths) - rank)
    joined = (math.prod(lengths[: surplus + 1]), *lengths[surplus + 1 :]) if surplus else lengths
    padded = (least,) * (rank - len(joined)) + joined
    return tuple(length * -(-least // length) if length else 0 for length in padded)


def _redrawn(draw: Draw, annotation: Any, variadic: str, old: tuple[int, ...], new: tuple[int, ...]) -> Draw:
    """A draw of the edge's own shape, which it may rely on, with the new list of axes."""
    name, before, after = _variadic(annotation)

    def drawn(shape: Shape, generator: torch.Generator) -> Tensor:
        own = (*shape[:before], *old, *shape[len(shape) - after :]) if name == variadic else shape
        return _reshaped(draw(own, generator), annotation, variadic, new)

    return drawn


def _reshaped(x: Tensor, annotation: Any, variadic: str, new: tuple[int, ...]) -> Tensor:
    """A given tensor with its list of axes as long as `new`; the first values where none is left."""
    name, before, after = _variadic(annotation)
    if name != variadic or x.ndim < before + after:
        return x
    head, tail = x.shape[:before], x.shape[x.ndim - after :]
    old = x.shape[before : x.ndim - after]
    if not new:
        return x.reshape(*head, -1, *tail).select(before, 0) if old else x
    surplus = max(0, len(old) - len(new))
    joined = (math.prod(old[: surplus + 1]), *old[surplus + 1 :]) if surplus else tuple(old)
    padded = (1,) * (len(new) - len(joined)) + joined
    times = [n // p if p else 1 for n, p in zip(new, padded, strict=True)]
    return x.reshape(*head, *padded, *tail).repeat(*(1 for _ in head), *times, *(1 for _ in tail))
