"""What is recorded is what was done, in operations that write nothing in place, with the lines that they come from."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout, layer_norm, softmax

from manual_bp.program import Recording, UntraceableError, recorded


def views_written(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., ::2] = x[..., 1::2]
    y[..., 1::2] = -x[..., ::2]
    rows = y[1:]
    rows += 1
    y *= 2
    return softmax(layer_norm(y, y.shape[-1:]), -1) + rows.sum()


def constants(x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    steps = torch.arange(x.shape[-1])
    return x * steps, steps, [x.detach(), torch.where(x > 0, x, 0.0)]


def several_results(x: Tensor) -> Tensor:
    values, indices = x.max(-1)
    first, *_ = x.split(2, -1)
    return values + indices + first.sum(-1)


@pytest.mark.parametrize("function", [views_written, constants, several_results])
def test_a_program_does_what_its_function_does_for_other_numbers(function) -> None:
    program = recorded(function, [torch.randn(3, 8)])
    assert not any(node.op._schema.is_mutable for node in program.nodes[1:])
    x = torch.randn(3, 8)
    torch.testing.assert_close(program.run([x])[0], function(x), rtol=0, atol=0)


def test_what_is_not_elementary_is_taken_apart() -> None:
    program = recorded(
        lambda x: softmax(x, -1), [torch.randn(3, 8)], lambda op: op is not torch.ops.aten._softmax.default
    )
    assert {"exp", "sum", "div"} <= {node.name for node in program.nodes}
    x = torch.randn(3, 8)
    torch.testing.assert_close(program.run([x])[0], softmax(x, -1))


def test_an_operation_of_the_engine_has_the_line_of_the_one_forward() -> None:
    leaf, dy = torch.randn(3, requires_grad=True), torch.randn(3)
    with torch.enable_grad(), Recording([leaf, dy], lambda op: True) as recording:
        y = leaf.tanh()
        z = y * leaf.sin()
        recording.stage = "backward"
        torch.autograd.grad(z, leaf, dy)
    lines = {node.name: node.line.text for node in recording.nodes if node.stage == "backward" and node.line}
    assert lines["tanh_backward"] == "y = leaf.tanh()"
    assert lines["cos"] == "z = y * leaf.sin()"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * 2 if x.sum() > 0 else x, "decision"),
        (lambda x: x * x.max().item(), "decision"),
        (lambda x: x[x > 0], "shape depends"),
        (lambda x: x.add_(1), "writes into an input"),
        (lambda x: x[0].zero_(), "writes into an input"),
        (lambda x: dropout(x), "random"),
    ],
    ids=["branch", "item", "mask", "in place", "in place of a part", "random"],
)
def test_what_no_program_can_tell_is_refused_with_its_line(function, words: str) -> None:
    with pytest.raises(UntraceableError, match=rf"{words}.*in line \d+ of test_recording.py"):
        recorded(function, [torch.randn(3, 8)])


def test_a_mask_that_is_an_input_may_choose() -> None:
    mask = torch.tensor([True, False, True])
    program = recorded(lambda x, mask: x[mask], [torch.randn(3), mask])
    assert program.run([torch.arange(3.0), mask])[0].tolist() == [0.0, 2.0]
