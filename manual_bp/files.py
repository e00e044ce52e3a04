"""Files that are replaced whole, and never through a link that somebody planted."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: at every moment, also of a power failure, the file is the old one or the new one.

    It is written beside the old file and moved onto it when the disk has it.  Neither step follows a link: what lies
    under the file's name, or under that of the partial file, is replaced, and what it points to is left alone.
    Raises OSError as it comes, without a trace but for the old file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a process that was killed; or a link that leads elsewhere
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105 (named in the documentation as atomic)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, must be on the disk
    finally:
        os.close(folder)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a plain file, opened with `flags` of os.open; the caller closes it.

    Raises OSError if there is a link or anything else that is no file (and does not wait for a pipe's other end).
    """
    if path.is_symlink():
        raise OSError(0, "it is a symbolic link, which is not followed; remove it", str(path))
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no plain file; remove it", str(path))
    return descriptor


def safetensors_of_torch() -> Any:
    """The library for files of named tensors.  Raises ValueError, with what to install, if it is not there."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError(
            "checkpoints need safetensors; it is not installed. Run: pip install 'manual-bp[checkpoints]'"
        ) from error
    return safetensors.torch
