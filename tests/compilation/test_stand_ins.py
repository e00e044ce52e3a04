"""What stands in for a page while a program is traced passes the oracle's whole judgement, as the page does."""

from __future__ import annotations

import ctypes
import itertools
import math
import pkgutil
from importlib import import_module

import pytest
import torch
from torch._inductor.fx_passes.post_grad import stable_topological_sort
from torch.fx.experimental.proxy_tensor import make_fx

import manual_bp as bp
from manual_bp.compilation import kernels, stand_ins, taps, tracing
from manual_bp.compilation.cpp import text
from manual_bp.compilation.stand_ins import scaled_dot_product_attention as stand_in
from manual_bp.compilation.stand_ins import softmax_cross_entropy, standing_in
from manual_bp.oracle import Case, compare
from manual_bp.rule import text_of
from manual_bp.rules.attention._heads import keys_ahead
from manual_bp.rules.convolution import _correlation as pages
from tests.compilation.conftest import Interpreted

NAMES = [module.name for module in pkgutil.iter_modules(stand_ins.__path__)]


def assert_right(name, **how):
    rule = bp.RULES[name]

    def vjp(inputs, dy, **hyper):
        with standing_in():
            return rule.vjp(inputs, dy, **hyper)

    report = compare(vjp, rule, dtype=torch.float32, diagnose=0, **how)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_oracle(name):
    """As text; what is done in C++ is the page's here."""
    with standing_in():
        assert text_of.get()(bp.RULES[name]) is not bp.RULES[name].page
    assert_right(name)


@pytest.mark.parametrize("view", stand_ins.VIEWS, ids=str)
def test_biases_before_attention_and_gelu_are_added_on_the_way(view):
    """And what gelu's adds up to in backward is summed there; whatever a view is called."""
    attention, gelu = bp.RULES["scaled_dot_product_attention"], bp.RULES["gelu"]

    def around(x, weight, bias):
        z = x @ weight + bias
        heads = z.view(2, 3, 2, 4).transpose(1, 2)
        y, kept = attention.pure(heads, heads, heads, causal=True)
        a, kept_too = gelu.pure(z)
        (da,) = gelu.pure_backward(kept_too, a)
        dq, dk, dv, _ = attention.pure_backward(kept, y)
        return y, dq, dk, dv, a, da, da.flatten(0, 1).sum(0)

    given = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 3, 5), (5, 8), (8,))]
    graph, seen = kernels.prepared(tracing.traced(around, given)), set()
    for node in graph.graph.nodes:
        node.target = view if node.target in stand_ins.VIEWS else node.target
    stand_ins.rewrite(graph.graph)
    stable_topological_sort(graph.graph)
    for found, due in zip(Interpreted(graph, seen).run(*given), around(*given), strict=True):
        torch.testing.assert_close(found, due)
    assert torch.ops.manual_bp.gelu_backward_with_bias.default in seen
    assert not seen & {torch.ops.aten.add.Tensor, torch.ops.aten.sum.dim_IntList}


# Attention in C++, at sizes and options of every kind, of which a program has one.

READ = {"forward": 3, "backward": 7}


def source():
    """The two functions, for sizes that are not known beforehand, and strides and addresses in memory."""
    lines = ["#include <torch/csrc/inductor/cpp_prefix.h>", text("attention.h")]
    for name, read in READ.items():
        kinds = [*["float"] * 3, *["const float"] * (read + 3), "const bool"]
        values = ", ".join(
            f"blocks::Tensor<{kind}>{{({kind}*)t[{5 * i}], {{{', '.join(f't[{5 * i + j}]' for j in range(1, 5))}}}}}"
            for i, kind in enumerate(kinds)
        )
        lines.append(
            f'extern "C" void {name}(const int64_t* n, float scale, const int64_t* t) {{ attention::{name}<2>('
            f"attention::Sizes{{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7] != 0, n[8], scale}}, {values}); }}"
        )
    return "\n".join(lines)


