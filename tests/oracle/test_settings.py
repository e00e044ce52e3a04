"""What a candidate changes of the process is named, and put back; the modes of its user do not count."""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import gc
import os
import random
import signal
import sys
import warnings
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import manual_bp as bp
import torch_ref
from manual_bp import oracle
from manual_bp.oracle import Case, from_functions
from manual_bp.oracle.calling.settings import QUIET, SETTINGS
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.truth.kept import _generated

# The verdict is what is tested; a cause is not sought.
compare = partial(oracle.compare, diagnose=0)

X = torch.tensor([-1.0, 2.0])
HELD = []  # what is entered ends when nobody holds it


def enter(context):
    HELD.append(context)
    context.__enter__()


def set_hooks():
    torch._C._autograd._push_saved_tensors_default_hooks(lambda x: x, lambda x: x)


def deterministic(value):
    """torch.use_deterministic_algorithms without its import of the compiler, which takes seconds."""
    torch._C._set_deterministic_algorithms(value, warn_only=False)


def flip(name):
    """Turn a switch of torch."""
    setting = SETTINGS[name]
    setting.put_back(not setting.read())


def can_be_turned(name):
    if "switch" not in name or not isinstance(SETTINGS[name].read(), bool):
        return False
    try:
        flip(name)
    except RuntimeError:  # not on this machine
        return False
    flip(name)
    return True


SWITCHES = [name for name in SETTINGS if can_be_turned(name)]
TOWARDS_ZERO = 0xC00 if os.uname().machine == "x86_64" else 0xC00000
CHANGES = {
    "torch's inference mode": lambda: enter(torch.inference_mode()),
    "torch's grad mode": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's deterministic algorithms": lambda: deterministic(True),
    "the precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch's anomaly mode": lambda: torch.set_anomaly_enabled(True),
    "torch's hooks on saved tensors": set_hooks,
    "the flushing of subnormal numbers to zero": lambda: torch.set_flush_denormal(True),
    "torch's autograd engine": lambda: torch._C._set_multithreading_enabled(False),
    "torch's print options": lambda: torch.set_printoptions(precision=2),
    "the direction of rounding": lambda: ctypes.CDLL(None).fesetround(TOWARDS_ZERO),
    "NumPy's handling of floating-point errors": lambda: np.seterr(all="ignore"),
    "NumPy's print options": lambda: np.set_printoptions(precision=2),
    "the precision of decimal numbers": lambda: setattr(decimal.getcontext(), "prec", 5),
    "the working directory": lambda: os.chdir("/"),
    "the environment": lambda: os.environ.update(PATH=""),
    "sys.path": lambda: sys.path.pop(),
    "the standard streams": lambda: setattr(sys, "stdout", None),
    "a signal handler": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "the garbage collector": gc.disable,
    **{name: lambda name=name: flip(name) for name in SWITCHES},
}


def cases():
    return [case for case in generated(bp.relu, torch.float32) if case.name == "ordinary"]


def changing(*changes):
    """A right ReLU that does something else as well."""

    def relu(inputs, dy):
        (x,) = inputs
        results = torch.where(x > 0, x, 0), (torch.where(x > 0, dy, 0),)
        for change in changes:
            change()
        return results

    return relu


def found_and_put_back(names, *changes):
    """The findings of a ReLU that makes these changes of these settings."""
    before = [SETTINGS[name].read() for name in names]
    report = compare(changing(*changes), "relu", cases=cases())
    assert [SETTINGS[name].read() for name in names] == before
    assert report.passed, report
    return report.findings


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in SWITCHES])
def test_a_changed_setting_is_a_finding_and_is_put_back(name):
    findings = found_and_put_back([name], CHANGES[name])
    assert f"the candidate changed {name}; it was put back" in findings


def test_every_switch_of_torch_that_is_turned_is_a_finding():
    assert len(SWITCHES) > 10
    findings = found_and_put_back(SWITCHES, *(CHANGES[name] for name in SWITCHES))
    assert set(findings) == {f"the candidate changed {name}; it was put back" for name in SWITCHES}


