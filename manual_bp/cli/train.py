"""`manual-bp train`: hand-derived training that can be killed, resumed, verified and looked at."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manual_bp.cli.lockstep import Decayed, Frozen, LabelSmoothing, LossHyper, LossName, hyper_of
from manual_bp.cli.session import Session
from manual_bp.cli.shared import one_thread, usage
from manual_bp.cli.text_session import TextSession
from manual_bp.networks import MODELS, data_for, drops, learns_images, learns_text, network

if TYPE_CHECKING:
    from manual_bp.training.checkpoint import Checkpoint
    from manual_bp.training.fit import EpochRecord
    from manual_bp.training.run import Configuration, Run
    from manual_bp.training.verifying import Verifier


def train(
    model: Annotated[str | None, typer.Option(help=f"{', '.join(MODELS)}.", show_default="mlp")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, or a folder with MNIST-format IDX files; of text python (the language reference, by "
            "character), or a file (by byte).",
            show_default="digits; text: python",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run.", show_default="the next of runs/MODEL-1, -2, ...")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, bit for bit, with its own options.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs at most.", show_default="100; cnn, resnet: 20; text: 4")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per step; of a text, windows.", show_default="64; text: 16")
    ] = None,
    loss: LossName = None,
    label_smoothing: LabelSmoothing = None,
    loss_hyper: LossHyper = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, momentum (sgd with 0.9), adam or adamw.", show_default="adam; text: adamw")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default="sgd 0.2, momentum 0.05, adam and adamw 0.005; text: 0.004"),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="Steps in which the learning rate grows from 0.", show_default="0; text: 100"),
    ] = None,
    cosine: Annotated[
        bool | None,
        typer.Option(
            "--cosine/--no-cosine",
            help="The learning rate falls along a cosine to a tenth in the last epoch.",
            show_default="no-cosine; cnn, resnet, text: cosine",
        ),
    ] = None,
    l2: Annotated[float | None, typer.Option(help="Adds L2/2 Σ W² to the cost.", show_default="0")] = None,
    l1: Annotated[float | None, typer.Option(help="Adds L1 Σ |W| to the cost.", show_default="0")] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help=f"Probability to drop, in {', '.join(filter(drops, MODELS))}.", show_default="0"),
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(help="Longest gradient, all parameters together.", show_default="no limit; text: 1"),
    ] = None,
    max_norm: Annotated[
        float | None, typer.Option(help="Longest weight vector of a unit.", show_default="no limit")
    ] = None,
    frozen: Frozen = None,
    decayed: Decayed = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Turn, scale, shift the training images at random, and add noise.",
            show_default="no-augment; cnn, resnet: augment",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Stop after so many epochs without a better validation loss, and take the best parameters; 0: never.",
            show_default="15",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides the split, initial weights, order, masks.", show_default="0"),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.", show_default="float32")] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Judge every step against torch's, from the same state: minutes instead of seconds."
        ),
    ] = False,
) -> None:
    """Train by hand-derived gradients: 70 % of the examples to learn from, 10 % to stop by, 20 % to test.
    For example: manual-bp train --model mlp --out run

    MNIST's own test files, t10k-*, are the test where a folder has them; then 10 % of train-* are to stop by.  Of a
    text, which gpt and recurrent learn, the last tenth is to stop by, and nothing tests; it ends with a sample.
    The folder holds a checkpoint, replaced whole after every epoch, the metrics as JSON lines, and at the end the
    parameters and pictures.  Ctrl-C and SIGTERM save the state and say how to go on (exit status 130, 143).
    """
    options = (model, data, epochs, batch_size, loss, optimizer, lr, l2, l1, dropout, clip_norm, max_norm, augment)
    names = "model data epochs batch_size loss optimizer lr l2 l1 dropout clip_norm max_norm augment"
    others: dict[str, Any] = {"patience": patience, "seed": seed, "dtype": dtype, "warmup": warmup, "cosine": cosine}
    others |= {"frozen": frozen or None, "decayed": decayed or None}
    named = zip([*names.split(), *others], [*options, *others.values()], strict=True)
    given: dict[str, Any] = {name: value for name, value in named if value is not None}
    one_thread()  # bit for bit holds for one number of threads
    with ExitStack() as stack:
        with usage():
            if hyper := hyper_of(loss_hyper or [], label_smoothing):
                given["loss_hyper"] = hyper
            run, checkpoint, records, folder = (_resumed if resume else _begun)(stack, folder, given)
            verifier = _verifier(run, checkpoint) if verify else None
        kind = TextSession if run.symbols else Session
        kind(run, folder, records, verifier).go(checkpoint)


def _begun(
    stack: ExitStack, folder: Path | None, given: dict[str, Any]
) -> tuple[Run, Checkpoint, list[EpochRecord], Path]:
    from manual_bp.training.run import CHECKPOINT, IMAGES, METRICS, TEXT, Configuration, alone

    usual: dict[str, Any] = {}
    if (name := given.get("model")) in MODELS:
        usual = TEXT if learns_text(name) else IMAGES if learns_images(name) else {}
    if "optimizer" in given:
        usual = {name: value for name, value in usual.items() if name != "lr"}  # which is another one's
    run = _run(Configuration(**{**usual, **given}))
    if folder is None:
        numbers = (Path("runs") / f"{run.configuration.model}-{n}" for n in range(1, 10**9))
        folder = next(path for path in numbers if not os.path.lexists(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--out must name a folder that can be made; came {str(folder)!r}: {error.strerror}."
        ) from error
    stack.enter_context(alone(folder))
    if found := [name for name in (CHECKPOINT, METRICS) if os.path.lexists(folder / name)]:
        raise ValueError(
            f"--out must name a folder without a run; {str(folder)!r} holds {found[0]}. Add --resume to go on with it, "
            "or name another folder."
        )
    return run, run.start(), [], folder


def _resumed(
    stack: ExitStack, folder: Path | None, given: dict[str, Any]
) -> tuple[Run, Checkpoint, list[EpochRecord], Path]:
    """Everything is checked before anything is changed."""
    from manual_bp.training import checkpoint as checkpoints
    from manual_bp.training import history
    from manual_bp.training.run import CHECKPOINT, METRICS, alone, configuration_of

    if folder is None:
        there = sorted(str(path.parent) for path in Path("runs").glob(f"*/{CHECKPOINT}"))
        raise ValueError(
            f"--resume needs --out, the folder of the run; there are: {', '.join(there) or 'none in runs/'}."
        )
    if not folder.is_dir():
        raise ValueError(f"--out must name the folder of a run; came {str(folder)!r}, which is no folder.")
    stack.enter_context(alone(folder))
    checkpoint = checkpoints.load(folder / CHECKPOINT)
    try:
        configuration = configuration_of(checkpoint)
    except ValueError as error:
        raise ValueError(f"{folder / CHECKPOINT}: of its configuration: {error}.") from error
    before = asdict(configuration)
    for name, value in given.items():
        if name not in ("epochs", "data") and value != before[name]:
            raise ValueError(
                f"the run in {str(folder)!r} has --{name.replace('_', '-')} {before[name]}; came {value}. Leave the "
                "option out to go on with that run, or name another folder for another run."
            )
    if given.get("epochs", checkpoint.epoch) < checkpoint.epoch:
        done = "that is" if checkpoint.epoch == 1 else "that are"
        raise ValueError(f"--epochs must be at least the {checkpoint.epoch} {done} done; came {given['epochs']}.")
    if configuration.cosine and given.get("epochs", configuration.epochs) != configuration.epochs:
        raise ValueError(
            f"--epochs must stay {configuration.epochs}, with which the learning rate has fallen; came "
            f"{given['epochs']}. Begin another run, with more epochs or without --cosine."
        )
    free: dict[str, Any] = {name: given[name] for name in ("epochs", "data") if name in given}
    run = _run(replace(configuration, **free))
    run.check(checkpoint)
    records = history.read(folder / METRICS, checkpoint.epoch)
    history.cut(folder / METRICS, checkpoint.epoch)
    return run, replace(checkpoint, configuration=run.about), records, folder


def _run(configuration: Configuration) -> Run:
    from manual_bp.training.run import Run
    from manual_bp.training.text import PYTHON

    c = configuration
    if c.model not in MODELS:
        raise ValueError(f"--model must be one of {list(MODELS)}; came {c.model!r}.")
    if c.data != (PYTHON if learns_text(c.model) else "digits"):
        c = replace(c, data=str(Path(c.data).resolve()))  # so that a run can be resumed from anywhere
    data = data_for(c.model, c.data)
    if c.dropout and not drops(c.model):
        having = ", ".join(name for name in MODELS if drops(name))
        raise ValueError(f"--dropout is for --model {having}; came --model {c.model}. Leave it out.")
    changes = {"dropout": c.dropout} if drops(c.model) else {}
    return Run(c, network(c.model, data.x.shape[1:], data.classes, **changes), data)


def _verifier(run: Run, checkpoint: Checkpoint) -> Verifier:
    from manual_bp.oracle.calling.candidates import engine_factory
    from manual_bp.training.verifying import Verifier

    return Verifier(run.step, run.dtype, engine_factory("torch"), checkpoint.verified)
