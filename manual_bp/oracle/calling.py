"""Calling a candidate: it gets copies, whatever it raises is a finding, and what it does beside its results is seen."""

from __future__ import annotations

import inspect
import math
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.foreign import named, shortened
from manual_bp.oracle.memory import copies, overlap, shares_elements
from manual_bp.oracle.pattern import place
from manual_bp.oracle.replaced import functions_kept, modes_kept
from manual_bp.oracle.results import (
    LARGEST,
    all_kept,
    bytes_of,
    damage,
    has_gaps,
    is_dense,
    plain,
    preserved,
    same_bits,
)
from manual_bp.oracle.settings import kept as settings_kept
from manual_bp.oracle.surroundings import users_defaults
from manual_bp.oracle.unwritten import NEVER, NUMBER, READ, Filled, never_written, unwritten
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# So many calls on the same numbers find what goes wrong once in 50 calls with a probability of 1 - 0.98^200 = 98 %.
# What is slow is called as often as it can be in so many seconds.
OFTEN = 200
SECONDS = 0.25
# Exceptions that were raised on the way to another one are shown if they are at most so many.
CHAIN = 5
DUE = "a candidate is vjp(inputs, dy, **hyper) -> (y, grads)"
WRAP = {
    "torch.nn.modules.module.Module": "Wrap it: torch_ref.vjp({}) is a candidate.",
    "torch.autograd.function.Function": "Wrap it: torch_ref.vjp({}.apply) is a candidate.",
}


def require_candidate(candidate: Any) -> None:
    """Raise ValueError, saying what to wrap it with, if it is a module, an autograd function or nothing callable."""
    kind = candidate if isinstance(candidate, type) else type(candidate)
    for base in kind.__mro__:
        remedy = WRAP.get(f"{base.__module__}.{base.__qualname__}")
        if not remedy:
            continue
        takes_dy = "dy" in (parameters_of(getattr(candidate, "forward", candidate)) or {})
        if not (takes_dy and kind is not candidate):  # a module may be a Vjp all the same
            made = f"{kind.__name__}()" if "Module" in base.__name__ else kind.__name__
            raise ValueError(f"{DUE}; came the {base.__name__} {kind.__name__}. {remedy.format(made)}")
    if not callable(candidate):
        raise ValueError(f"{DUE}; came a {kind.__name__}. Pass a function, or None and recorded cases=.")


def for_inputs(candidate: Any, names: Sequence[str]) -> Vjp:
    """The candidate for a rule with inputs of these names: one that binds them to parameters (`torch_ref.vjp` of an
    nn.Module) wants to know.  Raises ValueError if it cannot take them."""
    if isinstance(candidate, Elsewhere):
        return candidate.named(tuple(names))
    bind = vars(candidate).get("named") if inspect.isfunction(candidate) else None
    found: Vjp = bind(tuple(names)) if callable(bind) else candidate
    return found


@dataclass
class Call:
    """What one call came to.

    results: y and then one entry per input, copied; None if it did not get so far.
    traps: argument and words, of what is wrong.  findings: what is right and may harm its user; differences: between
        two runs.  notes: what is usual, in words.
    raised: the traceback; empty if it returned.
    """

    results: tuple[Any, ...] | None = None
    traps: list[tuple[str, str]] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    differences: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raised: str = ""


class Elsewhere(ABC):
    """A candidate that is called in another process, by the functions of this module there."""

    @abstractmethod
    def call(self, how: str, rule: Rule, case: Case) -> Call:
        """What `call`, `call_again`, `call_often` or `call_filled` (in `traps`) finds there; all but the first follow a
        `call` at the same case."""

    @abstractmethod
    def named(self, names: tuple[str, ...]) -> Vjp:
        """What `for_inputs` makes of it there."""


