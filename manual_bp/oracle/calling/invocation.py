"""Calling a candidate once: it gets copies, whatever it raises is a finding, and what it does to them is seen."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from manual_bp.foreign import named, shortened
from manual_bp.oracle.calling.memory import copies
from manual_bp.oracle.calling.replaced import functions_kept, modes_kept
from manual_bp.oracle.calling.results import bytes_of, damage, has_gaps, plain
from manual_bp.oracle.calling.settings import kept as settings_kept
from manual_bp.oracle.calling.surroundings import users_defaults
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule, Vjp

# Exceptions that were raised on the way to another one are shown if they are at most so many.
CHAIN = 5
UNREADABLE = "results that cannot be read"


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
        return _read(function)
    except Exception:
        return None


@lru_cache(maxsize=8)  # a candidate is called some hundred times, and asked before each
def _read(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def call_with(function: Callable[..., Any], arguments: Sequence[Any], hyper: Mapping[str, Any]) -> Any:
    """Call with hyperparameters by name, or by position where the signature wants that."""
    parameters = list((parameters_of(function) or {}).values())[len(arguments) :]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in hyper]
    named = {name: value for name, value in hyper.items() if name not in positional}
    return function(*arguments, *(hyper[name] for name in positional), **named)


def invoked(
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
            returned = returned_by(candidate, rule, called, hyper)
            fault = form_fault(returned, rule)  # in here, since a list of the candidate's own class runs its code
            raw = None if fault else (*parts_of(returned[0], rule), *returned[1])
        except KeyboardInterrupt:  # it is the user's
            raise
        except BaseException as error:  # SystemExit, and what else is no Exception, such as what pytest.skip raises
            raised = error
        if os.getpid() != process:  # the candidate forked, and there shall not be two that go on
            os._exit(0)
    found.findings += [(first, f"the candidate {words}") for words in (*changed, *replaced)]
    if raised is not None:
        found.raised = traceback_of(raised)
        found.traps.append((first, f"raised {described_error(raised)}"))
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
        found.traps.append(unreadable(error, rule))
        return found, None, given


def _printed(make: Callable[[BaseException], str], error: BaseException) -> str:
    """Text that an exception makes itself, and may fail to make."""
    try:
        return make(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        return f"(its text cannot be printed: {named(failure)})"


def described_error(error: BaseException) -> str:
    """Its kind and its text."""
    return f"{named(error)}: {shortened(_printed(str, error))}"


def traceback_of(error: BaseException) -> str:
    """A traceback to be read."""
    return shortened(_printed(_last_frames, error))


def _last_frames(error: BaseException) -> str:
    """Of the last frames; with the exceptions behind it, unless there are very many of these."""
    behind: BaseException | None = error
    for _ in range(CHAIN):
        behind = behind and (behind.__cause__ or behind.__context__)
    if behind is None:
        return "".join(traceback.format_exception(error, limit=-3))
    return "".join([*traceback.format_tb(error.__traceback__, limit=-3), f"{named(error)}: {error}"])


def unreadable(error: Exception, rule: Rule) -> tuple[str, str]:
    return rule.arguments[0], f"{UNREADABLE}: {described_error(error)}"


def form_fault(returned: Any, rule: Rule) -> str:
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
    if isinstance(grads, Tensor) and isinstance(value, tuple | list) and len(rule.outputs) == 1:
        return f"(y, grads) is due, that is {due}; {_described(value)} and a Tensor came: exchange them"
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


def returned_by(candidate: Vjp, rule: Rule, case: Case, hyper: Mapping[str, Any]) -> Any:
    """What a candidate returns; that of a rule without backward returns values alone, and no cotangents are due."""
    if rule.has_backward:
        return call_with(candidate, (case.inputs, case.dy), hyper)
    return call_with(candidate, (case.inputs,), hyper), (None,) * len(rule.inputs)


def parts_of(y: Any, rule: Rule) -> tuple[Any, ...]:
    """Each output by itself: a tuple is one of several outputs alone if there are several."""
    return tuple(y) if len(rule.outputs) > 1 else (y,)


ARRAYS = ("torch", "numpy", "jax")


def arrays_named(*functions: Any) -> tuple[list[str], list[str]]:
    """Which array modules the functions' text refers to, and which the modules do in which they stand."""
    plain = [_plain(function) for function in functions]
    named = _kinds(f.__globals__.get(name) for f in plain if f for name in f.__code__.co_names)
    return named, _kinds(value for f in plain if f for value in f.__globals__.values())


def _kinds(values: Iterable[Any]) -> list[str]:
    found = {value.__name__.partition(".")[0] for value in values if isinstance(value, ModuleType)}
    return [kind for kind in ARRAYS if kind in found]


def _plain(function: Any) -> FunctionType | None:
    """The Python function in what `jax.jit` or functools made, in a method, or in an object that can be called."""
    while inner := getattr(function, "__wrapped__", None) or getattr(function, "func", None):
        function = inner
    function = getattr(function, "__func__", function)
    function = function if inspect.isfunction(function) else getattr(type(function), "__call__", None)  # noqa: B004
    return function if isinstance(function, FunctionType) else None
