"""Cells, scans and running sums along time or along a ray."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tests.oracle.function_bank.entry import WIDE, Function, as_if_contiguous, normal, right, uniform, wrong

# ------------------------------------------------------------------------------------------------------ cells


def gru_step(x, h, w_ih, w_hh, b_ih, b_hh):
    """Gates r, z, n; the reset gate acts on the recurrent product."""
    i_r, i_z, i_n = F.linear(x, w_ih, b_ih).chunk(3, 1)
    h_r, h_z, h_n = F.linear(h, w_hh, b_hh).chunk(3, 1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return n + z * (h - n)


GRU_STEP = Function(
    gru_step, {"x": (3, 4), "h": (3, 5), "w_ih": (15, 4), "w_hh": (15, 5), "b_ih": (15,), "b_hh": (15,)}
)


def _gru_step(inputs, dy, *, reset=True, direct=True):
    x, h, w_ih, w_hh, b_ih, b_hh = inputs
    from_x, from_h = x @ w_ih.T + b_ih, h @ w_hh.T + b_hh
    (i_r, i_z, i_n), (h_r, h_z, h_n) = from_x.chunk(3, 1), from_h.chunk(3, 1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    dn = dy * (1 - z) * (1 - n * n)
    dz = dy * (h - n) * z * (1 - z)
    dr = dn * h_n * r * (1 - r)
    di, dh = torch.cat((dr, dz, dn), 1), torch.cat((dr, dz, dn * r if reset else dn), 1)
    dh_in = dh @ w_hh + (dy * z if direct else 0)
    return (1 - z) * n + z * h, (di @ w_ih, dh_in, di.T @ x, dh.T @ h, di.sum(0), dh.sum(0))


@right(GRU_STEP, "three gates in one product")
def gru_step_fused(inputs, dy):
    return _gru_step(inputs, dy)


@wrong(GRU_STEP, "the reset gate is left out of the gradient of the recurrent product")
def gru_step_reset_forgotten(inputs, dy):
    return _gru_step(inputs, dy, reset=False)


@wrong(GRU_STEP, "the direct path z · h from the old state is missing")
def gru_step_direct_path(inputs, dy):
    return _gru_step(inputs, dy, direct=False)


def lstm_step(
    gates: Float[Tensor, "batch four_hidden"],
    c: Float[Tensor, "batch hidden"],
    peephole: Float[Tensor, " hidden"] | None = None,
    *,
    forget_bias: float = 1.0,
) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]:
    """The pointwise half of an LSTM; gates i, f, g, o; four_hidden is 4 · hidden."""
    i, f, g, o = gates.chunk(4, dim=1)
    c_new = torch.sigmoid(f + forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
    o = torch.sigmoid(o if peephole is None else o + peephole * c_new)
    return o * torch.tanh(c_new), c_new


LSTM_STEP = Function(lstm_step, {"gates": (4, 20), "c": (4, 5), "peephole": (5,)})
LSTM_STEP_PLAIN = Function(lstm_step, {"gates": (4, 20), "c": (4, 5), "peephole": None}, {"forget_bias": 0.0})


def _lstm_step(inputs, dy, forget_bias, *, use_dc=True, peephole_to_c=True):
    gates, c, peephole = inputs
    i, f, g, o = gates.chunk(4, 1)
    i, f, g = torch.sigmoid(i), torch.sigmoid(f + forget_bias), torch.tanh(g)
    c_new = f * c + i * g
    o = torch.sigmoid(o if peephole is None else o + peephole * c_new)
    t = torch.tanh(c_new)
    dh, dc = dy
    do = dh * t * o * (1 - o)
    dc = (dc if use_dc else 0) + dh * o * (1 - t * t)
    if peephole is not None and peephole_to_c:
        dc = dc + do * peephole
    dgates = torch.cat((dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), do), 1)
    return (o * t, c_new), (dgates, dc * f, None if peephole is None else (do * c_new).sum(0))


@right(LSTM_STEP, "with the peephole")
def lstm_step_fused(inputs, dy, *, forget_bias=1.0):
    return _lstm_step(inputs, dy, forget_bias)


@right(LSTM_STEP_PLAIN, "without the peephole")
def lstm_step_plain(inputs, dy, *, forget_bias=1.0):
    return _lstm_step(inputs, dy, forget_bias)


@wrong(LSTM_STEP_PLAIN, "the cotangent of the new cell state is ignored")
def lstm_step_cell_ignored(inputs, dy, *, forget_bias=1.0):
    return _lstm_step(inputs, dy, forget_bias, use_dc=False)


@wrong(LSTM_STEP, "the path through the peephole back to the cell state is missing")
def lstm_step_peephole_path(inputs, dy, *, forget_bias=1.0):
    return _lstm_step(inputs, dy, forget_bias, peephole_to_c=False)


# ----------------------------------------------------------------------------------------------- selective scan (Mamba)


def selective_scan(u, delta, A, B, C, D):
    """u and delta (batch, length, width), A (width, states), B and C (batch, length, states), D (width,)."""
    delta = F.softplus(delta)
    x = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    ys = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        x = decay * x + delta[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
        ys.append(torch.einsum("bdn,bn->bd", x, C[:, t]))
    return torch.stack(ys, dim=1) + u * D


SCAN = Function(
    selective_scan,
    {"u": (2, 5, 3), "delta": (2, 5, 3), "A": uniform(3, 2, low=-1.5, high=-0.2), "B": (2, 5, 2), "C": (2, 5, 2),
     "D": (3,)},
)  # fmt: skip


def _slope_of_softplus(x):
    """F.softplus is x itself beyond 20, which 2e-9 less of the slope is in float64."""
    return torch.sigmoid(x).where(x <= 20, 1.0)


def _scan(inputs, dy, *, carried=True, skip=True, slope=_slope_of_softplus):
    u, delta, A, B, C, D = inputs
    soft = F.softplus(delta)
    decay = torch.exp(soft[..., None] * A)
    states = [u.new_zeros(u.shape[0], u.shape[2], A.shape[1])]
    for t in range(u.shape[1]):
        states.append(decay[:, t] * states[-1] + (soft[:, t] * u[:, t])[..., None] * B[:, t, None])
    x = torch.stack(states[1:], 1)
    y = torch.einsum("btdn,btn->btd", x, C) + u * D
    dx = torch.zeros_like(x)
    running = torch.zeros_like(states[0])
    for t in reversed(range(u.shape[1])):
        running = dy[:, t, :, None] * C[:, t, None] + running
        dx[:, t] = running
        running = running * decay[:, t] * carried
    before = torch.stack(states[:-1], 1)
    dexponent = dx * before * decay
    dsoft = (dexponent * A).sum(-1) + (dx * B[:, :, None]).sum(-1) * u
    du = (dx * B[:, :, None]).sum(-1) * soft + (dy * D if skip else 0)
    return y, (
        du,
        dsoft * slope(delta),
        torch.einsum("btdn,btd->dn", dexponent, soft),
        torch.einsum("btdn,btd->btn", dx, soft * u),
        torch.einsum("btdn,btd->btn", x, dy),
        (dy * u).sum((0, 1)),
    )


@right(SCAN, "states kept, one sweep backwards")
def scan_backwards(inputs, dy):
    return _scan(inputs, dy)


@wrong(SCAN, "the gradient is not carried from a step to the step before")
def scan_not_carried(inputs, dy):
    return _scan(inputs, dy, carried=False)


@wrong(SCAN, "the skip through D is missing in the gradient of u")
def scan_skip_forgotten(inputs, dy):
    return _scan(inputs, dy, skip=False)


@wrong(SCAN, "softplus of the step is not differentiated")
def scan_softplus_forgotten(inputs, dy):
    return _scan(inputs, dy, slope=torch.ones_like)


# -------------------------------------------------------------------------------------- causal depthwise convolution


def causal_conv_silu(x, weight, bias=None):
    """x (batch, channels, length), weight (channels, taps): one filter a channel, padded on the left."""
    taps = weight.shape[1]
    return F.silu(F.conv1d(F.pad(x, (taps - 1, 0)), weight.unsqueeze(1), bias, groups=x.shape[1]))


CAUSAL_CONV = Function(causal_conv_silu, {"x": (2, 3, 7), "weight": (3, 4), "bias": (3,)})


def _causal_conv(inputs, dy, *, flipped=True, shift=0):
    x, weight, bias = inputs
    taps = weight.shape[1]
    windows = F.pad(x, (taps - 1, 0)).unfold(-1, taps, 1)
    h = torch.einsum("bclk,ck->bcl", windows, weight) + bias[:, None]
    s = torch.sigmoid(h)
    dh = dy * s * (1 + h * (1 - s))
    after = F.pad(dh, (0, taps - 1)).unfold(-1, taps, 1)
    dx = torch.einsum("bclk,ck->bcl", after, weight.flip(1) if flipped else weight)
    return h * s, (dx, torch.einsum("bclk,bcl->ck", windows.roll(shift, 2), dh), dh.sum((0, 2)))


@right(CAUSAL_CONV, "windows as a view")
def causal_conv_windows(inputs, dy):
    return _causal_conv(inputs, dy)


@wrong(CAUSAL_CONV, "the filter is not flipped in the gradient of x")
def causal_conv_not_flipped(inputs, dy):
    return _causal_conv(inputs, dy, flipped=False)


@wrong(CAUSAL_CONV, "dy is read as if it were contiguous, in the gradient of x alone")
def causal_conv_strides_assumed(inputs, dy):
    y, (_, dweight, dbias) = _causal_conv(inputs, dy)
    return y, (_causal_conv(inputs, as_if_contiguous(dy))[1][0], dweight, dbias)


# -------------------------------------------------------------------------------------------- along a ray, log-space


def render(density, color, step):
    """Volume rendering: density (rays, samples), color (rays, samples, 3), step (rays, samples)."""
    alpha = 1 - torch.exp(-F.relu(density) * step)
    clear = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    transmittance = torch.cat([torch.ones_like(clear[:, :1]), clear[:, :-1]], dim=-1)
    weights = alpha * transmittance
    return (weights.unsqueeze(-1) * color).sum(dim=1), weights.sum(dim=-1)


RENDER = Function(
    render, {"density": (3, 6), "color": uniform(3, 6, 3, low=0, high=1), "step": uniform(3, 6, low=0.1, high=0.5)}
)


def _render(inputs, dy, *, opacity=True, occlusion=True, kink=True):
    density, color, step = inputs
    decay = torch.exp(-density.clamp(min=0) * step)
    alpha, kept = 1 - decay, decay + 1e-10
    clear = kept.cumprod(-1)
    transmittance = torch.cat((torch.ones_like(clear[:, :1]), clear[:, :-1]), -1)
    weights = alpha * transmittance
    dweights = (dy[0].unsqueeze(1) * color).sum(-1) + (dy[1].unsqueeze(1) if opacity else 0)
    each = dweights * weights
    later = each.flip(-1).cumsum(-1).flip(-1) - each
    ddecay = -dweights * transmittance + (later / kept if occlusion else 0)
    dexponent = -ddecay * decay
    ddensity = dexponent * step * ((density > 0) if kink else 1)
    y = (torch.einsum("rs,rsc->rc", weights, color), weights.sum(-1))
    return y, (ddensity, weights.unsqueeze(-1) * dy[0].unsqueeze(1), dexponent * density.clamp(min=0))


@right(RENDER, "what lies behind a sample as a sum from the far end")
def render_from_behind(inputs, dy):
    return _render(inputs, dy)


@wrong(RENDER, "a sample's gradient lacks what it hides behind it")
def render_occlusion_forgotten(inputs, dy):
    return _render(inputs, dy, occlusion=False)


@wrong(RENDER, "the cotangent of the second output, the opacity, is ignored")
def render_opacity_ignored(inputs, dy):
    return _render(inputs, dy, opacity=False)


@wrong(RENDER, "density below 0 gets a gradient: the ReLU is not seen")
def render_relu_forgotten(inputs, dy):
    return _render(inputs, dy, kink=False)


def running_logsumexp(x, *, dim=-1):
    return torch.logcumsumexp(x, dim=dim)


RUNNING = Function(running_logsumexp, {"x": normal(4, 5, 3, scale=2)}, {"dim": 1})


@right(RUNNING, "as a sum of a matrix of probabilities")
def running_as_matrix(inputs, dy, *, dim=-1):
    x = inputs[0].movedim(dim, -1)
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).tril()
    each = x[..., None, :].expand(*x.shape, -1).masked_fill(~later, -torch.inf)
    y = each.logsumexp(-1)
    dx = torch.einsum("...ij,...i->...j", (each - y[..., None]).exp(), dy.movedim(dim, -1))
    return y.movedim(-1, dim), (dx.movedim(-1, dim),)


@wrong(RUNNING, "the axis is ignored: the gradient runs along the last one")
def running_last_axis(inputs, dy, *, dim=-1):
    return running_as_matrix(inputs, dy, dim=dim)[0], running_as_matrix(inputs, dy, dim=-1)[1]


@wrong(
    RUNNING,
    "exp of x itself and of y itself, which overflow or vanish where x is large",
    shown_by={"x": lambda generator: torch.randn(4, 5, 3, generator=generator).double() + 800},
)
def running_overflow(inputs, dy, *, dim=-1):
    (x,) = inputs
    y = torch.logcumsumexp(x, dim)
    backwards = (dy / y.exp()).flip(dim).cumsum(dim).flip(dim)
    return y, (x.exp() * backwards,)


@wrong(
    GRU_STEP,
    "the gradients are computed in float32, also beside float64",
    shows=(torch.float64,),
)
def gru_step_in_float32(inputs, dy):
    _, grads = _gru_step([x.float() for x in inputs], dy.float())
    return gru_step(*inputs), tuple(grad.to(inputs[0].dtype) for grad in grads)


@wrong(RUNNING, "the gradient is too large by one part in a thousand", shows=WIDE)
def running_factor(inputs, dy, *, dim=-1):
    y, (dx,) = running_as_matrix(inputs, dy, dim=dim)
    return y, (dx * (1 + 1e-3),)
