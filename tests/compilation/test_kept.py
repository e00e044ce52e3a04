"""Memory that a program keeps: what lies there at one time lies apart, and no more is held than is in use at once."""

from __future__ import annotations

import ctypes
import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation import kept

GLUE = """
extern "C" void forget() { kept::memory.~Memory(); new (&kept::memory) kept::Memory(); }
extern "C" void begin() { kept::memory.begin(); }
extern "C" void* take(int64_t bytes) { return kept::memory.take(bytes); }
extern "C" void give_back(void* address) { kept::memory.give_back(static_cast<char*>(address)); }
extern "C" int64_t held() { return kept::memory.held; }
"""
LINE = 64  # bytes: what is asked for is a multiple


@pytest.fixture(scope="module")
def memory():
    from torch._inductor.codecache import CppCodeCache

    head = "#include <torch/csrc/inductor/aoti_runtime/utils.h>\n#define MANUAL_BP_LARGE 0"
    library = CppCodeCache.load(f"{head}\n{kept.HEADER.read_text()}\n{GLUE}")
    library.take.restype = ctypes.c_void_p
    library.take.argtypes = library.held.argtypes = None
    library.held.restype = ctypes.c_int64
    return library


def run(memory, events, sizes):
    """Asks and gives back; raises AssertionError where two tensors share memory."""
    held = {}
    memory.begin()
    for number in events:
        if number in held:
            memory.give_back(ctypes.c_void_p(held.pop(number)))
            continue
        address, end = (start := memory.take(ctypes.c_int64(sizes[number]))), start + sizes[number]
        assert all(end <= other or other + sizes[n] <= address for n, other in held.items())
        held[number] = address


def at_once(events, sizes):
    held, most = set(), 0
    for number in events:
        held ^= {number}
        most = max(most, sum(sizes[n] for n in held))
    return most


@pytest.mark.exhaustive  # compiled for 10 CPU seconds
def test_after_the_first_run_each_tensor_has_a_place(memory):
    """Two that lie side by side have room for a larger one, of which two chunks would be none."""
    memory.forget()
    events, sizes = [0, 1, 0, 1, 2, 2], {0: 2 * LINE, 1: 2 * LINE, 2: 4 * LINE}
    found = []
    for _ in range(3):
        run(memory, events, sizes)
        found.append(memory.held())
    assert found == [8 * LINE, 4 * LINE, 4 * LINE]


@pytest.mark.exhaustive
def test_runs_at_the_same_time_lie_apart(memory):
    memory.forget()
    for _ in range(4):
        memory.begin()
        first = [memory.take(ctypes.c_int64(LINE)) for _ in range(3)]
        memory.begin()
        second = [memory.take(ctypes.c_int64(LINE)) for _ in range(3)]
        assert len({*first, *second}) == 6
        for address in (*first, *second):
            memory.give_back(ctypes.c_void_p(address))
    assert memory.held() == 6 * LINE


@pytest.mark.exhaustive
def test_tensors_lie_apart_whatever_a_run_asks_for(memory):
    """Runs alike, one with another size, and one in another order."""
    generator, kept_less = random.Random(0), 0
    for _ in range(200):
        memory.forget()
        sizes = {n: LINE * generator.randint(1, 40) for n in range(generator.randint(2, 20))}
        events = [n for n in sizes for _ in range(2)]
        generator.shuffle(events)
        others = [(events, {**sizes, 0: 41 * LINE}), (events[::-1], sizes)]
        runs = [*[(events, sizes)] * 3, *others, *[(events, sizes)] * 2]
        held = []
        for each in runs:
            run(memory, *each)
            held.append(memory.held())
        assert held[0] >= held[1] == held[2] >= at_once(events, sizes)
        kept_less += held[1] < held[0]
    assert kept_less > 50


def test_a_step_keeps_its_memory_and_the_body_of_a_loop_in_it_does_not():
    """Of such a body inductor makes no code: with a loop of small states no step of a network was compiled."""

    def keeps(*results):
        with FakeTensorMode():
            return kept.can_keep(make_fx(lambda x: [result(x) for result in results])(torch.empty(3, 4)).graph)

    assert keeps(torch.exp, torch.sum)
    assert not keeps(torch.sum, torch.exp)