def call(candidate: Vjp, rule: Rule, case: Case, reference: Sequence[Tensor | None] = ()) -> Call:
    """Call a candidate at a case.  reference: expected values, which it must not return themselves."""
    if isinstance(candidate, Elsewhere):
        return candidate.call("call", rule, case)
    found, raw, given = _call(candidate, rule, case)
    if raw is not None:
        try:
            _see_memory(rule, raw, given, reference, found)
            found.results = all_kept(raw, case)
        except Exception as error:  # a tensor that nobody can read
            found.traps.append(_unreadable(error, rule))
    return found


def call_again(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...]) -> Call:
    """More calls: on the same input, which must give the same bits; on the negated cotangent, which must leave alone
    what the call before returned; and on other numbers in the very tensors of the first, which must give what these
    numbers give elsewhere.  first: the results of `call` at this case."""
    if isinstance(candidate, Elsewhere):
        return candidate.call("call_again", rule, case)
    found, raw, given = _call(candidate, rule, case)
    if found.raised:
        found.traps = [(a, f"{text}, when it was called again") for a, text in found.traps]
    if raw is None:
        return found
    arguments, outputs = rule.arguments, rule.arguments[: len(rule.outputs)]
    try:
        kept = all_kept(raw, case)
    except Exception as error:
        found.traps.append(_unreadable(error, rule))
        return found
    for argument, a, b in zip(arguments, first, kept, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and not same_bits(a, b):
            found.differences.append((argument, f"{argument} differs between two runs on the same input"))
    negated = tuple(None if d is None else -d for d in parts(case.dy))
    other = replace(case, dy=negated if isinstance(case.dy, tuple) else negated[0])
    _, after, _ = _call(candidate, rule, other)
    for argument, x, before, later in zip(arguments, raw, kept, after or (None,) * len(raw), strict=True):
        if not all(isinstance(t, Tensor) and is_dense(t) for t in (x, before)):
            continue
        if not same_bits(x, before):
            words = "returned in memory that the next call overwrote: whoever keeps it over a call loses it"
            found.findings.append((argument, f"{argument} was {words}"))
        elif (
            argument not in outputs and isinstance(later, Tensor) and shares_elements(x, later) and bool((x != 0).any())
        ):
            words = "the very tensor of an earlier call, though dy was another; it is cached, and nothing was tested"
            found.traps.append((argument, words))
    if not found.differences and not found.traps:
        found.traps += _remembered(candidate, rule, case, given)
    return found


def _remembered(candidate: Vjp, rule: Rule, case: Case, given: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """What a candidate remembers of tensors whose numbers have changed since.  given: those of a call; if they share
    memory, other numbers cannot be put into them."""
    if any(map(overlap, given.values())) or any(shares_elements(a, b) for a, b in combinations(given.values(), 2)):
        return
    flipped = (x.flip(tuple(range(x.ndim))) for x in case.tensors)
    other = case.with_tensors(flipped)
    doubled = tuple(None if d is None else 2 * d for d in parts(other.dy))
    other = replace(other, dy=doubled if isinstance(case.dy, tuple) else doubled[0])
    try:
        _, due, _ = _call(candidate, rule, other)
        due = all_kept(due or (), other)
        _, got, _ = _call(candidate, rule, other, given)
        got = all_kept(got or (), other)
    except Exception as error:
        yield _unreadable(error, rule)
        return
    for argument, a, b in zip(rule.arguments, due, got, strict=False):
        if all(isinstance(x, Tensor) and is_dense(x) for x in (a, b)) and not same_bits(a, b):
            words = "remembered from an earlier call on the same tensors, though their numbers have changed"
            yield argument, f"is {words}"


def call_often(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...], times: int = OFTEN) -> Call:
    """Many calls on the same tensors, compared bit by bit.  first: the results of `call` at this case.

    `results` holds for each argument the result that differed most; None if none did.
    """
    if isinstance(candidate, Elsewhere):
        return candidate.call("call_often", rule, case)
    found = Call()
    hyper = passable(candidate, rule, case.hyper)
    assert isinstance(hyper, dict)
    own = case.with_tensors(copies(case.tensors))
    worst = {i: 0.0 for i, x in enumerate(first) if isinstance(x, Tensor) and is_dense(x)}
    results = list(first)
    end = time.monotonic() + SECONDS
    replaced: list[str] = []  # which the calls before have told
    like = case.tensors[0]
    with modes_kept(replaced), users_defaults(like), settings_kept(replaced), functions_kept(replaced):
        try:
            for _ in range(times):
                y, grads = _returned(candidate, rule, own, hyper)
                for i, got in enumerate((*_parts(y, rule), *grads)):
                    if i not in worst:
                        continue
                    got = preserved(plain(got), first[i])
                    difference = math.inf
                    if isinstance(got, Tensor) and is_dense(got) and got.shape == first[i].shape:
                        if same_bits(first[i], got):
                            continue
                        difference = float((got.double() - first[i].double()).abs().nan_to_num(nan=math.inf).max())
                    if difference > worst[i]:
                        worst[i], results[i] = difference, got
                if time.monotonic() > end:
                    break
        except KeyboardInterrupt:  # it is the user's
            raise
        except BaseException as error:
            found.raised = shortened(_printed(_traceback, error))
            found.traps.append((rule.arguments[0], f"raised {named(error)} when it was called again and again"))
    if any(worst.values()):
        found.results = tuple(results)
    return found


def call_filled(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...]) -> dict[str, str]:
    """Which elements the candidate never writes, or computes from memory that it never wrote, by argument in words,
    found by one more call, and two if there are any.  first: the results of `call` at this case.  Nothing is learnt of
    a candidate that does not return so."""
    if isinstance(candidate, Elsewhere):
        return dict(candidate.call("call_filled", rule, case).traps)
    if any(isinstance(x, Tensor) and x.is_meta for x in first):
        return {}

    def with_memory(value: float) -> tuple[Any, ...]:
        with Filled(value):
            return _call(candidate, rule, case)[1] or (None,) * len(first)

    suspects = tuple(map(unwritten, first, with_memory(torch.nan)))
    if all(where is None for where in suspects):
        return {}
    found = {}
    values = zip(rule.arguments, suspects, with_memory(NUMBER), with_memory(-NUMBER), strict=True)
    for argument, where, plus, minus in values:
        if where is not None:
            never = never_written(where, plus, minus)
            found[argument] = f"{NEVER}: {place(never)}" if bool(never.any()) else f"{READ}: {place(where)}"
    return found


