"""`manual-bp sample`: what a network that has learned text writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manual_bp.cli.shared import one_thread, out, usage


def sample(
    model: Annotated[
        Path, typer.Option(help="Folder of a run of train --model gpt or recurrent, or its model.safetensors.")
    ],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "\n",
    length: Annotated[int, typer.Option(min=0, help="Characters to add; of a text learned by byte, bytes.")] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="The lower, the likelier what is drawn; at 0 always the likeliest.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another text.")] = 0,
) -> None:
    """Let a network that has learned text go on with one.
    For example: manual-bp sample --model runs/gpt-1 --prompt "The yield"
    """
    with usage():
        from manual_bp.training.sampling import sample as drawn
        from manual_bp.training.saved import model_of
        from manual_bp.training.text import Symbols

        saved = model_of(model)
        if not saved.symbols:
            raise ValueError(
                f"--model must be of a network that learned text; {str(model)!r} is a {saved.model.name} for classes. "
                f"Ask it for classes: manual-bp predict DATA --model {model}"
            )
        symbols = Symbols(saved.symbols)
        one_thread()
        tokens = drawn(
            saved.model.inference(),
            saved.params,
            saved.buffers,
            symbols.numbers(prompt),
            length,
            context=saved.model.config["context"],
            temperature=temperature,
            seed=seed,
        )
    out.print(symbols.text(tokens), markup=False, highlight=False, soft_wrap=True)
