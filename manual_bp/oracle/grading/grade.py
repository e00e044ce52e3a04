"""`grade`: code that nobody trusts, called at inputs that it has not met, and judged where it cannot reach.

The candidate is called at every case, in a process of its own, before the first of the expected results is computed
anywhere.  What it returns there is all that the verdict rests on; only the search for flaws beside the numbers (races,
elements that are never written) and for the cause calls it later.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from manual_bp.foreign import readable, shortened
from manual_bp.keeper import Limits, Started, kept
from manual_bp.loading import SUFFIX
from manual_bp.oracle.calling.surroundings import plain
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.functions import rule_of
from manual_bp.oracle.grading.loading import of_callable, split
from manual_bp.oracle.grading.run import Run
from manual_bp.oracle.grading.untrusted import Process
from manual_bp.oracle.grading.verdict import Verdict
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES

# JSON's readers keep integers below 2^53 as they are.
SEEDS = 2**53
FRESH = "fresh"


@plain()
def grade(
    program: str | Path | Callable[..., Any],
    against: str | Rule | Callable[..., Any],
    seeds: str | int = FRESH,
    timeout: float = Limits().timeout,
    memory: int = Limits().memory,
    *,
    processes: int = Limits().processes,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    strict: bool = False,
    conventions: Mapping[str, Any] | None = None,
    hyper: Mapping[str, Any] | None = None,
    ndim: Any = None,
    min_size: int = 0,
    given: str | Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
    diagnose: float = 3.0,
    started: Started | None = None,
) -> Verdict:
    """Grade a program that nobody trusts.

    program: "PATH.py:NAME", "PATH.py" (NAME is then vjp or ModelNew), "module:name", or a function or class at the top
        of a file; a Vjp, an nn.Module (a class is made with `get_init_inputs()` of its file) or an autograd.Function.
    against: a rule or its name; or a differentiable torch function or nn.Module, which is trusted.
    inputs: of such a function, by parameter: a shape, or what else `compare` takes.  A tensor is the same in every
        grading, so that it can be known before; a shape, or a function that draws, is not.
    seeds: "fresh", from the operating system, or the seed of an earlier verdict.
    timeout, memory, processes: what it may take (`Limits`).
    strict, conventions, hyper, ndim, min_size, given: as for `compare`.
    diagnose: seconds that the search for the cause may take; 0 for none, and then it ends at the first case that is
        wrong.
    started: a process that `manual_bp.keeper.kept` has begun to start, for this program alone; its limits hold.
    Raises ValueError for what no program could be graded by or for: an unknown rule, dtype, device or file.
    """
    begun = time.monotonic()
    rule = rule_of(against, inputs, hyper)
    seed = _seed(seeds)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {[str(d) for d in DTYPES]}; came {dtype}.")
    target = _target(program)
    chosen_conventions = Conventions.declared(rule, conventions)
    declared = Declared.of(rule, hyper, ndim, min_size, given)
    with kept(Limits(timeout, memory, processes)) if started is None else nullcontext(started) as ready:
        process = Process(ready)
        run = Run(declared.rule(rule), dtype, device, seed, chosen_conventions, declared, strict)
        try:
            run.grade(process, target, diagnose)
        finally:
            process.stop()
    limits = ready.limits
    verdict = run.verdict(target)
    known = [name for name, x in (inputs or {}).items() if isinstance(x, torch.Tensor)]
    verdict.notes += [f"{name} was given as a tensor: it is the same in every grading" for name in known]
    verdict.printed = readable(shortened(process.printed().rstrip()))
    verdict.limits = {"timeout_s": limits.timeout, "memory_mib": limits.memory, "processes": limits.processes}
    verdict.seconds = {"candidate": round(process.seconds, 3), "total": round(time.monotonic() - begun, 3)}
    return verdict


def _seed(seeds: str | int) -> int:
    if seeds == FRESH:
        return secrets.randbelow(SEEDS)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 0 <= seeds < SEEDS:
        raise ValueError(
            f'seeds must be "{FRESH}" or an integer from 0 to 2^53 - 1, such as a verdict has; came {seeds!r}.'
        )
    return seeds


def _target(program: str | Path | Callable[..., Any]) -> str:
    """PATH.py[:NAME] or MODULE:NAME, of a file that is there."""
    if callable(program):
        return of_callable(program)
    path, name = split(str(program))
    if path.endswith(SUFFIX):
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path!r}. Pass PATH.py[:CALLABLE] or MODULE:CALLABLE.")
    elif not name:
        raise ValueError(f"a program is PATH.py[:CALLABLE] or MODULE:CALLABLE; came {str(program)!r}.")
    return str(program)
