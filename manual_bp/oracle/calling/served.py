"""The process of an isolated candidate: it is loaded and called here, as `isolation.Isolated` asks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from manual_bp.foreign import shortened
from manual_bp.loading import load
from manual_bp.oracle.calling import calls
from manual_bp.oracle.calling.accepted import for_inputs, require_candidate, variants
from manual_bp.oracle.calling.invocation import Call, call_with, described_error, parameters_of
from manual_bp.oracle.calling.messages import MOST_TEXTS, Form, receive_question, send_answer
from manual_bp.oracle.calling.results import all_kept, plain
from manual_bp.oracle.calling.surroundings import plain as plain_surroundings
from manual_bp.oracle.calling.ways import ways
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Vjp

# Elements; of more, `compare` asks again only at once.
SMALL = 2**17


def serve() -> None:
    """Load a candidate and call it as it is asked to, until the pipe is closed."""
    # Numbers travel through these; what the candidate prints goes elsewhere, and what it starts does not inherit them.
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        own = os.getpid()
        try:
            candidate = load(receive_question(questions)["target"])
            require_candidate(candidate)
            made, words = offered(candidate)
        except ValueError as error:
            send_answer(answers, {"usage": shortened(str(error))})
            return
        results: tuple[Any, ...] | None = None
        firsts: dict[object, tuple[Any, ...]] = {}
        with plain_surroundings():
            while os.getpid() == own:  # a process that the candidate forked answers nothing
                send_answer(answers, words, results)
                question = receive_question(questions)
                if question["how"] == "named":
                    results = None
                    try:
                        made, words = offered(for_inputs(candidate, question["names"]))
                    except ValueError as error:
                        words = {"usage": shortened(str(error))}
                    continue
                case = Case(tuple(question["inputs"]), question["dy"], question["hyper"], question["name"])
                about = (question["variant"], case.name)
                called = _called(made[question["variant"]], question, case, firsts.get(about, ()))
                if question["how"] == "call":
                    firsts = {key: found for key, found in firsts.items() if _is_small(found)}
                    firsts[about] = called.results or ()
                words, results = _words(called), called.results
        os._exit(0)


def offered(candidate: Vjp) -> tuple[dict[str, Vjp], dict[str, Any]]:
    """The candidate and the other ways to call it, by name, and what is said of them."""
    parameters = parameters_of(candidate)
    kinds = None
    if parameters is not None:
        kinds = [(p.name, p.kind.name, p.default is not p.empty) for p in parameters.values()]
    layouts, others = variants(candidate), ways(candidate)
    said = {"parameters": kinds, "variants": [name for name in layouts if name][:MOST_TEXTS], "ways": list(others)}
    return {"": candidate, **layouts, **others}, said


def _is_small(results: tuple[Any, ...]) -> bool:
    """Whether results are kept beyond the next call: those of a case that may be called again later."""
    return sum(x.numel() for x in results if isinstance(x, Tensor)) <= SMALL


def _called(candidate: Vjp, question: Mapping[str, Any], case: Case, first: tuple[Any, ...]) -> Call:
    """What is asked for.  first: the results of `call` at this case."""
    how = question["how"]
    if how == "plain":
        try:
            y, grads = call_with(candidate, (case.inputs, case.dy), case.hyper)
            return Call(
                all_kept([plain(x) for x in (*(parts(y) if isinstance(case.dy, tuple) else (y,)), *grads)], case)
            )
        except (Exception, SystemExit) as error:
            return Call(raised=described_error(error))
    rule: Any = Form(**question["rule"])
    if how == "call_filled":
        return Call(traps=list(calls.call_filled(candidate, rule, case, first).items()))
    if how in ("call_again", "call_often"):
        again: Call = getattr(calls, how)(candidate, rule, case, first)
        return again
    return calls.call(candidate, rule, case)


def _words(called: Call) -> dict[str, Any]:
    """What was seen beside the results, as it travels: not more of it than the other side takes."""
    lists = {
        name: [(argument, shortened(text)) for argument, text in getattr(called, name)[:MOST_TEXTS]]
        for name in ("traps", "findings", "differences")
    }
    return {
        **lists,
        "notes": [shortened(text) for text in called.notes[:MOST_TEXTS]],
        "raised": shortened(called.raised),
    }
