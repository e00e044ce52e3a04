"""The course of a run as JSON lines: one object for each finished epoch, in order."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from manual_bp.files import open_own
from manual_bp.training.fit import EpochRecord
from manual_bp.training.typed import TOO_NESTED, built
from manual_bp.wording import counted


def append(path: Path, record: EpochRecord) -> None:
    """Add one line, and wait until it is on the disk.

    Raises OSError, with the file as it was, if there is no room, or no plain file under that name.
    """
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    before = os.fstat(descriptor).st_size
    try:
        with open(descriptor, "ab", closefd=False) as file:
            file.write(json.dumps(asdict(record), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
    except OSError:
        os.truncate(descriptor, before)
        raise
    finally:
        os.close(descriptor)


def read(path: Path, epochs: int) -> list[EpochRecord]:
    """The records of epochs 1 to `epochs`; what follows them is not looked at.

    Raises ValueError if one of them is missing, doubled, damaged, or of other layers than the first.
    """
    records: list[EpochRecord] = []
    lines = _lines(path) if epochs else []
    for number, line in enumerate(lines[:epochs], 1):
        try:
            record = built(EpochRecord, json.loads(line))
        except (ValueError, *TOO_NESTED) as error:
            raise ValueError(
                f"{path}: line {number} must be one epoch's record; came {line[:80]!r}: {error}."
            ) from error
        if record.epoch != number:
            raise ValueError(f"{path}: line {number} must be of epoch {number}; came epoch {record.epoch}.")
        if records and _layers(record) != _layers(records[0]):
            raise ValueError(f"{path}: line {number} must be of the layers of line 1; came other ones.")
        records.append(record)
    if len(records) < epochs:
        raise ValueError(
            f"{path}: there must be {counted(epochs, 'epoch')}, as many as the checkpoint has; came {len(records)}."
        )
    return records


def _layers(record: EpochRecord) -> list[list[str]]:
    return [list(record.gradient_norms), list(record.saturation)]


def cut(path: Path, epochs: int) -> None:
    """Leave the first `epochs` lines: a run that was killed may have written one more than its checkpoint knows.

    Raises ValueError if there is something else than a plain file.
    """
    kept = sum(len(line) + 1 for line in (_lines(path)[:epochs] if os.path.lexists(path) else []))
    if path.exists() and path.stat().st_size > kept:
        os.truncate(path, kept)


def _lines(path: Path) -> list[bytes]:
    """Whole lines, without their ends.  Raises ValueError if the file cannot be read."""
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            *lines, _ = file.read().split(b"\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from error
    return lines
