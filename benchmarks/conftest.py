"""Options and fixtures of the benchmarks: pytest benchmarks --device cpu|cuda."""

from __future__ import annotations

import platform

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the benchmarks run")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda: there is no CUDA device here")
    return name


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Torch's version and threads, without which a saved time means nothing."""
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["platform"] = platform.platform()
    if torch.cuda.is_available():
        machine_info["cuda_device"] = torch.cuda.get_device_name()
