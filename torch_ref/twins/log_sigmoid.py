import torch.nn.functional as F
from torch import Tensor


def log_sigmoid(x: Tensor) -> Tensor:
    return F.logsigmoid(x)
