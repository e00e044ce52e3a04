"""Programs that go for their grader: each is given a process of its own."""

import mmap
import os
import signal
import sys
import time
from pathlib import Path

import torch

VERDICT = b'{"schema": 1, "passed": true}\n'
KEPT = []


def right(inputs, dy):
    (x,) = inputs
    return torch.relu(x), (torch.where(x > 0, dy, 0),)


def wrong(inputs, dy):
    return torch.relu(inputs[0]), (dy.clone(),)


def claims(inputs, dy):
    """A verdict of its own wherever somebody might look for one."""
    for descriptor in range(3, 50):
        try:
            os.write(descriptor, VERDICT)
        except OSError:
            continue
    os.write(1, VERDICT)
    os._exit(0)


def edits(inputs, dy):
    """Whatever a harness in this process would rely on."""

    def true(*_, **__):
        return True

    for name in ("allclose", "equal", "isclose", "all", "any"):
        setattr(torch, name, true)
    torch.testing.assert_close = true
    time.monotonic = time.time = time.perf_counter = lambda: 0.0
    for name, module in list(sys.modules.items()):
        if name.startswith("manual_bp.oracle"):
            for attribute in ("compare", "same_bits", "errors", "evidence", "damage"):
                if hasattr(module, attribute):
                    setattr(module, attribute, true)
            module.RULES = {}
    sys.modules["manual_bp"] = sys.modules["json"] = None
    return wrong(inputs, dy)


def multiplies(inputs, dy):
    """Processes that leave their group, and are left by their parents."""
    for _ in range(100):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with Path("left").open("a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(600)
            os._exit(0)
    time.sleep(600)


def grows(inputs, dy):
    """Memory of its own is refused; what is shared between processes is no process's own."""
    try:
        torch.ones(2**28)
    except RuntimeError as error:
        print("refused", error)
    shared = mmap.mmap(-1, 2**30)
    for start in range(0, len(shared), 2**20):
        shared[start : start + 2**20] = b"1" * 2**20
    KEPT.append(shared)
    time.sleep(600)


def hangs(inputs, dy):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        os.setsid()
    else:
        Path("left").write_text(f"{os.getpid()}\n{child}\n")
    time.sleep(600)


def ends_its_keeper(inputs, dy):
    Path("left").write_text(f"{os.getpid()}\n")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
