"""`manual-bp check`: the oracle on a user's code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    write_json,
)

if TYPE_CHECKING:
    import torch

    from manual_bp.oracle.case import Case
    from manual_bp.oracle.reports.report import Report
    from manual_bp.rule import Rule


def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CALLABLE|PATH.py:CALLABLE|RESULTS.json",
            help="Your vjp(inputs, dy, **hyper) -> (y, grads); or what a program of any language got: a file of "
            "`vectors` with its results.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="RULE|MODULE:FUNCTION|PATH.py:FUNCTION",
            help="What it should be: a rule, or any differentiable torch function or module; or early_stopping, "
            "overfitting, augmentation.",
            autocompletion=rule_names,
        ),
    ],
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHAPE[:KIND],...",
            help="What the inputs of a function are, as in x=4x33,mask=4x33:bool,'ids=4:int<100': SHAPE is lengths "
            "joined by x, or scalar; KIND is bool, int<100 (0 to 99; quote the <) or 0.5..2 (numbers between). What "
            "annotations tell need not be said; 'ids=int<entries' are positions on an annotated axis, bias=none is "
            "left out.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.", autocompletion=one_of(*DTYPES))] = "float32",
    compute: Annotated[
        str | None,
        typer.Option(
            help="The precision in which it computes, if that is --dtype and not float32: then 16 bits are judged so.",
            autocompletion=one_of(*DTYPES),
            show_default="float32 for 16 bits",
        ),
    ] = None,
    device: Device = "cpu",
    strict: Annotated[bool, typer.Option("--strict", help="Notes are mismatches.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every mismatch, finding and note in full.")] = False,
    diagnose: Annotated[
        float, typer.Option(min=0, help="Seconds that the search for the cause may take; 0 for none.")
    ] = 3.0,
    json_file: Json = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report as one page.")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="In a process that may crash or hang.")] = False,
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
    convention: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CHOICE", help="What it declares at kinks and ties, as in kink=any; repeatable."),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            metavar="own", help="own: it draws its own mask, and takes the other inputs alone.", show_default=False
        ),
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that an isolated candidate may take.")] = 60.0,
) -> None:
    """Is your backward right, and if not, why?
    For example: manual-bp check my_kernels.py:my_vjp --against rms_norm
    """
    with usage():
        if isolate and html_file is not None:  # which is said before torch is imported
            raise ValueError("--html calls the candidate again in this process, so it does not go with --isolate.")
        is_recorded = target.endswith(".json")
        if is_recorded and isolate:
            raise ValueError("--isolate is for a candidate that is called; came results in a file. Leave it out.")
        from manual_bp.foreign import quoted, readable
        from manual_bp.loading import load
        from manual_bp.oracle import Contract, compare
        from manual_bp.oracle.calling.isolation import CandidateEnded, Isolated, isolated
        from manual_bp.oracle.practice import is_practice
        from manual_bp.oracle.reports.report import Report

        check_device(device)
        check_writable(json_file)
        check_writable(html_file, "--html")
        (chosen,) = chosen_dtypes(dtype)
        if is_recorded:
            cases, chosen, recorded_of = _results(Path(target))  # which say their dtype
        if compute is not None:
            (computing,) = chosen_dtypes(compute, "--compute")
        declared: dict[str, Any] = {
            "hyper": values(hyper or []),
            "ndim": tuple(ndim) if ndim else None,
            "min_size": min_size,
            "given": tuple(given or ()),
            "contract": None if compute is None else Contract(computing, chosen),
            "conventions": values(convention or [], "--convention"),
        }
        if is_recorded:
            declared["cases"] = cases
        if mask:
            declared["mask"] = mask
        forget(json_file, html_file)
        rule = against if is_practice(against) else reference_of(against, inputs, declared["hyper"])
        if is_recorded and recorded_of != getattr(rule, "name", rule):
            raise ValueError(f"--against must be the rule of the results, {recorded_of}; came {against}.")
        if isolate and ":" in against and against.rpartition(":")[0] == target.rpartition(":")[0]:
            notices.print(
                f"{against} stands in the candidate's module, which this process has therefore imported too; put it "
                "into a file of its own to keep the candidate out of here.",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        name = rule if isinstance(rule, str) else rule.name

        def without_verdict(words: str) -> dict[str, Any]:
            return {"report": json.loads(Report(name, dtype, device, findings=[words]).to_json())}

        is_file = json_file is not None and (json_file.is_file() or not json_file.exists())
        if is_file and json_file != OUTPUT:  # for a candidate that ends the process
            write_json(json_file, "check", False, without_verdict("the process ended before there was a verdict"))
        searching = notices.status("searching for the cause")

        def tell_verdict(report: Report) -> None:
            out.print(report.opening(verbose), markup=False, highlight=False, soft_wrap=True)
            if report.mismatches and notices.is_terminal:
                searching.start()

        try:
            own = nullcontext if is_recorded else lambda: nullcontext(load(target))
            with isolated(target, timeout) if isolate else own() as candidate:
                report = compare(
                    candidate,
                    rule,
                    dtype=chosen,
                    device=device,
                    strict=strict,
                    diagnose=diagnose,
                    on_verdict=tell_verdict,
                    **declared,
                )
        except (CandidateEnded, SystemExit) as error:
            words = str(error) if isinstance(error, CandidateEnded) else f"the candidate raised SystemExit: {error}"
            out.print(f"finding: {readable(words)}", style="bold red", markup=False, highlight=False)
            write_json(json_file, "check", False, without_verdict(words))
            raise typer.Exit(1) from None
        finally:
            searching.stop()
    if isinstance(candidate, Isolated) and (printed := candidate.printed().rstrip()):
        out.print(f"The candidate printed:\n{quoted(printed)}\n", markup=False, highlight=False, soft_wrap=True)
    if closing := report.closing(verbose):
        out.print(closing, markup=False, highlight=False, soft_wrap=True)
    written = True
    if html_file is not None:
        from manual_bp.oracle.reports.html import to_html

        alone = mask or isinstance(rule, str)  # of which no further call could be drawn
        page = (
            standing_alone(report)
            if alone
            else to_html(report, rule, candidate, title=readable(target), options={"strict": strict, **declared})
        )
        written = write(html_file, page, "--html")
    write_json(json_file, "check", report.passed, {"report": json.loads(report.to_json())})
    if not report.passed:
        raise typer.Exit(1)
    if not written:
        raise typer.Exit(2)


def standing_alone(report: Report) -> str:
    """A report as a page of its own."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{report.rule}</title>'
    return f"{head}{report._repr_html_()}</html>"


