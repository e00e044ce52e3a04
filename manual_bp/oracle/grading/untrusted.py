"""A candidate that nobody trusts, in a process of its own (called.py) under a keeper (keeper.py).

The judge takes nothing from it but numbers, and sees for itself what `check --isolate` lets that process say: whether
an argument was overwritten (lent.py), whether two calls differ, what is never written.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from manual_bp import keeper
from manual_bp.foreign import shortened
from manual_bp.keeper import Started
from manual_bp.oracle.calling.calls import OFTEN, SECONDS, Differing, told_by_memory
from manual_bp.oracle.calling.invocation import UNREADABLE, Call, form_fault, parts_of, passable
from manual_bp.oracle.calling.isolation import LAST_WORDS, WIDEST, CandidateEnded, Isolated, Talk
from manual_bp.oracle.calling.results import LARGEST, same_bits, shaped_like
from manual_bp.oracle.case import Case
from manual_bp.oracle.grading.lent import Lent
from manual_bp.rule import Rule

# A keeper says two lines.
MOST_SAID = 2**16


class Asked(NamedTuple):
    """A case at which a candidate is called.  elsewhere: at an address that other cases do not have; again: with the
    very tensors of the call before, whose numbers have changed."""

    case: Case
    elsewhere: bool = False
    again: bool = False


class Kept(Talk):
    """The talk with a candidate under a keeper, which is the process that is waited for."""

    def __init__(self, started: Started) -> None:
        super().__init__(started.process, started.limits.timeout)
        self._started = started
        self._said = b""
        # Told before the candidate's code runs, which might say something else.
        self._first = self._heard("first", keeper.ENDING).get("first")
        self._outcome: Mapping[str, Any] = {}

    def stop(self) -> None:
        keeper.end(self.process, self._started.to_keeper)
        if self.process.returncode and isinstance(self._first, int):  # the keeper was ended, and has ended nothing
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._first, signal.SIGKILL)

    def status(self) -> int:
        self._outcome = self._outcome or self._heard("status")
        if not self._outcome and self.process.poll() is None:
            raise subprocess.TimeoutExpired(self.process.args, LAST_WORDS)
        status = self._outcome.get("status")
        return status if isinstance(status, int) else self.process.returncode or 0

    def _candidate(self) -> int:
        return self._first if isinstance(self._first, int) else super()._candidate()

    def ended(self) -> CandidateEnded:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.status()
        why = self._outcome.get("why")
        return self._end(f"the candidate {shortened(str(why))} and was stopped") if why else super().ended()

    def _heard(self, name: str, patience: float = LAST_WORDS) -> Mapping[str, Any]:
        """The document of the keeper that has this name; nothing if it does not come in so many seconds."""
        end = time.monotonic() + patience
        while True:
            for line in self._said.split(b"\n"):
                with contextlib.suppress(ValueError):  # it is not whole, or the candidate has found the pipe
                    found = json.loads(line)
                    if isinstance(found, dict) and name in found:
                        return found
            ready, _, _ = select.select([self._started.from_keeper], [], [], max(0.0, end - time.monotonic()))
            came = self._started.from_keeper.read(2**12) if ready else b""
            if not came or len(self._said) > MOST_SAID:
                return {}
            self._said += came


class Process:
    """The process of a candidate, before there is one.  To be ended with `stop`."""

    def __init__(self, started: Started) -> None:
        self._talk = Kept(started)
        self._lent = Lent(started.lent)

    def load(self, target: str) -> Untrusted:
        """The candidate that is named so.  Raises CandidateEnded if there is none, or its module ends the process."""
        return Untrusted(self._talk, self._lent, target)

    def stop(self) -> None:
        """End it, and all that it has started."""
        self._talk.stop()

    @property
    def seconds(self) -> float:
        """How long it has worked."""
        return self._talk.seconds

    def printed(self) -> str:
        """What it has printed so far, or the end of that; what is on its way when the process has ended is waited
        for."""
        return self._talk.printed.text()


class Untrusted(Isolated):
    """A candidate in another process: a Vjp for any comparison.  Whatever asks it raises CandidateEnded if there is no
    candidate, or the process or the time ends."""

    def __init__(self, talk: Kept, lent: Lent, target: str) -> None:
        self._lent = lent
        self._answers: dict[int, Call] = {}
        super().__init__(talk, target)

    def _learn(self, came: Mapping[str, Any]) -> None:
        if "usage" in came:
            raise CandidateEnded(shortened(str(came["usage"])))
        super()._learn(came)

    def answer(self, rule: Rule, asked: Iterable[Asked]) -> None:
        """Call it at these cases now; `call` will give what it answered.  The cases must live on."""
        for case, elsewhere, again in asked:
            if isinstance(passable(self, rule, case.hyper), dict):
                self._answers[id(case)] = self._called(rule, case, elsewhere=elsewhere, again=again)

    def call(self, how: str, rule: Rule, case: Case) -> Call:
        kept = self._answers.get(id(case)) if not self._variant else None
        if how == "call":
            return kept or self._called(rule, case)
        first = kept or self._called(rule, case)
        if first.results is None:
            return Call()
        if how == "call_again":
            return self._again(rule, case, first.results)
        if how == "call_often":
            return self._often(rule, case, first.results)

        def with_memory(value: float) -> tuple[Any, ...]:
            assert first.results is not None
            return self._called(rule, case, filled=value).results or (None,) * len(first.results)

        return Call(traps=list(told_by_memory(rule, first.results, with_memory).items()))

    def __call__(self, inputs: tuple[Any, ...], dy: Any = None, **hyper: Any) -> Any:
        """What it returned.  Raises RuntimeError if that was nothing."""
        came = self._answer(Case(inputs, dy, hyper))
        if "form" not in came:
            raise RuntimeError(shortened(str(came.get("error"))))
        with self._talk.reading():
            return _rebuilt(came["form"], came["results"])

    def seen(self) -> set[str]:
        """What its process has noticed of what it uses, which it may hide."""
        came = self._talk.ask({"how": "seen"})
        with self._talk.reading():
            return set(map(str, came["seen"]))

    def _again(self, rule: Rule, case: Case, first: tuple[Any, ...]) -> Call:
        """Whether the same input gives the same bits.  What it remembers shows in the cases that are made for that."""
        found = self._called(rule, case)
        differing = [
            name
            for name, a, b in zip(rule.arguments, first, found.results or (), strict=False)
            if isinstance(a, Tensor) and isinstance(b, Tensor) and not same_bits(a, b)
        ]
        found.differences = [(name, f"{name} differs between two runs on the same input") for name in differing]
        if found.raised:
            found.traps = [(a, f"{text}, when it was called again") for a, text in found.traps]
        return found

    def _often(self, rule: Rule, case: Case, first: tuple[Any, ...]) -> Call:
        found, differing = Call(), Differing(first)
        end = time.monotonic() + SECONDS
        for _ in range(OFTEN):
            called = self._called(rule, case)
            if called.results is None:
                found.raised = called.raised
                found.traps = [(a, f"{text}, when it was called again and again") for a, text in called.traps]
                break
            differing.note(called.results)
            if time.monotonic() > end:
                break
        found.results = differing.results
        return found

    def _called(self, rule: Rule, case: Case, **more: Any) -> Call:
        """One call, as `invocation.invoked` and `calling.call` find it."""
        hyper = passable(self, rule, case.hyper)
        assert isinstance(hyper, dict)
        own = Case(case.inputs, case.dy, hyper)
        came = self._answer(own, **more)
        first = rule.arguments[0]
        with self._talk.reading():
            if "error" in came:
                raised = shortened(str(came["raised"]))
                return Call(traps=[(first, f"raised {shortened(str(came['error']))}")], raised=raised)
            found = Call(traps=self._lent.damage(case.named(rule)))
            if "unreadable" in came:
                found.traps.append((first, f"{UNREADABLE}: {shortened(str(came['unreadable']))}"))
                return found
            returned = _rebuilt(came["form"], came["results"])
            if not rule.has_backward:
                returned = returned, (None,) * len(rule.inputs)
            fault = form_fault(returned, rule)
            if fault:
                found.traps.append((first, fault))
                return found
            results = (*parts_of(returned[0], rule), *returned[1])
            due = shaped_like(case, len(results))
            found.results = tuple(self._talk.kept(x, like) for x, like in zip(results, due, strict=True))
            return found

    def _answer(self, case: Case, elsewhere: bool = False, again: bool = False, filled: float | None = None) -> Any:
        question = {"how": "call", "hyper": dict(case.hyper), "variant": self._variant, "again": again}
        most = sum(WIDEST * max(x.numel(), LARGEST) for x in case.tensors)
        laid = self._lent.lay(case.with_tensors(x.detach() for x in case.tensors), elsewhere)
        devices = {str(x.device) for x in case.tensors}
        return self._talk.ask({**question, "lent": laid, "filled": filled}, devices, most)


def _rebuilt(form: Any, leaves: list[Any]) -> Any:
    """What was returned, from how it is nested and what it holds.  Raises an Exception for what is no form."""
    if isinstance(form, int):
        return leaves[form]
    made = [_rebuilt(x, leaves) for x in form["of"]]
    return {"tuple": tuple, "list": list}[form["kind"]](made)
