"""Candidates that are not trusted, in a process of their own (served.py).

An isolated candidate is only called there.  What is due, and the judgement, stay in the process of the user, which
takes nothing from the other but numbers: a candidate that prints a report, writes files, replaces functions, reads the
stack or answers in the oracle's place can at most give other numbers, and wrong ones are rejected.  How much comes, in
number, size and time, is bounded (messages.py), and its words are made readable before anybody reads them.

Not protected against: it may hide what is seen around a call (that it overwrites an argument, say), since that is seen
in its own process; it is no sandbox, so it may read and delete the user's files, and end the user's processes; a
process that it starts in a session of its own (setsid) is not waited for, but goes on.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

import torch
from torch import Tensor

from manual_bp.foreign import LONGEST_NAME, readable, shortened, signal_name
from manual_bp.oracle.calling.accepted import Elsewhere
from manual_bp.oracle.calling.invocation import Call, passable
from manual_bp.oracle.calling.messages import MOST_TEXTS, form_of, receive_answer, send_question
from manual_bp.oracle.calling.results import LARGEST, shaped_like
from manual_bp.oracle.calling.time_limit import waited, worked
from manual_bp.oracle.calling.ways import NAMES
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

# Of what a process prints, the last so many bytes are kept: far more than a report has.
KEPT = 2**16
CHUNK = 2**16
# Results of a wrong shape are kept for the diagnosis up to so many bytes in all; later ones by their shapes alone.
KEPT_FOR_DIAGNOSIS = 2**28
WIDEST = torch.complex128.itemsize
# How often one looks whether the process still lives, and how long one waits for what is on its way from an ended one.
GLANCE = 0.05
LAST_WORDS = 1.0
SERVE = "from manual_bp.oracle.calling.served import serve; serve()"
# Waits until its own starter is gone, however that ended, and then ends the group of processes it was told.
GUARD = "import os, sys; group = int(input()); sys.stdin.read(); getattr(os, 'killpg', os.kill)(group, 9)"


class CandidateEnded(RuntimeError):
    """An isolated candidate ended its process, or did not return in time; the message is the finding."""


@contextmanager
def isolated(target: str, timeout: float) -> Iterator[Isolated]:
    """The candidate that `target` names, in a process of its own, which is ended with all that it has started when the
    block ends, or this process does.

    timeout: seconds that the import of its module and all of its calls may take together (time_limit.py).
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
        yield Isolated(Talk(process, timeout), target)


class Isolated(Elsewhere):
    """A candidate in another process: a Vjp for any comparison.  Calls raise CandidateEnded if the process or the time
    ends."""

    def __init__(self, talk: Talk, target: str) -> None:
        self._talk = talk
        self._variant = ""
        self._learn(self._talk.ask({"how": "load", "target": target}))

    def _learn(self, came: Mapping[str, Any]) -> None:
        """Take in what it says of the candidate."""
        if "usage" in came:
            raise ValueError(str(came["usage"]))
        with self._talk.reading():
            if came["parameters"] is not None:  # it is passed the hyperparameters that it takes
                self.__signature__ = _signature(came["parameters"])
            self.layouts = {
                shortened(str(name), LONGEST_NAME): self._as(str(name)) for name in came["variants"][:MOST_TEXTS]
            }
            self.ways = {str(name): self._as(str(name)) for name in came["ways"] if name in NAMES}

    def named(self, names: tuple[str, ...]) -> Isolated:
        """The candidate, told the names of the inputs that it will be given."""
        self._learn(self._talk.ask({"how": "named", "names": list(names)}))
        return self

    def __call__(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Any, tuple[Any, ...]]:
        """The results alone.  Raises RuntimeError if there are none."""
        case = Case(inputs, dy, hyper)
        came = self._ask("plain", case)
        with self._talk.reading():
            results = self._results(came["results"], case)
            raised = readable(shortened(str(came["raised"])))
        if results is None:
            raise RuntimeError(f"the candidate raised {raised}" if raised else "the candidate returned no results")
        outputs = len(results) - len(inputs)
        return results[0] if outputs == 1 else results[:outputs], results[outputs:]

    def call(self, how: str, rule: Rule, case: Case) -> Call:
        hyper = passable(self, rule, case.hyper)
        assert isinstance(hyper, dict)
        came = self._ask(how, replace(case, hyper=hyper), rule=form_of(rule)._asdict())
        arguments = {*rule.arguments, *rule.inputs, *rule.cotangents}
        with self._talk.reading():
            texts = {name: _texts(came[name], arguments) for name in ("traps", "findings", "differences")}
            notes = [shortened(str(note)) for note in came["notes"][:MOST_TEXTS]]
            raised = shortened(str(came["raised"]))
            return Call(self._results(came["results"], case), notes=notes, raised=raised, **texts)

    def printed(self) -> str:
        """What it has printed so far, or the end of that."""
        return self._talk.printed.text()

    def _ask(self, how: str, case: Case, **more: Any) -> dict[str, Any]:
        own = case.with_tensors(x.detach() for x in case.tensors)
        named = {"hyper": dict(case.hyper), "name": case.name, "variant": self._variant}
        most = sum(WIDEST * max(x.numel(), LARGEST) for x in own.tensors)
        question = {"how": how, "inputs": own.inputs, "dy": own.dy, **named, **more}
        return self._talk.ask(question, {str(x.device) for x in own.tensors}, most)

    def _results(self, results: Any, case: Case) -> tuple[Any, ...] | None:
        """The results in an answer, as `calling.call` has them."""
        if results is None:
            return None
        like = shaped_like(case, len(results))
        return tuple(self._talk.kept(x, x_like) for x, x_like in zip(results, like, strict=True))

    def _as(self, variant: str) -> Isolated:
        other = object.__new__(type(self))
        vars(other).update(vars(self), _variant=variant)
        return other


