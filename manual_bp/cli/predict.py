"""`manual-bp predict`: what a trained network takes examples for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manual_bp.cli.shared import Json, check_writable, one_thread, out, usage, write_json

# More of them are for a file: --json.
SHOWN = 20


def predict(
    data: Annotated[
        str,
        typer.Argument(help="digits, a folder of IDX files, or a file: .npz with x (and labels), .npy, .csv."),
    ],
    model: Annotated[Path, typer.Option(help="Folder of a run of train, or its model.safetensors.")],
    labelled: Annotated[bool, typer.Option("--labelled", help="The last column of a .csv holds labels.")] = False,
    json_file: Json = None,
) -> None:
    """What does a trained network take examples for?
    For example: manual-bp predict points.npz --model runs/mlp-1
    """
    with usage():
        from manual_bp.training.predicting import predict as predicted
        from manual_bp.training.predicting import read
        from manual_bp.training.saved import model_of

        check_writable(json_file)
        saved = model_of(model)
        x, labels = read(data, labelled)
        one_thread()
        found = predicted(saved, x)
    answers = found.answers.tolist()
    sure = None if found.probabilities is None else found.probabilities.amax(1).tolist()
    for number, answer in enumerate(answers[:SHOWN]):
        how_sure = "" if sure is None else f" ({100 * sure[number]:.1f} %)"
        right = "" if labels is None or int(labels[number]) == answer else f", and is {int(labels[number])}"
        out.print(f"example {number}: {answer}{how_sure}{right}", highlight=False)
    if len(answers) > SHOWN:
        out.print(f"... and {len(answers) - SHOWN} more: --json FILE", highlight=False)
    accuracy = None if labels is None else float((found.answers == labels).double().mean())
    if accuracy is not None:
        out.print(f"{accuracy:.2%} of {len(answers)} are right".replace("%", " %"), style="bold", highlight=False)
    write_json(json_file, "predict", True, {"answers": answers, "probabilities": sure, "accuracy": accuracy})
