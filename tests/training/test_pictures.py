"""The pictures hold what they are drawn from, and need neither a display nor a healthy run."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("matplotlib")

from manual_bp.curves.overfitting import Overfitting
from manual_bp.training import pictures
from manual_bp.training.confusion import confusion, confusion_matrix, in_words, misclassified
from manual_bp.training.fit import EpochRecord


def records(count=20, validation=None, norm=None):
    return [
        EpochRecord(
            epoch=k,
            steps=10 * k,
            training_loss=1 / k,
            validation_loss=0.3 + 0.01 * abs(k - 8) if validation is None else validation,
            training_accuracy=1 - 0.5 / k,
            validation_accuracy=0.9 - 0.5 / k,
            gradient_norms={"linear1": 1e-3 / k if norm is None else norm, "linear2": 0.1 / k},
            saturation={"activation1": k / 100},
            seconds=0.1,
        )
        for k in range(1, count + 1)
    ]


def found(epoch=8):
    return Overfitting(True, epoch, 0.3, 0.1, 1e-5, 1e-5, "over-fitting")


def words(figure):
    return {text.get_text().strip() for axes in figure.axes for text in axes.texts}


def test_learning_curves_show_both_losses_and_both_accuracies():
    ours = records()
    losses, accuracies = pictures.learning_curves(ours).axes
    for axes, what in ((losses, "loss"), (accuracies, "accuracy")):
        drawn = [list(line.get_ydata()) for line in axes.lines]
        assert drawn == [[getattr(r, f"{name}_{what}") for r in ours] for name in ("training", "validation")]
        assert {text.get_text() for text in axes.texts} == {"training", "validation"}


def test_over_fitting_and_the_kept_epoch_are_marked_where_they_are():
    figure = pictures.learning_curves(records(), found(8), stopped_at=8)
    losses, accuracies = figure.axes
    for axes in (losses, accuracies):
        (span,) = axes.patches
        assert (span.get_x(), span.get_x() + span.get_width()) == (8, 20)
        assert [8, 8] in [list(line.get_xdata()) for line in axes.lines]
    assert any(text.startswith("over-fitting") for text in words(figure))
    assert any(text.startswith("kept: epoch 8") for text in words(figure))


@pytest.mark.parametrize(
    "none", [None, Overfitting(False, 20, 0.3, 0.0, None, None, ""), Overfitting(None, None, 0.3, 0.0, None, None, "")]
)
def test_what_was_not_found_is_not_marked(none):
    losses, accuracies = pictures.learning_curves(records(), none).axes
    assert not losses.patches
    assert not accuracies.patches


def test_gradient_norms_draw_the_first_and_the_last_epoch_and_few_between():
    (axes,) = pictures.gradient_norms(records(100)).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels[0] == "epoch 1"
    assert labels[-1] == "epoch 100"
    assert len(labels) == pictures.LINES
    assert list(axes.lines[0].get_ydata()) == [1e-3, 0.1]
    assert axes.get_yscale() == "log"


def test_saturation_is_called_what_it_is():
    (one, _), (several, _) = (
        pictures.saturation(records(), lost).axes
        for lost in ({"activation1": "dead units"}, {"activation1": "dead units", "other": "saturated values"})
    )
    assert one.get_title(loc="left").startswith("Dead units: share of each layer")
    assert several.get_title(loc="left").startswith("What is lost to flat parts")
    assert [label.get_text() for label in several.get_yticklabels()] == ["activation1: dead units"]


COUNTS = confusion(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([2, 2, 0, 1, 1]), 3)


def test_the_confusion_matrix_shows_every_count_and_no_zero():
    (axes,) = confusion_matrix(COUNTS).axes
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (0, 2): "2", (1, 1): "1", (2, 1): "1"}
    assert axes.images[0].get_array().tolist() == [[0, 0, 2], [0, 0, 0], [0, 1, 0]]  # right answers have no colour
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("right class", "the network's answer")


@pytest.mark.parametrize(
    ("labels", "answers", "said"),
    [
        ([0, 1], [0, 1], "none of 2 is misclassified"),
        ([0, 1], [1, 1], "1 of 2 is misclassified; 0 is taken for 1"),
        ([0, 1], [1, 0], "2 of 2 are misclassified; no class is taken for another one more than once"),
        ([0, 0, 1], [1, 1, 1], "2 of 3 are misclassified; most often 0 is taken for 1 (2 times)"),
    ],
)
def test_confusions_in_words(labels, answers, said):
    assert in_words(confusion(torch.tensor(labels), torch.tensor(answers), 2)) == said


@pytest.mark.parametrize(("wrong", "shown"), [(0, 0), (3, 3), (50, 40)])
def test_misclassified_images_are_shown_with_what_they_are_taken_for(wrong, shown):
    x = torch.arange(60.0)[:, None].expand(60, 6)
    labels, answers = torch.zeros(60, dtype=torch.int64), torch.zeros(60, dtype=torch.int64)
    answers[60 - wrong :] = 2
    figure = misclassified(x, (2, 3), labels, answers, "mlp")
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert [image[0, 0] for image in images] == [60 - wrong + k for k in range(shown)]
    assert {image.shape for image in images} <= {(2, 3)}
    assert {axes.get_title() for axes in figure.axes if axes.images} <= {"0 taken for 2"}
    more = ", the first 40 of them" if wrong > shown else ""
    assert figure.get_suptitle() == f"{wrong} test examples misclassified, of 60{more}"


def test_saturation_shows_every_layer_and_epoch():
    ours = records()
    axes, _bar = pictures.saturation(ours).axes
    assert axes.images[0].get_array().tolist() == [[r.saturation["activation1"] for r in ours]]
    assert "20 %" in words(axes.figure)


DRAWN = (pictures.learning_curves, pictures.gradient_norms, pictures.saturation)


@pytest.mark.parametrize(
    "run",
    [records(1), records(validation=math.inf), records(validation=math.nan), records(norm=0.0)],
    ids=["one epoch", "inf", "nan", "no gradient"],
)
def test_every_run_can_be_drawn(run, tmp_path):
    for draw in DRAWN:
        pictures.save(draw(run), tmp_path / "drawn.svg")
        assert (tmp_path / "drawn.svg").stat().st_size > 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_numbers_give_the_same_file(suffix, tmp_path):
    files = [tmp_path / f"{number}{suffix}" for number in (1, 2)]
    all_drawn = [*((draw, records(3)) for draw in DRAWN), (confusion_matrix, COUNTS)]
    for draw, numbers in all_drawn[:1] if suffix == ".png" else all_drawn:  # what is random in a file is the SVG's
        for file in files:
            pictures.save(draw(numbers), file)
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("picture", DRAWN)
def test_no_epoch(picture):
    with pytest.raises(ValueError, match="at least one epoch; came none"):
        picture([])
