"""What the generated tests run over, and the mutation score."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import settings

import manual_bp as bp
from manual_bp.signature import DTYPES

# The tests run in as many processes as there are cores; more threads would only wait for one another.
torch.set_num_threads(1)

# How many examples hypothesis draws for each test; a rule takes 20 to 40 ms for one.
settings.register_profile("default", max_examples=10, deadline=None)
settings.register_profile("exhaustive", max_examples=30, deadline=None)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also run the tests that are marked exhaustive")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("exhaustive" if config.getoption("--exhaustive") else "default")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one rule go to one process, which makes the rule's evidence once for all of them and keeps it; so do the
    others of one file, which share fixtures, where there is room.  Many tests go first, but before them the files that
    compile: a few tests of half a minute each, for which one process would wait in the end."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return rule_of(nodeid) or nodeid.partition("::")[0]

        def _assign_work_unit(self, node: Any) -> None:
            if not any(self.assigned_work.values()):
                for scope in [scope for scope in self.workqueue if scope.startswith("tests/compilation/")]:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return ByRule(config, log)


def rule_of(nodeid: str) -> str:
    """The rule that a test is about, by its parameters; "" if it is about none."""
    parameters = nodeid.partition("[")[2]
    return next((name for name in re.split(r"[\]-]", parameters) if name in bp.RULES), "")


# Pages of several axes, with lengths of their own: a case takes the arithmetic ten times what it takes elsewhere.  By
# default they are judged at every case in float32 alone, at those that are there for the formula in the others; and
# what the others show of the oracle they need not.
COSTLY = sorted(name for name, rule in bp.RULES.items() if hasattr(rule.page, "SIZES") and len(rule.axis_names) > 2)
OF_THE_ORACLE = re.compile(
    r"tests/oracle/|tests/test_sensitivity\.py::|tests/test_rules\.py::test_rule_agrees_with_its_reference(?!.*float32)"
)


def is_about_a_costly_rule(nodeid: str) -> bool:
    return rule_of(nodeid) in COSTLY and OF_THE_ORACLE.match(nodeid) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked exhaustive, unless it is asked for or named alone (`path::test`)."""
    if config.getoption("--exhaustive") or any("::" in argument for argument in config.args):
        return
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        is_left_out = item.get_closest_marker("exhaustive") is not None or is_about_a_costly_rule(item.nodeid)
        thinned = item.get_closest_marker("thinned")
        if thinned and not is_left_out:
            test = item.nodeid.partition("[")[0]
            is_left_out = seen[test] % thinned.args[0] != 0
            seen[test] += 1
        left_out += [item] if is_left_out else []
    if left_out:
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=left_out)


def short(value: object) -> str:
    return str(value).removeprefix("torch.")


@pytest.fixture(params=list(bp.RULES))
def rule(request: pytest.FixtureRequest) -> bp.Rule:
    return bp.RULES[request.param]


@pytest.fixture(params=DTYPES, ids=short)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The mutation score: how many of the registered mistakes the comparison rejected."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    scores = [value for report in reports for name, value in report.user_properties if name == "mistakes rejected"]
    if scores:
        rejected, judged = map(sum, zip(*scores, strict=True))
        terminalreporter.write_line(f"mutation score: {rejected} of {judged} mistakes rejected")
