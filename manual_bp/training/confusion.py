"""Which classes a network takes for which: counted, in words, and in two pictures (the extra manual-bp[plots])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manual_bp.training.pictures import GREY, VALIDATION, captioned, new_figure, style
from manual_bp.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 40
"""Misclassified images in one picture."""
COLUMNS = 8
# Classes whose counts can still be read in their cells.
NUMBERED = 20
# Of the darkest colour: cells that are darker carry white numbers.
DARK = 0.6
# Wrong answers of one cell for which the darkest colour is due: a single one is no pattern, and stays pale.
LEAST_DARK = 5.0


def confusion(labels: Tensor, answers: Tensor, classes: int) -> Tensor:
    """(classes, classes), integers: how many examples of class i (row) got the answer j (column).

    labels, answers: (n,), integers from 0 to classes − 1.

    >>> confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 1, 2]), 3).tolist()
    [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    """
    return torch.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def in_words(counts: Tensor) -> str:
    """The most frequent confusion as a sentence.

    >>> in_words(confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([2, 2, 1, 2]), 3))
    '2 of 4 are misclassified; most often 0 is taken for 2 (2 times)'
    """
    wrong = counts - torch.diag(counts.diagonal())
    n, total = int(counts.sum()), int(wrong.sum())
    if not total:
        return f"none of {n} is misclassified"
    row, column = divmod(int(wrong.argmax()), len(counts))
    most, verb = int(wrong.max()), "is" if total == 1 else "are"
    which = f"most often {row} is taken for {column} ({most} times)"
    if most == 1:
        which = f"{row} is taken for {column}" if total == 1 else "no class is taken for another one more than once"
    return f"{total} of {n} {verb} misclassified; {which}"


def confusion_matrix(counts: Tensor, about: str = "") -> Figure:
    """What `confusion` counted: wrong answers in colour, the darker the more, right ones as numbers alone.

    about: what was trained, for the head.  Raises ValueError if matplotlib is not installed.
    """
    with style():
        from matplotlib.ticker import MaxNLocator

        classes = len(counts)
        wrong = (counts - torch.diag(counts.diagonal())).double()
        most = max(float(wrong.max()), LEAST_DARK)
        side = max(5.6, min(8.0, 0.42 * classes + 1.6))
        figure = new_figure(side + 0.6, side + 0.7)
        axes = figure.subplots()
        axes.imshow(wrong.numpy(), cmap="Oranges", vmin=0, vmax=most, interpolation="nearest")
        for row in range(classes) if classes <= NUMBERED else ():
            for column in range(classes):
                if count := int(counts[row, column]):
                    right = row == column
                    light = not right and float(wrong[row, column]) / most > DARK
                    colour = GREY if right else "white" if light else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=min(classes, NUMBERED), integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("the network's answer")
        axes.set_ylabel("right class")
        axes.set_title("Which class is taken for which: wrong answers in colour", loc="left")
        captioned(figure, about)
    return figure


def misclassified(x: Tensor, image: tuple[int, int], labels: Tensor, answers: Tensor, about: str = "") -> Figure:
    """Images with a wrong answer, each below its right class and the answer; the first MOST_SHOWN of them.

    x: (n, height · width); image: (height, width); labels, answers: (n,).
    about: what was trained, for the head.  Raises ValueError if matplotlib is not installed.
    """
    wrong = (labels != answers).nonzero()[:, 0].tolist()
    shown: Sequence[int] = wrong[:MOST_SHOWN]
    with style():
        rows = max(1, -(-len(shown) // COLUMNS))
        figure = new_figure(8.0, 1.15 * rows + 1.0)
        grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axes in grid:
            axes.set_axis_off()
        for axes, index in zip(grid, shown, strict=False):
            axes.imshow(x[index].reshape(image).numpy(), cmap="gray_r", interpolation="nearest")
            axes.set_title(f"{int(labels[index])} taken for {int(answers[index])}", fontsize=8, color=VALIDATION, pad=2)
        first = f"the first {len(shown)} of them" if len(shown) < len(wrong) else ""
        total = f"{counted(len(wrong), 'test example')} misclassified, of {len(labels)}"
        captioned(figure, "\n".join(filter(None, [", ".join(filter(None, [total, first])), about])), bold=True)
    return figure
