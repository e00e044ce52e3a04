"""Loops around an update that are wrong: what no single call of it shows, by what each says of itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from manual_bp.oracle.optimizers.trajectory import Call, Change


def _t(of: str) -> Change:
    def change(call: Call) -> None:
        call.t = {
            "tensors": (call.t - 1) * call.tensors + call.index + 1,
            "steps": call.steps,
            "load": call.since_load,
        }[of]

    return change


def _lr(of: str) -> Change:
    def change(call: Call) -> None:
        call.hyper["lr"] = getattr(call, f"lr_{of}")

    return change


def _first_group(call: Call) -> None:
    call.hyper.update(call.first_group)


def _lost(call: Call) -> None:
    call.forgets = call.loaded


def _lost_with_count(call: Call) -> None:
    call.forgets = call.loaded
    call.t = call.since_load


def _zero_for_none(call: Call) -> None:
    call.t = call.steps
    if call.grad is None:
        call.grad = torch.zeros(())  # of no shape of its own: what it is added to has one


def _none_for_zero(call: Call) -> None:
    call.t = call.t_moved
    if call.grad is not None and not bool(call.grad.any()):
        call.grad = None


LOOPS: Mapping[str, Change] = {
    "t is counted at each tensor, and not once for each step": _t("tensors"),
    "t counts steps in which the parameter has no gradient": _t("steps"),
    "t begins anew when the state is loaded": _t("load"),
    "the moments are lost when the state is saved and loaded": _lost,
    "the whole state is lost when it is saved and loaded": _lost_with_count,
    "lr is that of the step before": _lr("before"),
    "lr is that of the next step": _lr("next"),
    "lr is that of the first step for ever": _lr("first"),
    "the hyperparameters of the first group are used for all": _first_group,
    "a parameter without a gradient is stepped as with a gradient of 0": _zero_for_none,
    "a gradient of 0 is taken for none": _none_for_zero,
}
