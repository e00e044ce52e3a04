"""Traps: layouts, memory, forms of results, hostile candidates.  Each is named in the report when it fires."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from functools import partial
from itertools import count
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

import manual_bp as bp
from manual_bp import oracle
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle import Case, from_functions
from manual_bp.oracle.calling.memory import copy, overlap, shares_elements
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.cases.layouts import lay_out
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts, whole
from tests.judging import as_candidate, is_formula, judged
from torch_ref import vjp

# The verdict is what is tested; a cause is not sought.
compare = partial(oracle.compare, diagnose=0)

X = torch.tensor([-1.0, 0.5, 2.0])
DY = torch.tensor([0.3, -2.0, 1.5])


def tanh(inputs, dy):
    return bp.tanh.vjp(inputs, dy)


def wrong_cases(report):
    return {m.case for m in report.mismatches}


# --------------------------------------------------------------------------------------------------------- layouts


def test_misaligned_is_contiguous_and_off_by_one_element():
    x = lay_out(torch.arange(12.0).view(4, 3), "misaligned")
    assert x.is_contiguous()
    assert x.data_ptr() % 16 == x.element_size() == copy(x).data_ptr() % 16
    assert torch.equal(x, torch.arange(12.0).view(4, 3))


@pytest.mark.parametrize("name", ["dy", "x", "weight", "bias"])
def test_misaligned_tensors_are_cases(name):
    def aligned_only(inputs, dy):
        named = dict(zip(("x", "weight", "bias", "dy"), (*inputs, dy), strict=True))
        y, grads = bp.linear.vjp(inputs, dy)
        return y, tuple(0 * g if named[name].data_ptr() % 16 and named[name].numel() else g for g in grads)

    assert f"{name} misaligned" in wrong_cases(compare(aligned_only, "linear"))


def forward_numpy(x):
    return np.tanh(x), x


def backward_numpy(dy, x):
    e = np.exp(-2 * np.abs(x))
    return dy * 4 * e / (1 + e * (2 + e))


@pytest.mark.parametrize(
    ("name", "index"), [("dy with negative strides", 0), ("inputs with negative strides", 1)], ids=["dy", "inputs"]
)
def test_negative_strides(name, index):
    def ignores_direction(dy, x):
        good = backward_numpy(dy, x)
        given = (dy, x)[index]
        return good[::-1] if any(stride < 0 for stride in given.strides) else good

    report = compare(from_functions(forward_numpy, ignores_direction), "tanh")
    assert wrong_cases(report) == {name}
    assert compare(from_functions(forward_numpy, backward_numpy), "tanh").passed


ELEMENTWISE = [name for name, rule in bp.RULES.items() if rule.elementwise]
ONE_AND_ALL = [pytest.param(n, marks=[] if n == ELEMENTWISE[0] else pytest.mark.exhaustive) for n in ELEMENTWISE]


def is_large(case):
    return case.tensors[0].numel() > 10**6


@pytest.mark.parametrize("name", [one for one in ONE_AND_ALL if bp.RULES[one.values[0]].has_backward])
@pytest.mark.parametrize("index", [0, 1, 524_288, 1_048_576, -1])
def test_one_wrong_element_among_a_million(name, index):
    """Off by a thousandth; a mean over all would be off by 1e-9, and assert_close's relative tolerance is 1.3e-6."""
    rule = bp.RULES[name]

    def candidate(inputs, dy, **hyper):
        y, (dx, *others) = rule.vjp(inputs, dy, **hyper)
        if dx.numel() > 10**6:
            dx = dx.clone()  # add's is dy itself
            flat = dx.view(-1)
            flat[index] += 0.001 * flat[index].abs() + 0.001
        return y, (dx, *others)

    found = judged(candidate, rule, torch.float32, is_large, strict=False).mismatches
    assert {"1048591 elements", "1048591 elements of opposite sign"} <= {m.case for m in found}
    assert all(m.pattern.startswith(f"one element of {'1048591' if '1048591' in m.case else ''}") for m in found)


def full_blocks_only(rule, allocate, block=1024):
    """The rule as a kernel that starts only as many blocks as are full."""

    def candidate(inputs, dy=None, **hyper):
        y, grads = rule.vjp(inputs, dy, **hyper)
        written = []
        for g in (*parts(y), *grads):
            g = None if g is None else g.contiguous()
            out = None if g is None else allocate(g)
            if g is not None and g.numel() >= block:
                end = g.numel() // block * block
                out.view(-1)[:end] = g.view(-1)[:end]
            elif g is not None:
                out.copy_(g)
            written.append(out)
        return whole(written[: len(rule.outputs)], y), tuple(written[len(rule.outputs) :])

    return as_candidate(rule, candidate)


