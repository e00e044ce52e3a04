"""What is used for which device and size: the one place where it is decided, with the measurements that decided it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Choice:
    """How a program is built and run.

    kind: "aoti" (ahead-of-time compiled C++) or "cuda graph".
    threads: with how many it runs on the CPU.
    onednn: whether matrix products go to oneDNN in place of torch's own choice (MKL).
    """

    kind: str
    threads: int
    onednn: bool


# Multiply-adds of a step's largest matrix product up to which one thread is used.
ONE_THREAD_PRODUCT = 2**19
# Elements of the largest tensor up to which one thread is used where there is no product.
ONE_THREAD_ELEMENTS = 2**15
# Multiply-adds of a matrix product from which oneDNN is used.
ONEDNN_PRODUCT = 2**20


def choose(device: torch.device, dtype: torch.dtype, product: int, elements: int) -> Choice:
    """The choice for a program whose largest matrix product has `product` multiply-adds and largest tensor `elements`.

    CPU: AOTInductor, called through its flat list of tensors; its pytree wrapper costs as much as a small step, and
    torch.compile's guards cost more.

    Threads: a step with products of 32 x 64 x 64 took 39 µs on one of two cores and 45 µs on both; and two threads wait
    for each other, which on a busy machine cost milliseconds a step where one thread cost nothing.

    oneDNN: on an AMD EPYC (Zen 5, AVX-512) MKL, which torch calls, reached 90 Gflop/s a thread and oneDNN 200, from
    128 x 256 x 256 to 512 x 2048 x 2048; at 128 x 128 x 128 90 and 130; at 32 x 64 x 64 MKL was three times as fast,
    for oneDNN packs its operands on every call.  Whole steps: 784-256-256-10 with a batch of 128 took 0.49 of eager
    torch.autograd with oneDNN and 0.82 with MKL; 20 x 128 with a batch of 128 took 0.68 with either.
    On Intel MKL uses AVX-512 too (not measured) and stays.

    CUDA: the compiled function captured in one CUDA graph, so that a step is one launch (written, not yet measured).
    """
    if device.type == "cuda":
        return Choice("cuda graph", torch.get_num_threads(), False)
    small = product <= ONE_THREAD_PRODUCT if product else elements <= ONE_THREAD_ELEMENTS
    onednn = dtype is torch.float32 and product >= ONEDNN_PRODUCT and onednn_is_faster()
    return Choice("aoti", 1 if small else torch.get_num_threads(), onednn)


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's products are faster than MKL's here: with AVX-512 on a processor that is not Intel's."""
    built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built_in and torch.backends.cpu.get_cpu_capability() == "AVX512" and "GenuineIntel" not in processor()


@cache
def processor() -> str:
    """Maker, model and instruction sets of the processor: what a compiled program depends on."""
    wanted = ("vendor_id", "model name", "flags")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    found = {line.partition(":")[0].strip(): line for line in lines}
    return "\n".join([platform.machine(), *(found[name] for name in wanted if name in found)])
