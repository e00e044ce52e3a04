"""Which library multiplies faster here: measured once for each processor and product, and kept on disk.

No rule of thumb held.  On an AMD EPYC with AVX-512 (Zen 5) oneDNN took half of MKL's time from 128 x 256 x 256 up; on
one with AVX2 (Zen 3) 1.3 times as long there, and at 512 x 2048 x 2048 between 0.87 and 1.13 of it, depending on which
factor lies transposed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from functools import cache

import torch

from manual_bp.compilation import onednn
from manual_bp.compilation.cache import keep_text, kept_text
from manual_bp.compilation.products import Product

# Both libraries take turns, at least so often and for about so many seconds, and of each the fastest turn counts: what
# else runs on the machine only ever slows a turn.  The median of five ratios once gave oneDNN 0.24 of MKL's time for a
# product that took it 1.4 times as long, for whoever has to wait for others waits for the length of many products.
ROUNDS, SECONDS = 5, 0.2
# A sample lasts at least this long: a thousand times what reading the clock costs.
SAMPLE_SECONDS = 1e-3
# oneDNN must save this much, so that noise does not make the choice.
WORTHWHILE = 0.95


@cache
def onednn_is_faster(product: Product, threads: int, machine: str) -> bool:
    """Whether oneDNN multiplies float32 matrices like these faster than MKL, with so many threads.

    machine: what it depends on beside the other arguments.
    """
    asked = f"{machine}\0{torch.__version__}\0{threads}\0{product}\0{onednn.SYMBOL}"
    key = hashlib.sha256(asked.encode()).hexdigest()[:32]
    name = f"products/{key}.json"
    try:
        ratio = float(json.loads(kept_text(name) or "")["fastest onednn over mkl"])
    except (ValueError, KeyError, TypeError):
        ratio = _ratio(product, threads)
        keep_text(
            name, json.dumps({"product": product._asdict(), "threads": threads, "fastest onednn over mkl": ratio})
        )
    return ratio < WORTHWHILE


def _ratio(product: Product, threads: int) -> float:
    """oneDNN's time over MKL's.

    A product whose left factor is transposed is the gradient of a weight, δᵀ x, and is added to the weight.
    """
    m, n, k, left_transposed, right_transposed = product
    x = torch.ones(k, m).T if left_transposed else torch.ones(m, k)
    w = torch.ones(n, k).T if right_transposed else torch.ones(k, n)
    y = torch.ones(m, n)
    beta, alpha = (0.5, 1 / k) if left_transposed else (0.0, 1.0)

    def by_mkl() -> None:
        torch.addmm(y, x, w, beta=beta, alpha=alpha, out=y)

    def by_onednn() -> None:
        onednn.multiply(y, x, w, beta, alpha)

    # One thread's own time does not count what others do while it waits for a processor.
    clock = time.thread_time if threads == 1 else time.perf_counter
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            by_mkl()  # what is prepared once
            by_onednn()
            calls = math.ceil(SAMPLE_SECONDS / max(_seconds(by_mkl, 1, clock), 1e-9))
            turns: list[tuple[float, float]] = []
            began = time.perf_counter()
            while len(turns) < ROUNDS or time.perf_counter() - began < SECONDS:
                turns.append((_seconds(by_mkl, calls, clock), _seconds(by_onednn, calls, clock)))
    finally:
        torch.set_num_threads(before)
    return min(theirs for _, theirs in turns) / min(mkl for mkl, _ in turns)


def _seconds(call: Callable[[], None], calls: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(calls):
        call()
    return clock() - began
