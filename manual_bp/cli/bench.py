"""`manual-bp bench`: the benchmarks, as a table of ratios.

The benchmarks lie beside the package, not in it, as torch's own training step and jax's are part of them.  The command
runs pytest on them in a process of its own, so it needs the repository; from a wheel it says so.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from manual_bp.cli.shared import (
    Device,
    Json,
    check_device,
    check_writable,
    complain,
    cores,
    one_of,
    usage,
    write,
)
from manual_bp.interruption import INTERRUPTED

PYTEST_INTERRUPTED = 2
GRACE_SECONDS = 30
"""For an interrupted run to print its table and write its file, on a busy machine."""
GROUPS = ("steps", "transformers", "rules", "layers", "memory", "scaling", "checker")


def bench(
    device: Device = "cpu",
    json_file: Json = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(GROUPS)}; may be repeated.", autocompletion=one_of(*GROUPS)),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The small problems only, and fewer rounds.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="torch's threads; by default as many as it takes.")] = None,
) -> None:
    """The benchmarks, as a table of ratios: ours against torch, jax and the physical limit.
    For example: manual-bp bench --quick --only steps

    A target that is missed is said, and is no error; a contestant that computes something else is one. Each row is
    printed as soon as it is measured. Ctrl-C ends with the table of these, and they are saved in FILE.partial.
    """
    with usage():
        check_device(device)
        check_writable(json_file)
        groups = list(dict.fromkeys(only or GROUPS))
        if unknown := [group for group in groups if group not in GROUPS]:
            raise ValueError(f"--only must be one of {list(GROUPS)}; came {unknown[0]!r}.")
        if threads and threads > cores():
            most = f"{cores()}, the processors that this process may use"
            raise ValueError(f"--threads must be at most {most}; came {threads}.")
        root = checkout()
        if missing := [name for name in ("pytest", "pytest_benchmark") if importlib.util.find_spec(name) is None]:
            raise ValueError(f"bench needs {missing[0]}; it is not installed. Run: pip install 'manual-bp[tests]'")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--benchmark-quiet",
        "--device",
        device.split(":")[0],
    ]
    command += [str(Path("benchmarks") / f"test_{group}.py") for group in groups]
    command += ["--quick"] if quick else []
    command += ["--threads", str(threads)] if threads else []
    written = True
    with tempfile.TemporaryDirectory() as folder:
        # An interrupted run leaves an older file as it is, and what it measured beside it.
        measured = Path(folder) / "measured.json"
        command += ["--benchmark-json", str(measured)] if json_file else []
        status = _run(command, root)
        if json_file:
            if status == PYTEST_INTERRUPTED:
                json_file = json_file.with_name(f"{json_file.name}.partial")
            document = measured.read_text(encoding="utf-8") if measured.exists() else ""
            if document:
                written = write(json_file, document, "--json")
            else:
                complain(f"nothing was measured, so that {str(json_file)!r} is not written.")
                written = False
    if status == PYTEST_INTERRUPTED:
        raise typer.Exit(INTERRUPTED)
    if status:
        raise typer.Exit(1)
    if not written:
        raise typer.Exit(2)


def _run(command: list[str], root: Path) -> int:
    """The exit status of a command in a session of its own.  Ctrl-C interrupts it too, so that it says what it has
    measured, and then ends it, and with it all that it has started."""
    with subprocess.Popen(command, cwd=root, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            return PYTEST_INTERRUPTED
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of its session, or of a process alone where there are none: compilers may still be at work."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    elif process.poll() is None:
        process.terminate()


def checkout() -> Path:
    """The folder of the repository that this package is run from.  Raises ValueError if it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "pytest.ini").exists():
        raise ValueError(
            f"bench runs the benchmarks of the repository; beside this installation ({root}) there are none. Clone the "
            "repository, run pip install -e '.[all]' in it, and call bench from that environment."
        )
    return root