@pytest.mark.parametrize("where", [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.cudnn.conv])
def test_the_precision_of_one_backend(where):
    """torch refuses to read the setting under its old name while the new one is set so."""
    findings = found_and_put_back(
        ["the precision of float32 products"], lambda: setattr(where, "fp32_precision", "ieee")
    )
    assert findings == ["the candidate changed the precision of float32 products; it was put back"]


def test_what_cannot_be_put_back_is_said(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    report = compare(changing(lambda: (os.chdir("/"), os.rmdir(folder))), "relu", cases=cases())  # noqa: PTH106
    assert (
        "the candidate changed the working directory; it could not be put back (FileNotFoundError)" in report.findings
    )


def test_what_is_no_fault_is_put_back_without_a_word():
    def draws():
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002 (the global generator is what it is about)
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)
        warnings.simplefilter("error")

    before = [repr(setting.read()) for setting in QUIET.values()]
    report = compare(changing(draws), "relu", cases=cases())
    assert [repr(setting.read()) for setting in QUIET.values()] == before
    assert not report.findings


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_numbers_that_numpy_draws_are_drawn_again_by_the_next(numbers):
    """Normal numbers are made in pairs, of which one waits outside the generator's memory."""
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        np.random.randn(numbers)  # noqa: NPY002
        compare(changing(lambda: drawn.append(np.random.randn())), "relu", cases=cases())  # noqa: NPY002
        drawn.append(np.random.randn())  # noqa: NPY002
    assert len(drawn) > 4
    assert len(set(drawn)) == 1


def test_what_a_library_adds_when_it_is_imported_is_no_fault():
    with patch.dict(os.environ), patch.object(sys, "path", [*sys.path]):
        added = changing(lambda: (os.environ.update(ADDED="1"), sys.path.insert(0, "added")))
        assert not compare(added, "relu", cases=cases()).findings
        assert (os.environ["ADDED"], sys.path[0]) == ("1", "added")


# ------------------------------------------------------------------------------------------------- the user's modes


@contextlib.contextmanager
def put(read, write, value):
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def default(dtype):
    return put(torch.get_default_dtype, torch.set_default_dtype, dtype)


def precision(where, value):
    return put(lambda: where.fp32_precision, lambda v: setattr(where, "fp32_precision", v), value)


@contextlib.contextmanager
def warnings_as_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError("a mode of the user's")


MODES = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64 by default": lambda: default(torch.float64),
    "float16 by default": lambda: default(torch.float16),
    "a device by default": lambda: put(lambda: None, torch.set_default_device, "meta"),
    "a device in a block": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic algorithms": lambda: put(lambda: False, deterministic, True),
    "anomaly mode": torch.autograd.detect_anomaly,
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "warnings as errors": warnings_as_errors,
    "tf32 everywhere": lambda: precision(torch.backends, "tf32"),
    "tf32 in cuBLAS": lambda: precision(torch.backends.cuda.matmul, "tf32"),
    "tf32 in cuDNN": lambda: precision(torch.backends.cudnn, "tf32"),
    "bf16 in oneDNN": lambda: precision(torch.backends.mkldnn.matmul, "bf16"),
    "no hooks": lambda: torch.autograd.graph.disable_saved_tensors_hooks("none here"),
    "hooks that raise": lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: 1 / 0, lambda x: x),
    "flush to zero": lambda: put(lambda: False, torch.set_flush_denormal, True),
    "rounding towards zero": lambda: put(lambda: 0, ctypes.CDLL(None).fesetround, TOWARDS_ZERO),
    "a mode of one's own": Refusing,
}


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        warnings.warn("as libraries do", stacklevel=1)
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, dy):
        return bp.tanh.vjp(ctx.saved_tensors, dy)[1][0]


