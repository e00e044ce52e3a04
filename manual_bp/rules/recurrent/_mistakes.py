"""What is forgotten on the way through time, whatever a step is: mistakes that all recurrent layers share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp.inputs import Mistake
from manual_bp.rules.recurrent._time import through_bias, through_weight

Cotangents = tuple[Tensor, ...]


class Parts:
    """The parts of the right formula, from which wrong ones are made.  A page's own class finds them."""

    x: Tensor
    weight_ih: Tensor
    h: Tensor
    h_before: Tensor
    """h_1 to h_T, and h0 to h_(T−1)."""
    da: Tensor
    """The cotangents of the pre-activations of all steps."""
    of_first: dict[str, Tensor]
    """dh0, and dc0 where there is one."""

    def through_recurrent(self, h_before: Tensor, steps: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """dW_hh and db_hh of the states before the steps, and of those steps alone."""
        return through_weight(self.da[steps], h_before[steps]), through_bias(self.da[steps])

    def of_parameters(self, steps: slice = slice(None)) -> dict[str, Tensor]:
        """The cotangents of weights and biases: sums over the steps, or over some of them."""
        dweight_hh, dbias_hh = self.through_recurrent(self.h_before, steps)
        da = self.da[steps]
        return {
            "dweight_ih": through_weight(da, self.x[steps]),
            "dweight_hh": dweight_hh,
            "dbias_ih": through_bias(da),
            "dbias_hh": dbias_hh,
        }

    def cotangents(self, **instead: Tensor) -> Cotangents:
        """Those that these parts make, but for the ones that are given."""
        return tuple({"dx": self.da @ self.weight_ih, **self.of_first, **self.of_parameters(), **instead}.values())


def in_time(parts: Callable[..., Any], ways: tuple[str, ...] = ("to_h",)) -> tuple[Mistake, ...]:
    """The mistakes of a page with these parts.

    parts: the page's `Parts`, made of inputs, dy and hyperparameters by name, and of
        order: in which the steps are gone through,
        each of `ways`: how much of the cotangent that step t hands on along it reaches the step before.
    """

    def of(formula: Callable[[Parts], Cotangents]) -> Callable[..., Cotangents]:
        return lambda **p: formula(parts(**p))

    def of_dy(changed: Callable[[Any], Any]) -> Callable[..., Cotangents]:
        return lambda **p: parts(**{**p, "dy": changed(p["dy"])}).cotangents()

    def handing_on(share: Callable[[int], float]) -> Callable[..., Cotangents]:
        return lambda **p: parts(**p, **dict.fromkeys(ways, share)).cotangents()

    def averaged(over: Callable[[Tensor], int]) -> Callable[..., Cotangents]:
        return of(lambda r: r.cotangents(**{name: d / over(r.x) for name, d in r.of_parameters().items()}))

    return (
        Mistake(
            "h_n's cotangent forgotten",
            of_dy(lambda dy: dy._replace(h_n=0 * dy.h_n)),
            forgets="that the last state is returned by itself, and may be what the loss reads",
            shows="wherever dh_n is not 0",
            seen="https://github.com/open-lm-engine/accelerated-model-architectures/commit/f15adc90f8e6",
        ),
        Mistake(
            "last step of y alone",
            of_dy(lambda dy: dy._replace(y=torch.cat([0 * dy.y[:-1], dy.y[-1:]]))),
            forgets="that every step's state is an output: dy_t is added at each",
            shows="for more than one step",
        ),
        Mistake(
            "state detached",
            handing_on(lambda t: t == 0),
            forgets="that a state depends on the one before it: no gradient goes through time",
            shows="for more than one step",
        ),
        Mistake(
            "truncated",
            handing_on(lambda t: t % 2),
            forgets="what lies more than two steps ahead: truncated back-propagation (a deliberate change, to save "
            "memory)",
            shows="wherever a gradient goes further than one step",
        ),
        Mistake(
            "steps solved forwards",
            lambda **p: parts(**p, order=iter).cotangents(),
            forgets="that the last step comes first",
            shows="for more than one step",
        ),
        Mistake(
            "dx in reverse",
            of(lambda r: r.cotangents(dx=r.da.flip(0) @ r.weight_ih)),
            forgets="that cotangents are found from the last step to the first, and must be turned round",
            shows="for more than one step",
        ),
        Mistake(
            "dweight_hh from the state after the step",
            of(lambda r: r.cotangents(dweight_hh=r.through_recurrent(r.h)[0])),
            forgets="that W_hh reads h_(t−1)",
            shows="everywhere",
        ),
        Mistake(
            "dweight_hh without the first step",
            of(lambda r: r.cotangents(dweight_hh=r.through_recurrent(r.h_before, slice(1, None))[0])),
            forgets="that h0 is read too",
            shows="wherever h0 is not 0",
        ),
        Mistake(
            "weights' cotangents of the first step alone",
            of(lambda r: r.cotangents(**r.of_parameters(slice(1)))),
            forgets="to add up: each step overwrites what the one after it left",
            shows="for more than one step",
        ),
        Mistake(
            "averaged over the steps",
            averaged(lambda x: len(x)),
            forgets="that every step reads the weights, so that their cotangents are sums",
            shows="for more than one step",
        ),
        Mistake(
            "averaged over the batch",
            averaged(lambda x: max(x.shape[1], 1)),
            forgets="that every example reads the weights: a mean is for the loss to take",
            shows="for more than one example",
        ),
        Mistake(
            "dbias_hh of 0",
            of(lambda r: r.cotangents(dbias_hh=torch.zeros_like(r.of_parameters()["dbias_hh"]))),
            forgets="that both biases are added at every step",
            shows="everywhere",
            seen="https://github.com/apache/mxnet/commit/7dd7e7e4ecdd",
        ),
        Mistake(
            "gradient clipped",
            of(lambda r: tuple(d.clamp(-1, 1) for d in r.cotangents())),
            forgets="that the gradient may really be large (a deliberate change, to keep steps of training short)",
            shows="where a cotangent is beyond ±1",
        ),
    )
