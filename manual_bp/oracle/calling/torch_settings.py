"""torch's settings: how each is read, how it is put back, and what the oracle works with (see settings.py).

Most of torch's switches are a pair of functions, torch._C._get_NAME and _set_NAME; they are found by that, so that
those of another version are seen too.  The others, and those that are named by people, are listed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

Parts = tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], Any] | None]

CPU = torch.device("cpu")
# No settings: the name of a thread, what a tracer has under way, and what another entry of the table is made of.
OTHERS = ("thread_name", "tracing_state", "value_trace", "graph_exec_group", "deterministic_algorithms")
LEGACY = ("float32_matmul_precision", "cublas_allow_tf32", "cudnn_allow_tf32", "onednn_allow_tf32")
# Where a precision of float32 products can be set; what is asked first hands its value down.
PRODUCTS = (("generic", "all"), *product(("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn")))
AUTOCAST = ("cpu", "cuda", "xpu", "mps")
SDP = ("flash", "mem_efficient", "math", "cudnn", "overrideable")


def _only(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# ------------------------------------------------------------------------------------------------- pairs of functions


def _switches() -> Iterator[tuple[str, Parts]]:
    """The switches of torch that are a pair of functions."""
    for name in dir(torch._C):
        switch = name.removeprefix("_get_")
        if switch != name and switch not in (*OTHERS, *LEGACY):
            yield from _switch(switch, name, f"_set_{switch}")
    for kind in SDP:
        yield from _switch(f"{kind}_sdp", f"_get_{kind}_sdp_enabled", f"_set_sdp_use_{kind}")


def _switch(name: str, get: str, put: str) -> Iterator[tuple[str, Parts]]:
    read, write = getattr(torch._C, get, None), getattr(torch._C, put, None)
    if read is None or write is None:
        return
    try:
        value = read()
    except (TypeError, RuntimeError):  # it takes arguments, or is not there in this build
        return
    several = isinstance(value, tuple)
    yield f"torch's switch {name}", (read, (lambda value: write(*value)) if several else write, None)


# --------------------------------------------------------------------------------------------------- float32 products


def _read_or_none(read: Callable[..., Any], *arguments: str) -> Any:
    """None where it cannot be read: torch refuses the old names once the new ones are set to what they cannot say."""
    try:
        return read(*arguments)
    except (RuntimeError, AttributeError):
        return None


_LEGACY = {name: getattr(torch._C, f"_get_{name}") for name in LEGACY if hasattr(torch._C, f"_get_{name}")}


def _read_precision() -> dict[Any, Any]:
    old = {name: _read_or_none(read) for name, read in _LEGACY.items()}
    return old | {where: _read_or_none(torch._C._get_fp32_precision_getter, *where) for where in PRODUCTS}


def _precision_put_back(before: dict[Any, Any]) -> None:
    for name in _LEGACY:  # first, as each also writes some of the new ones
        if before[name] not in (None, _read_precision()[name]):
            _read_or_none(getattr(torch._C, f"_set_{name}"), before[name])
    for where in PRODUCTS:
        # "none" hands down what the one before says, as it was where nobody has set it.
        for value in ("none", before[where]):
            if before[where] not in (None, _read_or_none(torch._C._get_fp32_precision_getter, *where)):
                torch._C._set_fp32_precision_setter(*where, value)


# ------------------------------------------------------------------------------------------------------------ others


def _set_deterministic(value: tuple[bool, bool]) -> None:
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])
    else:  # it would import the compiler, to tell it too
        torch._C._set_deterministic_algorithms(value[0], warn_only=value[1])


def _read_default_device() -> torch.device:
    if (
        not torch._C._len_torch_function_stack()
        and getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is None
    ):
        return CPU  # torch takes ten times as long to say so
    return torch.get_default_device()


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device == CPU else device)


_held: list[Any] = []  # a guard ends what it began when nobody holds it any more


def _set_inference(value: bool) -> None:
    guard = torch._C._InferenceMode(value)
    guard.__enter__()  # type: ignore[no-untyped-call]
    _held.append(guard)


def _read_autocast() -> tuple[Any, ...]:
    kinds = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST]
    return (*kinds, torch.is_autocast_cache_enabled())


def _set_autocast(value: tuple[Any, ...]) -> None:
    *kinds, cached = value
    for kind, (enabled, dtype) in zip(AUTOCAST, kinds, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(cached)


def _no_autocast(value: tuple[Any, ...]) -> tuple[Any, ...]:
    *kinds, cached = value
    return (*((False, dtype) for _, dtype in kinds), cached)


def _flushes() -> bool:
    """Whether arithmetic on this thread takes what is below the smallest normal number for 0."""
    return sys.float_info.min * 0.5 == 0.0


def _read_hooks() -> tuple[Any, ...]:
    """The hooks on what autograd saves, the last one first, and why there may be none."""
    return (*_popped_hooks(put_back=True), torch._C._autograd._saved_tensors_hooks_get_disabled_error_message())


def _popped_hooks(put_back: bool) -> list[Any]:
    message = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    found = []
    while (top := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None:
        found.append(top)
        torch._C._autograd._pop_saved_tensors_default_hooks()
    if put_back and found:
        _set_hooks((*found, message))
    return found


def _set_hooks(value: tuple[Any, ...]) -> None:
    *hooks, message = value
    if torch._C._autograd._saved_tensors_hooks_get_disabled_error_message() is not None:
        torch._C._autograd._saved_tensors_hooks_enable()
    _popped_hooks(put_back=False)
    for pack, unpack in reversed(hooks):
        torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)
    if message is not None:
        torch._C._autograd._saved_tensors_hooks_disable(message)


def _read_engine() -> tuple[bool, ...]:
    return torch._C._is_multithreading_enabled(), torch._C._is_view_replay_enabled(), torch._C._is_fwd_grad_enabled()


def _set_engine(value: tuple[bool, ...]) -> None:
    torch._C._set_multithreading_enabled(value[0])
    torch._C._set_view_replay_enabled(value[1])
    torch._C._set_fwd_grad_enabled(value[2])


def _print_options() -> dict[str, Any]:
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def _cuda_place() -> Any:
    """The current CUDA device and its stream; None before CUDA is first used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return torch.cuda.current_device(), torch.cuda.current_stream()


