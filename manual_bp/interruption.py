"""Ctrl-C, for every process of the command line: imported before anything heavy."""

from __future__ import annotations

import os
import sys
from types import FrameType

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of any program that SIGINT ends: 128 + 2."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """What SIGINT does: KeyboardInterrupt as usual, but in the middle of an import the end.  An import that is left
    half done raises errors of any other name (numpy's a RecursionError), and there is nothing yet to put in order."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            for process in getattr(sys.modules.get("multiprocessing"), "active_children", list)():
                process.kill()
            os.write(2, b"interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
