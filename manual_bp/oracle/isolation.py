"""Candidates from the command line: loaded by name, and run in a process of their own if they are not trusted.

An isolated candidate is only called there.  What is due, and the judgement, stay in the process of the user, which
takes nothing from the other but numbers: a candidate that prints a report, writes files, replaces functions, reads the
stack or answers in the oracle's place can at most give other numbers, and wrong ones are rejected.

Not protected against: it may hide what is seen around a call (that it overwrites an argument, say), since that is seen
in its own process; it is no sandbox, so it may read and delete the user's files, and end the user's processes; a
process that it starts in a session of its own (setsid) is not waited for, but goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from manual_bp.oracle import calling
from manual_bp.oracle.calling import (
    Call,
    Elsewhere,
    all_kept,
    call_with,
    is_dense,
    parameters_of,
    plain,
    require_candidate,
    stand_in,
    variants,
)
from manual_bp.oracle.cases import Case
from manual_bp.rule import RULES, Rule, Vjp

# Of what a process prints, the last so many bytes are kept: far more than a report has.
KEPT = 2**16
CHUNK = 2**16
# No results of a case are as large, even if all have a wrong shape and the widest dtype.
LARGEST_MESSAGE = 2**30
# How often one looks whether the process still lives, and how long one waits for what is on its way from an ended one.
GLANCE = 0.05
LAST_WORDS = 1.0
SERVE = "from manual_bp.oracle.isolation import serve; serve()"
# Waits until its own starter is gone, however that ended, and then ends the group of processes it was told.
GUARD = "import os, sys; group = int(input()); sys.stdin.read(); getattr(os, 'killpg', os.kill)(group, 9)"


def load(target: str) -> Callable[..., Any]:
    """The callable that `package.module:name` means; modules of the current folder are found.

    Raises ValueError if there is no such module or name, or if it is not callable.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"a candidate is named MODULE:CALLABLE, as in kernels.elu:vjp; came {target!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module does while it is imported
        came = f"{type(error).__name__}: {error}"
        raise ValueError(f"{target}: the module {module_name!r} cannot be imported: {came}.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing"
            raise ValueError(f"{target}: {module_name!r} must hold {name!r}; it holds {public}.")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{target}: a function vjp(inputs, dy, **hyper) is due; came a {type(found).__name__}.")
    return found


# ------------------------------------------------------------------------------------------------ the user's process


class CandidateEnded(RuntimeError):
    """An isolated candidate ended its process, or did not return in time; the message is the finding."""


@contextmanager
def isolated(target: str, timeout: float) -> Iterator[Isolated]:
    """The candidate that `target` names, in a process of its own, which is ended with all that it has started when the
    block ends, or this process does.

    timeout: seconds that the import of its module and all of its calls may take together.
    Raises ValueError as `load` does, and CandidateEnded.
    """
    with contextlib.ExitStack() as at_end:
        # Sessions of their own: an interrupt at the terminal reaches this process alone, which ends the others.
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", GUARD],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        at_end.enter_context(guard)
        at_end.callback(guard.kill)
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        at_end.callback(_end, process)
        assert guard.stdin is not None
        guard.stdin.write(b"%d\n" % process.pid)
        guard.stdin.flush()
        yield Isolated(process, target, timeout)


class Isolated(Elsewhere):
    """A candidate in another process: a Vjp for any comparison.  Calls raise CandidateEnded if the process or the time
    ends."""

    def __init__(self, process: subprocess.Popen[bytes], target: str, timeout: float) -> None:
        self._talk = _Talk(process, timeout)
        self._variant = ""
        came = self._talk.ask({"target": target})
        if "usage" in came:
            raise ValueError(str(came["usage"]))
        with _reading():
            if came["parameters"] is not None:  # it is passed the hyperparameters that it takes
                self.__signature__ = _signature(came["parameters"])
            self.layouts = {str(name): self._as(str(name)) for name in came["variants"]}

    def __call__(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        """The results alone.  Raises RuntimeError if there are none."""
        came = self._talk.ask(self._question("plain", Case(inputs, dy, hyper)))
        with _reading():
            results = _results(came, Case(inputs, dy))
        if results is None:
            raise RuntimeError("the candidate returned no results")
        return results[0], results[1:]

    def call(self, how: str, rule: Rule, case: Case) -> Call:
        came = self._talk.ask({**self._question(how, case), "rule": rule.name})
        with _reading():
            texts = {name: [(str(a), str(b)) for a, b in came[name]] for name in ("traps", "findings", "differences")}
            notes = [str(note) for note in came["notes"]]
            return Call(_results(came, case), notes=notes, raised=str(came["raised"]), **texts)

    def printed(self) -> str:
        """What it has printed so far, or the end of that."""
        return self._talk.printed.text()

    def _question(self, how: str, case: Case) -> dict[str, Any]:
        *inputs, dy = (x.detach() for x in (*case.inputs, case.dy))
        named = {"hyper": dict(case.hyper), "name": case.name, "variant": self._variant}
        return {"how": how, "inputs": inputs, "dy": dy, **named}

    def _as(self, variant: str) -> Isolated:
        other: Isolated = object.__new__(Isolated)
        vars(other).update(vars(self), _variant=variant)
        return other


class _Talk:
    """Questions to the process of a candidate and its answers, which may never come."""

    def __init__(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        self.process = process
        self.printed = _Tail(process.stderr)
        self._timeout = self._left = timeout
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one message and wait for one.  Raises CandidateEnded."""
        # In a thread, as either may take for ever, even after the end: a process of the candidate may hold the pipe.
        threading.Thread(target=self._exchange, args=(question,), daemon=True).start()
        start = time.monotonic()
        while True:
            ended = self.process.poll() is not None
            try:
                answer = self._answers.get(timeout=LAST_WORDS if ended else GLANCE)
            except queue.Empty:
                if ended:
                    raise self._ended() from None
                if time.monotonic() - start > self._left:
                    words = f"the candidate did not return within {self._timeout:g} s and was stopped"
                    raise CandidateEnded(words) from None
                continue
            self._left -= time.monotonic() - start
            if answer is None:
                raise self._ended()
            return answer

    def _exchange(self, question: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            _send(self.process.stdin, question)
            self._answers.put(_receive(self.process.stdout))
        except Exception:  # the pipe is broken, or what came is no answer of the oracle's
            self._answers.put(None)

    def _ended(self) -> CandidateEnded:
        try:
            status = self.process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            return CandidateEnded("the candidate closed or disturbed the pipe to the oracle")
        last = self.printed.text().strip().splitlines()[-1:] or ["nothing on stderr"]
        ended = f"with status {status}" if status >= 0 else f"by the signal {signal.Signals(-status).name}"
        return CandidateEnded(f"the candidate ended the process {ended} ({last[0]})")


@contextmanager
def _reading() -> Iterator[None]:
    """Raises CandidateEnded for an answer that is not the oracle's."""
    try:
        yield
    except Exception:
        raise CandidateEnded("the candidate answered in the oracle's place") from None


def _results(came: Mapping[str, Any], case: Case) -> tuple[Any, ...] | None:
    """The results in an answer, as `calling.call` has them; whoever gave it, they are plain tensors and not large."""
    results = came["results"]
    if results is None:
        return None
    made = [stand_in(str(x["kind"]), bool(x["array"])) if isinstance(x, dict) else plain(x) for x in results]
    return all_kept(made, case)


def _signature(parameters: Sequence[tuple[str, str]]) -> inspect.Signature:
    return inspect.Signature([inspect.Parameter(name, getattr(inspect.Parameter, kind)) for name, kind in parameters])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and whatever it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        getattr(os, "killpg", os.kill)(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe to its end and keeps the last of it: a candidate may print without end."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._kept = b""
        self._left_out = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), CHUNK):
            self._kept += chunk
            if len(self._kept) > 2 * KEPT:
                self._left_out += len(self._kept) - KEPT
                self._kept = self._kept[-KEPT:]
        self._pipe.close()

    def text(self) -> str:
        self._thread.join(LAST_WORDS)  # not for ever: a process that the candidate started may hold the pipe
        head = f"({self._left_out} bytes that the candidate printed are left out)\n" if self._left_out else ""
        return head + self._kept.decode(errors="replace")


# ------------------------------------------------------------------------------------------- the candidate's process


def serve() -> None:
    """Load a candidate and call it as `Isolated` asks, until that closes the pipe."""
    # Numbers travel through these; what the candidate prints goes elsewhere, and what it starts does not inherit them.
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        own = os.getpid()
        try:
            candidate = load(_receive(questions)["target"])
            require_candidate(candidate)
            made = {"": candidate, **variants(candidate)}
            parameters = parameters_of(candidate)
        except ValueError as error:
            _send(answers, {"usage": str(error)})
            return
        kinds = None if parameters is None else [(p.name, p.kind.name) for p in parameters.values()]
        answer: dict[str, Any] = {"parameters": kinds, "variants": list(made)[1:]}
        first: tuple[Any, ...] = ()
        while os.getpid() == own:  # a process that the candidate forked answers nothing
            _send(answers, answer)
            question = _receive(questions)
            case = Case(tuple(question["inputs"]), question["dy"], question["hyper"], question["name"])
            called = _called(made[question["variant"]], question, case, first)
            if question["how"] == "call":
                first = called.results or ()
            answer = {**vars(called), "results": called.results and [_portable(x) for x in called.results]}
        os._exit(0)


def _called(candidate: Vjp, question: Mapping[str, Any], case: Case, first: tuple[Any, ...]) -> Call:
    """What is asked for.  first: the results of the last `call`."""
    how = question["how"]
    if how == "plain":
        try:
            y, grads = call_with(candidate, (case.inputs, case.dy), case.hyper)
            return Call(all_kept([plain(x) for x in (y, *grads)], case))
        except (Exception, SystemExit):
            return Call()
    rule = RULES[question["rule"]]
    if how == "call_filled":
        return Call(traps=list(calling.call_filled(candidate, rule, case, first).items()))
    if how in ("call_again", "call_often"):
        again: Call = getattr(calling, how)(candidate, rule, case, first)
        return again
    return calling.call(candidate, rule, case)


def _portable(x: Any) -> Any:
    """A result as it travels: what is no dense tensor in words."""
    if x is None or (isinstance(x, Tensor) and (x.is_meta or is_dense(x))):
        return x
    kind = f"Tensor of layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__
    return {"kind": kind, "array": hasattr(type(x), "__array__") and not isinstance(x, Tensor)}


# --------------------------------------------------------------------------------------------------------- messages


def _send(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(message), buffer)
    pipe.write(buffer.tell().to_bytes(8, "little"))
    pipe.write(buffer.getbuffer())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> dict[str, Any]:
    """The next message.  Raises EOFError at the end of the pipe, and something else for what is no message."""
    length = int.from_bytes(pipe.read(8), "little")
    if not 0 < length <= LARGEST_MESSAGE:
        raise EOFError
    found = torch.load(io.BytesIO(pipe.read(length)), weights_only=True)  # which runs no code
    if not isinstance(found, dict):
        raise TypeError
    return found