def backward_numpy(dy, x):
    e = np.exp(-2 * np.abs(x))
    return dy * 4 * e / (1 + e * (2 + e))


def linear(inputs, dy):
    """As it stands in a model: F.linear, whose products autocast takes over."""
    return torch_ref.twin("linear")(inputs, dy)


RIGHT = {
    "a rule": ("tanh", bp.tanh.vjp),
    "an autograd.Function": ("tanh", torch_ref.vjp(Tanh.apply)),
    "NumPy functions": ("tanh", from_functions(lambda x: (np.tanh(x), x), backward_numpy)),
    "torch's own": ("linear", linear),
}
NAMES = ("ordinary", "gradual underflow")


@pytest.mark.filterwarnings("ignore")  # of the candidates and of anomaly mode
@pytest.mark.parametrize("mode", MODES)
def test_a_right_candidate_is_right_in_every_mode_of_its_user(mode):
    def read():
        return {name: setting.value() for name, setting in SETTINGS.items()}

    def changed(before):
        return [name for name, value in read().items() if not SETTINGS[name].same(before[name], value)]

    before = read()
    chosen = {
        rule: [case for case in generated(bp.RULES[rule], torch.float32) if case.name in NAMES]
        for rule in ("tanh", "linear")
    }
    failed = {}
    with MODES[mode]():
        inside = read()
        for kind, (rule, candidate) in RIGHT.items():
            report = compare(candidate, rule, cases=chosen[rule])
            if not report.passed or report.findings:
                failed[kind] = str(report)
        assert changed(inside) == []
    assert not failed
    assert changed(before) == []


@pytest.mark.parametrize("mode", ["inference mode", "vmap", "grad"])
def test_evidence_and_cases_that_are_made_in_a_mode(mode):
    """Generated cases, and a case of the user's; the evidence is kept, and must do for the next comparison outside."""
    reports = []

    def both(x):
        _generated.cache_clear()
        reports.append(compare(bp.relu.vjp, "relu"))
        return x.sum()

    if mode == "inference mode":
        with torch.inference_mode():
            both(X)
            own = Case((torch.tensor([0.5, -1.0], dtype=torch.float64),), torch.ones(2, dtype=torch.float64))
            reports.append(compare(torch_ref.twin("tanh"), "tanh", dtype=torch.float64, cases=[own]))
            _, (dx,) = torch_ref.twin("tanh")((X,), X)
            assert dx is not None
    else:
        getattr(torch.func, mode)(both)(X)
    assert [str(report) for report in reports if not report.passed] == []
    assert compare(torch_ref.twin("relu"), "relu").passed


@pytest.mark.parametrize(("dtype", "due"), [(torch.float32, True), (torch.float64, False)], ids=str)
def test_a_default_dtype_of_the_program_is_the_candidates_too_where_it_is_that_of_the_check(dtype, due):
    """A function may rely on it; where another dtype is checked it would only make numbers that fit nothing."""
    seen = []
    with default(torch.float64):
        seen_by = changing(lambda: seen.append(torch.get_default_dtype()))
        chosen = [case for case in generated(bp.relu, dtype) if case.name == "ordinary"]
        assert compare(seen_by, "relu", dtype=dtype, cases=chosen).passed
        assert torch.get_default_dtype() is torch.float64
    assert set(seen) == {torch.float32 if due else torch.float64}


def test_a_failure_of_the_oracle_is_not_the_candidates(monkeypatch):
    """A setting that cannot be read is no setting, and what the oracle itself raises reaches its user."""

    def fails(*_):
        raise RuntimeError("of the oracle's own")

    for name, setting in SETTINGS.items():
        monkeypatch.setitem(SETTINGS, name, setting._replace(read=fails))
    assert compare(changing(), "relu", cases=cases()).passed
    monkeypatch.setattr("manual_bp.oracle.calling.invocation.functions_kept", fails)
    with pytest.raises(RuntimeError, match="own"):
        compare(changing(), "relu", cases=cases())
