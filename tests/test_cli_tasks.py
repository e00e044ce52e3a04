"""The processes of `manual-bp verify`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# Its second process says that it has begun, while the first is busy for longer than anybody waits here.
BUSY = """
import pathlib, sys, time
from manual_bp.cli import tasks
if __name__ == "__main__":
    tasks.done([(time.sleep, (600,)), (pathlib.Path(sys.argv[1]).touch, ())], parts=2, processes=2)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no groups of processes")
def test_a_command_that_is_killed_leaves_no_process(tmp_path):
    begun = tmp_path / "begun"
    (tmp_path / "busy.py").write_text(BUSY)
    command = subprocess.Popen([sys.executable, tmp_path / "busy.py", begun], start_new_session=True)
    try:
        assert _comes_true(begun.exists)
        command.kill()
        command.wait()
        assert _comes_true(lambda: not _alive(command.pid))
    finally:
        if _alive(command.pid):
            os.killpg(command.pid, signal.SIGKILL)


def _comes_true(what) -> bool:
    for _ in range(600):  # 60 seconds, which a busy machine may need to begin
        if what():
            return True
        time.sleep(0.1)
    return False


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
