"""Nothing in manual_bp enters autograd, and nothing that a page computes is torch's own derivative."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import manual_bp as bp
from manual_bp.chain import trace
from manual_bp.models import gpt, residual_mlp
from tests.judging import flat, ordinary

PACKAGE = Path(bp.__file__).parent
PAGES = sorted(PACKAGE.glob("rules/*/[!_]*.py"))
# What a page may import: see the README's architecture section.
ALLOWED = {"torch", "jaxtyping", "manual_bp.inputs"}


class Recorder(TorchDispatchMode):
    """Notes the name of every operation that reaches a kernel."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def autograd_forbidden(monkeypatch):
    """The engine raises when it is entered, and so does every attempt to save a tensor for it."""

    def entered(*args, **kwargs):
        raise AssertionError("the autograd engine was entered")

    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", entered)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", entered)
    with torch.autograd.graph.saved_tensors_hooks(entered, entered):
        yield


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


@pytest.mark.usefixtures("autograd_forbidden")
def test_rule_never_enters_autograd(rule):
    case = ordinary(rule)
    case = case.with_tensors(x.requires_grad_() if x.is_floating_point() else x for x in case.tensors)
    y, residuals = rule.forward(*case.inputs, **case.hyper)
    grads = rule.backward(residuals, case.dy) if rule.has_backward else ()
    found = list(tensors((y, residuals, grads)))
    assert found
    assert all(t.grad_fn is None and not t.requires_grad for t in found)


@pytest.mark.usefixtures("autograd_forbidden")
def test_transformer_never_enters_autograd():
    model = gpt(5, 4, 4, 2, 1, position="rope")
    generator = torch.Generator().manual_seed(0)
    params, state = model.init(generator)
    params = {name: p.requires_grad_() for name, p in params.items()}
    tokens = torch.randint(5, (2, 4), generator=generator)
    traced = trace(model, params, state, tokens, tokens, "softmax_cross_entropy")
    assert all(t.grad_fn is None and not t.requires_grad for t in tensors(traced))


@pytest.mark.usefixtures("autograd_forbidden")
def test_model_never_enters_autograd():
    model = residual_mlp(4, 2, "elu", True, 0.5, inputs=3, outputs=2)
    generator = torch.Generator().manual_seed(0)
    params, state = model.init(generator)
    params = {name: p.requires_grad_() for name, p in params.items()}
    state |= model.draw_masks(6, generator)
    traced = trace(model, params, state, torch.randn(6, 3, generator=generator), torch.zeros(6, 2))
    assert all(t.grad_fn is None and not t.requires_grad for t in tensors(traced))


def test_the_guard_sees_autograd(autograd_forbidden):
    """The fixture above would notice: it stops an ordinary backward."""
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(AssertionError, match="autograd engine"):
        (x * x).sum().backward()


def test_rule_calls_no_backward_kernel(rule):
    case = ordinary(rule)
    with Recorder() as recorder:
        rule.vjp(case.inputs, case.dy, **case.hyper)
    assert recorder.names
    assert not [name for name in recorder.names if "backward" in name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_imports_only_what_a_page_may(page):
    chapter = f"manual_bp.rules.{page.parent.name}"
    for node in ast.walk(ast.parse(page.read_text())):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in names:
            top = name.partition(".")[0]
            fits = name in ALLOWED or top in sys.stdlib_module_names or name.startswith(f"{chapter}._")
            assert fits, f"{page.name} imports {name}"


def modules_after(statement):
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light():
    """Neither the package nor the command line waits for torch, so that --help is there at once."""
    assert "torch" not in modules_after("import manual_bp, manual_bp.__main__, manual_bp.cli, manual_bp.cli.tasks")


def test_manual_bp_does_not_import_torch_ref():
    every = "import manual_bp.cli, manual_bp.lockstep, manual_bp.oracle, manual_bp.models; [*manual_bp.RULES.values()]"
    found = modules_after(every)
    assert "torch" in found
    assert not {name for name in found if name.startswith("torch_ref")}


def test_autocast_changes_nothing(rule):
    case = ordinary(rule, torch.float32)
    plain = flat(*rule.vjp(case.inputs, case.dy, **case.hyper))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = flat(*rule.vjp(case.inputs, case.dy, **case.hyper))
    for a, b in zip(plain, under, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_no_page_takes_other_steps_in_another_precision():
    """Which is why long axes are judged in one (`verification.tells_of_sizes`): nothing is decided by an input's dtype
    but whether it is a mask."""
    for path in PACKAGE.glob("rules/*/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            asked = [part for part in parts if isinstance(part, ast.Attribute) and part.attr == "dtype"]
            assert not asked or "torch.bool" in map(ast.unparse, parts), f"{path.name}, line {node.lineno}"