def _results(path: Path) -> tuple[list[Case], torch.dtype, str]:
    """What a program got, as it stands in a file, in which dtype, and of which rule.

    Raises ValueError if that cannot be read."""
    from manual_bp.oracle.vectors import recorded

    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"results must be a JSON file of manual-bp vectors; {path}: {why}.") from error
    cases, dtype = recorded(document)
    return cases, dtype, str(document.get("rule", "which the file does not name"))


def reference_of(
    against: str, inputs: str | None, hyper: dict[str, Any], find: Callable[[str], Callable[..., Any]] | None = None
) -> Rule:
    """The rule of that name, or the function that MODULE:FUNCTION or PATH.py:FUNCTION means.  find: how it is found,
    otherwise than `load` does.  Raises ValueError for anything else."""
    from manual_bp.loading import load
    from manual_bp.oracle.functions import rule_of
    from manual_bp.oracle.functions.notation import FORM, inputs_of
    from manual_bp.rule import Rule

    if not against.strip():
        raise ValueError(
            "--against must be the name of a rule (manual-bp rules lists them), the path of a page, or MODULE:FUNCTION "
            f"or PATH.py:FUNCTION, a differentiable function of torch; came {against!r}."
        )
    if ":" not in against:  # the name of a rule, or the path of a page
        if inputs is not None:
            raise ValueError(
                f"--inputs is for a function as reference, --against MODULE:FUNCTION or PATH.py:FUNCTION; came "
                f"{against!r}."
            )
        return rule_of(against)
    function = find(against) if find else load(against, "a differentiable function of tensors", (Rule,))
    if isinstance(function, Rule):
        return function
    try:
        return rule_of(function, None if inputs is None else inputs_of(inputs), hyper)
    except ValueError as error:
        said = f" On a command line: --inputs {FORM}." if "inputs=" in str(error) else ""
        raise ValueError(f"{error}{said}") from error


def forget(*files: Path | None) -> None:
    """The verdict of an earlier run shall not stand where this one ends without any."""
    for file in files:
        if file is not None and file != OUTPUT and file.is_file():
            with suppress(OSError):  # which is said when it is written
                file.write_text("")


def values(given: list[str], option: str = "--hyper") -> dict[str, Any]:
    """Values by name from NAME=VALUE: a Python number, True, False, None, a tuple of numbers, or else a word.  Raises
    ValueError for what is not of that form."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            must = f"{option} must be NAME=VALUE, as in alpha=1.0, causal=True, stride=(2,1) or approximate=tanh"
            raise ValueError(f"{must}; came {text!r}.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
