"""Checkpoints: everything that a run needs to go on bit for bit, in one safetensors file that is replaced whole."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.curves.early_stopping import Stopping
from manual_bp.files import safetensors_of_torch, write_atomically
from manual_bp.training.step import Step, TrainingState
from manual_bp.training.typed import TOO_NESTED, brief, built

FORMAT = "manual-bp checkpoint 1"
# SHA-256 in hexadecimal, as it stands in the file's header, and what stands there while the digest is computed.
DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')
PLACEHOLDER = "0" * 64


GROUPS = ("params", "buffers", "optimizer", "best_params", "best_buffers")
"""The tensors by what they are; in the file "params/W1"."""


@dataclass(frozen=True)
class Content:
    """What a checkpoint says beside its tensors, as it stands in the file: JSON's values."""

    format: str
    torch: str
    configuration: dict[str, Any]
    epoch: int
    seed: int
    steps: int
    stopping: dict[str, Any]
    verified: dict[str, Any]


@dataclass(frozen=True)
class Verified:
    """What `--verify` found: see manual_bp.training.verifying.Verifier."""

    steps: int = 0
    worst: float = 0.0
    where: str = ""
    failure: str = ""


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
        state = self.state
        tensors = (state.params, state.buffers, state.optimizer, self.best_params, self.best_buffers)
        return dict(zip(GROUPS, tensors, strict=True))


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` by `checkpoint`, whole or not at all.

    Raises OSError, with the old file as it was, if there is no room or no right to write.
    """
    state = checkpoint.state
    stopping = {**asdict(checkpoint.stopping), "best": _finite(checkpoint.stopping.best)}
    content = Content(
        FORMAT,
        torch.__version__,
        checkpoint.configuration,
        checkpoint.epoch,
        state.seed,
        state.steps,
        stopping,
        checkpoint.verified,
    )
    tensors = {f"{group}/{name}": t for group, named in checkpoint.groups().items() for name, t in named.items()}
    raw = tensors_as_bytes(tensors, {"content": json.dumps(asdict(content), allow_nan=False), "digest": PLACEHOLDER})
    digest = hashlib.sha256(raw).hexdigest()
    write_atomically(path, raw.replace(b'"digest":"' + PLACEHOLDER.encode(), b'"digest":"' + digest.encode(), 1))


def load(path: Path) -> Checkpoint:
    """The checkpoint in a file that `save` wrote.

    The digest covers every byte of the file, so that damage and carelessness are seen; it is no signature, and who
    means to deceive can compute it anew.  So what the file says is not believed either: names, types and ranges are
    checked here, and in `check_fits` whether it is this network's.
    Raises ValueError for a file that is missing, damaged, of another format, or that says what cannot be.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: cannot be read as a checkpoint: it is no file.")
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
    try:
        return _checked(header, raw)
    except (ValueError, *TOO_NESTED) as error:
        raise ValueError(f"{path}: its digest is right, yet it is no checkpoint of a run: {error}.") from error


def _checked(header: bytes, raw: bytes) -> Checkpoint:
    """What a file with a right digest holds.  Raises ValueError, or one of TOO_NESTED, for what cannot be."""
    named = json.loads(header)
    about = named.get("__metadata__") if isinstance(named, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("content"), str):
        raise ValueError(f"its header must hold __metadata__ with a text named content; came {brief(about)}")
    said = json.loads(about["content"])
    if isinstance(said, dict) and said.get("format") != FORMAT:
        raise ValueError(f"the format must be {FORMAT!r}; came {brief(said.get('format'))}. Use its own version")
    content = built(Content, said)
    for name, value in (("epoch", content.epoch), ("seed", content.seed), ("steps", content.steps)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be a whole number from 0 to 2^63 - 1; came {value}")
    built(Verified, content.verified)
    best = content.stopping.get("best")
    stopping = built(Stopping, {**content.stopping, "best": 0.0 if best is None else best})
    if stopping.waited < 0 or (stopping.best_epoch is not None and stopping.best_epoch < 1):
        raise ValueError(f"stopping must count from 0, and epochs from 1; came {brief(content.stopping)}")
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for name, tensor in _tensors(raw).items():
        group, _, local = name.partition("/")
        if group not in groups or not local:
            raise ValueError(f"its tensors must be named {'/..., '.join(GROUPS)}/...; came {brief(name)}")
        groups[group][local] = _checked_tensor(group, name, tensor)
    params, buffers, optimizer, best_params, best_buffers = groups.values()
    return Checkpoint(
        content.configuration,
        content.epoch,
        TrainingState(params, buffers, optimizer, content.seed, content.steps),
        replace(stopping, best=math.inf if best is None else best),
        best_params,
        best_buffers,
        content.verified,
    )


def _tensors(raw: bytes) -> dict[str, Tensor]:
    """Raises ValueError for what is no safetensors file, or holds numbers that torch does not have."""
    library = safetensors_of_torch()
    try:
        found: dict[str, Tensor] = library.load(raw)
    except Exception as error:  # the library's own, or KeyError, TypeError, RuntimeError of what it does with torch
        raise ValueError(f"safetensors cannot read it: {type(error).__name__}: {error}") from error
    return found


def _checked_tensor(group: str, name: str, tensor: Tensor) -> Tensor:
    """Raises ValueError for NaN, and for parameters that are infinite.  Adam's squares may be: it stands still then."""
    wide = tensor.double() if tensor.is_floating_point() else torch.zeros(())
    if bool(wide.isnan().any()) or (group.endswith("params") and bool(wide.isinf().any())):
        raise ValueError(
            f"its numbers must be finite; came NaN or an infinity in {name}. No step can go on from there: train anew, "
            "perhaps with a lower learning rate"
        )
    return tensor


def check_fits(checkpoint: Checkpoint, step: Step, fresh: TrainingState) -> None:
    """Raise ValueError unless the tensors are named, shaped and typed as those of `fresh`, which `step` began with."""
    wanted = {"params": fresh.params, "buffers": fresh.buffers, "optimizer": fresh.optimizer}
    # The first epoch is always the best so far; what follows it never empties the best parameters again.
    wanted["best_params"] = fresh.params if checkpoint.epoch else {}
    wanted["best_buffers"] = fresh.buffers if checkpoint.epoch else {}
    for group, tensors in wanted.items():
        found = {name: (tuple(t.shape), t.dtype) for name, t in checkpoint.groups()[group].items()}
        expected = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if found != expected:
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ValueError(
                f"the checkpoint must hold the {group} of {step.model.name}; {odd[0]!r} is to be "
                f"{expected.get(odd[0], 'absent')}; came {found.get(odd[0], 'nothing')}. It is another network's."
            )


def tensors_as_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file of named tensors, which may share memory."""
    copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    raw: bytes = safetensors_of_torch().save(copies, metadata=dict(about))
    return raw


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
