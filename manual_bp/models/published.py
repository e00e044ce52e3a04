"""Published weights: a file of GPT-2 as a model and its parameters."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from manual_bp.files import safetensors_of_torch
from manual_bp.inputs import require
from manual_bp.models.gpt import gpt
from manual_bp.models.model import Model

# What every published size has: 768 / 12, 1024 / 16, 1280 / 20 and 1600 / 25.
WIDTH_OF_A_HEAD = 64
# Causal masks, which some files hold beside the weights.
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")

NORMS = {"ln_1": "attention.norm", "ln_2": "feedforward.norm"}
MATRICES = {"attn.c_proj": "attention.output", "mlp.c_fc": "feedforward.widen", "mlp.c_proj": "feedforward.narrow"}
"""In a block: GPT-2's names and this package's.  GPT-2's matrices are (in, out), those of a linear layer (out, in)."""


def load_gpt2(path: str | Path, heads: int | None = None) -> tuple[Model, dict[str, Tensor]]:
    """The model of a safetensors file in the layout of published GPT-2, and its parameters, in the file's dtype.

    The layout: wte.weight, wpe.weight, for each block h.0.ln_1.weight, h.0.attn.c_attn.weight (width, 3 width: q, k and
    v side by side), ..., ln_f.weight; all of them may begin with "transformer.".  The head is wte.weight, unless
    there is another lm_head.weight.
    heads: the file does not say how many; by default of 64 features each.
    `training_step(model, ...).init(generator, params=params)` goes on training it.
    Raises ValueError for a file that cannot be read or holds other tensors.
    """
    found = _tensors(Path(path))
    width = _of_rank(found, "wte.weight", 2).shape[1]
    context = _of_rank(found, "wpe.weight", 2).shape[0]
    depth = len({name.split(".")[1] for name in found if name.startswith("h.")})
    if heads is None:
        remedy = "Say how many heads there are: load_gpt2(path, heads=...)."
        must = f"{path}: width must be a multiple of {WIDTH_OF_A_HEAD}, as a published head has it"
        require(width % WIDTH_OF_A_HEAD == 0, must, width, remedy)
        heads = width // WIDTH_OF_A_HEAD
    head = found.pop("lm_head.weight", found["wte.weight"])
    tied = torch.equal(head, found["wte.weight"])
    params = {"embedding.tokens.weight": found.pop("wte.weight"), "embedding.positions.weight": found.pop("wpe.weight")}
    for number in range(depth):
        params |= _block(found, f"h.{number}.", f"block{number + 1}.", width)
    params |= _affine(found, "ln_f", "norm", 1)
    params |= {} if tied else {"head.weight": head}
    require(not found, f"{path}: there must be no other tensors", sorted(found)[:5], "It is not GPT-2's layout.")
    vocabulary = len(params["embedding.tokens.weight"])
    model = gpt(vocabulary, context, width, heads, depth, tied=tied, approximate="tanh")
    shapes = {name: p.shape for name, p in model.init(torch.Generator())[0].items()}
    odd = [name for name, shape in shapes.items() if params[name].shape != shape]
    must = f"{path}: the tensors must be of one width, {width}"
    require(not odd, must, [(name, tuple(params[name].shape)) for name in odd[:3]], "The file is damaged.")
    return model, params


def _tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors without the common prefix and without masks."""
    library = safetensors_of_torch()
    try:
        read: dict[str, Tensor] = library.load_file(path)
    except Exception as error:  # the library's own, or OSError
        raise ValueError(f"{path}: cannot be read as a safetensors file: {error}") from error
    named = {name.removeprefix("transformer."): tensor for name, tensor in read.items()}
    found = {name: tensor for name, tensor in named.items() if not MASKS.fullmatch(name)}
    integers = [f"{name} of {tensor.dtype}" for name, tensor in found.items() if not tensor.is_floating_point()]
    must, remedy = f"{path}: weights must be floating-point numbers", "What is quantised must be brought back first."
    require(not integers, must, integers[:3], remedy)
    return found


def _block(found: dict[str, Tensor], prefix: str, name: str, width: int) -> dict[str, Tensor]:
    params: dict[str, Tensor] = {}
    for theirs, ours in NORMS.items():
        params |= _affine(found, prefix + theirs, name + ours, 1)
    for theirs, ours in MATRICES.items():
        params |= _affine(found, prefix + theirs, name + ours, 2)
    together = _affine(found, f"{prefix}attn.c_attn", "", 2)
    for kind, tensor in together.items():
        require(
            len(tensor) == 3 * width,
            f"{prefix}attn.c_attn must hold q, k and v of {width} features each",
            tuple(tensor.shape),
            "The file is damaged.",
        )
        for part, piece in zip(("q", "k", "v"), torch.split(tensor, width), strict=True):
            params[f"{name}attention.heads.{part}{kind}"] = piece.contiguous()
    return params


def _affine(found: dict[str, Tensor], theirs: str, ours: str, rank: int) -> dict[str, Tensor]:
    """Weight and bias, taken out of the file's; a matrix is turned round."""
    weight, bias = _of_rank(found, f"{theirs}.weight", rank), _of_rank(found, f"{theirs}.bias", 1)
    del found[f"{theirs}.weight"], found[f"{theirs}.bias"]
    return {f"{ours}.weight": weight.T.contiguous() if rank == 2 else weight, f"{ours}.bias": bias}


def _of_rank(found: dict[str, Tensor], name: str, rank: int) -> Tensor:
    came = tuple(found[name].shape) if name in found else f"no such tensor among {sorted(found)[:5]}"
    fits = name in found and found[name].ndim == rank
    require(fits, f"{name} must be there, with {rank} axes", came, "The layout is that of published GPT-2.")
    return found[name]
