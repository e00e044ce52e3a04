"""Checkpoints: what goes in comes out, bit for bit; damage is seen, and a failed write leaves the old file."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from manual_bp.curves.early_stopping import Stopping
from manual_bp.files import write_atomically
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import adam, training_step
from manual_bp.training.checkpoint import Checkpoint, check_fits, load, save


def checkpoint(steps=3, model=None, dtype=torch.float32):
    """After some steps, with every kind of tensor in it."""
    step = training_step(model or residual_mlp(3, 1, inputs=2, outputs=2), optimizer=adam())
    state = step.init(torch.Generator().manual_seed(0), dtype=dtype)
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    for _ in range(steps):
        state, _ = step(state, x, torch.ones(4, 2, dtype=dtype))
    return step, Checkpoint(
        {"lr": 0.1, "data": "digits", "clip_norm": None},
        epoch=2,
        state=state,
        stopping=Stopping(0.5, 1, waited=1),
        best_params=state.params,
        best_buffers=state.buffers,
        verified={"steps": 3, "worst": 0.25},
    )


def same(first, second):
    tensors = zip(first.groups().items(), second.groups().items(), strict=True)
    for (group, ours), (_, theirs) in tensors:
        assert ours.keys() == theirs.keys(), group
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    plain = {"params": {}, "buffers": {}, "optimizer": {}}
    bare = {"best_params": {}, "best_buffers": {}}
    return replace(first, state=replace(first.state, **plain), **bare) == replace(
        second, state=replace(second.state, **plain), **bare
    )


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_is_saved_is_loaded(tmp_path, steps, dtype):
    """Also before the first step, when the optimiser's zeros are one tensor under two names."""
    _, before = checkpoint(steps, dtype=dtype)
    save(tmp_path / "c", before)
    assert same(load(tmp_path / "c"), before)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_no_best_yet(tmp_path):
    _, found = checkpoint()
    before = replace(found, best_params={}, best_buffers={}, stopping=Stopping())
    save(tmp_path / "c", before)
    assert same(load(tmp_path / "c"), before)


def test_every_byte_counts(tmp_path):
    """Flip each byte in turn, one bit and all bits: header, padding, digest, tensors."""
    path = tmp_path / "c"
    save(path, checkpoint(model=mlp([2, 2]))[1])
    raw = path.read_bytes()
    for position in range(len(raw)):
        for mask in (1, 255):
            path.write_bytes(raw[:position] + bytes([raw[position] ^ mask]) + raw[position + 1 :])
            with pytest.raises(ValueError, match="digest"):
                load(path)
    path.write_bytes(raw)
    load(path)


def test_truncated_or_longer(tmp_path):
    path = tmp_path / "c"
    save(path, checkpoint()[1])
    raw = path.read_bytes()
    for content in (raw[:-1], raw[: len(raw) // 2], raw[:100], raw[:7], b"", raw + b"\0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="truncated"):
            load(path)


def test_missing_and_other_files(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a checkpoint: No such file"):
        load(tmp_path / "c")
    (tmp_path / "c").write_text("hello, I am a long enough text that is no checkpoint at all")
    with pytest.raises(ValueError, match="must hold a digest in its header"):
        load(tmp_path / "c")


def test_another_network_s_checkpoint():
    step, found = checkpoint()
    check_fits(found, step, step.init(torch.Generator()))
    with pytest.raises(ValueError, match=r"the params of residual_mlp; .* It is another network's"):
        check_fits(checkpoint(model=mlp([2, 2]))[1], step, step.init(torch.Generator()))
    with pytest.raises(ValueError, match=r"'block1.batch_norm.bias' is to be \(\(3,\), torch.float64\)"):
        check_fits(found, step, step.init(torch.Generator(), dtype=torch.float64))
    with pytest.raises(ValueError, match=r"the optimizer of residual_mlp; .* came nothing"):
        check_fits(replace(found, state=replace(found.state, optimizer={})), step, step.init(torch.Generator()))


@pytest.mark.parametrize("name", ["c", ".c.partial"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_replaced_and_not_followed(tmp_path, name, dangling):
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"mine")
    (tmp_path / name).symlink_to(target)
    write_atomically(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"new"
    assert not (tmp_path / "c").is_symlink()
    assert {p.name for p in tmp_path.iterdir()} == ({"c"} if dangling else {"c", "target"})
    assert dangling or target.read_bytes() == b"mine"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    write_atomically(tmp_path / "c", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_write_that_really_fails_leaves_the_old_file(tmp_path):
    """The kernel refuses to let a file grow beyond 1000 bytes, in a process of its own."""
    write_atomically(tmp_path / "c", b"old")
    code = (
        "import sys, pathlib; from manual_bp.files import write_atomically\n"
        "try: write_atomically(pathlib.Path(sys.argv[1]), bytes(100_000))\n"
        "except OSError as error: print(error.strerror)"
    )

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    # -B: Python would keep the first 1000 bytes of what it compiles, and every later import would find those.
    command = [sys.executable, "-B", "-c", code, tmp_path / "c"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.stdout.strip() == "File too large", done.stderr
    assert (tmp_path / "c").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
