"""The pictures hold what they are drawn from, and need neither a display nor a healthy run."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("matplotlib")

from manual_bp.training import pictures
from manual_bp.training.fit import EpochRecord
from manual_bp.training.overfitting import Overfitting


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


def test_saturation_shows_every_layer_and_epoch():
    ours = records()
    axes, _bar = pictures.saturation(ours).axes
    assert axes.images[0].get_array().tolist() == [[r.saturation["activation1"] for r in ours]]
    assert "20 %" in words(axes.figure)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize(
    "run",
    [records(1), records(3), records(validation=math.inf), records(validation=math.nan), records(norm=0.0)],
    ids=["one epoch", "three epochs", "inf", "nan", "no gradient"],
)
def test_every_run_can_be_drawn_and_is_drawn_the_same_way_twice(run, suffix, tmp_path):
    for name in ("learning_curves", "gradient_norms", "saturation"):
        files = [tmp_path / f"{name}{number}{suffix}" for number in (1, 2)]
        for file in files:
            pictures.save(getattr(pictures, name)(run), file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].stat().st_size > 0


@pytest.mark.parametrize("picture", [pictures.learning_curves, pictures.gradient_norms, pictures.saturation])
def test_no_epoch(picture):
    with pytest.raises(ValueError, match="at least one epoch; came none"):
        picture([])
