"""The residual network of convolutions: names, shortcuts and composition against torch's own modules."""

from __future__ import annotations

import pytest
import torch

from manual_bp.chain import leaves, takers
from manual_bp.models import resnet
from tests.models.judged import worst_of_a_step
from torch_ref.models import ResNet

IMAGE, OUTPUTS = (2, 5, 4), 3


@pytest.mark.parametrize(
    ("widths", "blocks", "momentum"),
    [([2, 3], 1, 0.1), pytest.param([2, 2, 3], 2, None, marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_every_tensor_is_the_module_s(widths, blocks, momentum):
    """Values, cotangents, gradients, updated parameters and moments of one step, within what rounding may do."""
    x = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = resnet(IMAGE, OUTPUTS, widths, blocks, momentum=momentum)
    assert worst_of_a_step(model, x, torch.arange(4) % OUTPUTS, clip_norm=1.0, l2=1e-3) <= 1


@pytest.mark.parametrize(("widths", "blocks"), [([3], 1), ([2, 2], 2), ([2, 3, 4], 1)], ids=str)
def test_parameters_are_the_module_s(widths, blocks):
    model = resnet(IMAGE, OUTPUTS, widths, blocks, momentum=None)
    params, state = model.init(torch.Generator().manual_seed(0))
    module = ResNet(**model.config)
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in module.named_parameters()}
    assert {n: b.shape for n, b in state.items()} == {n: b.shape for n, b in module.named_buffers()}
    with_shortcut = {name.rpartition(".shortcut")[0] for name in params if ".shortcut." in name}
    assert with_shortcut == {f"stage{stage}.block1" for stage in range(2, len(widths) + 1)}  # where the stride is 2


def test_x_reaches_a_sum_by_itself_or_by_a_strided_convolution():
    layer = resnet(IMAGE, OUTPUTS, [2, 3]).layer
    found = takers(layer)
    assert found["stem.activation"] == ["stage1.block1", "stage1.block1.convolution1"]
    begun = [f"stage2.block1.{part}" for part in ("shortcut.convolution", "convolution1")]
    assert found["stage1.block1.activation2"] == begun
    assert [leaves(layer)[name].hyper["stride"] for name in begun] == [2, 2]


@pytest.mark.parametrize(
    "given", [{"image": (5, 4)}, {"widths": []}, {"widths": [2, 0]}, {"blocks": 0}, {"outputs": 0}]
)
def test_bad_options_are_refused(given):
    with pytest.raises(ValueError, match="resnet: "):
        resnet(**{"image": IMAGE, "outputs": OUTPUTS, **given})
