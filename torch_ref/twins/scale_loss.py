import torch
from torch import Tensor


def scale_loss(
    grad: Tensor,
    scale: Tensor,
    growth_tracker: Tensor,
    *,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: int = 2000,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # What torch.amp.GradScaler calls, whose scale is float32 and whose tracker is int32: a scale that float32 does not
    # hold is tried as 1, so that its factor comes out.
    unscaled, found_inf = grad.detach().clone(), torch.zeros(1)
    torch._amp_foreach_non_finite_check_and_unscale_([unscaled], found_inf, torch.ones(1))
    own = scale.detach().reshape(1).float()
    unit = own if bool(own == scale) else torch.ones(1)
    after, tracker = unit.clone(), growth_tracker.detach().reshape(1).int()
    torch._amp_update_scale_(after, tracker, found_inf, growth, backoff, interval)
    new = after.to(scale.dtype).reshape(()) * (scale / unit.to(scale.dtype).reshape(()))
    return unscaled / scale, new, tracker.reshape(()).to(growth_tracker.dtype), found_inf.reshape(()) > 0
