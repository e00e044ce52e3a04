"""torch's recurrent layers of one layer and one direction, called as functions of their parameters.

The functions behind nn.RNN, nn.LSTM and nn.GRU take it that a module has made the parameters: torch.lstm of one with
another shape reads and writes beside it, and ends the process.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def one_layer(
    kernel: Callable[..., Any], x: Tensor, states: Tensor | Sequence[Tensor], parameters: Sequence[Tensor], gates: int
) -> Any:
    """What the kernel gives; states, parameters: as it takes them.  Raises ValueError for shapes that do not fit."""
    first, *others = [states] if isinstance(states, Tensor) else states
    rows = gates * first.shape[-1]
    due = [(rows, x.shape[-1]), (rows, first.shape[-1]), (rows,), (rows,)]
    came = [tuple(parameter.shape) for parameter in parameters]
    alike = all(state.shape == first.shape for state in others) and first.shape[:-1] == (1, x.shape[1])
    if x.ndim != 3 or not alike or came != due:
        raise ValueError(f"parameters must have the shapes {due}; came {came}, of x {tuple(x.shape)}.")
    return kernel(
        x,
        states,
        parameters,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=True,
        bidirectional=False,
        batch_first=False,
    )
