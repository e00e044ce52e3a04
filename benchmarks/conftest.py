"""Options and fixtures of the benchmarks, what is recorded about the machine, and the table at the end.

pytest benchmarks [--device cpu|cuda] [--quick] [--threads N] [--benchmark-json FILE]
"""

from __future__ import annotations

import importlib.metadata
import platform
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.paired import clock_of
from benchmarks.report import rows_of, table
from benchmarks.rows import Row
from benchmarks.tables import line, words

SCHEMA = 1
ROW_SECONDS = 900
"""What takes longer than this is given up, and the next row begins: a whole group is meant to take no longer."""
PACKAGES = ("manual-bp", "torch", "numpy", "jax", "jaxlib", "pytest-benchmark")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the benchmarks run")
    parser.addoption("--quick", action="store_true", help="the small problems only, and fewer rounds")
    parser.addoption("--threads", type=int, default=None, help="torch's threads; by default as many as it takes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--threads"):
        torch.set_num_threads(config.getoption("--threads"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="--device cuda: there is no GPU that torch can use"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def timing(device: str, quick: bool) -> dict[str, Any]:
    """How `measure` is called: the device's clock, and about how many seconds a row may take."""
    return {"clock": clock_of(device), "seconds": 1.0 if quick else 8.0}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Programs of another row are forgotten: torch.compile keeps only so many of one function."""
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    """Raises TimeoutError in a row that takes too long; where there is no such signal, nothing does."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"given up after {ROW_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(ROW_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def report(benchmark: Any, pytestconfig: Any) -> Callable[[Row, Callable[[], object] | None], None]:
    """Files a row under its question and prints it; pytest-benchmark's statistics are of ours, or of nothing."""
    terminal, capture = map(pytestconfig.pluginmanager.get_plugin, ("terminalreporter", "capturemanager"))
    began = time.perf_counter()

    def file(row: Row, ours: Callable[[], object] | None) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"{line(row)} [{time.perf_counter() - began:.0f} s]")
        benchmark.group = row["question"]
        benchmark.extra_info.update(row)
        benchmark.pedantic(ours or (lambda: None), rounds=3)

    return file


# What is recorded, and nothing that identifies whose machine it was.


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    brand = machine_info.get("cpu", {}).get("brand_raw", platform.processor())
    machine_info.clear()
    machine_info |= {
        "cpu": brand,
        "cores": torch.multiprocessing.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        machine_info["gpu"] = torch.cuda.get_device_name()
        machine_info["cuda"] = torch.version.cuda


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    kept = {name: commit_info[name] for name in ("id", "dirty") if name in commit_info}
    commit_info.clear()
    commit_info |= kept


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Rows are what is read again; the samples of pytest-benchmark are not kept."""
    options = ("--device", "--threads", "-k")
    given = [f"{o} {config.getoption(o)}" for o in options if config.getoption(o) not in (None, "", "cpu")]
    output_json["schema"] = SCHEMA
    output_json["command"] = " ".join(["pytest benchmarks", *given, *(["--quick"] if config.option.quick else [])])
    for each in output_json["benchmarks"]:
        each["stats"].pop("data", None)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = rows_of({"benchmarks": [{"extra_info": b.extra_info} for b in session.benchmarks]}) if session else []
    if not rows:
        return
    from rich.console import Console

    console = Console(width=None if config.get_terminal_writer().hasmarkup else 140)
    for question in dict.fromkeys(row["question"] for row in rows):
        console.print(table([row for row in rows if row["question"] == question]))
    console.print(words(rows), highlight=False)