def _set_cuda_place(value: Any) -> None:
    if value is not None:
        torch.cuda.set_device(value[0])
        torch.cuda.set_stream(value[1])


def cuda_generators() -> Any:
    """The states of the default generators of all GPUs; None before CUDA is first used."""
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def set_cuda_generators(value: Any) -> None:
    """Put them back."""
    if value is not None:
        torch.cuda.set_rng_state_all(value)


def _entries() -> Iterator[tuple[str, Parts]]:
    # Inference mode first: it sets the grad mode too.
    yield "torch's inference mode", (torch.is_inference_mode_enabled, _set_inference, None)
    yield "torch's grad mode", (torch.is_grad_enabled, torch._C._set_grad_enabled, _only(True))
    yield "torch's default dtype", (torch.get_default_dtype, torch.set_default_dtype, _only(torch.float32))
    yield "torch's default device", (_read_default_device, _set_default_device, None)
    yield "torch's number of threads", (torch.get_num_threads, torch.set_num_threads, None)
    yield "torch's number of interop threads", (torch.get_num_interop_threads, torch.set_num_interop_threads, None)
    yield (
        "torch's deterministic algorithms",
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            _set_deterministic,
            _only((False, False)),
        ),
    )
    yield "the precision of float32 products", (_read_precision, _precision_put_back, None)
    yield "torch's autocast", (_read_autocast, _set_autocast, _no_autocast)
    yield (
        "torch's anomaly mode",
        (
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda value: torch.set_anomaly_enabled(*value),
            lambda value: (False, value[1]),
        ),
    )
    yield "torch's hooks on saved tensors", (_read_hooks, _set_hooks, _only((None,)))
    yield "the flushing of subnormal numbers to zero", (_flushes, torch.set_flush_denormal, _only(False))
    yield "torch's autograd engine", (_read_engine, _set_engine, None)
    yield from _switches()
    yield (
        "torch's print options",
        (_print_options, lambda value: vars(torch._tensor_str.PRINT_OPTS).update(value), None),
    )
    yield "the current CUDA device or stream", (_cuda_place, _set_cuda_place, None)


TORCH: dict[str, Parts] = dict(_entries())
