"""The process of a candidate that nobody trusts: it is loaded and called here, and nothing is judged.

What this process could be made to say is what a candidate returns.  It holds no reference, no name of a case and no
expected result, and does not know for which rule it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.foreign import shortened
from manual_bp.oracle.calling.accepted import for_inputs, require_candidate
from manual_bp.oracle.calling.invocation import call_with, described_error, traceback_of
from manual_bp.oracle.calling.messages import receive_question, send_answer
from manual_bp.oracle.calling.results import LARGEST, is_dense, plain
from manual_bp.oracle.calling.served import offered
from manual_bp.oracle.calling.surroundings import plain as plain_surroundings
from manual_bp.oracle.calling.unwritten import Filled
from manual_bp.oracle.grading.lent import Borrowed
from manual_bp.oracle.grading.loading import program
from manual_bp.rule import Vjp

# More results, or tuples within tuples, are due of no function.
MOST_RESULTS, DEEPEST = 64, 2
AUTOGRAD, PAGES = "torch.autograd", "manual_bp.rules"
SEEN = {
    AUTOGRAD: "its gradients come from torch.autograd",
    PAGES: "it has imported pages of manual_bp, and may return what these compute",
}
"""What is noted of a candidate, by what it uses."""


def serve(lent: int) -> None:
    """Load a candidate and call it as it is asked to, until the pipe is closed.  lent: the file of its arguments."""
    # Numbers travel through these; what the candidate prints goes elsewhere, and what it starts does not inherit them.
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        own = os.getpid()
        borrowed = Borrowed(lent)
        seen: set[str] = set()
        _see_autograd(seen)
        candidate: Any = None
        made: dict[str, Vjp] = {}
        with plain_surroundings():
            while os.getpid() == own:  # a process that the candidate forked answers nothing
                question = receive_question(questions)
                words: dict[str, Any] = {}
                results: tuple[Any, ...] | None = None
                if question["how"] == "call":
                    words, results = _called(made[question["variant"]], question, borrowed)
                elif question["how"] == "seen":
                    has_pages = any(name.startswith(f"{PAGES}.") for name in sys.modules)
                    words = {"seen": [*seen, *([PAGES] if has_pages else [])]}
                else:
                    try:
                        if question["how"] == "load":
                            candidate = program(question["target"])
                            require_candidate(candidate)
                            made, words = offered(candidate)
                        else:
                            made, words = offered(for_inputs(candidate, question["names"]))
                    except ValueError as error:
                        words = {"usage": shortened(str(error))}
                send_answer(answers, words, results)
        os._exit(0)


def _called(
    candidate: Vjp, question: Mapping[str, Any], borrowed: Borrowed
) -> tuple[dict[str, Any], tuple[Any, ...] | None]:
    """What is said of one call, and its results."""
    inputs, dy = borrowed.tensors(question["lent"], question["again"])
    arguments = (inputs,) if dy is None else (inputs, dy)
    filled = nullcontext() if question["filled"] is None else Filled(question["filled"])
    leaves: list[Any] = []
    try:
        with filled:
            returned = call_with(candidate, arguments, question["hyper"])
        form = _form(returned, leaves, DEEPEST)
    except BaseException as error:  # SystemExit, and an interrupt that it sends to itself
        return {"raised": traceback_of(error), "error": described_error(error)}, None
    finally:
        borrowed.give_back()
    try:
        most = max(LARGEST, *(x.numel() for x in (*inputs, *(dy if isinstance(dy, tuple) else (dy,))) if x is not None))
        return {"form": form}, tuple(_kept(plain(x), most) for x in leaves)
    except Exception as error:  # a tensor that nobody can read
        return {"unreadable": described_error(error)}, None


def _form(returned: Any, leaves: list[Any], depth: int) -> Any:
    """How tuples and lists are nested, with the positions of what they hold among the leaves."""
    for kind in (tuple, list):
        if depth and isinstance(returned, kind) and len(returned) <= MOST_RESULTS:
            return {"kind": kind.__name__, "of": [_form(x, leaves, depth - 1) for x in returned]}
    leaves.append(returned)
    return len(leaves) - 1


def _kept(x: Any, most: int) -> Any:
    """A result, or its shape alone if it has more elements than anything that is due: expanded it may have any size."""
    if isinstance(x, Tensor) and is_dense(x) and x.numel() > most:
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return x


def _see_autograd(seen: set[str]) -> None:
    """Note when torch.autograd is asked for a gradient."""
    modules = [m for name, m in sys.modules.items() if name in (AUTOGRAD, f"{AUTOGRAD}.graph")]
    for module in modules:
        run = vars(module)["_engine_run_backward"]

        def noted(*arguments: Any, _run: Any = run, **more: Any) -> Any:
            seen.add(AUTOGRAD)
            return _run(*arguments, **more)

        vars(module)["_engine_run_backward"] = noted


if __name__ == "__main__":
    serve(int(sys.argv[1]))