@pytest.mark.parametrize("name", ONE_AND_ALL)
def test_a_tail_that_holds_zeros_is_seen_where_0_is_due(name):
    """Without uninitialized memory, that is without help from torch: a kernel of another language may have it so."""
    rule = bp.RULES[name]
    report = judged(full_blocks_only(rule, torch.zeros_like), rule, torch.float32, is_large)
    assert "1048591 elements" in " ".join(wrong_cases(report))


def lucky(g):
    """What was in memory is the right number, so that no value is wrong."""
    out = torch.empty_like(g)
    return out if _get_current_dispatch_mode() else out.copy_(g)


@pytest.mark.thinned(2)
def test_what_is_never_written_is_seen_whatever_stands_there(rule):
    """Blocks of 8."""
    report = judged(full_blocks_only(rule, lucky, block=8), rule, torch.float32, most=3)
    assert report.mismatches
    assert all(m.kind == "trap" and "never written" in m.detail for m in report.mismatches)


def test_what_is_never_written_is_the_cause():
    report = compare(full_blocks_only(bp.RULES[ELEMENTWISE[0]], lucky, block=8), ELEMENTWISE[0])
    assert "is not written in full" in report.diagnoses[0]


def test_a_custom_function_that_leaves_elements_unwritten():
    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            dx = torch.empty_like(x)
            if not bool(dx.isnan().any()):
                dx.zero_()
            dx[x > 0] = dy[x > 0]
            return dx

    report = compare(vjp(Relu.apply), "relu")
    assert any("never written" in m.detail for m in report.mismatches)


@pytest.mark.thinned(2)
def test_memory_that_is_written_in_full_is_no_finding(rule):
    seen = set()

    def is_of_other_sizes(case):
        shapes = tuple(x.shape for x in case.tensors)
        return is_formula(case) and shapes not in seen and not seen.add(shapes)

    report = judged(full_blocks_only(rule, torch.empty_like, block=1), rule, torch.float32, is_of_other_sizes)
    assert report.cases > 1
    assert not report.mismatches


def test_off_block_lengths_are_cases(rule):
    """Of every list of axes 129 elements or more, and of every other axis 33 and 1000, unless the page forbids it."""
    cases = generated_evidence(rule, torch.float32, "cpu", contract_of(torch.float32)).cases
    shapes = [tuple(x.shape) for case in cases for x in case.tensors]
    longest = getattr(rule.page, "LONGEST", {})
    if longest or getattr(rule.page, "SIZES", {}):
        pytest.skip("the page limits its axes")
    lengths = {length for shape in shapes for length in shape}
    assert lengths >= ({129, 1017} if rule.elementwise else {33, 129})
    if rule.elementwise:
        assert {len(shape) for shape in shapes} >= {0, 1, 2, 3, 4}


# ---------------------------------------------------------------------------------------------------------- memory


def test_shared_memory_is_told_element_by_element():
    buffer = torch.zeros(10)
    assert not shares_elements(buffer[:5], buffer[5:])
    assert not shares_elements(buffer[::2], buffer[1::2])
    assert shares_elements(buffer[::2], buffer[::3])
    assert shares_elements(buffer, buffer.view(2, 5))
    assert not shares_elements(buffer, buffer.clone())
    assert overlap(torch.zeros(1).expand(3))
    assert not overlap(buffer)


def test_a_gradient_in_the_memory_of_an_input():
    def candidate(inputs, dy):
        y, (dx,) = tanh(inputs, dy)
        return y, (dx if bool((dx != inputs[0]).any()) else inputs[0],)  # dx = x: where x is 0

    report = compare(candidate, "tanh", cases=[Case((X,), DY), Case((torch.zeros(2, 3),), torch.zeros(2, 3))])
    assert report.passed, str(report)
    assert "dx shares memory with x: adding to the gradient in place changes the input" in report.findings
    strict = compare(candidate, "tanh", cases=[Case((torch.zeros(2, 3),), torch.zeros(2, 3))], strict=True)
    assert {m.kind for m in strict.mismatches} == {"trap"}


