"""Dropouts that draw their own mask: what each does wrong is the first thing that is said; right ones pass."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import torch_ref
from manual_bp.cli import app
from manual_bp.oracle import compare
from manual_bp.oracle.own_masks import with_the_other
from manual_bp.oracle.own_masks.chance import binomial, fisher
from manual_bp.registry import RULES
from tests.own_bank import masks


@pytest.mark.parametrize("candidate", masks.WRONG, ids=lambda f: f.__name__)
@pytest.mark.thinned(2)
def test_what_is_wrong_is_named(candidate):
    report = compare(candidate, "dropout", mask="own")
    assert not report.passed
    for words in masks.WRONG[candidate]:
        assert any(word in report.diagnoses[0] for word in words.split("|")), report.diagnoses


@pytest.mark.parametrize("name", masks.RIGHT)
@pytest.mark.thinned(2)
def test_right_ones_pass(name):
    state = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002 - the state that is to stay
    report = compare(masks.RIGHT[name], "dropout", mask="own")
    assert report.passed, str(report)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[2] == state[1]  # noqa: NPY002 - as above


def test_a_module_is_judged():
    report = compare(torch_ref.vjp(torch.nn.Dropout()), "dropout", mask="own", dtype=torch.float64)
    assert report.passed, str(report)


def test_random_numbers_of_few_bits_are_seen():
    """torch.rand in bfloat16 has 256 values."""

    def coarse(inputs, dy, p):
        (x,) = inputs
        return masks._of(x, dy, torch.rand(x.shape, dtype=x.dtype) >= p, p)

    report = compare(coarse, "dropout", mask="own", dtype=torch.bfloat16)
    assert report.diagnoses[0].startswith("p is rounded to steps of 1/256"), str(report)


def fused(x, residual, mask, p: float = 0.25):
    return residual + torch.where(mask, torch.relu(x) / (1 - p), 0.0)


def test_a_function_whose_mask_can_be_read_is_a_reference():
    def vjp(inputs, dy, p=0.25):
        x, residual = inputs
        kept = (torch.rand(x.shape) >= p) & (x > 0)
        return residual + torch.where(kept, x / (1 - p), 0), (torch.where(kept, dy / (1 - p), 0), dy.clone())

    inputs = {"x": (4, 33), "residual": (4, 33), "mask": torch.ones(4, 33, dtype=torch.bool)}
    report = compare(vjp, fused, inputs=inputs, mask="own")
    assert report.passed, str(report)
    report = compare(lambda inputs, dy, p=0.25: (2 * inputs[0], (dy, dy)), fused, inputs=inputs, mask="own")
    assert not report.passed


def mixing(x, mask):
    return (x * mask).cumsum(-1)


def test_what_no_mask_can_be_read_off_is_refused():
    with pytest.raises(ValueError, match="only where it acts on each element of y by itself"):
        compare(masks.torchs, mixing, inputs={"x": (4, 33), "mask": torch.ones(4, 33)}, mask="own")
    with pytest.raises(ValueError, match="mask='own' is for a rule with an input mask; tanh takes"):
        compare(masks.torchs, "tanh", mask="own")
    with pytest.raises(ValueError, match="mask must be 'own'"):
        compare(masks.torchs, "dropout", mask="mine")


def test_chance_is_exact():
    """Against sums of exact integers."""

    def tails(weights, count):
        return sum(w for w in weights.values() if w <= weights[count]) / sum(weights.values())

    generator = np.random.default_rng(0)
    for _ in range(20):
        n, third = int(generator.integers(1, 200)), int(generator.integers(1, 3))
        count = int(generator.binomial(n, third / 3))
        weights = {k: math.comb(n, k) * third**k * (3 - third) ** (n - k) for k in range(n + 1)}
        assert binomial(count, n, third / 3) == pytest.approx(tails(weights, count), rel=1e-6)
        a, b, c, d = (int(x) for x in generator.integers(0, 40, 4))
        first, second, pairs = a + b, a + c, a + b + c + d
        ways = {
            k: math.comb(first, k) * math.comb(pairs - first, second - k)
            for k in range(max(0, first + second - pairs), min(first, second) + 1)
        }
        assert fisher(a, first, second, pairs) == pytest.approx(tails(ways, a), rel=1e-6)


def test_the_command_takes_a_mask(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def vjp(inputs, dy, p=0.5):\n"
        "    (x,) = inputs\n"
        "    kept = torch.rand(x.shape) >= 0.5\n"
        "    return torch.where(kept, x * 2, 0), (dy * 2,)\n"
    )
    command = [sys.executable, "-m", "manual_bp", "check", f"{file}:vjp", "--against", "dropout", "--mask", "own"]
    ran = subprocess.run([*command, "--hyper", "p=0.5"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert "diagnosis: mask forgotten: dx is not masked" in ran.stdout


def test_what_it_raises_in_another_process_is_told(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def vjp(inputs, dy, p=0.5):\n    raise KeyError('words of its own')\n")
    result = CliRunner().invoke(app, ["check", f"{file}:vjp", "--against", "dropout", "--mask", "own", "--isolate"])
    assert result.exit_code == 1
    assert "the candidate raised KeyError: 'words of its own'" in " ".join(result.output.split())


def test_the_other_way_to_be_called_is_told():
    """Whoever raises in every case, and answers with the mask, or without it."""

    def given(inputs, dy, p):
        x, mask = inputs
        return torch.where(mask, x / (1 - p), 0), (torch.where(mask, dy / (1 - p), 0), None)

    def drawing(inputs, dy, p):
        (x,) = inputs
        return given((x, torch.rand(x.shape) >= p), dy, p)[0], (dy,)

    report = compare(given, "dropout", mask="own", diagnose=0)
    assert "leave mask='own' (on a command line: --mask own) out" in report.diagnoses[0], str(report)
    report = compare(drawing, "dropout", diagnose=0)
    assert "declare mask='own' (on a command line: --mask own)" in report.diagnoses[-1], str(report)


def test_no_mask_is_asked_for_that_cannot_be_read():
    """Of attention, whatever a candidate answers without one."""
    rule = RULES["scaled_dot_product_attention"]
    assert with_the_other(lambda inputs, dy: (dy, inputs), rule, torch.float32, own=False) == []
