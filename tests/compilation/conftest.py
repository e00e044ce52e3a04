"""How programs are built that are tested for something else than that.

A C++ compiler takes a second or two for each kernel, and nine for what AOTInductor puts around a program.  So by
default most programs are *interpreted*: the graph that inductor would be given, with everything that this package does
to it, is run operation by operation.  What is left to inductor and the compiler is tested on a few programs, and on all
of them with `--exhaustive`.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch._inductor import config
from torch._inductor.pattern_matcher import stable_topological_sort

from manual_bp.compilation import kernels, passes, program, tracing
from manual_bp.compilation.choice import Choice
from manual_bp.compilation.numbers import stored
from manual_bp.compilation.products import onednn_product
from manual_bp.compilation.recomputation import again
from manual_bp.compilation.rows import sum_of_rows
from manual_bp.compilation.updates import add_product

# What takes a compiler seconds before the first program, and pays from the tenth on: headers are compiled beforehand,
# and every instruction set that the processor has is tried.
FOR_MANY = {
    "cpp_cache_precompile_headers": False,
    "aot_inductor.precompile_headers": False,
    "cpp.vec_isa_ok": True,
}


@pytest.fixture(autouse=True, scope="package")
def programs_of_these_tests(tmp_path_factory, request):
    """A user's cache of this run, so that nothing built earlier is judged.  pytest-xdist's processes share it.

    Inductor's variable is not set, as for most users.
    """
    by_default = not request.config.getoption("--exhaustive")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    with pytest.MonkeyPatch.context() as patch, config.patch(FOR_MANY if by_default else {}):
        patch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


class Interpreted(torch.fx.Interpreter):
    """Runs a graph; what inductor lowers by this package's own nodes is what they stand for.

    seen: where every operation that is met is entered.
    """

    def __init__(self, graph, seen):
        super().__init__(graph)
        self.seen = seen

    def call_function(self, target, args, kwargs):
        self.seen.add(target)
        if target is add_product:
            weight, left, right, of_weight, of_product, _ = args
            return weight.copy_(torch.addmm(weight, left, right, beta=of_weight, alpha=of_product))
        if target is again:
            return args[0].clone()
        if target is stored:
            return args[0]
        if target is sum_of_rows:
            x, shape, share = args
            return (share * x.sum(0)).view(shape)
        if target is torch.ops.higher_order.scan:  # inductor refuses a step that takes numbers of Python
            *_, beside = args
            assert all(isinstance(each, torch.Tensor) for each in beside), "the step of a loop takes numbers"
        if target is onednn_product:
            return torch.mm(*args)
        return super().call_function(target, args, kwargs)


def rewritten(function, example, dynamic=()):
    """The graph that inductor would be given, with everything that this package does to it."""
    graph = kernels.prepared(tracing.traced(function, example, dynamic))
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # inductor drops them before our passes
            graph.graph.erase_node(node)
    passes.passes(())(graph.graph)
    stable_topological_sort(graph.graph)  # as inductor does behind them
    return graph


def interpret(patch: pytest.MonkeyPatch) -> set[object]:
    """From now on a program is the graph that inductor would be given, rewritten, and run without it.

    Returns a set, to which every operation is added that a program of this kind runs.
    """
    seen: set[object] = set()

    def interpreted(function, example, step, written, dynamic):
        graph = rewritten(function, example, dynamic)
        return program.Program(
            lambda flat: Interpreted(graph, seen).run(*flat), "interpreted", "operation by operation"
        )

    patch.setattr(program, "_compiled", interpreted)
    return seen


def call_from_python(patch: pytest.MonkeyPatch) -> None:
    """On the CPU too programs take the way of a GPU's: their kernels are the same, and called from Python."""
    choose = program.choose

    def chosen(device, *others):
        return Choice("triton", threads=1) if device.type == "cpu" else choose(device, *others)

    patch.setattr(program, "choose", chosen)


@pytest.fixture
def called_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    call_from_python(monkeypatch)


@pytest.fixture(params=["interpreted", pytest.param("compiled", marks=pytest.mark.exhaustive)])
def built(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the programs of a test are built: by default without a compiler."""
    (interpret if request.param == "interpreted" else call_from_python)(monkeypatch)
    return request.param


def trace_only(patch: pytest.MonkeyPatch) -> None:
    """From now on a program is the traced graph itself: what is built in a fifth of a second is the same function."""

    def traced(function, example, step, written, dynamic):
        graph = tracing.traced(function, example, dynamic)
        return program.Program(lambda flat: graph(*flat), "traced", "as it was traced")

    patch.setattr(program, "_compiled", traced)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_only(monkeypatch)
