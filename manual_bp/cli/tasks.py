"""The work of `manual-bp verify` in one process or in several, and the bar that shows how far it is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, forkserver, get_all_start_methods, get_context, parent_process
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from manual_bp.cli.shared import complain, notices, one_thread

Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments, both of which pickle.  It calls `advance` at the end of each of its parts."""

# What a process needs.  It is imported once, while the command itself is still importing, and the processes are forked
# from there: of 1.5 s that each would take to begin, none is left.
IMPORTED = ["manual_bp.verification", "manual_bp.lockstep", "flint"]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# The bar is brought up to date so often, in seconds.
GLANCE = 0.1

_advanced: Callable[[], object] = lambda: None  # noqa: E731 (a variable of each process, set by `_enter` or `_alone`)


def advance() -> None:
    """Say that one more part of the work is done."""
    _advanced()


def advancing(items: Iterator[Any]) -> Iterator[Any]:
    """The items, each of which is a part."""
    for item in items:
        yield item
        advance()


def prepare() -> None:
    """Begin to import what processes need, beside what this process is doing.  No effect where there is no fork."""
    if not _forks():
        return
    before = {name: os.environ.get(name) for name in THREADS}
    # Inherited: Ctrl-C is for this process, which ends the others.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # A process that has threads must not be forked.
        os.environ.update(dict.fromkeys(THREADS, "1"))
        get_context("forkserver").set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def done(tasks: list[Task], parts: int, processes: int) -> list[Any]:
    """The tasks' results, in order, from processes of one thread each.  parts: of all tasks, for the bar."""
    if processes == 1:
        with _bar(parts) as move:
            return _alone(tasks, move)
    context = get_context("forkserver" if _forks() else "spawn")
    ticks = context.SimpleQueue()
    with (
        _bar(parts) as move,
        ProcessPoolExecutor(processes, context, initializer=_enter, initargs=(ticks,)) as pool,
    ):
        try:
            futures = [pool.submit(function, *arguments) for function, arguments in tasks]
            waiting = set(futures)
            while waiting:
                _, waiting = wait(waiting, GLANCE)
                while not ticks.empty():
                    ticks.get()
                    move()
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            for process in active_children():
                process.kill()  # or the end of the block waits for what they are at
            raise
        except BrokenProcessPool:
            complain("a process was ended from outside, perhaps for want of memory. Use fewer: --jobs 1.")
            raise typer.Exit(1) from None


def _alone(tasks: list[Task], move: Callable[[], object]) -> list[Any]:
    global _advanced
    one_thread()
    before, _advanced = _advanced, move
    try:
        return [function(*arguments) for function, arguments in tasks]
    finally:
        _advanced = before


def _enter(ticks: Any) -> None:
    """The beginning of each process."""
    global _advanced
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread()
    _advanced = lambda: ticks.put(None)  # noqa: E731
    threading.Thread(target=_end_with_the_command, daemon=True).start()


def _end_with_the_command() -> None:
    """A command that is killed tells its processes nothing: they would wait for work for ever."""
    command = parent_process()
    assert command is not None
    connection.wait([command.sentinel])
    os._exit(1)


def _forks() -> bool:
    return "forkserver" in get_all_start_methods()


@contextmanager
def _bar(parts: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal, silence elsewhere; what moves it on by one."""
    columns = (TextColumn("judging"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=notices, transient=True, disable=not notices.is_terminal) as progress:
        task = progress.add_task("", total=parts)
        yield lambda: progress.advance(task)