class Talk:
    """Questions to the process of a candidate and its answers, which may never come."""

    def __init__(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        self.process = process
        self.printed = _Tail(process.stderr)
        self._timeout = timeout
        self._spare = KEPT_FOR_DIAGNOSIS
        self.seconds = 0.0
        self._over: CandidateEnded | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def ask(self, question: dict[str, Any], devices: Collection[str] = (), most: int = 0) -> dict[str, Any]:
        """Send one message and wait for one, with at most `most` bytes of numbers on `devices`.  Raises CandidateEnded,
        and then again whenever it is asked."""
        if self._over is not None:
            raise CandidateEnded(*self._over.args)
        # In a thread, as either may take for ever, even after the end: a process of the candidate may hold the pipe.
        # What comes is read and taken apart there too, within the time that the candidate has.
        threading.Thread(target=self._exchange, args=(question, devices, most), daemon=True).start()
        start = time.monotonic()
        while True:
            ended = self.process.poll() is not None
            try:
                answer = self._answers.get(timeout=LAST_WORDS if ended else GLANCE)
            except queue.Empty:
                if ended:
                    raise self.ended() from None
                if self._is_over(self.seconds + time.monotonic() - start):
                    self.seconds = self._timeout
                    words = f"the candidate did not return within {self._timeout:g} s and was stopped"
                    raise self._end(words) from None
                continue
            self.seconds += time.monotonic() - start
            if answer is None:
                raise self.ended()
            return answer

    def _is_over(self, passed: float) -> bool:
        """Whether so many seconds are more than the candidate has, but for what it waited for a busy machine."""
        return passed > self._timeout and worked(passed, waited(self._candidate())) > self._timeout

    def _candidate(self) -> int:
        """Its process."""
        return self.process.pid

    def _exchange(self, question: dict[str, Any], devices: Collection[str], most: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            send_question(self.process.stdin, question)
            self._answers.put(receive_answer(self.process.stdout, tuple(devices), most))
        except Exception:  # the pipe is broken, or what came is no answer of the oracle's
            self._answers.put(None)

    def kept(self, x: Any, like: Tensor | None) -> Any:
        """A result, or its shape alone if it is not `like` what is due and enough of these are kept."""
        if not isinstance(x, Tensor) or x.is_meta or (like is not None and x.shape == like.shape):
            return x
        self._spare -= x.nbytes
        return x if self._spare >= 0 else x.to("meta")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raises CandidateEnded for an answer that is not the oracle's."""
        try:
            yield
        except Exception:
            raise self._end("the candidate answered in the oracle's place") from None

    def _end(self, words: str) -> CandidateEnded:
        """The finding that ends the talk, and the process with it."""
        self._over = CandidateEnded(words)
        self.stop()
        return self._over

    def stop(self) -> None:
        """End the process and whatever it has started."""
        _end(self.process)

    def status(self) -> int:
        """That of the process.  Raises TimeoutExpired if it does not end."""
        return self.process.wait(LAST_WORDS)

    def ended(self) -> CandidateEnded:
        """What is to be said of a process that does not answer any more."""
        try:
            status = self.status()
        except subprocess.TimeoutExpired:
            return self._end("the candidate closed or disturbed the pipe to the oracle")
        last = self.printed.text().strip().splitlines()[-1:] or ["nothing on stderr"]
        ended = f"with status {status}" if status >= 0 else f"by the signal {signal_name(-status)}"
        return self._end(f"the candidate ended the process {ended} ({readable(shortened(last[0], LONGEST_NAME))})")


def _texts(came: Any, arguments: Collection[str]) -> list[tuple[str, str]]:
    """Words about arguments.  Raises ValueError if there are too many, or about something else."""
    texts = [(argument, shortened(str(text))) for argument, text in came]
    if len(texts) > MOST_TEXTS or not all(argument in arguments for argument, _ in texts):
        raise ValueError
    return texts


def _signature(parameters: Sequence[tuple[str, str, bool]]) -> inspect.Signature:
    """What it takes; a default is known to be there, and not which."""
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, getattr(inspect.Parameter, kind), default=None if has_default else empty)
            for name, kind, has_default in parameters
        ]
    )


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
