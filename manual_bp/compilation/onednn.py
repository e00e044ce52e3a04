"""oneDNN's matrix product in float32, in memory that is there: out ← β out + α left right.

torch multiplies 16-bit matrices by this function, `at::native::mkldnn_matmul`, and float32 by MKL.  It takes float32 as
well, and factors that lie transposed.  Of torch's operations the one for float32, `mkldnn::_linear_pointwise`,
allocates its result and goes through what lies transposed element by element: δᵀ x, 8192 x 384 x 1024, took 1.21 of
MKL's time even if it was copied before, and by this function 0.90 (one thread of a Zen 4).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# In C++ a handle of a program's is the address of a tensor.
DECLARATION = """
namespace at { class Tensor; namespace native {
void mkldnn_matmul(const Tensor& left, const Tensor& right, const Tensor& out, float beta, float alpha);
} }
inline void multiply_by_onednn(AtenTensorHandle out, AtenTensorHandle left, AtenTensorHandle right,
                               float beta, float alpha) {
    auto tensor = [](AtenTensorHandle handle) { return reinterpret_cast<const at::Tensor*>(handle); };
    at::native::mkldnn_matmul(*tensor(left), *tensor(right), *tensor(out), beta, alpha);
}
"""
SYMBOL = "_ZN2at6native13mkldnn_matmulERKNS_6TensorES3_S3_ff"
"""Its name in torch's library."""


@cache
def function() -> Any:
    """It, or None where this torch has none."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))[SYMBOL]
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [*[ctypes.c_void_p] * 3, *[ctypes.c_float] * 2], None
    return found


def multiply(out: Tensor, left: Tensor, right: Tensor, beta: float = 0.0, alpha: float = 1.0) -> None:
    """out ← beta out + alpha left right, all of them matrices of float32 on the CPU.

    A tensor of C++ is one address, of what Python's tensor holds too.
    """
    addresses = [ctypes.c_void_p(t._cdata) for t in (left, right, out)]
    function()(*map(ctypes.addressof, addresses), beta, alpha)


def call(wrapper: Any, out: str, left: str, right: str, beta: float, alpha: float) -> None:
    """Writes the call into a program of inductor's; the matrices by their names there."""
    from torch._inductor.virtualized import V

    arguments = f"{out}, {left}, {right}, {beta!r}, {alpha!r}"
    if not V.graph.cpp_wrapper:
        wrapper.imports.splice(f"from {__name__} import multiply as multiply_by_onednn")
        wrapper.writeline(f"multiply_by_onednn({arguments})")
        return
    if DECLARATION not in wrapper.header.getvalue():
        wrapper.header.splice(DECLARATION)
    wrapper.writeline(f"multiply_by_onednn({arguments});")
