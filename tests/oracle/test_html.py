"""The HTML page: verdict in words, nothing fetched, everything escaped, the picture outlines what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import Case, Report, compare, from_functions
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.reports.drawn import axis_names, pictures_of, worst_first
from manual_bp.oracle.reports.heatmap import outline, plane_of
from manual_bp.oracle.reports.html import about_page, index_html, to_html
from manual_bp.oracle.reports.notebook import template

pytest.importorskip("jinja2")

VOID = {"meta", "br", "hr", "img", "link"}


def elu(inputs, dy, alpha=1.0):
    return bp.elu.vjp(inputs, dy, alpha=alpha)


def last_row_wrong(inputs, dy, alpha=1.0):
    y, (dx,) = elu(inputs, dy, alpha)
    if dx.ndim == 2 and len(dx):
        dx[-1] *= 1.5
    return y, (dx,)


@cache
def failed():
    return compare(last_row_wrong, "elu", diagnose=0)


def crashing(inputs, dy, alpha=1.0):
    raise RuntimeError("<script>alert(1)</script> & \ud800")


class Parsed(HTMLParser):
    """Tags that are open, and what a browser would fetch or follow."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.fetched, self.links, self.ids = [], [], [], [], []
        self.feed(page)

    def handle_startendtag(self, tag, attributes):
        self._see(tag, dict(attributes))

    def handle_starttag(self, tag, attributes):
        self._see(tag, dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _see(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            if name in attributes:
                (self.links if tag == "a" else self.fetched).append(attributes[name])


def checked(page, rule):
    """The page is well formed, fetches nothing, and leads nowhere but to where mistakes were seen."""
    parsed = Parsed(page)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert all(address.startswith(("data:", "#")) for address in parsed.fetched)
    assert set(parsed.links) <= {mistake.seen for mistake in bp.RULES[rule].mistakes}
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "prefers-color-scheme: dark" in page
    return parsed


def test_failing():
    pytest.importorskip("matplotlib")
    page = to_html(failed(), "elu", last_row_wrong, title="tests/test_x.py::test_elu")
    parsed = checked(page, "elu")
    assert "<strong>Failed</strong>" in page
    assert "tests/test_x.py::test_elu" in page
    assert page.index("Failed</strong>") < page.index("<figure") < page.index("Mismatches (") < page.index("The rule:")
    assert parsed.tags.count("svg") == 1
    assert re.search(r"[36] of \d+ elements are beyond their allowance \(outlined\)", page)
    assert "def backward(" in page
    assert "alpha forgotten" in page
    assert torch.__version__ in page


def test_passing():
    page = to_html(compare(elu, "elu"), "elu", elu)
    parsed = checked(page, "elu")
    assert "<strong>Passed</strong>" in page
    assert "svg" not in parsed.tags
    assert "Mismatches" not in page


def test_crashing_is_escaped():
    page = to_html(compare(crashing, "elu"), "elu", crashing, title="<img src=x>")
    checked(page, "elu")
    assert "<strong>Failed</strong>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; \\ud800" in page
    assert "no mismatch is about an element" in page
    page.encode()


@pytest.mark.parametrize("rule", ["batch_norm", "dropout", "linear", "maxout", "square_loss"])
def test_every_kind_of_rule_has_a_picture(rule):
    pytest.importorskip("matplotlib")

    def doubled(inputs, dy, **hyper):
        y, grads = bp.RULES[rule].vjp(inputs, dy, **hyper)
        return y, tuple(None if g is None else 2 * g for g in grads)

    some = generated(bp.RULES[rule], torch.float32)[:8]
    page = to_html(compare(doubled, rule, cases=some, diagnose=0), rule, doubled, options={"cases": some})
    assert checked(page, rule).tags.count("svg") in (1, 2)
    assert "There is no picture" not in page


def test_recorded_case_has_a_picture():
    pytest.importorskip("matplotlib")
    recorded = Case(inputs=([[-1.0, 2.0]],), dy=[[1.0, 1.0]], y=[[-0.63212056, 2.0]], grads=([[0.3, 1.0]],), name="C")
    page = to_html(compare(None, "elu", cases=[recorded], diagnose=0), "elu", options={"cases": [recorded]})
    assert checked(page, "elu").tags.count("svg") == 1
    assert "1 of 2 elements" in page


def test_candidate_that_fails_the_second_time():
    pytest.importorskip("matplotlib")

    def exits(inputs, dy, alpha=1.0):
        raise SystemExit("<b>no more</b>")

    page = to_html(failed(), "elu", exits)
    checked(page, "elu")
    assert "There is no picture: judging the worst case again raised SystemExit: &lt;b&gt;no more" in page


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "matplotlib is not installed" in to_html(failed(), "elu", last_row_wrong)


def test_without_jinja2(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    template.cache_clear()
    with pytest.raises(ImportError, match=r"manual-bp\[report\]"):
        to_html(compare(elu, "elu"), "elu")


@pytest.mark.exhaustive
def test_pyplot_stays_away():
    """A page must not touch the windows or settings of a user's plots."""
    code = (
        "import sys, manual_bp as bp\nfrom manual_bp.oracle import compare\n"
        "from manual_bp.oracle.reports.html import to_html\n"
        "bad = lambda i, dy, alpha=1.0: (bp.elu.vjp(i, dy, alpha=alpha)[0], (2 * dy,))\n"
        "to_html(compare(bad, 'elu'), 'elu', bad)\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("shape", "reduced", "blocks"),
    [
        ((), (1, 1), (1, 1)),
        ((3,), (1, 3), (1, 1)),
        ((2, 3, 4), (4, 6), (1, 1)),  # of one wrong element the share differs most along the longest axis
        ((1000,), (1, 63), (1, 16)),
        ((130, 64), (44, 64), (3, 1)),
    ],
)
def test_every_shape_is_a_plane(shape, reduced, blocks):
    ratio = torch.zeros(shape, dtype=torch.float64)
    ratio.reshape(-1)[-1] = 7
    plane = plane_of(ratio, ratio > 1)
    assert (tuple(plane.cells.shape), plane.blocks) == (reduced, blocks)
    assert float(plane.cells[-1, -1]) == 7
    assert float(plane.cells.sum()) == 7
    assert bool(plane.wrong[-1, -1])
    assert int(plane.wrong.sum()) == 1


@pytest.mark.parametrize("axis", range(4))
def test_what_is_wrong_along_an_axis_is_a_row(axis):
    """A wrong channel is a row of cells and not a few stripes, and so is a wrong example."""
    shape = (4, 3, 2, 5)
    ratio = torch.zeros(shape, dtype=torch.float64)
    ratio.select(axis, 1).fill_(7)
    plane = plane_of(ratio, ratio > 1)
    others = tuple(other for other in range(4) if other != axis)
    assert plane.order == ((axis,), others)
    assert (plane.cells == 7).all(1).tolist() == [row == 1 for row in range(shape[axis])]
    assert int((plane.cells == 7).sum()) == plane.cells.shape[1]
    assert len(plane.parts) == shape[others[0]] - 1


def test_axes_are_called_as_on_the_page():
    assert axis_names(bp.batch_norm, "dx", 4)[:2] == ["axis 0 (batch)", "axis 1 (channels)"]
    assert axis_names(bp.elu, "dx", 2) == ["axis 0 (shape)", "axis 1 (shape)"]


def channel_wrong(inputs, dy, eps=1e-5):
    y, grads = bp.batch_norm.vjp(inputs, dy, eps=eps)
    dx = grads[0].clone()
    if dx.ndim > 2:
        dx[:, 1] *= torch.linspace(1, 3, dx[0, 1].numel()).reshape(dx[0, 1].shape)
    return y, (dx, *grads[1:])


def test_folded_axes_are_said_and_channels_kept_apart():
    pytest.importorskip("matplotlib")
    some = [case for case in generated(bp.batch_norm, torch.float32, "cpu") if case.dy.ndim == 4][:2]
    report = compare(channel_wrong, "batch_norm", cases=some, diagnose=0)
    (picture, *_), _ = pictures_of(report, bp.batch_norm, channel_wrong, None, {"cases": some})
    assert "Rows are axis 1 (channels); columns are axis 0 (batch), axis 2" in picture.caption
    assert "folded in this order" in picture.caption
    assert "axis 1 (channels)" in picture.svg


def infinite_somewhere(inputs, dy, eps=1e-5):
    """Infinite at most cases, and at those of rank 2 twice and more too large in the last column."""
    y, grads = bp.batch_norm.vjp(inputs, dy, eps=eps)
    dx = grads[0].clone()
    if dx.ndim == 2 and len(dx) > 2:
        dx[:, -1] *= torch.linspace(2, 9, len(dx))
    else:
        dx[:] = torch.inf
    return y, (dx, *grads[1:])


def test_the_most_telling_picture_comes_first():
    """A field of infinities is the worst mismatch; the pattern is seen where the errors are finite."""
    pytest.importorskip("matplotlib")
    some = generated(bp.batch_norm, torch.float32, "cpu")[:4]
    report = compare(infinite_somewhere, "batch_norm", cases=some, diagnose=0)
    assert worst_first(report)[0].error_over_allowance == torch.inf
    (first, *_), _ = pictures_of(report, bp.batch_norm, infinite_somewhere, None, {"cases": some})
    assert "column" in first.caption
    assert "infinitely" not in first.svg


def test_where_no_error_is_allowed_the_picture_shows_how_large_it_is():
    """Where exactly 0 is due every error is infinitely many allowances; the relative error has the pattern."""
    pytest.importorskip("matplotlib")

    def leaks(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(inputs[0] > 0, dx, dy * (1 + torch.arange(dx.shape[-1]))),)

    some = [case for case in generated(bp.relu, torch.float32, "cpu") if case.dy.ndim == 2][:2]
    report = compare(leaks, "relu", cases=some, diagnose=0)
    (first, *_), _ = pictures_of(report, bp.relu, leaks, None, {"cases": some})
    assert "the colour is the error over the largest value due" in first.caption
    assert "infinitely" not in first.svg


def test_outline():
    """One cell has four edges, two neighbours six: the edge between them is none."""
    wrong = torch.zeros(3, 3, dtype=torch.bool)
    wrong[1, 1] = True
    assert len(outline(wrong)) == 4
    wrong[1, 2] = True
    assert len(outline(wrong)) == 6


def test_verdicts():
    assert Report("elu", "float32", "cpu", 3).told.word == "Passed"
    undecided = Report("elu", "float32", "cpu", 3, untested_arguments=["dx"])
    assert undecided.told.word == "Undecided"
    assert Report("elu", "float32", "cpu").told.word == "Undecided"
    (kink,) = (m for m in bp.relu.mistakes if m.name == "kink passes")
    report = compare(bp.relu.mistaken(kink.backward), "relu", diagnose=0)
    assert report.told.word == "Convention"


def test_index(tmp_path):
    for name, candidate, report in (("a", elu, compare(elu, "elu")), ("b", last_row_wrong, failed())):
        (tmp_path / f"{name}.html").write_text(to_html(report, "elu", candidate, title=f"{name}<i>"))
    (tmp_path / "other.html").write_text("<p>not ours")
    assert about_page(tmp_path / "other.html") is None
    assert about_page(tmp_path / "a.html")["word"] == "Passed"
    page = index_html(tmp_path)
    parsed = Parsed(page)
    assert parsed.links == ["b.html", "a.html"]
    assert "1 failed, 1 passed" in page
    assert "a&lt;i&gt;" in page


def test_the_pattern_stands_in_the_table_and_under_the_picture():
    page = to_html(failed(), "elu", last_row_wrong)
    worst = worst_first(failed())[0]
    assert worst.pattern
    assert page.count(worst.pattern) >= 3  # in the table, in the caption and in the picture's label


def test_a_picture_of_what_only_the_adapter_can_lay_out():
    def backward(dy, x):
        return np.where(x > 0, dy if not dy.ndim or dy.strides[0] >= 0 else dy[::-1], np.zeros_like(dy))

    vjp = from_functions(lambda x: (np.maximum(x, 0), x), backward, arrays="numpy")
    report = Report("relu", "float32", "cpu")
    report.mismatches = [m for m in compare(vjp, "relu", diagnose=0).mismatches if m.case == "dy with negative strides"]
    page = to_html(report, "relu", vjp)
    assert page.count("<figure") == 1
    assert report.mismatches[0].pattern in page
