"""A formula's tree as LaTeX."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import singledispatch
from typing import Any

from manual_bp.book.tree import (
    FUNCTIONS,
    LARGE,
    LIMITS,
    Applied,
    Fenced,
    Fraction,
    Name,
    Node,
    Number,
    Product,
    Root,
    Scripted,
    Sequence,
    Sign,
    Sum,
    Words,
)

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "ϵ": "epsilon", "ϕ": "phi",
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi",
    "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
SPELT = {**{name: name for name in GREEK.values()}, "lam": "lambda", "eps": "varepsilon", "epsilon": "varepsilon"}
"""Names that are written as the letter that they spell."""
SIGNS = {
    "=": "=", "≠": r"\neq", "<": "<", ">": ">", "≤": r"\leq", "≥": r"\geq", "≈": r"\approx", "≡": r"\equiv",
    "∈": r"\in", "∉": r"\notin", "⊂": r"\subset", "⊆": r"\subseteq", "→": r"\to", "←": r"\leftarrow",
    "↦": r"\mapsto", "⇒": r"\Rightarrow", "⇔": r"\Leftrightarrow", "∝": r"\propto", "∼": r"\sim", "≪": r"\ll",
    "≫": r"\gg", "+": "+", "−": "-", "±": r"\pm", "∓": r"\mp", "·": r"\cdot", "×": r"\times", "⊙": r"\odot",
    "∘": r"\circ", "⊗": r"\otimes", "∗": r"\ast", "*": r"\ast", "⋆": r"\star", "⊕": r"\oplus", "∧": r"\wedge",
    "∨": r"\vee", "∩": r"\cap", "∪": r"\cup", "∖": r"\setminus", "|": r"\mid", "∂": r"\partial", "∇": r"\nabla",
    "∞": r"\infty", "…": r"\dots", "⋯": r"\cdots", "∅": r"\emptyset", "Σ": r"\sum", "Π": r"\prod", "∫": r"\int",
    "‖": r"\|", "⌊": r"\lfloor", "⌋": r"\rfloor", "⌈": r"\lceil", "⌉": r"\rceil", "⟨": r"\langle", "⟩": r"\rangle",
    "{": r"\{", "}": r"\}", "ℓ": r"\ell", "¬": r"\neg", "%": r"\%",
}  # fmt: skip
BRACKETS = {**SIGNS, "|": "|"}
ACCENTS = {"̂": r"\hat", "̇": r"\dot", "̄": r"\bar", "̃": r"\tilde", "̈": r"\ddot", "̌": r"\check", "⃗": r"\vec"}


@singledispatch
def latex(node: Node) -> str:
    raise TypeError(type(node))


@latex.register
def _(node: Number) -> str:
    mantissa, _, exponent = node.text.partition("e")
    return rf"{mantissa} \cdot 10^{{{exponent.replace('−', '-')}}}" if exponent else mantissa


@latex.register
def _(node: Name) -> str:
    text = node.text
    if text in ("/", " / "):
        found = text.replace(" ", r" \, ").replace("/", r"\text{/}")
    elif text in SIGNS:
        found = SIGNS[text]
    elif text in GREEK or text in SPELT:
        found = "\\" + GREEK.get(text, SPELT.get(text, ""))
    elif len(text) == 1:
        found = text
    elif text in LIMITS:
        found = f"\\{text}" if text in ("max", "min", "lim", "sup", "inf") else _upright(text)
    elif text[0] == "d" and (len(text) == 2 or text[1:] in SPELT):
        found = rf"\text{{d}} {latex(Name(node.start + 1, node.end, text[1:]))}"
    else:
        found = _upright(text)
    for accent in node.accents:
        found = f"{ACCENTS.get(accent, '')}{{{found}}}"
    return found


@latex.register
def _(node: Words) -> str:
    return rf"\texttt{{{_escaped(node.text)}}}" if node.code else rf"\text{{ {_escaped(node.text)} }}"


@latex.register
def _(node: Sign) -> str:
    return SIGNS.get(node.text, node.text)


@latex.register
def _(node: Scripted) -> str:
    base = latex(node.base)
    if isinstance(node.base, Applied | Fraction | Number | Product | Sum):
        base = f"{{{base}}}"
    sub = "" if node.sub is None else f"_{{{latex(node.sub)}}}"
    sup = "" if node.sup is None else latex(slashed(node.sup))
    if node.primes:
        sup = r"\prime" * node.primes + sup
    if isinstance(node.base, Name) and (node.base.text in LIMITS or node.base.text in LARGE):
        return rf"{base}\limits{sub}" + (f"^{{{sup}}}" if sup else "")
    return base + sub + (f"^{{{sup}}}" if sup else "")


@latex.register
def _(node: Applied) -> str:
    return latex(node.function) + latex(node.argument)


@latex.register
def _(node: Fenced) -> str:
    opening, closing = (BRACKETS.get(bracket, bracket) for bracket in (node.opening, node.closing))
    return rf"\left{opening} {latex(node.body)} \right{closing}"


@latex.register
def _(node: Root) -> str:
    return rf"\sqrt{{{bare(node.body)}}}"


@latex.register
def _(node: Fraction) -> str:
    return rf"\frac{{{bare(node.top)}}}{{{bare(node.bottom)}}}"


@latex.register
def _(node: Product) -> str:
    # A function keeps its brackets: log (a / b).
    called = [False, *(isinstance(part, Name) and part.text in FUNCTIONS for part in node.parts)]
    parts = [latex(part) if keeps else _factor(part) for part, keeps in zip(node.parts, called, strict=False)]
    if node.tight:
        return " ".join(parts)
    found = parts[0]
    for before, part, text in zip(node.parts, node.parts[1:], parts[1:], strict=False):
        apart = not isinstance(before, Sign) and not isinstance(part, Sign) and not is_large(before)
        found += (r" \, " if apart else " ") + text
    return found


@latex.register
def _(node: Sum) -> str:
    found = ""
    labels = node.labels or [""] * len(node.terms)
    for sign, term, label in zip(node.signs, node.terms, labels, strict=True):
        text = latex(term)
        if label:
            text = rf"\underbrace{{{text}}}_{{\text{{{label}}}}}"
        found += f" {SIGNS[sign]} {text}" if sign else f" {text}"
    # A sign without a term before it is no operator between two.
    return f"{{{found.strip()}}}" if node.signs[0] else found.strip()


@latex.register
def _(node: Sequence) -> str:
    return " ".join(
        latex(part) + (r"\;" if isinstance(part, Sign) and part.text in ",;" else "") for part in node.parts
    )


def slashed(node: Any) -> Any:
    """The tree with a / b for each fraction, as it stands in a line of text or in an exponent."""
    if isinstance(node, list):
        return [slashed(each) for each in node]
    if isinstance(node, Fraction):
        if isinstance(node.top, Number) and isinstance(node.bottom, Number) and node.top.start == node.bottom.start:
            return node  # ½
        slash = Name(node.top.end, node.bottom.start, " / " if node.bottom.start - node.top.end > 1 else "/")
        return Product(node.start, node.end, [slashed(node.top), slash, slashed(node.bottom)], tight=True)
    if not isinstance(node, Node):
        return node
    return replace(node, **{each.name: slashed(getattr(node, each.name)) for each in fields(node)})


def bare(node: Node) -> str:
    """What stands in a fraction, a root or an exponent needs no brackets of its own."""
    if isinstance(node, Fenced) and (node.opening, node.closing) == ("(", ")"):
        return latex(node.body)
    return latex(node)


def _factor(node: Node) -> str:
    """(2/s) x is a fraction before x."""
    if isinstance(node, Fenced) and node.opening == "(" and isinstance(node.body, Sequence):
        (only, *others) = node.body.parts or [node]
        if not others and isinstance(only, Fraction):
            return latex(only)
    return latex(node)


def is_large(node: Node) -> bool:
    """Whether it is a sum sign or the like, perhaps with its limits."""
    base = node.base if isinstance(node, Scripted) else node
    return isinstance(base, Name) and (base.text in LARGE or base.text in LIMITS)


def _upright(text: str) -> str:
    return rf"\text{{{_escaped(text)}}}"


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "_&%#$" else character for character in text)