def test_gradients_in_one_anothers_memory():
    def candidate(inputs, dy):
        y, (dx, _) = bp.square_loss.vjp(inputs, dy)
        zero = torch.zeros_like(dx)
        return y, ((zero, zero) if not dx.any() else (dx, -dx))

    report = compare(candidate, "square_loss")
    assert report.passed, str(report)
    assert "dx and dtarget share memory: adding to one in place changes the other" in report.findings


def test_dy_itself_and_what_is_expanded_are_notes():
    def candidate(inputs, dy, p):
        x, mask = inputs
        if p == 0 and mask.all():
            return x, (dy, None)
        return bp.dropout.vjp(inputs, dy, p=p)

    case = next(c for c in generated(bp.dropout, torch.float32) if c.name == "ordinary")
    identity = Case((case.inputs[0], torch.ones_like(case.inputs[1])), case.dy, {"p": 0.0})
    report = compare(candidate, "dropout", cases=[identity], strict=True)
    assert report.passed, str(report)
    assert any("dx shares memory with dy" in note for note in report.notes)
    assert any("y shares memory with x" in note for note in report.notes)
    assert not report.findings
    expanded = compare(
        lambda inputs, dy: (bp.linear.vjp(inputs, dy)[0], (*bp.linear.vjp(inputs, dy)[1][:2], dy[:1].expand(3))),
        "linear",
        cases=[Case((torch.ones(1, 2), torch.ones(3, 2), torch.ones(3)), torch.full((1, 3), 2.0)[:, :1].expand(1, 3))],
    )
    assert any("dbias is expanded" in note for note in expanded.notes) or expanded.mismatches


def test_a_buffer_that_is_used_again():
    buffers: dict[tuple[int, ...], torch.Tensor] = {}

    def candidate(inputs, dy):
        y, (dx,) = tanh(inputs, dy)
        return y, (buffers.setdefault(tuple(dx.shape), torch.empty_like(dx)).copy_(dx),)

    report = compare(candidate, "tanh")
    assert report.passed, str(report)
    assert any("returned in memory that the next call overwrote" in finding for finding in report.findings)


def test_a_cached_result_tests_nothing():
    cached = tanh((X,), DY)
    report = compare(lambda inputs, dy: cached, "tanh", cases=[Case((X,), DY, name="only")])
    assert not report.passed
    assert "it is cached, and nothing was tested" in str(report)


def test_the_references_own_tensors_test_nothing(monkeypatch):
    """Whoever finds a way to the expected values passes them off as his own."""
    from manual_bp.oracle import checking

    found = {}

    def spied(*arguments):
        found["evidence"] = evidence(*arguments)
        return found["evidence"]

    evidence = checking.evidence
    monkeypatch.setattr(checking, "evidence", spied)

    def thief(inputs, dy):
        y, *grads = found["evidence"].expected
        return y, tuple(grads)

    case = Case((X.double(),), DY.double(), name="only")
    report = compare(thief, "tanh", dtype=torch.float64, cases=[case])
    assert not report.passed
    assert "it is the reference's own tensor: nothing was tested" in str(report)


# ------------------------------------------------------------------------------------------------------------ forms


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (torch.nn.Tanh(), r"came the Module Tanh. Wrap it: torch_ref.vjp\(Tanh\(\)\) is a candidate"),
        (torch.nn.Tanh, r"came the Module Tanh. Wrap it: torch_ref.vjp\(Tanh\(\)\) is a candidate"),
        (torch.optim.SGD, r"came the Optimizer SGD. manual_bp.oracle.compare_optimizer\(SGD, rule\) judges it"),
        (Function, r"came the Function Function. Wrap it: torch_ref.vjp\(Function.apply\) is a candidate"),
        (3, "came a int. Pass a function, or None and recorded cases="),
    ],
    ids=["module", "module class", "an optimizer", "autograd function", "number"],
)
def test_what_must_be_wrapped(candidate, message):
    with pytest.raises(ValueError, match=message):
        compare(candidate, "tanh")


def test_a_module_that_is_a_vjp():
    class Tanh(torch.nn.Module):
        def forward(self, inputs, dy):
            return tanh(inputs, dy)

    assert compare(Tanh(), "tanh").passed


