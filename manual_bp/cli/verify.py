"""`manual-bp verify`: every rule, then three networks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from manual_bp.cli.lockstep import MODELS, lockstep_of, prepared, print_lockstep
from manual_bp.cli.shared import (
    Device,
    Dtype,
    Json,
    check_device,
    check_writable,
    chosen_dtypes,
    cores,
    one_thread,
    out,
    print_verdict,
    shown,
    usage,
    write_json,
)

if TYPE_CHECKING:
    from manual_bp.verification import RuleVerdict

DATA = "digits"
# Each process has torch in memory, about half a gigabyte; there are 17 tasks.
MOST_PROCESSES = 8
Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments, both of which pickle."""


def verify(
    rules: Annotated[list[str] | None, typer.Argument(help="Rules to judge; all of them by default.")] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    json_file: Json = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer dtypes and steps.")] = False,
    jobs: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one per core, or one if rules are named or on a GPU.")
    ] = 0,
) -> None:
    """Judge every rule, then train three networks on real data in lockstep with torch."""
    with usage():
        from manual_bp.rule import RULES
        from manual_bp.verification import summary

        check_device(device)
        check_writable(json_file)
        names = list(dict.fromkeys(rules)) if rules else list(RULES)
        for name in names:
            RULES[name]
        dtypes = chosen_dtypes(dtype)
        models = [] if rules else list(MODELS)
        prepared(models, DATA)
    if quick and dtype is None:
        dtypes = dtypes[:2]  # float64 and float32
    lockstep_dtype = dtype if dtype in ("float64", "float32") else "float32"
    # The networks come first, the deepest before the others: the longest work must not be begun last.
    tasks: list[Task] = [
        (lockstep_of, (name, DATA, 5 if quick else 50, lockstep_dtype, device)) for name in reversed(models)
    ]
    tasks += [(_judged, (name, dtypes, device)) for name in names]
    alone = bool(rules) or device != "cpu"
    results = _done(tasks, jobs or (1 if alone else min(cores(), len(tasks), MOST_PROCESSES)))
    reports, verdicts = results[: len(models)][::-1], [v for some in results[len(models) :] for v in some]
    result = summary(verdicts)
    _print_rules(names, verdicts)
    for verdict in verdicts:
        if not verdict.passed:
            out.print(verdict.report, markup=False, highlight=False)
    for name, report in zip(models, reports, strict=True):
        print_lockstep(name, report)
    passed = result["passed"] and all(report.passed for report in reports)
    write_json(json_file, "verify", passed, {**result, "lockstep": [report.to_dict() for report in reports]})
    print_verdict(passed, f"{result['mistakes_rejected']} of {result['mistakes']} mistakes rejected")


def _judged(name: str, dtypes: list[Any], device: str) -> list[RuleVerdict]:
    """The verdicts on one rule."""
    from manual_bp.verification import verify_rules

    return list(verify_rules([name], dtypes, device))


def _done(tasks: list[Task], processes: int) -> list[Any]:
    """The tasks' results, in order, from processes of one thread each."""
    if processes == 1:
        one_thread()
        return [function(*arguments) for function, arguments in shown(tasks, "judging", len(tasks))]
    # Forking a process in which torch has started threads may hang: they are spawned.
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=one_thread) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in tasks]
        for _ in shown(as_completed(futures), "judging", len(futures)):
            pass
    return [future.result() for future in futures]


def _print_rules(names: list[str], verdicts: list[Any]) -> None:
    dtypes = list(dict.fromkeys(v.dtype for v in verdicts))
    table = Table(
        title="rules: largest difference from torch.autograd in ulp, value/cotangents", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("rule", no_wrap=True)
    table.add_column("cases", justify="right")
    for name in dtypes:
        table.add_column(name.replace("float", "f"), justify="right", no_wrap=True)
    table.add_column("error/\nallowed", justify="right", no_wrap=True)
    table.add_column("mistakes\nrejected", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in names:
        found = [v for v in verdicts if v.rule == name]
        rejected = sum(v.mistakes - len(v.survivors) for v in found)
        table.add_row(
            name,
            str(sum(v.cases for v in found)),
            *(f"{_short(v.against_torch.forward)}/{_short(v.against_torch.backward)}" for v in found),
            f"{max(v.error_over_allowance for v in found):.2f}",
            f"{rejected}/{sum(v.mistakes for v in found)}",
            "[green]agrees[/]" if all(v.passed for v in found) else "[bold red]FAILS[/]",
        )
    table.caption = (
        "f64 is float64, bf16 bfloat16.  A large number beside error/allowed ≤ 1 is digits lost: by torch's own "
        "formula (sigmoid, tanh in saturation), or by terms that cancel in any formula (batch norm over two values)."
    )
    out.print(table)
    for verdict in verdicts:
        for text in verdict.loose:
            out.print(f"loose allowance: {verdict.rule}, {verdict.dtype}: {text}", highlight=False)
    certified = [v for v in verdicts if v.dtype in ("float64", "float32")]
    if certified:
        _print_truth(names, certified)


def _short(ulps: float) -> str:
    """Two digits below 100, one above: a column for each dtype must fit beside seven others."""
    return f"{round(ulps, 1):.2g}" if ulps < 100 else f"{ulps:.0e}".replace("e+0", "e").replace("e+", "e")


def _print_truth(names: list[str], verdicts: list[Any]) -> None:
    dtypes = list(dict.fromkeys(v.dtype for v in verdicts))
    table = Table(
        title="accuracy: largest error of the cotangents against certified truth in ulp, manual | torch",
        box=SIMPLE_HEAD,
    )
    table.add_column("rule", no_wrap=True)
    for name in dtypes:
        table.add_column(name, justify="right")
    for name in names:
        found = [v for v in verdicts if v.rule == name]
        table.add_row(name, *(f"{_short(v.truth.backward)} | {_short(v.torch_truth.backward)}" for v in found))
    out.print(table)
