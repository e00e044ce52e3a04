"""What the generated tests run over, and the mutation score."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import config, install_import_hook

# The tests run in as many processes as there are cores; more threads would only wait for one another.
torch.set_num_threads(1)

# The annotations of these modules are checked while the tests run; rules check their own on every call.
install_import_hook(["manual_bp.models", "manual_bp.training", "torch_ref.models"], "beartype.beartype")

import manual_bp as bp  # noqa: E402 (after the hook)
from manual_bp.rule import DTYPES  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="also run the tests that are marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked exhaustive, unless it is asked for or named alone (`path::test`)."""
    if config.getoption("--exhaustive") or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
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
    counts = {
        outcome: sum("test_mistake_is_rejected" in report.nodeid for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed")
    }
    total = sum(counts.values())
    if total:
        terminalreporter.write_line(f"mutation score: {counts['passed']} of {total} mistakes rejected")


@pytest.fixture
def untyped():
    """Without the checks of annotations, as users run: what the code itself says of an argument of another type."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