def returning(value):
    return lambda inputs, dy: value(*tanh(inputs, dy))


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (returning(lambda y, grads: grads), "(y, grads) is due, that is (y, (dx,)); a tuple of 1 came"),
        (returning(lambda y, grads: grads[0]), "(y, grads) is due, that is (y, (dx,)); a Tensor came"),
        (returning(lambda y, grads: {"y": y, "dx": grads[0]}), "a dict of 2 came"),
        (returning(lambda y, grads: (y for _ in "ab")), "a generator came"),
        (returning(lambda y, grads: (y, {"dx": grads[0]})), "grads must be a tuple with one entry per input, (dx)"),
        (returning(lambda y, grads: (y, iter(grads))), "a tuple_iterator came"),
        (returning(lambda y, grads: (y, grads[0])), "a Tensor came: put it into a tuple"),
        (returning(lambda y, grads: (y, [grads[0].tolist()])), "a tensor is due, a list"),
        (returning(lambda y, grads: (y, (0.5,))), "a tensor is due, a float"),
        (returning(lambda y, grads: (None, grads)), "a tensor is due, None came"),
        (lambda inputs, dy: (_ for _ in ()).throw(SystemExit(3)), "raised SystemExit: 3"),
    ],
)
def test_results_of_other_forms(candidate, words):
    report = compare(candidate, "tanh")
    assert not report.passed
    assert words in str(report)
    assert {m.kind for m in report.mismatches} == {"trap"}


def test_a_list_is_as_good_as_a_tuple():
    assert compare(returning(lambda y, grads: [y, list(grads)]), "tanh").passed


def test_positional_only_hyperparameters():
    assert compare(lambda inputs, dy, alpha=1.0, /: bp.elu.vjp(inputs, dy, alpha=alpha), "elu").passed

    def forward(x, alpha=1.0, /):
        return torch.where(x > 0, x, alpha * torch.expm1(x)), (x, alpha)

    def backward(dy, cache):
        x, alpha = cache
        return torch.where(x > 0, dy, dy * alpha * torch.exp(x))

    report = compare(from_functions(forward, backward), "elu")
    assert report.passed, str(report)
    assert not any("takes no" in text for text in report.not_tested)


def test_one_finding_for_one_exception():
    def candidate(inputs, dy):
        raise RuntimeError("no kernel image")

    (finding,) = compare(candidate, "tanh").findings
    assert "case 'ordinary' and " in finding


def test_deep_recursion_is_a_finding_and_an_interrupt_is_not():
    def deep(inputs, dy):
        return deep(inputs, dy)

    assert "raised RecursionError" in str(compare(deep, "tanh"))

    def interrupted(inputs, dy):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, "tanh")


def test_raising_in_a_later_call_only():
    calls = iter(range(10**6))

    def candidate(inputs, dy):
        if next(calls) == 1:
            raise SystemExit("done")
        return tanh(inputs, dy)

    assert "raised SystemExit: done, when it was called again" in str(compare(candidate, "tanh"))


@pytest.mark.parametrize(("raises", "words"), [(True, "called again and again"), (False, "some of many calls alike")])
def test_what_goes_wrong_in_one_of_many_calls_alone(raises, words):
    """In the fiftieth on the same numbers, as where each call takes a stream that none gives back."""
    calls = Counter()

    def candidate(inputs, dy):
        y, (dx,) = tanh(inputs, dy)
        calls[dy.shape, float(dy.double().sum())] += 1
        is_due = max(calls.values()) < 50
        if raises and not is_due:
            raise RuntimeError("no stream is left")
        return y, (dx if is_due else 2 * dx,)

    (found,) = compare(candidate, "tanh").mismatches
    assert words in f"{found.detail} {found.pattern}"


@pytest.mark.parametrize("change", ["resize_", "set_", "t_", "zero_"])
def test_whatever_is_done_to_the_arguments_is_seen(change):
    def rude(inputs, dy):
        result = tanh(inputs, dy)
        if dy.ndim == 2 and dy.numel():
            x = inputs[0]
            {"resize_": lambda: x.resize_(1), "set_": lambda: x.set_(), "t_": x.t_, "zero_": x.zero_}[change]()
        return result

    report = compare(rude, "tanh")
    assert "trap: x in case 'ordinary': the candidate overwrote its argument" in str(report)
    assert compare(tanh, "tanh").passed


def test_a_cotangent_that_is_overwritten_is_said_before_where_that_raises():
    def candidate(inputs, dy):
        dy *= inputs[0] > 0
        return inputs[0].clamp(min=0), (dy.clone(),)

    said = compare(candidate, "relu").diagnoses
    assert said[0].startswith("dy: the candidate overwrote its argument"), said
    assert any(text.startswith("it raises in 1 case, such as 'dy stride 0'") for text in said[1:]), said


