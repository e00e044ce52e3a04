"""Checkpoints: everything that a run needs to go on bit for bit, in one safetensors file that is replaced whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.training.early_stopping import Stopping
from manual_bp.training.step import Step, TrainingState

FORMAT = "manual-bp checkpoint 1"
# SHA-256 in hexadecimal, as it stands in the file's header, and what stands there while the digest is computed.
DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')
PLACEHOLDER = "0" * 64


@dataclass(frozen=True)
class Checkpoint:
    """A run at some step.

    configuration: what decides the course of the run, by name; JSON's values. epoch: epochs finished.
    state: parameters, buffers, the optimiser's state, and the seed and number of steps from which mini-batches, masks
        and augmentation are drawn: there is no generator whose state must be kept.
    stopping: how far early stopping has waited.
    best_params, best_buffers: of the epoch with the lowest validation loss; empty before there is one.
    verified: what `--verify` found so far.
    """

    configuration: dict[str, Any]
    epoch: int
    state: TrainingState
    stopping: Stopping
    best_params: dict[str, Tensor] = field(default_factory=dict)
    best_buffers: dict[str, Tensor] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors by what they are."""
        return {
            "params": self.state.params,
            "buffers": self.state.buffers,
            "optimizer": self.state.optimizer,
            "best_params": self.best_params,
            "best_buffers": self.best_buffers,
        }


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` by `checkpoint`, whole or not at all.

    Raises OSError, with the old file as it was, if there is no room or no right to write.
    """
    content = {
        "format": FORMAT,
        "torch": torch.__version__,
        "configuration": checkpoint.configuration,
        "epoch": checkpoint.epoch,
        "seed": checkpoint.state.seed,
        "steps": checkpoint.state.steps,
        "stopping": {**asdict(checkpoint.stopping), "best": _finite(checkpoint.stopping.best)},
        "verified": checkpoint.verified,
    }
    tensors = {f"{group}/{name}": t for group, named in checkpoint.groups().items() for name, t in named.items()}
    raw = tensors_as_bytes(tensors, {"content": json.dumps(content, allow_nan=False), "digest": PLACEHOLDER})
    digest = hashlib.sha256(raw).hexdigest()
    write_atomically(path, raw.replace(b'"digest":"' + PLACEHOLDER.encode(), b'"digest":"' + digest.encode(), 1))


def load(path: Path) -> Checkpoint:
    """The checkpoint in a file that `save` wrote.

    The digest covers every byte of the file, so that damage and carelessness are seen; it is no signature, and who
    means to deceive can compute it anew.  Raises ValueError for a file that is missing, damaged, or another format.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint: {error.strerror}.") from error
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    found = DIGEST.search(header)
    if not found:
        raise ValueError(
            f"{path}: a checkpoint of manual-bp must hold a digest in its header; came {len(raw)} bytes without one. "
            "The file is truncated, damaged, or something else."
        )
    start = 8 + found.start(1)
    blank = raw[:start] + PLACEHOLDER.encode() + raw[start + len(PLACEHOLDER) :]
    computed, stored = hashlib.sha256(blank).hexdigest(), found.group(1).decode()
    if computed != stored:
        raise ValueError(
            f"{path}: the content must have the digest that the file names, {stored[:12]}...; came {computed[:12]}... "
            "The file is truncated or was changed after it was written. Take another copy, or train anew."
        )
    content = json.loads(json.loads(header)["__metadata__"]["content"])
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: the format must be {FORMAT!r}; came {content['format']!r}. Use its own version.")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _safetensors().load(raw).items():
        group, _, local = name.partition("/")
        groups.setdefault(group, {})[local] = tensor
    named = [groups.get(group, {}) for group in ("params", "buffers", "optimizer", "best_params", "best_buffers")]
    params, buffers, optimizer, best_params, best_buffers = named
    stopping = content["stopping"]
    return Checkpoint(
        content["configuration"],
        content["epoch"],
        TrainingState(params, buffers, optimizer, content["seed"], content["steps"]),
        Stopping(**{**stopping, "best": math.inf if stopping["best"] is None else stopping["best"]}),
        best_params,
        best_buffers,
        content["verified"],
    )


def check_fits(checkpoint: Checkpoint, step: Step, fresh: TrainingState) -> None:
    """Raise ValueError unless the tensors are named, shaped and typed as those of `fresh`, which `step` began with."""
    wanted = {"params": fresh.params, "buffers": fresh.buffers, "optimizer": fresh.optimizer}
    if checkpoint.best_params:
        wanted |= {"best_params": fresh.params, "best_buffers": fresh.buffers}
    for group, tensors in wanted.items():
        found = {name: (tuple(t.shape), t.dtype) for name, t in checkpoint.groups()[group].items()}
        expected = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if found != expected:
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ValueError(
                f"the checkpoint must hold the {group} of {step.model.name}; {odd[0]!r} is to be "
                f"{expected.get(odd[0], 'absent')}; came {found.get(odd[0], 'nothing')}. It is another network's."
            )


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: at every moment, also of a power failure, the file is the old one or the new one.

    It is written beside the old file and moved onto it when the disk has it.  Raises OSError as it comes, without a
    trace but for the old file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
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


def tensors_as_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file of named tensors, which may share memory."""
    copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    raw: bytes = _safetensors().save(copies, metadata=dict(about))
    return raw


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError(
            "checkpoints need safetensors; it is not installed. Run: pip install 'manual-bp[checkpoints]'"
        ) from error
    return safetensors.torch
