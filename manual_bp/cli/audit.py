"""`manual-bp audit`: an acceptance test, tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manual_bp.cli.check import forget, reference_of, values
from manual_bp.cli.shared import (
    DTYPES,
    Json,
    check_writable,
    chosen_dtypes,
    notices,
    one_of,
    out,
    rule_names,
    usage,
    write_json,
)


def audit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CHECKER|PATH.py:CHECKER",
            help="Your checker(program), which returns True, False or None, or raises; or the name of a ready-made "
            "one, such as gradcheck.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="RULE|MODULE:FUNCTION|PATH.py:FUNCTION",
            help="Whose programs it is given: a rule, or any differentiable torch function or module.",
            autocompletion=rule_names,
        ),
    ],
    inputs: Annotated[
        str | None,
        typer.Option(metavar="NAME=SHAPE[:KIND],...", help="What the inputs of a function are, as for check."),
    ] = None,
    hyper: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A hyperparameter of a function; repeatable.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help=f"In which it promises to see errors: {', '.join(DTYPES)}.", autocompletion=one_of(*DTYPES)),
    ] = "float32",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="A ready-made checker, MODULE:CHECKER or PATH.py:CHECKER, to compare with; repeatable."),
    ] = None,
    smallest: Annotated[
        float, typer.Option(min=0, help="Errors below this fraction of what is due need not be seen.")
    ] = 0.0,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="A kind that need not be rejected; repeatable.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every program that passes.")] = False,
    json_file: Json = None,
    picture_file: Annotated[
        Path | None, typer.Option("--picture", help="Kinds of error against their sizes, as .svg, .png or .pdf.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that it may take for one program.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds that it may take for all of them.")] = 120.0,
    isolate: Annotated[bool, typer.Option("--isolate", help="In a process that may die, hang or take memory.")] = False,
    memory: Annotated[int, typer.Option(min=512, help="MiB that an isolated checker may allocate.")] = 4096,
) -> None:
    """What does your own acceptance test let pass?
    For example: manual-bp audit my_tests.py:my_checker --against softmax
    """
    with usage():
        from manual_bp.cli.apart import audit_apart
        from manual_bp.loading import load
        from manual_bp.oracle.audit import audit as audited
        from manual_bp.oracle.audit.picture import check_name
        from manual_bp.oracle.audit.report import AuditReport, side_by_side

        check_writable(json_file)
        check_writable(picture_file, "--picture")
        if picture_file is not None:
            check_name(picture_file)
        (chosen,) = chosen_dtypes(dtype)
        names = (target, *(beside or []))
        if not isolate:
            rule = reference_of(against, inputs, values(hyper or []))
            checkers = [load(name) if ":" in name else name for name in names]
        forget(json_file)
        reports: list[AuditReport] = []
        with notices.status("giving it programs") as status:

            def tell(number: int, total: int) -> None:
                status.update(f"program {number} of {total}")

            options: dict[str, Any] = {
                "allow": allow or [],
                "smallest": smallest,
                "timeout": timeout,
                "seconds": seconds,
            }
            options["on_progress"] = tell
            if isolate:
                said = {"inputs": inputs, "hyper": values(hyper or []), "memory": memory, "dtype": dtype}
                reports += [audit_apart(name, against, **said, **options) for name in names]  # type: ignore[arg-type]
            else:
                reports += [audited(checker, rule, dtype=chosen, **options) for checker in checkers]
        report = reports[0]
    out.print(report.text(verbose), markup=False, highlight=False, soft_wrap=True)
    if len(reports) > 1:
        out.print("\n" + "\n".join(side_by_side(reports)), markup=False, highlight=False, soft_wrap=True)
    content = {"report": json.loads(report.to_json()), "beside": [json.loads(r.to_json()) for r in reports[1:]]}
    with usage():
        if picture_file is not None and report.wrong:
            report.picture(picture_file)
    write_json(json_file, "audit", report.passed, content)
    if not report.passed:
        raise typer.Exit(1)
