"""The marker `audit`: tests of one's own are given wrong programs."""

from __future__ import annotations

import pytest

import manual_bp as bp

pytest_plugins = ["pytester"]

RULE = next(rule.name for rule in bp.RULES.values() if rule.elementwise and not rule.hyper and len(rule.inputs) == 1)
"""An element-wise rule of one input, for which a test is quickly written."""

TESTS = f"""
import pytest, torch
import manual_bp as bp
from torch_ref import twin

RULE = bp.RULES[{RULE!r}]

def kernel(inputs, dy):
    return RULE.vjp(inputs, dy)

def accepts(program, **tolerances):
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(6, 5, generator=generator) for _ in range(2))
    _, (dx,) = program((x,), dy)
    assert torch.allclose(dx, twin({RULE!r})((x,), dy)[1][0], **tolerances)

ALLOWED = ["y is wrong", "a known mistake", "part never written", "wrong in another layout", "wrong for other options",
           "wrong from some size on", "wrong in one dtype", "wrong at edges", "depends on earlier calls",
           "overwrites what it is given", "wrong for a general dy", "in the wrong place",
           "another shape"]
"""


@pytest.fixture
def run(pytester):
    def run(tests, *arguments):
        pytester.makepyfile(test_it=TESTS + tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", "--strict-markers", *arguments)

    return run


def test_a_test_that_lets_wrong_programs_pass_fails_with_the_report(run):
    result = run(f"@pytest.mark.audit({RULE!r})\ndef test(audited):\n    accepts(audited)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*AuditFailure: test*against*lets * wrong programs pass*", "*only contiguous dy is tried*"]
    )


def test_what_is_allowed_does_not_fail_it(run):
    run(
        f"@pytest.mark.audit({RULE!r}, allow=ALLOWED, smallest=1e-3)\ndef test(audited):\n    accepts(audited)\n"
        f"@pytest.mark.audit({RULE!r}, allow=ALLOWED, smallest=1e-3)\n"
        "def test_loose(audited):\n    accepts(audited, rtol=0.5, atol=0.5)\n"
    ).assert_outcomes(passed=1, failed=1)


def test_a_test_that_is_there_already_is_audited_by_a_name(run):
    result = run(
        f"@pytest.mark.audit({RULE!r}, replaces='kernel', allow=ALLOWED, smallest=1e-3)\n"
        "def test_right():\n    accepts(kernel)\n"
        f"@pytest.mark.audit({RULE!r}, replaces='test_it:kernel')\n"
        "def test_nothing():\n    kernel((torch.ones(3),), torch.ones(3))\n"
        "def test_it_is_put_back():\n    assert kernel.__name__ == 'kernel'\n"
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*it cannot fail whatever numbers come*"])


def test_the_test_itself_runs_first(run):
    result = run(
        "def kernel(inputs, dy):\n    return RULE.vjp(inputs, 2 * dy)\n"
        f"@pytest.mark.audit({RULE!r}, replaces='kernel')\ndef test():\n    accepts(kernel)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*AuditFailure*")


def test_a_fixture_is_replaced_too(run):
    run(
        "@pytest.fixture\ndef mine():\n    return kernel\n"
        f"@pytest.mark.audit({RULE!r}, argument='mine', allow=ALLOWED, smallest=1e-3)\n"
        "def test(mine):\n    accepts(mine)\n"
    ).assert_outcomes(passed=1)


def test_a_marker_that_names_nothing_is_told(run):
    result = run(f"@pytest.mark.audit({RULE!r})\ndef test():\n    pass\ndef test_unmarked(audited):\n    pass\n")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*takes the argument 'audited'*"])
