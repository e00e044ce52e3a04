"""Of optimisers' steps."""

import torch

from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


@bank.wrong(
    "adamw_update",
    "t = max(step - 1, 1)",
    "t = step",
    cause="the corrections of the means are those of the step before: the count is raised after the step, not before",
    keywords=("step − 1", "step - 1", "t − 1", "t - 1", "step before", "stale", "off by one", "one step", "one too"),
)
def adamw_count_of_the_step_before(inputs, *, step, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    param, grad, exp_avg, exp_avg_sq, largest = inputs
    t = max(step - 1, 1)
    m = beta1 * exp_avg + (1 - beta1) * grad
    v = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    largest = None if largest is None else torch.maximum(largest, v)
    m_hat = m / (1 - beta1**t)
    v_hat = (v if largest is None else largest) / (1 - beta2**t)
    shrunk = param - lr * weight_decay * param
    return shrunk - lr * m_hat / (torch.sqrt(v_hat) + eps), m, v, largest


@bank.wrong(
    "lion_update",
    "m = beta1 * exp_avg + (1 - beta1) * grad",
    "m = beta2 * exp_avg + (1 - beta2) * grad",
    cause="the mean that is kept is the one of the sign, with beta1 in place of beta2",
    keywords=("beta1", "beta2", "β₁", "β₂", "beta"),
)
def lion_keeps_the_mean_of_the_sign(inputs, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    param, grad, exp_avg = inputs
    u = torch.sign(beta1 * exp_avg + (1 - beta1) * grad)
    m = beta1 * exp_avg + (1 - beta1) * grad
    return param - lr * weight_decay * param - lr * u, m
