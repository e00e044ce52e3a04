"""`manual-bp lockstep`: both engines side by side, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from manual_bp.cli.shared import (
    Data,
    Device,
    Json,
    ModelName,
    check_device,
    check_writable,
    chosen_dtypes,
    notices,
    one_of,
    one_thread,
    out,
    print_table,
    print_verdict,
    shown,
    usage,
    write_json,
)
from manual_bp.networks import MODELS, data_for, learns_text, network
from manual_bp.wording import counted

if TYPE_CHECKING:
    from manual_bp.lockstep import LockstepReport
    from manual_bp.training.optimizers import Optimizer

LossName = Annotated[
    str | None,
    typer.Option(
        help="A rule of the chapter loss, such as square_loss, half the squared error.",
        show_default="softmax cross-entropy; half the squared error where the last layer is an activation",
    ),
]
LabelSmoothing = Annotated[
    float | None, typer.Option(help="The same as --loss-hyper label_smoothing=...", show_default="0")
]
LossHyper = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A hyperparameter of the loss.", show_default="as on its page"),
]


Frozen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A parameter that is not to move, such as W1; once for each.", show_default="none"
    ),
]


Decayed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A parameter that the optimiser's weight decay is about, once for each; weights: matrices and filters.",
        show_default="all",
    ),
]


def hyper_of(given: Sequence[str], label_smoothing: float | None = None) -> dict[str, Any]:
    """Hyperparameters as they are typed, name=value each.  Raises ValueError for anything else."""
    found: dict[str, Any] = {} if label_smoothing is None else {"label_smoothing": label_smoothing}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--loss-hyper must be NAME=VALUE, such as label_smoothing=0.1; came {text!r}.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def made_of(name: str | None, lr: float | None, is_text: bool) -> Optimizer | None:
    """The optimiser that is typed; None for the usual one of lockstep.  Raises ValueError for an unknown one."""
    from manual_bp.training.run import OPTIMIZERS

    if name is None and lr is None:
        return None
    kind = name or ("adamw" if is_text else "sgd")
    if kind not in OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {list(OPTIMIZERS)}; came {kind!r}.")
    return OPTIMIZERS[kind](lr if lr is not None else 0.001 if is_text else 0.01)


def prepared(names: list[str], data: str | None) -> list[tuple[str, Any, Any]]:
    """Name, model and data set of each network; bad names and unreadable data are bad usage.

    data: of several networks the one of those that learn images.
    """
    from manual_bp.lockstep import check_data

    for name in names:
        if name not in MODELS:
            raise ValueError(f"--model must be one of {list(MODELS)}; came {name!r}.")
    found = []
    for name in names:
        dataset = data_for(name, None if learns_text(name) and len(names) > 1 else data, in_lockstep=True)
        found.append((name, network(name, dataset.x.shape[1:], dataset.classes), dataset))
        check_data(*found[-1][1:])
    return found


def lockstep_of(
    name: str,
    data: str | None,
    steps: int,
    dtype: str,
    device: str,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
    engine: Callable[..., Any] | None = None,
    **loss: Any,
) -> LockstepReport:
    """The report on one network; what it raises is said in it, so that the others are still run.

    engine: a factory of one's own, in place of torch's.  loss: `loss`, `loss_hyper` and more of
        manual_bp.lockstep.lockstep.
    Raises EngineError if the factory is none, or makes no engine of this network.
    """
    from manual_bp.lockstep import failed, lockstep
    from manual_bp.oracle.calling.candidates import engine_factory
    from manual_bp.training.engine import EngineError

    ((_, model, dataset),) = prepared([name], data)
    options = {"steps": steps, "dtype": chosen_dtypes(dtype)[0], "device": device, "progress": progress, **loss}
    if engine is not None:
        options["against"] = "your engine"
    try:
        return lockstep(model, dataset, engine=engine or engine_factory("torch"), **options)
    except EngineError:
        raise
    except Exception as error:
        notices.print_exception()
        return failed(model, dataset.name, f"raised {type(error).__name__}: {error}")


def print_lockstep(name: str, report: LockstepReport) -> None:
    if not report.rows:  # it did not begin
        out.print(report.verdict, style="bold red", markup=False, highlight=False)
        return
    table = Table(
        title=f"{name} on {report.data}, {counted(report.steps, 'step')} in {report.dtype} on {report.device}: manual "
        f"against {report.against}, every step from the same state, loss {report.training.get('loss', 'unknown')}",
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
    print_table(table)
    if any(row.rule == "batch_norm" for row in report.rows):
        out.print("a bias before batch norm has the gradient 0: what stands there, and its ulps, is rounding error")
    alone = max((row.error_over_allowance for row in report.rows if row.quantity.endswith("alone")), default=0.0)
    out.print(f"each layer alone, given its own inputs and cotangent: worst error / allowance {alone:.2g}")
    if report.flips:
        out.print(f"{counted(report.flips, 'unit')} lay so near a kink that rounding chose another branch")
    if report.losses:
        (ours, theirs), free = report.losses[-1], report.not_free
        if report.free_losses and not free:
            our_free, their_free = report.free_losses[-1]
            free = (
                f"free run, never resynchronised and not judged: {our_free:.6g}, {their_free:.6g}, parameters apart by "
                f"{report.free_drift:.1e} of the largest"
            )
        out.print(f"loss of the last step: manual {ours:.6g}, {report.against} {theirs:.6g}; {free}", markup=False)
    out.print(report.verdict, style="green" if report.passed else "bold red", markup=False, highlight=False)


def lockstep(
    model: ModelName = "all",
    data: Data = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 50,
    dtype: Annotated[
        str, typer.Option(help="float64 or float32.", autocompletion=one_of("float64", "float32"))
    ] = "float32",
    device: Device = "cpu",
    loss: LossName = None,
    label_smoothing: LabelSmoothing = None,
    loss_hyper: LossHyper = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY|PATH.py:FACTORY",
            help="An engine of yours in place of torch's: factory(name, **options), as torch_ref.engine_of(module).",
        ),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, momentum (sgd with 0.9), adam or adamw.", show_default="sgd; text: adamw")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", show_default="0.01; text: 0.001")] = None,
    l2: Annotated[float, typer.Option(help="Adds L2/2 Σ W² to the cost.")] = 1e-4,
    clip_norm: Annotated[
        float | None, typer.Option(help="Gradients of a longer common norm are shortened to it.", show_default="none")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Steps in which the learning rate grows from 0.")] = 0,
    cosine: Annotated[
        bool, typer.Option("--cosine", help="The learning rate falls along a cosine to a tenth in the last step.")
    ] = False,
    frozen: Frozen = None,
    decayed: Decayed = None,
    json_file: Json = None,
) -> None:
    """A network by hand and by torch side by side, layer by layer.
    For example: manual-bp lockstep --model residual_mlp --data digits
    """
    import torch

    from manual_bp.training.factory import training_step
    from manual_bp.training.optimizers import sgd
    from manual_bp.training.schedules import Schedule

    with usage():
        check_device(device)
        check_writable(json_file)
        if dtype not in ("float64", "float32"):
            raise ValueError(f"--dtype must be float64 or float32 in lockstep; came {dtype!r}.")
        names = list(MODELS) if model == "all" else [model]
        hyper = hyper_of(loss_hyper or [], label_smoothing)
        factory = None
        if engine is not None:
            from manual_bp.loading import load

            if len(names) > 1:
                raise ValueError("--engine is an engine of one network; say which: --model mlp.")
            factory = load(engine, "a factory of engines, such as torch_ref.engine_of(module),")
        how: dict[str, Any] = {"l2": l2, "clip_norm": clip_norm, "frozen": tuple(frozen or ())}
        how["decayed"] = decayed or None
        if warmup or cosine:
            how["schedule"] = Schedule(warmup, steps if cosine else None)
        ready = prepared(names, data)
        made = {name: made_of(optimizer, lr, learns_text(name)) for name in names}
        for name, network_, _ in ready:
            options = {**how, "optimizer": made[name] or sgd(0.01)}
            training_step(network_, loss or network_.usual_loss, loss_hyper=hyper, **options).init(torch.Generator())
    one_thread()
    reports = []
    for name in names:

        def progress(numbers: Iterator[int], name: str = name) -> Iterator[int]:
            return iter(shown(numbers, f"{name} in lockstep with torch", steps))

        given = None if learns_text(name) and len(names) > 1 else data
        all_of = {**how, "loss": loss, "loss_hyper": hyper, "engine": factory, "optimizer": made[name]}
        with usage():
            reports.append(lockstep_of(name, given, steps, dtype, device, progress, **all_of))
        print_lockstep(name, reports[-1])
    passed = all(report.passed for report in reports)
    print_verdict(passed, "")
    write_json(json_file, "lockstep", passed, {"lockstep": [report.to_dict() for report in reports]})
    if not passed:
        raise typer.Exit(1)
