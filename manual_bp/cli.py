"""`manual-bp`: the command line.  Exit status: 0 all holds, 1 something is wrong (said in full), 2 bad usage."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

try:
    import typer
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
except ImportError as error:  # the core does not need them
    raise SystemExit(
        f"manual-bp needs the command line's packages ({error}). Run: pip install 'manual-bp[cli]'"
    ) from None

SCHEMA = 1
Item = TypeVar("Item")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
# A file or a pipe has no width of its own.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
notices = Console(stderr=True)

Dtype = Annotated[str | None, typer.Option(help="float64, float32, bfloat16 or float16; by default all.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the same as one JSON document.")]
ModelName = Annotated[
    str, typer.Option(help="mlp, residual_mlp or notes (sigmoid in every layer); all of them by default.")
]
Data = Annotated[str, typer.Option(help="digits, or a folder with MNIST-format IDX files.")]


@contextmanager
def usage() -> Iterator[None]:
    """Bad usage is exit status 2, with what must hold, what came, and what to do."""
    try:
        yield
    except ValueError as error:
        notices.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None


def shown(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Progress on a terminal, silence elsewhere."""
    return track(items, description, total=total, console=notices, transient=True, disable=not notices.is_terminal)


def versions() -> dict[str, str]:
    """What the numbers were measured with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("manual-bp", "torch", "numpy", "jaxtyping", "python-flint"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_writable(path: Path | None, option: str = "--json") -> None:
    """Refuse at once what could not be written after all the work."""
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise ValueError(f"{option} must name a file that can be written; came {str(path)!r}.")


def write_json(path: Path | None, command: str, passed: bool, content: dict[str, Any]) -> None:
    """One document."""
    from manual_bp.oracle.report import plain

    if path is not None:
        document = {"schema": SCHEMA, "command": command, **content, "passed": passed, "versions": versions()}
        path.write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n")


def chosen_dtypes(name: str | None) -> list[Any]:
    from manual_bp.rule import DTYPES

    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    if name is not None and name not in names:
        raise ValueError(f"--dtype must be one of {list(names)}; came {name!r}.")
    return list(names.values()) if name is None else [names[name]]


def check_device(name: str) -> None:
    import torch

    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"--device must be cpu or cuda; came {name!r}.")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {name} needs a GPU; there is none that torch can use. Leave --device out.")


def one_thread() -> None:
    """On tensors of this size more threads only wait for one another, and on a busy machine they wait long."""
    import torch

    torch.set_num_threads(1)


@app.command()
def verify(
    rules: Annotated[list[str] | None, typer.Argument(help="Rules to judge; all of them by default.")] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    json_file: Json = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer dtypes and steps.")] = False,
) -> None:
    """Judge every rule, then train three networks on real data in lockstep with torch."""
    with usage():
        from manual_bp.rule import RULES
        from manual_bp.verification import summary, verify_rules

        check_device(device)
        check_writable(json_file)
        names = list(dict.fromkeys(rules)) if rules else list(RULES)
        for name in names:
            RULES[name]
        dtypes = chosen_dtypes(dtype)
        models = [] if rules else prepared(list(MODELS), "digits")
    one_thread()
    if quick and dtype is None:
        dtypes = dtypes[:2]  # float64 and float32
    found = verify_rules(names, dtypes, device)
    verdicts = list(shown(found, "judging rules", len(names) * len(dtypes)))
    result = summary(verdicts)
    _print_rules(names, verdicts)
    for verdict in verdicts:
        if not verdict.passed:
            out.print(verdict.report, markup=False, highlight=False)
    lockstep_dtype = dtype if dtype in ("float64", "float32") else "float32"
    reports = _lockstep(models, 5 if quick else 50, lockstep_dtype, device)
    passed = result["passed"] and all(report.passed for report in reports)
    write_json(json_file, "verify", passed, {**result, "lockstep": [report.to_dict() for report in reports]})
    _verdict(passed, f"{result['mistakes_rejected']} of {result['mistakes']} mistakes rejected")


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


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "notes": ("mlp", {"hidden": [32, 32], "activation": "sigmoid", "output_activation": "sigmoid"}),
    "mlp": ("mlp", {"hidden": [64, 32], "activation": "relu"}),
    "residual_mlp": (
        "residual_mlp",
        {"width": 32, "depth": 4, "activation": "elu", "batch_norm": True, "dropout": 0.2},
    ),
}
"""The networks of verify and lockstep: the course notes', one with ReLU, and a deep one with everything in it."""


def _model(name: str, features: int, classes: int) -> Any:
    from manual_bp.models import mlp, residual_mlp

    kind, config = MODELS[name]
    if kind == "residual_mlp":
        return residual_mlp(**config, inputs=features, outputs=classes)
    options = {key: value for key, value in config.items() if key != "hidden"}
    return mlp([features, *config["hidden"], classes], **options)


def prepared(names: list[str], data: str) -> list[tuple[str, Any, Any]]:
    """Name, model and data set of each network; bad names and unreadable data are bad usage."""
    from manual_bp.training.data import load

    for name in names:
        if name not in MODELS:
            raise ValueError(f"--model must be one of {list(MODELS)}; came {name!r}.")
    dataset = load(data)
    return [(name, _model(name, dataset.x.shape[1], dataset.classes), dataset) for name in names]


