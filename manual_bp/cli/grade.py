"""`manual-bp grade`: programs that nobody trusts, graded in a process apart."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from manual_bp.cli.check import forget, reference_of, values
from manual_bp.cli.shared import (
    DTYPES,
    OUTPUT,
    Device,
    Json,
    check_device,
    check_writable,
    chosen_dtypes,
    notices,
    one_of,
    out,
    rule_names,
    usage,
    write,
)
from manual_bp.keeper import Limits, kept


def grade(
    program: Annotated[
        str,
        typer.Argument(
            metavar="PATH[:CALLABLE]",
            help="A file, and what of it to grade: a vjp(inputs, dy, **hyper) -> (y, grads), an nn.Module or an "
            "autograd.Function; by default vjp or ModelNew.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="RULE|PATH.py:FUNCTION",
            help="The rule that it should be; or a torch function or nn.Module of yours, with --inputs.",
            autocompletion=rule_names,
        ),
    ],
    inputs: Annotated[
        str | None, typer.Option(metavar="NAME=SHAPE[:KIND],...", help="What the inputs of a function are; see check.")
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.", autocompletion=one_of(*DTYPES))] = "float32",
    device: Device = "cpu",
    json_file: Json = None,
    timeout: Annotated[float, typer.Option(help="Seconds that it may take.")] = 60.0,
    memory: Annotated[int, typer.Option(help="MiB that it may hold.")] = 4096,
    seed: Annotated[int | None, typer.Option(help="That of a verdict, to repeat it; by default a new one.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Lost digits and 16-bit arithmetic are mismatches.")] = False,
    diagnose: Annotated[
        float, typer.Option(min=0, help="Seconds that the search for the cause may take; 0: the first failure will do.")
    ] = 3.0,
    hyper: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A value that is all that it promises; repeatable.")
    ] = None,
    ndim: Annotated[
        list[int] | None, typer.Option(help="It is meant for a first input of so many axes; repeatable.")
    ] = None,
    min_size: Annotated[int, typer.Option("--min-size", help="It is meant for axes of this length or longer.")] = 0,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An input that may be absent, and which it always has; repeatable."),
    ] = None,
) -> None:
    """Code that nobody trusts, graded in a process apart: prints one JSON document.
    For example: manual-bp grade submission.py --against softmax
    """
    # Its process begins to import torch while this one does.
    with usage(), kept(Limits(timeout, memory)) as started:
        from manual_bp.oracle.grading.grade import FRESH
        from manual_bp.oracle.grading.grade import grade as graded
        from manual_bp.oracle.grading.loading import function

        check_device(device)
        check_writable(json_file)
        (chosen,) = chosen_dtypes(dtype)
        options: dict[str, Any] = {
            "hyper": values(hyper or []),
            "ndim": tuple(ndim) if ndim else None,
            "min_size": min_size,
            "given": tuple(given or ()),
            "diagnose": diagnose,
        }
        forget(json_file)
        reference = reference_of(against, inputs, options["hyper"], function)
        seeds = FRESH if seed is None else seed
        verdict = graded(
            program, reference, seeds, dtype=chosen, device=device, strict=strict, started=started, **options
        )
    text = verdict.to_json()
    notices.print(str(verdict), markup=False, highlight=False, soft_wrap=True)
    if json_file != OUTPUT:
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    written = json_file is None or write(json_file, text + "\n", "--json")
    if not verdict.passed:
        raise typer.Exit(1)
    if not written:
        raise typer.Exit(2)