def called(function, written, read, biases, mask, causal, alignment, scale):
    """What the function wrote."""
    (batch, heads, queries, width), (_, kv_heads, keys, _), (*_, value_width) = (t.shape for t in read[:3])
    ahead = keys_ahead(queries, keys, alignment)
    sizes = (batch, kv_heads, heads // kv_heads, queries, keys, width, value_width, causal, ahead)
    tensors, flat = [*written, *read, *biases, None if mask is None else mask.contiguous()], []
    for t in tensors:
        strides = () if t is None else t.stride()
        flat += [0 if t is None else t.data_ptr(), *strides, *[0] * (4 - len(strides))]
    array = ctypes.c_int64
    function((array * len(sizes))(*sizes), ctypes.c_float(scale), (array * len(flat))(*flat))
    return written


@pytest.mark.exhaustive  # 20 CPU seconds
def test_attention_in_blocks_passes_the_oracle(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    library = CppCodeCache.load(source())

    def forward(*given):
        q, k, v, *biases, mask, causal, alignment, scale = given
        written = [stand_in._empty(q, n) for n in (v.shape[-1], 1, 1)]
        read = [t.contiguous() for t in (q, k, v)]
        return tuple(called(library.forward, written, read, biases, mask, causal, alignment, scale))

    def backward(*given):
        *read, q_bias, k_bias, v_bias, mask, causal, alignment, scale = given
        written, biases = [stand_in._empty(t, t.shape[-1]) for t in read[:3]], (q_bias, k_bias, v_bias)
        read = [t.contiguous() for t in read]
        return tuple(called(library.backward, written, read, biases, mask, causal, alignment, scale))

    plain = torch.ops.manual_bp.attention_forward, torch.ops.manual_bp.attention_backward
    monkeypatch.setattr(torch.ops.manual_bp, "attention_forward", forward)
    monkeypatch.setattr(torch.ops.manual_bp, "attention_backward", backward)
    assert_right("scaled_dot_product_attention")

    generator = torch.Generator().manual_seed(0)
    q, k, v, dy = (torch.randn(2, heads, 70, 20, generator=generator) for heads in (4, 2, 2, 4))
    biases = [torch.randn(heads, 20, generator=generator) for heads in (4, 2, 2)]
    how = (None, True, "top-left", 0.3)
    y, m, w = forward(q, k, v, *biases, *how)
    found = [y, m, w, *backward(q, k, v, y, m, w, dy, *biases, *how)]
    due = [*plain[0](q, k, v, *biases, *how), *plain[1](q, k, v, y, m, w, dy, *biases, *how)]
    for ours, page in zip(found, due, strict=True):
        torch.testing.assert_close(ours, page, rtol=1e-4, atol=1e-5)  # another sum, without the biases, is 1 off


# Fused cross-entropy in C++, likewise.

COST = """
extern "C" void cost(const int64_t* n, float smoothing, const int64_t* t) {
  cross_entropy::cost<2>(cross_entropy::Sizes{n[0], n[1], n[2], n[3], smoothing, n[4] != 0}, {(float*)t[0]},
      {(float*)t[1]}, {(float*)t[2]}, {(const float*)t[3]}, {(const float*)t[4]}, {(const int64_t*)t[5]});
}
"""


@pytest.mark.exhaustive  # 20 CPU seconds
def test_fused_cross_entropy_passes_the_oracle(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    header = text("cross_entropy.h")
    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{header}\n{COST}")
    array, called = ctypes.c_int64, []

    def cost(x, weight, target, ignore_index, smoothing, is_mean):
        read = [x.contiguous(), weight.contiguous(), target.contiguous()]
        written = [x.new_empty(()), torch.empty_like(read[0]), torch.empty_like(read[1])]
        sizes = [*x.shape, len(weight), ignore_index, is_mean]
        addresses = [t.data_ptr() for t in (*written, *read)]
        library.cost((array * 5)(*sizes), ctypes.c_float(smoothing), (array * 6)(*addresses))
        called.append(x.shape)
        return tuple(written)

    import_module(f"{stand_ins.__name__}.fused_linear_cross_entropy")  # which defines the operation
    monkeypatch.setattr(torch.ops.manual_bp, "linear_cross_entropy", cost)
    assert_right("fused_linear_cross_entropy", sizes={"features": 16})
    assert called


# Softmax and cross-entropy in C++, likewise.

ROWS = """
extern "C" void cost(const int64_t* n, const int64_t* t) {
  softmax_cross_entropy::cost<2>(softmax_cross_entropy::Sizes{n[0], n[1], n[2], n[3] != 0, n[4]}, {(float*)t[0]},
      {(float*)t[1]}, {(const float*)t[2]}, {(const int64_t*)t[3]}, {(const float*)t[4]});
}
"""


@pytest.mark.exhaustive  # 20 CPU seconds
def test_softmax_cross_entropy_passes_the_oracle(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    header = text("softmax.h", "softmax_cross_entropy.h")
    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{header}\n{ROWS}")
    module = import_module(f"{stand_ins.__name__}.softmax_cross_entropy")  # which defines the operation
    array, called = ctypes.c_int64, []

    def cost(x, target, weight, ignore_index, is_mean):
        y, dx = x.new_empty(()), module._laid_out(x)
        beside = 1 if module._are_rows(x) else math.prod(x.shape[2:])
        read = [x, target.contiguous(), None if weight is None else weight.contiguous()]
        sizes = [x.numel() // x.shape[1], x.shape[1], ignore_index, is_mean, beside]
        addresses = [0 if t is None else t.data_ptr() for t in (y, dx, *read)]
        library.cost((array * 5)(*sizes), (array * 5)(*addresses))
        called.append(x.shape)
        return y, dx

    monkeypatch.setattr(torch.ops.manual_bp, "softmax_cross_entropy", cost)
    generator, dy, cases = torch.Generator().manual_seed(0), torch.tensor(-1.5), []
    # Classes, or positions of an image, that are less than a vector, and more.
    for classes, *space in ((1,), (5,), (37,), (5, 2, 3), (5, 37)):
        x = torch.randn(4, classes, *space, generator=generator)
        target = torch.arange(4 * math.prod(space)).reshape(4, *space) % classes
        far, equal, never = x * 1e4, torch.full_like(x, -2e4), x.clone()
        never[1:, 3:] = -math.inf
        for name, logits in {"usual": x, "far": far, "equal": equal, "never": never}.items():
            hyper = {"ignore_index": 2, "reduction": "sum" if name == "far" else "mean"}
            weight = 0.5 + torch.rand(classes, generator=generator) if name in ("usual", "far") else None
            cases.append(Case((logits, target, weight), dy, hyper, f"{name}, {tuple(x.shape)}"))
        none = torch.full_like(target, 2)
        cases.append(Case((x, none, None), dy, {"ignore_index": 2}, f"none counts, {tuple(x.shape)}"))
    assert_right("softmax_cross_entropy", cases=cases)
    assert len(called) >= len(cases)
    page = bp.RULES["softmax_cross_entropy"].page
    target = torch.tensor([[1, -100, 19], [0, 7, 7]])
    positions = torch.randn(2, 20, 3, generator=generator)
    for x in (positions, positions.mT.contiguous().mT):
        y, dx = cost(x, target, None, -100, True)
        assert dx.stride() == x.stride()
        due, kept = page.forward(x, target)
        torch.testing.assert_close((y, dx), (due, page.backward(kept, torch.ones(()))[0]))


# Softmax in C++, likewise.

SOFTMAX = """
extern "C" void forward(const int64_t* n, float* y, const float* x) { softmax::forward<2>(n[0], n[1], {y}, {x}); }
extern "C" void backward(const int64_t* n, float* dx, const float* y, const float* dy) {
  softmax::backward<2>(n[0], n[1], {dx}, {y}, {dy});
}
"""


@pytest.mark.exhaustive  # 20 CPU seconds
def test_softmax_passes_the_oracle(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{text('softmax.h')}\n{SOFTMAX}")
    called = []

    def call(function, *read):
        inner = [torch.empty(read[0].shape), *(t.contiguous() for t in read)]
        *rows, n = inner[0].shape
        function((ctypes.c_int64 * 2)(math.prod(rows), n), *(ctypes.c_void_p(t.data_ptr()) for t in inner))
        called.append(n)
        return inner[0]

    import_module(f"{stand_ins.__name__}.softmax")  # which defines the operations
    monkeypatch.setattr(torch.ops.manual_bp, "softmax", lambda x: call(library.forward, x))
    monkeypatch.setattr(torch.ops.manual_bp, "softmax_backward", lambda *given: call(library.backward, *given))
    assert_right("softmax")
    assert max(called) > 16


# GELU in C++, likewise.

GELU = """
extern "C" void forward(int64_t n, int64_t columns, float* y, const float* x, const float* bias) {
  gelu::forward<2>(n, columns, {y}, {x}, {bias});
}
extern "C" void backward(int64_t n, int64_t columns, float* dx, const float* x, const float* dy, const float* bias) {
  gelu::backward<2>(n, columns, {dx}, {x}, {dy}, {bias});
}
extern "C" void backward_with_bias(int64_t n, int64_t columns, float* dx, float* dbias, const float* x, const float* dy,
                                   const float* bias) {
  gelu::backward_with_bias<2>(n, columns, {dx}, {dbias}, {x}, {dy}, {bias});
}
"""


@pytest.mark.exhaustive  # 20 CPU seconds
def test_gelu_passes_the_oracle(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{text('gelu.h')}\n{GELU}")

    def call(function, bias, *read, dbias=()):
        read, written = [t.contiguous() for t in read], torch.empty(read[0].shape)
        columns = 0 if bias is None else len(bias)
        addresses = [0 if t is None else t.data_ptr() for t in (written, *dbias, *read, bias)]
        function(ctypes.c_int64(written.numel()), ctypes.c_int64(columns), *map(ctypes.c_void_p, addresses))
        return written

    import_module(f"{stand_ins.__name__}.gelu")  # which defines the operations
    monkeypatch.setattr(torch.ops.manual_bp, "gelu", lambda x, bias: call(library.forward, bias, x))
    monkeypatch.setattr(torch.ops.manual_bp, "gelu_backward", lambda x, dy, bias: call(library.backward, bias, x, dy))
    assert_right("gelu")
    x, dy, bias = torch.randn(3, 70, generator=torch.Generator().manual_seed(0)), torch.ones(3, 70), torch.ones(70)
    assert torch.equal(call(library.forward, bias, x), call(library.forward, None, x + 1))
    dx, dbias = call(library.backward, None, x + 1, dy), torch.empty(70)
    assert torch.equal(call(library.backward, bias, x, dy), dx)
    assert torch.equal(call(library.backward_with_bias, bias, x, dy, dbias=[dbias]), dx)
    torch.testing.assert_close(dbias, dx.sum(0))


# Max pooling in C++, likewise.

POOL = """
max_pool::Axis axis(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5]}; }
max_pool::Images images(const int64_t* n) { return {n[0], n[1], axis(n + 2), axis(n + 8)}; }
extern "C" void forward(const int64_t* n, float* y, int32_t* winner, const float* x) {
  max_pool::forward<2>(n[0] * n[1], axis(n + 2), axis(n + 8), {y}, {winner}, {x});
}
extern "C" void backward(const int64_t* n, float* dx, const int32_t* winner, const float* dy) {
  max_pool::backward<2>(n[0] * n[1], n[2] * n[8], n[3] * n[9], {dx}, {winner}, {dy});
}
extern "C" void forward_side_by_side(const int64_t* n, float* y, int32_t* winner, const float* x) {
  max_pool::forward_side_by_side<2>(images(n), {y}, {winner}, {x});
}
extern "C" void backward_side_by_side(const int64_t* n, float* dx, const int32_t* winner, const float* dy) {
  max_pool::backward_side_by_side<2>(images(n), {dx}, {winner}, {dy});
}
"""


@pytest.mark.exhaustive  # 20 CPU seconds each
@pytest.mark.parametrize("side_by_side", [False, True])
def test_max_pool_passes_the_oracle_and_is_the_page(side_by_side, monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{text('max_pool.h')}\n{POOL}")

    def call(name, shape, axes, read, written):
        sizes = [*shape[:2], *[1, 1, 1, 1, 0, 1, *axes][-12:]]
        if side_by_side:
            name += "_side_by_side"
            read, written = [t.movedim(1, -1).contiguous() for t in read], [t.movedim(1, -1) for t in written]
        inner = [t.contiguous() for t in (*written, *read)]
        getattr(library, name)((ctypes.c_int64 * 14)(*sizes), *(ctypes.c_void_p(t.data_ptr()) for t in inner))
        return [t.movedim(-1, 1) if side_by_side else t for t in inner[: len(written)]]

    def forward(x, axes):
        y = x.new_empty(*x.shape[:2], *axes[1::6])
        return tuple(call("forward", x.shape, axes, [x], [y, torch.empty_like(y, dtype=torch.int32)]))

    def backward(winner, dy, axes):
        (dx,) = call("backward", dy.shape, axes, [winner, dy], [dy.new_empty(*dy.shape[:2], *axes[::6])])
        return dx

    import_module(f"{stand_ins.__name__}.max_pool")  # which defines the operations
    monkeypatch.setattr(torch.ops.manual_bp, "max_pool_forward", forward)
    monkeypatch.setattr(torch.ops.manual_bp, "max_pool_backward", backward)
    assert_right("max_pool")

    page, generator = bp.RULES["max_pool"].page, torch.Generator().manual_seed(0)
    few = torch.tensor([0.0, -0.0, 1.0, 2.0, -math.inf, math.inf, math.nan])  # ties of all kinds
    hows = (
        {"kernel": 2},
        {"kernel": 3, "stride": 2, "padding": 1},
        {"kernel": (2, 3), "stride": 1, "padding": (1, 0)},
        {"kernel": (3, 2), "stride": (1, 3), "dilation": (2, 5), "ceil_mode": True},
        {"kernel": 5, "stride": 4, "padding": 2, "dilation": (1, 3), "ceil_mode": True},
    )
    for width, how in itertools.product((37, 9), hows):  # rows beyond a vector, and several in one
        x = few[torch.randint(len(few), (2, 19, 21, width), generator=generator)]
        x[0] = -math.inf
        y, kept = page.forward(x, **how)
        dy = torch.randn(y.shape, generator=generator)
        with standing_in():
            got, ours = bp.RULES["max_pool"].forward(x, **how)
            (dx,) = bp.RULES["max_pool"].backward(ours, dy)
        assert torch.equal(ours.winner.long(), kept.winner), (width, how)
        torch.testing.assert_close(got, y, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(dx, page.backward(kept, dy)[0])


# The cotangent of a convolution's weight in C++, likewise.

TAPS = """
taps::Axis axis(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5]}; }
extern "C" void weight(const int64_t* n, float* weight, const float* l, const float* s) {
  taps::weight<2>(taps::Sizes{n[0], n[1], n[2], axis(n + 3), axis(n + 9), n[15] > 0, n[16] > 0}, {weight}, {l}, {s});
}
"""


@pytest.fixture(scope="module")
def compared_in_cpp():
    from torch._inductor.codecache import CppCodeCache

    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{text('taps.h')}\n{TAPS}")

    def compared(long, short, kernel, *window, in_planes=(False, False)):
        (batch, channels, *space), (_, filters, *steps) = long.shape, short.shape
        axes = zip(space, steps, kernel, *window, strict=True)
        sizes = [batch, channels, filters, *(number for axis in axes for number in axis), *in_planes]
        pairs = zip((long, short), in_planes, strict=True)
        read = [(t if planes else t.permute(0, 2, 3, 1)).contiguous() for t, planes in pairs]
        weight = long.new_empty(filters, channels, *kernel)
        library.weight((ctypes.c_int64 * 17)(*sizes), *(ctypes.c_void_p(t.data_ptr()) for t in (weight, *read)))
        return weight

    return compared


@pytest.mark.exhaustive  # 40 CPU seconds
@pytest.mark.parametrize("name", ["convolution", "convolution_transpose"])
def test_the_cotangent_of_a_convolution_s_weight_passes_the_oracle(name, compared_in_cpp, monkeypatch):
    called = []
    monkeypatch.setattr(taps, "compared", lambda *given: called.append(given) or compared_in_cpp(*given))
    assert_right(name)
    assert called


def test_the_cotangent_of_a_convolution_s_weight_at_sizes_of_every_kind(compared_in_cpp):
    """Fewer channels than a vector has floats, whole vectors, rests; rows of taps and channels, side by side or not."""
    generator = torch.Generator().manual_seed(0)
    any_of = lambda *few: few[int(torch.randint(len(few), (), generator=generator))]  # noqa: E731
    for _ in range(100):
        kernel, stride, padding, dilation = [
            [any_of(*few) for _ in range(2)] for few in ((1, 2, 3), (1, 2, 3), (0, 1), (1, 1, 2))
        ]
        space = [any_of(5, 6, 9, 33) for _ in range(2)]
        long = torch.randn(any_of(1, 2, 5), any_of(1, 3, 5, 16, 20), *space, generator=generator)
        numbers = zip(space, kernel, stride, padding, dilation, strict=True)
        steps = [(n + 2 * pad - gap * (taps - 1) - 1) // step + 1 for n, taps, step, pad, gap in numbers]
        short = torch.randn(len(long), any_of(1, 7, 16, 32, 50), *steps, generator=generator)
        window = (kernel, stride, padding, dilation)
        due = pages.compared(long.double(), short.double(), *window, 1)
        farthest = pages.compared(long.double().abs(), short.double().abs(), *window, 1)
        in_planes = [any_of(False, True) for _ in range(2)]
        off = (compared_in_cpp(long, short, *window, in_planes=in_planes).double() - due).abs()
        # A rounding for each product and sum of a random walk, and never as many as there are terms.
        assert (off <= 8 * torch.finfo(torch.float32).eps * farthest).all(), (
            long.shape,
            short.shape,
            window,
            in_planes,
        )


# Recurrent layers in C++, likewise.

RECURRENT = {"lstm": 4, "gru": 3}
"""Gates."""
RECURRENCE = """
recurrence::Sizes sizes(const int64_t* n) { return {n[0], n[1], n[2], n[3]}; }
extern "C" void forward(const int64_t* n, float* const* t) { RULE::forward<2>(sizes(n), FORWARD); }
extern "C" void backward(const int64_t* n, float* const* t) { RULE::backward<2>(sizes(n), BACKWARD); }
"""


@pytest.mark.exhaustive  # 30 CPU seconds each
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrence_passes_the_oracle_and_is_the_page(name, monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    rule, gates = bp.RULES[name], RECURRENT[name]
    states = len(rule.outputs) - 1
    biases = 2 if name == "gru" else 1  # one sum serves every gate of an lstm
    counts = {"FORWARD": 3 + 3 + states + biases, "BACKWARD": 3 + states + biases + 7 + 2 * states}
    source = RECURRENCE.replace("RULE", name)
    for word, count in counts.items():
        source = source.replace(word, ", ".join(f"{{t[{k}]}}" for k in range(count)))
    headers = text("recurrence.h", f"{name}.h")
    library = CppCodeCache.load(f"#include <torch/csrc/inductor/cpp_prefix.h>\n{headers}\n{source}")
    called = []

    def call(function, x, hidden, read, shapes):
        tensors = [*(torch.full(shape, math.nan) for shape in shapes), *(t.contiguous() for t in read)]
        addresses = [t.data_ptr() for t in tensors]
        assert len(addresses) == counts[function.upper()]
        getattr(library, function)(
            (ctypes.c_int64 * 4)(*x.shape, hidden), (ctypes.c_int64 * len(addresses))(*addresses)
        )
        called.append(function)
        return tuple(tensors[: len(shapes)])

    def forward(x, h0, *others):
        hidden = h0.shape[1]
        return call("forward", x, hidden, [x, h0, *others], [(*x.shape[:2], n * hidden) for n in (gates, 1, 1)])

    def backward(*read):
        x, *states_and_weights = read[1 + states : 4 + 2 * states]
        shapes = [t.shape for t in (x, *states_and_weights)]
        return call("backward", x, shapes[1][1], read, [*shapes, *[shapes[-1][:1]] * biases])

    import_module(f"{stand_ins.__name__}.{name}")  # which defines the operations
    monkeypatch.setattr(torch.ops.manual_bp, f"{name}_forward", forward)
    monkeypatch.setattr(torch.ops.manual_bp, f"{name}_backward", backward)
    assert_right(name)
    assert {"forward", "backward"} == set(called)

    # Whole vectors and rests, examples of one thread and of many rounds, steps of one stretch and of several.
    generator = torch.Generator().manual_seed(0)
    for time, batch, inputs, hidden in (
        (3, 1, 1, 1),
        (9, 2, 70, 16),
        (5, 67, 16, 33),
        (70, 3, 5, 70),
        (2, 200, 128, 96),
    ):
        rows = (time, batch)
        of_states, of_gates = [(batch, hidden)] * states, (gates * hidden,)
        weights = [(*of_gates, inputs), (*of_gates, hidden)]
        given = [torch.randn(shape, generator=generator) for shape in ((*rows, inputs), *of_states)]
        given += [torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for shape in weights]
        given += [torch.randn(of_gates, generator=generator) for _ in range(2)]
        dy = rule.page.Outputs(*(torch.randn(s, generator=generator) for s in ((*rows, hidden), *of_states)))
        with standing_in():
            got = rule.vjp(tuple(given), dy)
        due = rule.vjp(tuple(t.double() for t in given), rule.page.Outputs(*(d.double() for d in dy)))
        for ours, exact in zip((*got[0], *got[1]), (*due[0], *due[1]), strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("of", "may"),
    [
        (lambda x, w: (x @ w).view(2, 2, 3).exp(), True),
        (lambda x, w: x.exp(), False),
        (lambda x, w: x[:2].exp(), False),  # of an input
        (lambda x, w: (x @ w)[:2].exp(), False),
        (lambda x, w: (lambda z: (z.exp(), z))(x @ w), False),  # read by others
    ],
)
def test_a_cotangent_takes_the_place_of_logits_that_are_a_result_and_read_once(of, may):
    graph = make_fx(of)(torch.ones(4, 3), torch.ones(3, 3)).graph
    (logits,) = (node.args[0] for node in graph.nodes if node.target is torch.ops.aten.exp.default)
    assert softmax_cross_entropy._is_read_here_alone(logits) is may