# ---------------------------------------------------------------------------------------------------- other arrays


class OnlyDlpack:
    def __init__(self, x):
        self.x = np.asarray(x)

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "made",
    [lambda x: x.astype(x.dtype.newbyteorder(">")), read_only, OnlyDlpack, lambda x: x.T.copy().T],
    ids=["big-endian", "read-only", "DLPack only", "Fortran"],
)
def test_arrays_of_every_make(made):
    vjp = from_functions(lambda x: (made(np.tanh(x)), x), lambda dy, x: [made(backward_numpy(dy, x))], arrays="numpy")
    report = compare(vjp, "tanh")
    assert report.passed, str(report)


def test_a_python_number_is_a_value():
    def forward(x, target):
        return float(((x - target) ** 2).sum() / (2 * len(x))) if len(x) else float("nan"), (x, target)

    def backward(dy, cache):
        x, target = cache
        dx = dy * (x - target) / np.array(max(len(x), 1), dtype=x.dtype)
        return dx, -dx

    assert compare(from_functions(forward, backward), "square_loss").passed


def test_a_forward_without_cache_is_told():
    report = compare(from_functions(lambda x: np.tanh(x), backward_numpy), "tanh")
    assert "forward must return (y, cache); it returned a ndarray" in str(report)


def test_the_kind_of_arrays_is_read_through_wrappers():
    class Layer:
        def forward(self, x):
            return forward_numpy(x)  # its own text names no module: the file does, but torch stands there too

        def __call__(self, dy, cache):
            return np.asarray(backward_numpy(dy, cache))

    assert compare(from_functions(Layer().forward, Layer()), "tanh").passed
    partial = functools.partial(backward_numpy)
    assert compare(from_functions(functools.wraps(forward_numpy)(lambda x: forward_numpy(x)), partial), "tanh").passed


def test_numpy_has_no_bfloat16():
    report = compare(from_functions(forward_numpy, backward_numpy), "tanh", dtype=torch.bfloat16)
    assert "NumPy has no bfloat16" in str(report)


# ------------------------------------------------------------------------------------------------ nothing was tested


@pytest.mark.parametrize(
    ("rule", "cases", "argument", "words"),
    [
        ("relu", [Case((torch.full((3,), 2.0),), torch.ones(3))], "dx", "the constant 1 would pass"),
        ("relu", [Case((-X.abs(),), DY)], "dx", "0 would pass in every case"),
        ("relu", [Case((X,), torch.zeros(3))], "dx", "in no case was there anything"),
        ("relu", [Case((torch.tensor([3.0]),), torch.tensor([1.0]))], "dx", "the constant 1 would pass"),
        (
            "linear",
            [Case((torch.randn(3, 2), torch.randn(4, 2), torch.randn(4)), torch.ones(3, 4))],
            "dbias",
            "the constant 3 would pass",
        ),
    ],
)
def test_nothing_was_tested(rule, cases, argument, words):
    report = compare(bp.RULES[rule].vjp, rule, cases=cases)
    assert not report.mismatches
    assert not report.passed
    assert argument in report.untested_arguments
    assert any(text.startswith(f"{argument}: ") and words in text for text in report.not_tested)


def test_the_result_of_another_case_would_pass():
    """In bfloat16 these two differ by less than one rounding of the sum; each alone is a test."""
    x = torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16)
    dy = torch.ones(1, 2, dtype=torch.bfloat16)
    cases = [
        Case((x, torch.tensor([[w, 3.0], [3.0, w]], dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)), dy)
        for w in (1e-3, 2e-3)
    ]
    assert "y" not in compare(bp.linear.vjp, "linear", dtype=torch.bfloat16, cases=cases[:1]).untested_arguments
    both = compare(bp.linear.vjp, "linear", dtype=torch.bfloat16, cases=cases)
    assert "y: the result of one case would pass in all others of its shape" in str(both)


def test_one_case_that_tells_is_enough():
    cases = [Case((torch.full((3,), 2.0),), torch.ones(3)), Case((X,), DY)]
    assert compare(bp.relu.vjp, "relu", cases=cases).passed


# ---------------------------------------------------------------------------------------- results that are not numbers


