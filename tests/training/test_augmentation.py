"""Augmentation against torch's affine_grid and grid_sample, by hand, and bit for bit where nothing may change."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from manual_bp.signature import DTYPES
from manual_bp.training import augmentation
from manual_bp.training.augmentation import augment, move, noise, resample, rotate, scale, shift

ALL = {"shift": 2, "rotate": 25.0, "scale": 1.3, "noise": 0.1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=3, height=5, width=9, dtype=torch.float64):
    """Pixels of a few bits, so that products with dyadic weights are exact."""
    return torch.randint(1, 16, (n, height, width), generator=seeded()).to(dtype)


def torch_s(images, matrices):
    """The same resampling by torch, which counts (right, down) and from −1 to 1."""
    n, height, width = images.shape
    size = torch.tensor([width - 1, height - 1], dtype=torch.float64)
    theta = torch.zeros(n, 2, 3, dtype=torch.float64)
    theta[:, :, :2] = matrices.flip(1, 2) * size / size[:, None]
    grid = F.affine_grid(theta, [n, 1, height, width], align_corners=True)
    return F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0]


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0], [0, 1]],
        [[0.5, 0], [0, 0.5]],
        [[2, 0], [0, 2]],
        [[1, 0.25], [0, 1]],
        [[-0.75, 0.5], [0.5, 1.25]],
    ],
    ids=["identity", "twice as large", "half as large", "sheared", "all at once"],
)
def test_resample_is_torch_s_where_both_are_exact(matrix):
    images = pictures()
    matrices = torch.tensor(matrix, dtype=torch.float64).expand(3, 2, 2)
    ours, theirs = resample(images, matrices), torch_s(images, matrices)
    assert ours.equal(theirs), ours - theirs


def test_rotation_and_scaling_are_torch_s():
    """Both round the coordinates q, and the result is as steep as neighbouring pixels differ."""
    images = pictures(40)
    angles = 360 * torch.rand(40, generator=seeded(1), dtype=torch.float64)
    factors = 0.5 + torch.rand(40, generator=seeded(2), dtype=torch.float64)
    matrices = augmentation._matrices(angles, factors)
    # 8 roundings of numbers up to the size over the factor, on either side, in each of two coordinates; then four
    # products and three sums of pixels.
    u = torch.finfo(torch.float64).eps / 2
    steepest, farthest = images.max(), max(images.shape[1:]) / factors.min()
    allowed = 2 * (2 * 8 * u * farthest * steepest + 7 * u * images.max())
    worst = (resample(images, matrices) - torch_s(images, matrices)).abs().max()
    assert 0 < worst <= allowed


def test_a_quarter_turn_is_counter_clockwise():
    images = pictures(1, 5, 5)
    matrix = augmentation._matrices(torch.tensor([90.0]), torch.tensor([1.0])).round().double()
    assert resample(images, matrix).equal(torch.rot90(images, 1, (1, 2)))


def test_a_factor_above_1_enlarges():
    point = torch.zeros(1, 5, 5, dtype=torch.float64)
    point[0, 2, 3] = 1
    (matrix,) = augmentation._matrices(torch.tensor([0.0]), torch.tensor([2.0])).double()
    assert resample(point, matrix[None])[0, 2].tolist() == [0, 0, 0, 0.5, 1]


def test_a_known_shift():
    image = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    assert move(image, torch.tensor([[1, -1]])).tolist() == [[[0, 0, 0], [2, 3, 0]]]
    assert move(image, torch.tensor([[5, 0]])).count_nonzero() == 0


def test_every_shift_occurs_and_no_other():
    image = pictures(1, 4, 4)
    moved = shift(image.expand(400, 4, 4), seeded(), 1)
    every = [move(image, torch.tensor([offset]))[0] for offset in itertools.product((-1, 0, 1), repeat=2)]
    which = torch.stack([(moved == one).all(dim=(1, 2)) for one in every])
    assert which.sum(0).eq(1).all()
    assert which.any(1).all()


def test_angles_and_factors_stay_within_their_limits_and_use_them():
    angles, factors = augmentation._angles(4000, seeded(), 10.0), augmentation._factors(4000, seeded(), 1.5)
    # that 4000 uniform draws leave the outer hundredth of either side empty has probability e^-20
    assert (angles.abs() <= 10).all()
    assert angles.min() < -9.8 < 9.8 < angles.max()
    assert ((factors >= 1 / 1.5) & (factors <= 1.5)).all()
    assert factors.log().min() < -0.98 * torch.tensor(1.5).log()


def test_noise_has_mean_0_and_the_given_spread():
    drawn = noise(torch.zeros(100, 10, 10, dtype=torch.float64), seeded(), 0.2)
    sixfold = 6 / len(drawn.flatten()) ** 0.5  # standard errors, beyond which lie 2e-9
    assert drawn.mean().abs() < 0.2 * sixfold
    assert (drawn.std() / 0.2 - 1).abs() < sixfold


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_is_kept_and_16_bits_are_rounded_once(dtype):
    images = pictures(dtype=dtype) / 16
    narrow = rotate(images, seeded(), 30.0)
    wide = rotate(images.to(torch.promote_types(dtype, torch.float32)), seeded(), 30.0)
    assert narrow.dtype == dtype
    assert narrow.equal(wide.to(dtype))


def test_device_is_kept_and_a_seed_means_the_same_there(device):
    images = pictures()
    there = augment(images.to(device), seeded(), shift=2)
    assert there.device.type == device
    assert there.cpu().equal(augment(images, seeded(), shift=2))
    assert augment(images.to(device), seeded(), **ALL).device.type == device


@pytest.mark.parametrize(("change", "none"), [(shift, 0), (rotate, 0.0), (scale, 1.0), (noise, 0.0)])
def test_no_change_is_no_change_bit_for_bit(change, none):
    images = torch.randn(4, 6, 6, generator=seeded())
    assert change(images, seeded(), none).equal(images)


def test_no_turn_and_no_scaling_resample_bit_for_bit():
    images = torch.randn(4, 6, 6, generator=seeded())
    assert resample(images, torch.eye(2, dtype=torch.float64).expand(4, 2, 2)).equal(images)


def test_the_same_seed_gives_the_same_images():
    images = pictures()
    assert augment(images, seeded(5), **ALL).equal(augment(images, seeded(5), **ALL))
    assert not augment(images, seeded(5), **ALL).equal(augment(images, seeded(6), **ALL))


def test_images_change_independently_and_the_given_ones_not_at_all():
    images = pictures(1).expand(8, 5, 9).clone()
    before = images.clone()
    changed = augment(images, seeded(), **ALL)
    assert images.equal(before)
    assert not any(changed[i].equal(changed[j]) for i, j in itertools.combinations(range(8), 2))


def test_flat_images():
    images = pictures()
    flat = augment(images.reshape(3, 45), seeded(), image=(5, 9), **ALL)
    assert flat.equal(augment(images, seeded(), **ALL).reshape(3, 45))


def test_one_channel_more():
    images = pictures()
    assert augment(images[:, None], seeded(), **ALL).equal(augment(images, seeded(), **ALL)[:, None])


def test_channels_are_moved_together_and_have_noise_of_their_own():
    images = pictures()
    twice = torch.stack([images, 2 * images], 1)
    moved = augment(twice, seeded(), **{**ALL, "noise": 0.0})
    alone = augment(images, seeded(), **{**ALL, "noise": 0.0})
    assert moved.equal(torch.stack([alone, 2 * alone], 1))
    noisy = augment(twice, seeded(), noise=0.1) - twice
    assert not noisy[:, 0].equal(noisy[:, 1])


@pytest.mark.parametrize("shape", [(0, 5, 9), (2, 0, 9), (2, 1, 1), (0, 3, 5, 9), (2, 0, 5, 9)])
def test_small_sizes(shape):
    assert augment(torch.ones(shape), seeded(), **ALL).shape == shape


def test_what_requires_grad_is_accepted_and_not_recorded():
    assert not augment(pictures().requires_grad_(), seeded(), **ALL).requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shift(torch.ones(2, 45), seeded(), 1), r"\(n, channels, height, width\); came \(2, 45\). Pass image="),
        (lambda: shift(torch.ones(2, 44), seeded(), 1, image=(5, 9)), r"\(n, 45\), \(n, 5, 9\) or .*; came \(2, 44\)"),
        (lambda: shift(torch.ones(2, 9, 5), seeded(), 1, image=(5, 9)), r"came \(2, 9, 5\)"),
        (lambda: shift(torch.ones(2, 1, 9, 5), seeded(), 1, image=(5, 9)), r"came \(2, 1, 9, 5\)"),
        (lambda: shift(torch.ones(2, 5, 9).long(), seeded(), 1), "came torch.int64. Cast them"),
        (lambda: shift(pictures(), seeded(), -1), "shift must be a whole number of pixels, at least 0; came -1"),
        (lambda: rotate(pictures(), seeded(), float("inf")), "rotate must be finite and at least 0; came inf"),
        (lambda: scale(pictures(), seeded(), 0.9), "scale must be finite and at least 1; came 0.9. It is the largest"),
        (lambda: noise(pictures(), seeded(), float("nan")), "noise must be finite and at least 0; came nan"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
