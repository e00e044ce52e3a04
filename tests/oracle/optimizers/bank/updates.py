"""Update functions, `f(inputs, **hyper) -> outputs`."""

import torch

from tests.oracle.optimizers.bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES, "update")


def _moments(grad, m, v, beta1, beta2):
    return beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad * grad


def _largest(v, largest):
    """What stands under the root, and what is handed on as the largest."""
    return (v, None) if largest is None else (torch.maximum(largest, v),) * 2


def _copy(t):
    return None if t is None else t.clone()


@bank.wrong(
    "adam_update",
    "eps is added to the root before the bias correction instead of after it",
    "eps", "eps bias correction",
)  # fmt: skip
def adam_eps_before_the_bias_correction(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad + weight_decay * param, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    factor = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    return param - factor * m / (under.sqrt() + eps), m, v, largest


@bank.wrong(
    "adam_update",
    "the bias correction counts one step too many: step is taken to begin at 0",
    "step", "bias correction", "counts", "off by one", "t + 1", "from 0",
)  # fmt: skip
def adam_counts_from_zero(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad + weight_decay * param, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    t = step + 1
    mhat, vhat = m / (1 - beta1**t), under / (1 - beta2**t)
    return param - lr * mhat / (vhat.sqrt() + eps), m, v, largest


@bank.wrong(
    "adam_update",
    "the first moment adds the whole gradient, without its factor 1 - beta1",
    "1 - beta1", "1 − β₁", "exp_avg factor", "beta1", "exp_avg gradient", "(1 − beta1)",
)  # fmt: skip
def adam_momentum_without_its_share(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    grad = grad + weight_decay * param
    m, v = beta1 * m + grad, _moments(grad, m, v, beta1, beta2)[1]
    under, largest = _largest(v, largest)
    mhat, vhat = m / (1 - beta1**step), under / (1 - beta2**step)
    return param - lr * mhat / (vhat.sqrt() + eps), m, v, largest


@bank.wrong(
    "adam_update",
    "the bias-corrected moments are stored, so that the next step corrects them again",
    "corrected stored", "corrected", "stored", "bias correction",
)  # fmt: skip
def adam_stores_corrected_moments(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad + weight_decay * param, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    mhat, vhat = m / (1 - beta1**step), under / (1 - beta2**step)
    return param - lr * mhat / (vhat.sqrt() + eps), mhat, v / (1 - beta2**step), largest


@bank.wrong(
    "adam_update",
    "amsgrad keeps the largest second moment but divides by the root of the present one",
    "amsgrad", "max_exp_avg_sq", "largest", "maximum",
)  # fmt: skip
def adam_amsgrad_kept_and_not_used(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad + weight_decay * param, m, v, beta1, beta2)
    largest = _largest(v, largest)[1]
    mhat, vhat = m / (1 - beta1**step), v / (1 - beta2**step)
    return param - lr * mhat / (vhat.sqrt() + eps), m, v, largest


@bank.wrong(
    "adamw_update",
    "the decay is taken from the parameter after the step, not before it",
    "decay after", "decay", "after step", "order",
)  # fmt: skip
def adamw_decays_after_the_step(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    mhat, vhat = m / (1 - beta1**step), under / (1 - beta2**step)
    param = param - lr * mhat / (vhat.sqrt() + eps)
    return param * (1 - lr * weight_decay), m, v, largest


@bank.wrong(
    "adamw_update",
    "the decay lacks lr: the parameter shrinks by weight_decay itself",
    "decay lr", "without lr", "lr", "decay",
)  # fmt: skip
def adamw_decay_without_lr(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    mhat, vhat = m / (1 - beta1**step), under / (1 - beta2**step)
    return param - weight_decay * param - lr * mhat / (vhat.sqrt() + eps), m, v, largest


@bank.wrong(
    "adamw_update",
    "weight decay is added to the gradient (L2) and so goes through the moments instead of being decoupled",
    "l2", "decoupled", "coupled", "gradient decay", "decay moments", "decay gradient",
)  # fmt: skip
def adamw_with_l2(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    param, grad, m, v, largest = inputs
    m, v = _moments(grad + weight_decay * param, m, v, beta1, beta2)
    under, largest = _largest(v, largest)
    mhat, vhat = m / (1 - beta1**step), under / (1 - beta2**step)
    return param - lr * mhat / (vhat.sqrt() + eps), m, v, largest


@bank.wrong(
    "sgd_update",
    "the first step, which has no buffer yet, is dampened as well",
    "dampened", "dampening", "first step",
)  # fmt: skip
def sgd_dampens_the_first_step(inputs, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    param, grad, buffer = inputs
    g = grad + weight_decay * param
    if not momentum:
        return param - lr * g, _copy(buffer)
    buffer = (0 if buffer is None else momentum * buffer) + (1 - dampening) * g
    return param - lr * (g + momentum * buffer if nesterov else buffer), buffer


@bank.wrong(
    "sgd_update",
    "nesterov looks ahead with the buffer before the step instead of the new one",
    "nesterov", "lookahead", "old buffer", "buffer before", "momentum_buffer",
)  # fmt: skip
def sgd_nesterov_with_the_old_buffer(inputs, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    param, grad, buffer = inputs
    g = grad + weight_decay * param
    if not momentum:
        return param - lr * g, _copy(buffer)
    new = g.clone() if buffer is None else momentum * buffer + (1 - dampening) * g
    ahead = g + momentum * (torch.zeros_like(g) if buffer is None else buffer)
    return param - lr * (ahead if nesterov else new), new


@bank.wrong(
    "lion_update",
    "the sign is taken of the mean that is stored (with beta2) instead of that with beta1",
    "beta1", "beta2", "stored", "sign",
)  # fmt: skip
def lion_sign_of_the_stored_mean(inputs, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    param, grad, m = inputs
    m = beta2 * m + (1 - beta2) * grad
    return param * (1 - lr * weight_decay) - lr * m.sign(), m


@bank.wrong(
    "rmsprop_update",
    "eps stands inside the root instead of outside of it",
    "eps inside", "eps root", "eps",
)  # fmt: skip
def rmsprop_eps_inside_the_root(inputs, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    param, grad, v, buffer, mean = inputs
    g = grad + weight_decay * param
    v = alpha * v + (1 - alpha) * g * g
    mean = None if mean is None else alpha * mean + (1 - alpha) * g
    step = g / ((v if mean is None else v - mean * mean) + eps).sqrt()
    if momentum:
        buffer = step if buffer is None else momentum * buffer + step
        return param - lr * buffer, v, buffer.clone(), mean
    return param - lr * step, v, _copy(buffer), mean


@bank.wrong(
    "adagrad_update",
    "lr decays by step instead of step - 1: the first step is decayed already",
    "step - 1", "step", "lr_decay", "first step",
)  # fmt: skip
def adagrad_decays_the_first_step(inputs, step, lr, lr_decay=0.0, eps=1e-10, weight_decay=0.0):
    param, grad, total = inputs
    g = grad + weight_decay * param
    total = total + g * g
    return param - lr / (1 + step * lr_decay) * g / (total.sqrt() + eps), total


@bank.wrong(
    "clip_by_norm",
    "short gradients are scaled up to max_norm too: the factor is not limited to 1",
    "min", "1", "limited", "short", "scaled up", "longer", "below", "normalised",
)  # fmt: skip
def clip_by_norm_scales_up(inputs, max_norm, eps=1e-6):
    (grad,) = inputs
    norm = grad.square().sum().sqrt()
    return grad * (max_norm / (norm + eps)), norm


@bank.wrong(
    "clip_by_value",
    "only the upper side is cut: large negative elements pass",
    "negative", "lower", "below", "-limit", "−limit", "one side", "sign",
)  # fmt: skip
def clip_by_value_on_one_side(inputs, limit):
    return inputs[0].clamp(max=limit)


@bank.wrong(
    "ema",
    "decay and 1 - decay are swapped: the average forgets as fast as it should remember",
    "swapped", "1 - decay", "exchanged", "decay", "1 − decay",
)  # fmt: skip
def ema_shares_swapped(inputs, decay):
    average, param = inputs
    return (1 - decay) * average + decay * param


@bank.wrong(
    "running_statistics",
    "running_var takes the biased variance of the batch, where the unbiased one is stored",
    "unbiased", "biased", "m - 1", "m − 1", "bessel",
)  # fmt: skip
def running_statistics_biased(inputs, momentum=0.1):
    x, mean, var = inputs
    if not x.numel():
        return mean.clone(), var.clone()
    axes = [0, *range(2, x.ndim)]
    new_var, new_mean = torch.var_mean(x, axes, correction=0)
    return (1 - momentum) * mean + momentum * new_mean, (1 - momentum) * var + momentum * new_var


@bank.wrong(
    "running_statistics",
    "momentum is taken as the share of the old statistics, as Keras has it, instead of the new",
    "momentum", "share", "swapped", "1 - momentum", "old",
)  # fmt: skip
def running_statistics_momentum_of_the_old(inputs, momentum=0.1):
    x, mean, var = inputs
    if not x.numel():
        return mean.clone(), var.clone()
    new_var, new_mean = torch.var_mean(x, [0, *range(2, x.ndim)])
    return momentum * mean + (1 - momentum) * new_mean, momentum * var + (1 - momentum) * new_var


@bank.wrong(
    "scale_loss",
    "the gradient is divided by the scale of the next step instead of that by which the loss was multiplied",
    "new scale", "next scale", "next step", "scale after", "scale", "growth",
)  # fmt: skip
def scale_loss_divides_by_the_next_scale(inputs, growth=2.0, backoff=0.5, interval=2000):
    grad, scale, tracker = inputs
    found = ~grad.isfinite().all()
    counted = tracker + 1
    grown = torch.where((scale * growth).isfinite(), scale * growth, scale)
    new = torch.where(found, scale * backoff, torch.where(counted == interval, grown, scale))
    tracker = torch.where(found | (counted == interval), torch.zeros_like(tracker), counted)
    return grad / new, new, tracker, found


@bank.right("adam_update", "the efficient order of the paper's section 2: corrections in lr and in eps")
def adam_in_the_efficient_order(inputs, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    param, grad, m, v, largest = inputs
    g = torch.add(grad, param, alpha=weight_decay)
    m, v = torch.lerp(m, g, 1 - beta1), torch.addcmul(v * beta2, g, g, value=1 - beta2)
    under, largest = _largest(v, largest)
    root = (1 - beta2**step) ** 0.5
    return torch.addcdiv(param, m, under.sqrt() + eps * root, value=-lr * root / (1 - beta1**step)), m, v, largest


@bank.right(
    "sgd_update", "nesterov as two lerps' worth of one velocity, with torch.add(alpha=) throughout and in place"
)
def sgd_in_place_on_clones(inputs, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    param, grad, buffer = (None if t is None else t.clone() for t in inputs)
    grad.add_(param, alpha=weight_decay)
    if momentum:
        buffer = grad.clone() if buffer is None else buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
        grad = grad.add_(buffer, alpha=momentum) if nesterov else buffer
    return param.sub_(grad, alpha=lr), buffer


@bank.right("lion_update", "two comparisons in place of a sign, the decay as one factor")
def lion_by_comparisons(inputs, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    param, grad, m = inputs
    mean = m * beta1 + grad * (1 - beta1)
    up, down = (mean > 0).to(param.dtype), (mean < 0).to(param.dtype)
    return param * (1 - lr * weight_decay) + lr * (down - up), m * beta2 + grad * (1 - beta2)


@bank.right("clip_by_norm", "the norm of norms of blocks of 128 numbers, as of many tensors")
def clip_by_norm_of_norms(inputs, max_norm, eps=1e-6):
    (grad,) = inputs
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(block) for block in grad.split(128)]))
    return grad * (max_norm / (norm + eps)).clamp(max=1.0), norm


@bank.right("running_statistics", "Chan's formula: the moments of the examples' halves, merged, in float64")
def running_statistics_of_merged_halves(inputs, momentum=0.1):
    x, mean, var = inputs
    if not x.numel():
        return mean.clone(), var.clone()
    values = x.transpose(0, 1).flatten(1).double()
    count, new_mean, squares = 0, torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for part in values.tensor_split(2, dim=1):
        n = part.shape[1]
        if n:
            part_mean = part.mean(1)
            gap = part_mean - new_mean
            squares = squares + (part - part_mean[:, None]).square().sum(1) + gap**2 * (count * n / (count + n))
            new_mean, count = new_mean + gap * (n / (count + n)), count + n
    new_var = squares / (count - 1)
    pairs = ((mean, new_mean), (var, new_var))
    return tuple(((1 - momentum) * old.double() + momentum * new).to(old.dtype) for old, new in pairs)


@bank.right("ema", "in place in a buffer of float64, the new share first")
def ema_in_float64(inputs, decay):
    average, param = inputs
    return param.to(torch.float64, copy=True).mul_(1 - decay).add_(average.double(), alpha=decay).to(average.dtype)
