"""`manual-bp check`: the oracle on a user's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manual_bp.cli.shared import Device, Json, check_device, check_writable, chosen_dtypes, out, usage, write_json


def check(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:CALLABLE", help="Your vjp(inputs, dy, **hyper) -> (y, grads).")
    ],
    against: Annotated[str, typer.Option(help="The rule that it should be.")],
    dtype: Annotated[str, typer.Option(help="float64, float32, bfloat16 or float16.")] = "float32",
    device: Device = "cpu",
    strict: Annotated[bool, typer.Option("--strict", help="Notes are mismatches.")] = False,
    json_file: Json = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as one page.")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="In a process that may crash or hang.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that an isolated candidate may take.")] = 60.0,
) -> None:
    """The oracle on your code."""
    with usage():
        from manual_bp.oracle.isolation import load, run_isolated
        from manual_bp.rule import RULES

        check_device(device)
        check_writable(json_file)
        check_writable(html_file, "--html")
        if isolate and html_file is not None:
            raise ValueError("--html calls the candidate again in this process, so it does not go with --isolate.")
        RULES[against]
        (chosen,) = chosen_dtypes(dtype)
        if isolate:
            options = ["--against", against, "--dtype", dtype, "--device", device, *(["--strict"] if strict else [])]
            isolated = run_isolated([target, *options], timeout)
        else:
            candidate = load(target)
    if isolate:
        passed = _isolated_verdict(isolated, json_file)
    else:
        from manual_bp.oracle import compare

        report = compare(candidate, against, dtype=chosen, device=device, strict=strict)
        out.print(str(report), markup=False, highlight=False)
        passed = report.passed
        if html_file is not None:
            from manual_bp.oracle.html import to_html

            html_file.write_text(to_html(report, against, candidate, title=target, options={"strict": strict}))
        write_json(json_file, "check", passed, {"report": json.loads(report.to_json())})
    if not passed:
        raise typer.Exit(1)


def _isolated_verdict(isolated: Any, json_file: Path | None) -> bool:
    if isolated.document is not None:
        out.print(isolated.printed.rstrip(), markup=False, highlight=False)
        if json_file is not None:
            json_file.write_text(isolated.document)
        return bool(json.loads(isolated.document)["passed"])
    out.print(f"finding: {isolated.finding}", style="bold red", markup=False, highlight=False)
    write_json(json_file, "check", False, {"report": {"passed": False, "findings": [isolated.finding]}})
    return False