def _lockstep(models: list[tuple[str, Any, Any]], steps: int, dtype: str, device: str) -> list[Any]:
    from manual_bp.lockstep import failed, lockstep
    from manual_bp.oracle.candidates import engine_factory

    reports = []
    for name, model, dataset in models:

        def progress(numbers: Iterator[int], name: str = name) -> Iterator[int]:
            return iter(shown(numbers, f"{name} in lockstep with torch", steps))

        options = {"steps": steps, "dtype": chosen_dtypes(dtype)[0], "device": device, "progress": progress}
        try:
            report = lockstep(model, dataset, engine=engine_factory("torch"), **options)
        except Exception as error:  # said with the model's name, and the others are still run
            report = failed(model, dataset.name, f"raised {type(error).__name__}: {error}")
            notices.print_exception()
        _print_lockstep(name, report)
        reports.append(report)
    return reports


def _print_lockstep(name: str, report: Any) -> None:
    table = Table(
        title=f"{name} on {report.data}, {report.steps} steps in {report.dtype} on {report.device}: manual against "
        f"{report.against}, every step from the same state",
        box=SIMPLE_HEAD,
    )
    table.add_column("layer")
    table.add_column("tensor")
    table.add_column("error / allowance", justify="right")
    table.add_column("ulp of the largest", justify="right")
    table.add_column("step", justify="right")
    layer = None
    for row in sorted(report.rows, key=lambda row: list(dict.fromkeys(r.layer for r in report.rows)).index(row.layer)):
        if row.quantity.endswith("alone") and row.error_over_allowance <= 1:
            continue
        table.add_row(
            row.layer if row.layer != layer else "",
            row.quantity.replace("delta", "δ"),
            f"{row.error_over_allowance:.2g}",
            f"{row.ulps:.2g}",
            str(row.step),
            style="bold red" if row.error_over_allowance > 1 else None,
        )
        layer = row.layer
    out.print(table)
    if any(row.rule == "batch_norm" for row in report.rows):
        out.print("a bias before batch norm has the gradient 0: what stands there, and its ulps, is rounding error")
    alone = max((row.error_over_allowance for row in report.rows if row.quantity.endswith("alone")), default=0.0)
    out.print(f"each layer alone, given its own inputs and cotangent: worst error / allowance {alone:.2g}")
    if report.flips:
        out.print(f"{report.flips} units lay so near a kink that rounding chose another branch")
    if report.losses:
        (ours, theirs), (free, free_theirs) = report.losses[-1], report.free_losses[-1]
        out.print(
            f"loss of the last step: manual {ours:.6g}, {report.against} {theirs:.6g}; free run, never resynchronised "
            f"and not judged: {free:.6g}, {free_theirs:.6g}, parameters apart by {report.free_drift:.1e} of the largest"
        )
    out.print(report.verdict, style="green" if report.passed else "bold red", markup=False, highlight=False)


@app.command()
def lockstep(
    model: ModelName = "all",
    data: Data = "digits",
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 50,
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float32",
    device: Device = "cpu",
    json_file: Json = None,
) -> None:
    """Both engines side by side, layer by layer."""
    with usage():
        check_device(device)
        check_writable(json_file)
        if dtype not in ("float64", "float32"):
            raise ValueError(f"--dtype must be float64 or float32 in lockstep; came {dtype!r}.")
        models = prepared(list(MODELS) if model == "all" else [model], data)
    one_thread()
    reports = _lockstep(models, steps, dtype, device)
    passed = all(report.passed for report in reports)
    write_json(json_file, "lockstep", passed, {"lockstep": [report.to_dict() for report in reports]})
    _verdict(passed, "")


@app.command()
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


@app.command("rules")
def list_rules(rule: Annotated[str | None, typer.Argument(help="One page, rendered.")] = None) -> None:
    """The table of rules; or one page."""
    with usage():
        from manual_bp.rule import RULES

        if rule is not None:
            _print_page(RULES[rule])
            return
        table = Table(box=SIMPLE_HEAD)
        for heading in ("chapter", "rule", "inputs", "hyperparameters", "mistakes"):
            table.add_column(heading, no_wrap=heading == "rule")
        for name, found in RULES.items():
            hyper = ", ".join(f"{h}={found.defaults[h]}" if h in found.defaults else h for h in found.hyper)
            table.add_row(found.chapter, name, ", ".join(found.inputs), hyper, str(len(found.mistakes)))
        out.print(table)


def _print_page(rule: Any) -> None:
    import inspect

    out.print(inspect.cleandoc(rule.page.__doc__), markup=False, highlight=False)
    for function in (rule.page.forward, rule.page.backward):
        out.print()
        out.print(inspect.getsource(function).rstrip(), markup=False)
    table = Table("mistake", "forgets", "shows", "seen", title="what goes wrong", box=SIMPLE_HEAD)
    for mistake in rule.mistakes:
        table.add_row(mistake.name, mistake.forgets, mistake.shows, mistake.seen or "")
    out.print(table)


def _verdict(passed: bool, addition: str) -> None:
    words = "all holds" if passed else "something is wrong: see above"
    out.print(f"{words}{'; ' + addition if addition else ''}", style="bold green" if passed else "bold red")
    if not passed:
        raise typer.Exit(1)


def main(run: Callable[[], Any] = app) -> None:
    """The entry point of the script `manual-bp`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
