"""The course of a run as JSON lines: one object for each finished epoch, in order."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from manual_bp.training.fit import EpochRecord


def append(path: Path, record: EpochRecord) -> None:
    """Add one line, and wait until it is on the disk.

    Raises OSError, with the file as it was, if there is no room.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(json.dumps(asdict(record), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if path.exists():
            os.truncate(path, before)
        raise


def read(path: Path, epochs: int) -> list[EpochRecord]:
    """The records of epochs 1 to `epochs`; what follows them is not looked at.

    Raises ValueError if one of them is missing, doubled or damaged.
    """
    records: list[EpochRecord] = []
    lines = _lines(path) if epochs else []
    for number, line in enumerate(lines[:epochs], 1):
        try:
            record = EpochRecord(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number} must be one epoch's record; came {line[:80]!r}: {error}."
            ) from error
        if record.epoch != number:
            raise ValueError(f"{path}: line {number} must be of epoch {number}; came epoch {record.epoch}.")
        records.append(record)
    if len(records) < epochs:
        raise ValueError(f"{path}: there must be {epochs} epochs, as many as the checkpoint has; came {len(records)}.")
    return records


def cut(path: Path, epochs: int) -> None:
    """Leave the first `epochs` lines: a run that was killed may have written one more than its checkpoint knows."""
    kept = sum(len(line) + 1 for line in (_lines(path)[:epochs] if path.exists() else []))
    if path.exists() and path.stat().st_size > kept:
        os.truncate(path, kept)


def _lines(path: Path) -> list[bytes]:
    """Whole lines, without their ends.  Raises ValueError if the file cannot be read."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from error
    return lines
