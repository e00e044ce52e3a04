"""`manual-bp verify`: every rule, then every kind of layer in lockstep with torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from manual_bp.cli.lockstep import print_lockstep
from manual_bp.cli.shared import (
    Device,
    Dtype,
    Json,
    check_device,
    check_writable,
    chosen_dtypes,
    cores,
    notices,
    out,
    print_table,
    print_verdict,
    rule_names,
    usage,
    write_json,
)
from manual_bp.cli.tasks import Task, advance, done, prepare
from manual_bp.networks import MODELS
from manual_bp.wording import counted

if TYPE_CHECKING:
    from manual_bp.lockstep import LockstepReport
    from manual_bp.verification import Against, RuleVerdict

# Each process has torch in memory, about half a gigabyte.
MOST_PROCESSES = 8
QUICK = "float32"


def verify(
    rules: Annotated[
        list[str] | None,
        typer.Argument(help="Rules to judge; all of them by default.", autocompletion=rule_names),
    ] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    json_file: Json = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Judges float32 alone (unless --dtype names another): every rule, every case, every mistake.",
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one per core, or one if rules are named or on a GPU.")
    ] = 0,
) -> None:
    """Judge every rule, then train tiny networks of every kind of layer in lockstep with torch.
    For example: manual-bp verify --quick
    """
    processes = jobs or (1 if rules or device != "cpu" else min(cores(), MOST_PROCESSES))
    with usage():
        check_device(device)
        check_writable(json_file)
        chosen_dtypes(dtype)
        if processes > 1:
            prepare()
        from manual_bp.registry import RULES
        from manual_bp.verification import WIDE, parts_of, summary, tells_of_sizes

        names = list(dict.fromkeys(rules)) if rules else list(RULES)
        for name in names:
            RULES[name]
        dtypes = chosen_dtypes(dtype)
        models = [] if rules else list(MODELS)
    if quick and dtype is None:
        dtypes = chosen_dtypes(QUICK)
    wide = [each for each in dtypes if each in WIDE] or chosen_dtypes(QUICK)  # lockstep is for these
    # The networks come first, for the longest work must not be begun last, and are one task, since torch.optim imports
    # torch's compiler when it is first used, which takes longer than they do.
    runs = [(name, each) for name in models for each in wide]
    tasks: list[Task] = [(_in_lockstep, (runs, device))] if runs else []
    tasks += [(_judged, (name, each, device, tells_of_sizes(each, dtypes))) for name in names for each in dtypes]
    in_parts = len(runs) + sum(parts_of(RULES[name], each) for name in names for each in dtypes)
    results = done(tasks, in_parts, min(processes, len(tasks)))
    reports = results[0] if runs else []
    verdicts = results[1:] if runs else results
    result = summary(verdicts)
    _print_rules([RULES[name].name for name in names], verdicts)  # a page in a file is asked for by its path
    for verdict in verdicts:
        if not verdict.passed:
            out.print(verdict.report, markup=False, highlight=False)
    for (name, _), report in zip(runs, reports, strict=True):
        if report.passed:
            worst = max(row.error_over_allowance for row in report.rows)
            line = f"{name} in {report.dtype}, {counted(report.steps, 'step')}: {report.verdict}; "
            out.print(f"{line}worst error / allowance {worst:.2g}", markup=False, highlight=False)
        else:
            print_lockstep(name, report)
    passed = result["passed"] and all(report.passed for report in reports)
    print_verdict(passed, f"{result['mistakes_rejected']} of {result['mistakes']} mistakes rejected")
    write_json(json_file, "verify", passed, {**result, "lockstep": [report.to_dict() for report in reports]})
    if not passed:
        raise typer.Exit(1)


def _in_lockstep(runs: list[tuple[str, Any]], device: str) -> list[LockstepReport]:
    """The reports on tiny networks, each by name and dtype."""
    from manual_bp.lockstep import CLASSES, brief, brief_shape, failed
    from manual_bp.networks import tiny
    from manual_bp.oracle.calling.candidates import engine_factory

    engine, reports = engine_factory("torch"), []
    for name, dtype in runs:
        try:
            reports.append(brief(name, engine=engine, dtype=dtype, device=device))
        except Exception as error:  # said in the report, so that the others are still run
            notices.print_exception()
            why = f"raised {type(error).__name__}: {error}"
            reports.append(failed(tiny(name, brief_shape(name), CLASSES), "made-up numbers", why))
        advance()
    return reports


def _judged(name: str, dtype: Any, device: str, sizes: bool) -> RuleVerdict:
    """The verdict on one rule in one dtype."""
    from manual_bp.oracle.truth.kept import forget_evidence
    from manual_bp.verification import verify_rules

    (verdict,) = verify_rules([name], [dtype], device, progress=advance, sizes=sizes)
    forget_evidence()
    return verdict


def _print_rules(names: list[str], verdicts: list[RuleVerdict]) -> None:
    from manual_bp.verification import LARGE, short

    dtypes = list(dict.fromkeys(v.dtype for v in verdicts))
    table = Table(
        title="rules: largest difference from torch.autograd in ulp, value/cotangents", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("rule")
    table.add_column("cases", justify="right")
    for name in dtypes:
        table.add_column(name.replace("float", "f"), justify="right")
    table.add_column("error/\nallowed", justify="right")
    table.add_column("mistakes\nrejected", justify="right")
    table.add_column("")
    for name in names:
        found = [v for v in verdicts if v.rule == name]
        rejected = sum(v.mistakes - len(v.survivors) for v in found)
        table.add_row(
            name,
            str(sum(v.cases for v in found)),
            *(f"{short(v.against_torch.forward)}/{short(v.against_torch.backward)}" for v in found),
            f"{max(v.error_over_allowance for v in found):.2f}",
            f"{rejected}/{sum(v.mistakes for v in found)}",
            "[green]agrees[/]" if all(v.passed for v in found) else "[bold red]FAILS[/]",
        )
    certified = [v for v in verdicts if v.dtype in ("float64", "float32")]
    large = _large(verdicts, certified)
    table.caption = "f64 is float64, bf16 bfloat16"
    table.caption += f"; what is {LARGE:.0f} and more is explained below" if large else ""
    print_table(table)
    for verdict in verdicts:
        for text in verdict.loose:
            out.print(f"loose allowance: {verdict.rule}, {verdict.dtype}: {text}", highlight=False)
    if certified:
        _print_truth(names, certified)
    for text in large:
        out.print(text, markup=False, highlight=False)


def _large(verdicts: Sequence[RuleVerdict], certified: Sequence[RuleVerdict]) -> list[str]:
    """A line for each large number of the two tables: where it is, and who has lost digits there."""
    from manual_bp.verification import LARGE, short

    lines: dict[str, list[str]] = {}
    for verdict in verdicts:
        shown: list[tuple[str, str, Against]] = [
            ("forward", "from torch", verdict.against_torch),
            ("backward", "from torch", verdict.against_torch),
        ]
        if verdict in certified:
            shown += [("backward", "manual", verdict.truth), ("backward", "torch", verdict.torch_truth)]
        for side, what, against in shown:
            if (ulps := getattr(against, side)) >= LARGE:
                place = f"{verdict.rule}, {verdict.dtype}: {against.where[side]}"
                lines.setdefault(place, []).append(f"{short(ulps)} {what}")
    return [f"{', '.join(numbers)}: {place}" for place, numbers in lines.items()]


def _print_truth(names: list[str], verdicts: list[RuleVerdict]) -> None:
    from manual_bp.verification import short

    dtypes = list(dict.fromkeys(v.dtype for v in verdicts))
    table = Table(
        title="accuracy: largest error of the cotangents against certified truth in ulp, manual | torch",
        box=SIMPLE_HEAD,
    )
    table.add_column("rule")
    for name in dtypes:
        table.add_column(name, justify="right")
    for name in names:
        found = [v for v in verdicts if v.rule == name]
        table.add_row(name, *(f"{short(v.truth.backward)} | {short(v.torch_truth.backward)}" for v in found))
    print_table(table)