class Unreadable(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("no operation on me")


class Agreeable(torch.Tensor):
    """Equal to whatever it is compared with."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ == "equal":
                return True
            if func.__name__ in ("sub", "__sub__", "__rsub__", "abs"):
                return torch.zeros_like(args[0])
            result = func(*args, **(kwargs or {}))
            return result.as_subclass(cls) if isinstance(result, torch.Tensor) else result


class Rude:
    def __getattr__(self, name):
        raise SystemExit(name)


@pytest.mark.parametrize(
    "result",
    [
        lambda g: g.to("meta"),
        lambda g: torch.nested.nested_tensor([g]),
        lambda g: FakeTensorMode().from_tensor(g),
        lambda g: MagicMock(spec=torch.Tensor),
        lambda g: [g, g.untyped_storage().resize_(0)][0] if g.numel() else None,
        lambda g: Rude(),
    ],
    ids=["meta", "nested", "fake", "mock", "freed", "rude"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_results_that_cannot_be_read_are_findings(result):
    report = compare(returning(lambda y, grads: (y, (result(*grads),))), "tanh")
    assert not report.passed
    assert {m.kind for m in report.mismatches} == {"trap"}


@pytest.mark.parametrize(
    "result",
    [
        lambda g: torch.nested.nested_tensor([g]),
        lambda g: g.to_sparse(),
        lambda g: g.reshape(-1)[:1].expand(10**12) if g.numel() else None,
    ],
    ids=["nested", "sparse", "huge"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_results_that_cannot_be_read_beside_wrong_ones_whose_cause_is_sought(result):
    calls = count()

    def candidate(inputs, dy):
        y, (dx,) = tanh(inputs, dy)
        return y, (result(dx) if next(calls) % 3 else -dx,)

    report = oracle.compare(candidate, "tanh")
    assert "wrong" in {m.kind for m in report.mismatches}
    assert not [note for note in report.notes if "raised" in note]


def test_of_a_subclass_the_numbers_are_judged():
    wrong = returning(lambda y, grads: (y, (torch.zeros_like(grads[0]).as_subclass(Agreeable),)))
    right = returning(lambda y, grads: (y, (grads[0].as_subclass(Unreadable),)))
    assert compare(right, "tanh").passed
    assert not compare(wrong, "tanh").passed


@pytest.mark.parametrize(
    "huge",
    [lambda dy: torch.empty(10**8), lambda dy: dy.reshape(-1)[:1].expand(10**12) if dy.numel() else dy],
    ids=["many elements", "expanded"],
)
def test_a_huge_result_is_judged_by_its_shape_and_not_copied(monkeypatch, huge):
    clone = torch.Tensor.clone
    copied = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda x, **options: copied.append(x.numel()) or clone(x, **options))
    cases = [Case((torch.randn(4, 3),), torch.randn(4, 3), name="only")]
    report = compare(lambda inputs, dy: (torch.tanh(*inputs), (huge(dy),)), "tanh", cases=cases)
    assert [m.detail[:28] for m in report.mismatches] == ["shape must be (4, 3); came ("]
    assert max(copied) < 10**6


class Own(BaseException):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize("error", [GeneratorExit(), Own(), pytest.skip.Exception("not today")], ids=repr)
def test_what_is_no_exception_is_a_finding_all_the_same(error):
    def candidate(inputs, dy):
        raise error

    assert f"raised {type(error).__name__}" in str(compare(candidate, "tanh"))


def test_a_list_that_runs_code_is_a_finding():
    class List(list):
        def __len__(self):
            return 2

        def __iter__(self):
            raise SystemExit("iter")

    assert "raised SystemExit: iter" in str(compare(lambda inputs, dy: List([1, 2]), "tanh"))


class Closed:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, inputs, dy):
        return tanh(inputs, dy)


class WithLayouts(Closed):
    layouts = 3


@pytest.mark.parametrize("kind", [Closed, WithLayouts])
def test_attributes_of_a_candidate_of_any_kind(kind):
    assert compare(kind(), "tanh").passed


# ------------------------------------------------------------------------------------ between the oracle and torch


def zeros(inputs, dy):
    y, (dx,) = tanh(inputs, dy)
    return y, (torch.zeros_like(dx),)


def test_functions_of_torch_are_put_back_before_they_judge():
    equal, where, subtract = torch.equal, torch.where, torch.Tensor.__sub__

    def candidate(inputs, dy):
        result = zeros(inputs, dy)
        torch.equal = lambda a, b: True
        torch.where = lambda *arguments: arguments[-1]
        torch.Tensor.__sub__ = lambda a, b: torch.zeros_like(a)
        return result

    report = compare(candidate, "tanh")
    assert not report.passed
    assert (torch.equal, torch.where, torch.Tensor.__sub__) == (equal, where, subtract)
    assert "the candidate replaced torch.Tensor.__sub__; it was put back" in report.findings


def test_modes_are_left():
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return torch.zeros_like(result) if func.overloadpacket.__name__ == "sub" else result

    def candidate(inputs, dy):
        result = zeros(inputs, dy)
        Mode().__enter__()
        torch.autocast("cpu").__enter__()
        return result

    report = compare(candidate, "tanh")
    assert not report.passed
    assert _get_current_dispatch_mode() is None
    assert not torch.is_autocast_enabled("cpu")
    assert "the candidate entered the mode Mode; it was left" in report.findings
    assert "the candidate changed torch's autocast; it was put back" in report.findings


def test_a_right_candidate_that_imports_more_of_torch_replaces_nothing():
    def candidate(inputs, dy):
        importlib.import_module("torch._dynamo")
        return tanh(inputs, dy)

    assert not compare(candidate, "tanh").findings


@pytest.mark.parametrize("change", ["class", "freed", "strides"])
def test_arguments_that_cannot_be_read_any_more(change):
    def candidate(inputs, dy):
        result = tanh(inputs, dy)
        (x,) = inputs
        if change == "class":
            x.add_(1)
            x.__class__ = Agreeable
        elif change == "freed":
            x.untyped_storage().resize_(0)
        else:
            x.as_strided_(x.shape, (0,) * x.ndim)
        return result

    report = compare(candidate, "tanh")
    assert "trap: x in case 'ordinary': the candidate overwrote its argument" in str(report)


def test_memory_beside_an_argument():
    """A kernel that takes a slice for contiguous writes between its elements."""

    def candidate(inputs, dy):
        (x,) = inputs
        if x.ndim == 2 and x.numel() and x.stride(-1) == 2:
            x.as_strided((1,), (1,), 0).fill_(1.0)
        return tanh(inputs, dy)

    report = compare(candidate, "tanh")
    assert {m.detail for m in report.mismatches} == {
        "the candidate wrote beside its argument, into memory between or around its elements"
    }


def test_what_stands_beside_a_mask_need_be_no_bool():
    buffer = torch.full((4, 6), 255, dtype=torch.uint8)
    buffer[:, ::2] = torch.arange(12).view(4, 3) % 2
    case = Case((torch.randn(4, 3), buffer.view(torch.bool)[:, ::2]), torch.randn(4, 3), {"p": 0.5})
    assert not compare(bp.dropout.vjp, "dropout", cases=[case]).mismatches


def test_an_argument_that_requires_grad_afterwards():
    def candidate(inputs, dy):
        inputs[0].requires_grad_()
        return tanh(inputs, dy)

    report = compare(candidate, "tanh")
    assert report.passed
    assert "the candidate made its argument x require grad in place" in report.findings


def test_infinity_less_infinity_is_a_note():
    """dy − dy y² is the right formula; of an infinite dy it makes NaN where infinity is due."""

    def candidate(inputs, dy):
        y = torch.tanh(inputs[0])
        return y, (dy - dy * y * y,)

    report = compare(candidate, "tanh")
    assert report.passed
    assert any("infinite cotangent" in note for note in report.notes)
    assert not compare(candidate, "tanh", strict=True).passed


def test_a_mask_of_numbers_stays_one_when_numbers_are_varied():
    """In 16 bits a candidate is called at other numbers, to tell a systematic error from rounding."""

    def candidate(inputs, dy, p):
        y, (dx, none) = bp.dropout.vjp(inputs, dy, p=p)
        return y, (dx * 1.01, none)

    assert not compare(candidate, "dropout", dtype=torch.float16).passed


def test_updates_lost_in_a_race_are_no_rounding():
    """Other elements are lost in every call, so that those of one call are right in the next, in whatever precision."""
    generator = torch.Generator().manual_seed(0)

    def candidate(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(torch.rand(dx.shape, generator=generator) < 1e-4, 0, dx),)

    report = compare(candidate, "relu")
    assert any("another value came" in m.detail for m in report.mismatches)
