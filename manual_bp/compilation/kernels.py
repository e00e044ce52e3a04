"""Programs that are called from Python: a GPU's kernels of Triton's, and a CPU's C++ where `aoti` cannot load its own.

torch.compile would ask before every call whether the program still fits, which takes longer than a small kernel; here
whoever calls has decided that.  Inductor keeps these programs in a cache of its own, on disk too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.choice import Choice
from manual_bp.compilation.decompositions import DECOMPOSITIONS
from manual_bp.compilation.inductor import in_own_folder, inputs_of
from manual_bp.compilation.passes import OPTIONS, passes

# By default inductor's kernels for a GPU are less exact than torch's own: exponentials below 10^-38 are 0, and a
# quotient is two roundings off.
EXACT: dict[str, Any] = {"eager_numerics.disable_ftz": True, "eager_numerics.division_rounding": True}
# Whoever calls a program has looked at its inputs; to do so again took a third of the time of a small one.
TRUSTING: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}


def compiled(graph: torch.fx.GraphModule, choice: Choice) -> tuple[Callable[[list[Tensor]], Sequence[Tensor]], bool]:
    """What runs the graph, and whether inductor had it on disk.  Raises NotCompiled."""
    return in_own_folder(lambda folder: _compiled(graph, choice))


def prepared(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph in inductor's own operations, which write nothing but results, as torch.compile would give it to
    inductor."""
    from torch._guards import detect_fake_mode
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes.joint_graph import constant_fold_uniform_value
    from torch._inductor.fx_passes.post_grad import remove_noop_ops
    from torch.func import functionalize  # noqa: TID251 (it takes writes out, and derives nothing)
    from torch.fx.experimental.proxy_tensor import make_fx

    inputs = inputs_of(graph)
    fakes: Any = detect_fake_mode(inputs)
    apart = {**select_decomp_table(), **DECOMPOSITIONS}
    with torch.no_grad(), fakes:
        flat: torch.fx.GraphModule = make_fx(functionalize(graph), decomposition_table=apart)(*inputs)
    # As torch.compile does before: `passes` look for values, not for views of them, nor for their products with 1.
    remove_noop_ops(flat.graph)
    constant_fold_uniform_value(flat)
    return flat


def _compiled(traced: torch.fx.GraphModule, choice: Choice) -> tuple[Callable[[list[Tensor]], Sequence[Tensor]], bool]:
    from torch._dynamo.utils import counters
    from torch._guards import TracingContext, detect_fake_mode, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.virtualized import V

    graph = prepared(traced)
    inputs = inputs_of(graph)
    fakes = detect_fake_mode(inputs)
    # Results have the strides of the traced ones: they may be given to a program again, which takes them as they are.
    output: Any = graph.graph.output_node()
    output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
    options = {**OPTIONS, **EXACT, **TRUSTING, "cpp.threads": choice.threads, "split_reductions": choice.split}
    options["post_grad_custom_post_pass"] = passes(choice.onednn)
    before = counters["inductor"]["fxgraph_cache_hit"]
    with (
        torch.no_grad(),
        config.patch(options),
        V.set_fake_mode(fakes),
        tracing(TracingContext(fakes)),
    ):
        program: Any = compile_fx_inner(graph, inputs, is_inference=True)
    run, found = program.current_callable, counters["inductor"]["fxgraph_cache_hit"] > before
    return lambda flat: run(list(flat)), found  # it empties the list that it is given