def variants(candidate: Any) -> dict[str, Vjp]:
    """Other ways to call a candidate, by name: its adapter may know layouts that no tensor has."""
    found = inspect.getattr_static(candidate, "layouts", None)  # which a class of the user's may call something else
    return dict(found) if isinstance(found, dict) and all(map(callable, found.values())) else {}


def passable(candidate: Callable[..., Any], rule: Rule, hyper: Mapping[str, Any]) -> dict[str, Any] | list[str]:
    """The hyperparameters to pass: all of them if the signature takes them; a default need not be taken, and is passed
    to a parameter that has none.  The names of those that it lacks, if it lacks any."""
    parameters = parameters_of(candidate)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(hyper)
    lacking = [n for n, v in hyper.items() if n not in parameters and v != rule.defaults.get(n)]
    empty = inspect.Parameter.empty
    given = {n: v for n, v in rule.defaults.items() if n in parameters and parameters[n].default is empty}
    return lacking or {n: v for n, v in {**given, **hyper}.items() if n in parameters}


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a callable; None of one that does not say: a builtin, or an object that raises."""
    try:
        return inspect.signature(function).parameters
    except Exception:
        return None


def call_with(function: Callable[..., Any], arguments: Sequence[Any], hyper: Mapping[str, Any]) -> Any:
    """Call with hyperparameters by name, or by position where the signature wants that."""
    parameters = list((parameters_of(function) or {}).values())[len(arguments) :]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in hyper]
    named = {name: value for name, value in hyper.items() if name not in positional}
    return function(*arguments, *(hyper[name] for name in positional), **named)


# -------------------------------------------------------------------------------------------------------- one call


def _call(
    candidate: Vjp, rule: Rule, case: Case, given: Mapping[str, Tensor] | None = None
) -> tuple[Call, tuple[Any, ...] | None, Mapping[str, Tensor]]:
    """What happened, what came (y and one entry per input) and the copies that were given.

    given: tensors to put the case's numbers into, in place of copies.
    """
    found = Call()
    hyper = passable(candidate, rule, case.hyper)
    assert isinstance(hyper, dict)
    own = case.named(rule)
    if given is None:  # copies, so that whatever it does to them, the case stays as it is
        given = dict(zip(own, copies(own.values()), strict=True))
    else:
        for name, x in own.items():
            given[name].detach().copy_(x)  # it may have come to require grad
    # What stands beside elements is compared with itself: copying makes other bytes of what is no bool.
    beside = {name: bytes_of(x).clone() for name, x in given.items() if has_gaps(x)}
    called = case.with_tensors(given.values())
    first = rule.arguments[0]
    changed: list[str] = []
    replaced: list[str] = []
    raised: BaseException | None = None
    fault, raw = "", None
    process = os.getpid()
    # Outside what is caught, so that the candidate is not blamed for a failure of these.
    with modes_kept(replaced), users_defaults(case.tensors[0]), settings_kept(changed), functions_kept(replaced):
        try:
            returned = _returned(candidate, rule, called, hyper)
            fault = _fault(returned, rule)  # in here, since a list of the candidate's own class runs its code
            raw = None if fault else (*_parts(returned[0], rule), *returned[1])
        except KeyboardInterrupt:  # it is the user's
            raise
        except BaseException as error:  # SystemExit, and what else is no Exception, such as what pytest.skip raises
            raised = error
        if os.getpid() != process:  # the candidate forked, and there shall not be two that go on
            os._exit(0)
    found.findings += [(first, f"the candidate {words}") for words in (*changed, *replaced)]
    if raised is not None:
        found.raised = shortened(_printed(_traceback, raised))
        found.traps.append((first, f"raised {named(raised)}: {shortened(_printed(str, raised))}"))
        raised = None  # it holds this frame, which holds it
        return found, None, given
    for name, x in own.items():
        with torch._C.DisableTorchFunctionSubclass():  # its class may have been changed
            overwritten = damage(given[name], x, beside.get(name))
            if overwritten:
                found.traps.append((name, f"the candidate {overwritten}"))
            elif given[name].requires_grad:
                found.findings.append((name, f"the candidate made its argument {name} require grad in place"))
    if raw is None:
        found.traps.append((first, fault))
        return found, None, given
    try:
        return found, tuple(map(plain, raw)), given
    except Exception as error:  # a tensor that nobody can read
        found.traps.append(_unreadable(error, rule))
        return found, None, given


def _printed(make: Callable[[BaseException], str], error: BaseException) -> str:
    """Text that an exception makes itself, and may fail to make."""
    try:
        return make(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        return f"(its text cannot be printed: {named(failure)})"


def _traceback(error: BaseException) -> str:
    """Of the last frames; with the exceptions behind it, unless there are very many of these."""
    behind: BaseException | None = error
    for _ in range(CHAIN):
        behind = behind and (behind.__cause__ or behind.__context__)
    if behind is None:
        return "".join(traceback.format_exception(error, limit=-3))
    return "".join([*traceback.format_tb(error.__traceback__, limit=-3), f"{named(error)}: {error}"])


def _unreadable(error: Exception, rule: Rule) -> tuple[str, str]:
    return rule.arguments[0], f"results that cannot be read: {named(error)}: {shortened(_printed(str, error))}"


def _fault(returned: Any, rule: Rule) -> str:
    """What is wrong with the form of what was returned; "" if it is y and a tuple of cotangents."""
    names = ", ".join(f"d{name}" for name in rule.inputs)
    y = "y" if len(rule.outputs) == 1 else f"({', '.join(rule.outputs)})"
    due = f"({y}, ({names}{',' if len(rule.inputs) == 1 else ''}))" if rule.has_backward else y
    if not isinstance(returned, tuple | list):
        return f"(y, grads) is due, that is {due}; {_described(returned)} came"
    if len(returned) != 2:
        return f"(y, grads) is due, that is {due}; {_described(returned)} came"
    value, grads = returned
    if len(rule.outputs) > 1 and not (isinstance(value, tuple | list) and len(value) == len(rule.outputs)):
        return f"y must be a tuple with one entry for each of {', '.join(rule.outputs)}; {_described(value)} came"
    if isinstance(grads, Tensor):
        one = "put it into a tuple" if len(rule.inputs) == 1 else "return one entry per input"
        return f"grads must be a tuple with one entry per input, ({names}); a Tensor came: {one}"
    if not isinstance(grads, tuple | list):
        return f"grads must be a tuple with one entry per input, ({names}); {_described(grads)} came"
    if len(grads) != len(rule.inputs):
        return f"{len(rule.inputs)} cotangents are due, ({names}), {len(grads)} came"
    return ""


def _described(value: Any) -> str:
    return f"a {named(value)}" + (f" of {len(value)}" if isinstance(value, tuple | list | dict) else "")


# ---------------------------------------------------------------------------------------------------------- memory


def _see_memory(
    rule: Rule, raw: Sequence[Any], given: Mapping[str, Tensor], reference: Sequence[Tensor | None], found: Call
) -> None:
    """Which results share memory, with what was given, with one another, or with the reference."""
    arguments, outputs = rule.arguments, rule.arguments[: len(rule.outputs)]
    strided = {a: x for a, x in zip(arguments, raw, strict=True) if isinstance(x, Tensor)}
    strided = {a: x for a, x in strided.items() if is_dense(x) and 0 < x.numel() <= LARGEST}
    is_dy = []
    for position, (argument, x) in enumerate(strided.items()):
        if any(shares_elements(x, e) for e in reference if e is not None):
            found.traps.append((argument, "it is the reference's own tensor: nothing was tested"))
        if overlap(x):
            found.notes.append(
                f"{argument} is expanded: its elements share memory, so that writing into it fails or changes others"
            )
        for name, other in given.items():
            is_cotangent = name in rule.cotangents
            dys = [given[d] for d in rule.cotangents if d in given]
            if not shares_elements(x, other) or (not is_cotangent and any(shares_elements(other, d) for d in dys)):
                continue
            if is_cotangent and argument not in outputs:
                is_dy.append(argument)
                found.notes.append(f"{argument} shares memory with {name}: adding to one in place changes the other")
            elif argument in outputs:
                found.notes.append(
                    f"{argument} shares memory with {name}: writing into {argument} changes what backward is due for"
                )
            else:
                words = f"{argument} shares memory with {name}: adding to the gradient in place changes the input"
                found.findings.append((argument, words))
        for other_argument, other in list(strided.items())[:position]:
            if shares_elements(x, other) and not {argument, other_argument} <= set(is_dy):
                words = f"{other_argument} and {argument} share memory: adding to one in place changes the other"
                found.findings.append((argument, words))


def _returned(candidate: Vjp, rule: Rule, case: Case, hyper: Mapping[str, Any]) -> Any:
    """What a candidate returns; that of a rule without backward returns values alone, and no cotangents are due."""
    if rule.has_backward:
        return call_with(candidate, (case.inputs, case.dy), hyper)
    return call_with(candidate, (case.inputs,), hyper), (None,) * len(rule.inputs)


def _parts(y: Any, rule: Rule) -> tuple[Any, ...]:
    """Each output by itself: a tuple is one of several outputs alone if there are several."""
    return tuple(y) if len(rule.outputs) > 1 else (y,)
