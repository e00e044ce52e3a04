"""What is used for which device and size: the one place where it is decided, with the measurements that decided it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from manual_bp.compilation import onednn
from manual_bp.compilation.cache import processor
from manual_bp.compilation.measured import onednn_is_faster
from manual_bp.compilation.products import Product


@dataclass(frozen=True)
class Choice:
    """How a program is built and run.

    kind: "aoti" (C++ compiled ahead of time), "triton" (inductor's kernels for a GPU), or "cuda graph" (the same,
        replayed as one graph).
    threads: with how many it runs on the CPU.
    onednn: the matrix products that go to oneDNN in place of torch's own choice (MKL).
    keeps: whether a program for the CPU keeps the memory of its tensors from call to call.
    side_by_side: whether images lie in it with their channels side by side, on the CPU.
    split: whether a sum on a GPU may be two kernels, so that more of it is done at the same time.
    """

    kind: str
    threads: int
    onednn: tuple[Product, ...] = ()
    keeps: bool = False
    side_by_side: bool = False
    split: bool = True


# Multiply-adds of a step's largest matrix product up to which one thread is used.
ONE_THREAD_PRODUCT = 2**19
# Elements of the largest tensor up to which one thread is used where there is no product.
ONE_THREAD_ELEMENTS = 2**15
# Elements of the largest tensor from which a GPU's sums are split.
SPLIT_ELEMENTS = 2**20
# Multiply-adds of a matrix product from which oneDNN is tried.
ONEDNN_PRODUCT = 2**20


def choose(
    device: torch.device, dtype: torch.dtype | None, products: Collection[Product], elements: int, step: bool
) -> Choice:
    """The choice for a program with these matrix products, whose largest tensor has `elements`.

    dtype: of its numbers, None if there are none.
    step: whether it is a whole training step, and not a rule.

    CPU: AOTInductor, called through its flat list of tensors; its pytree wrapper costs as much as a small step, and
    torch.compile's guards cost more.

    Threads: a step with products of 32 x 64 x 64 took 39 µs on one of two cores and 45 µs on both; and two threads wait
    for each other, which on a busy machine cost milliseconds a step where one thread cost nothing.

    oneDNN or MKL: whichever is faster for a product on this processor (measured.py).  Small products stay with MKL: at
    32 x 64 x 64 it was three to ten times as fast, for oneDNN packs its operands on every call.

    Memory: a step is called again and again, and keeps what it needs (kept.py); a rule gives it back.

    Images: a step lays them with channels side by side once, and has them so from then on; a rule takes and returns
    planes, as oneDNN's convolutions do too, and would lay them so and back again: the convolution of (128, 16, 28, 28)
    with 16 filters took 12.2 ms in that way, forward and backward, and 10.4 ms as planes (one thread of a Zen 5).

    CUDA: inductor's kernels of Triton, and torch's own matrix products.  A step is captured in one CUDA graph, so that
    it is one launch; a rule is not, for it is a kernel or a few, and its inputs would have to be copied to where the
    graph reads them.  A rule of few elements takes as long as its launches: batch norm of 2^18 was 10 of them and
    152 µs with sums that are split, and 5 and 82 µs without.  Of 2^22, where a sum takes longer than a launch, it was
    199 µs with and 540 µs without.  Products of 16-bit numbers go to tensor cores: 4 x 2048 in bfloat16, batch 512,
    took 1.25 ms with products of float32 and 0.23 ms with these (all of it on an H200).
    """
    if device.type == "cuda":
        threads = torch.get_num_threads()
        return Choice("cuda graph", threads) if step else Choice("triton", threads, split=elements >= SPLIT_ELEMENTS)
    largest = max((product.multiply_adds for product in products), default=0)
    small = largest <= ONE_THREAD_PRODUCT if products else elements <= ONE_THREAD_ELEMENTS
    threads = 1 if small else torch.get_num_threads()
    onednn = _by_onednn(products, threads) if dtype is torch.float32 else ()
    return Choice("aoti", threads, onednn, keeps=step, side_by_side=step)


def _by_onednn(products: Collection[Product], threads: int) -> tuple[Product, ...]:
    is_there = onednn.function() is not None
    tried = sorted(product for product in products if is_there and product.multiply_adds >= ONEDNN_PRODUCT)
    return tuple(product for product in tried if onednn_is_faster(product, threads, processor()))
