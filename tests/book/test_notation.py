"""The notation of docstrings: plain text in, LaTeX and MathML out, errors with a place."""

from __future__ import annotations

import pytest

from manual_bp.book.docstring import Display, PageError, Paragraph, read
from manual_bp.book.expression import parse
from manual_bp.book.latex import latex, slashed
from manual_bp.book.lexer import NotationError
from manual_bp.book.page import text_of
from manual_bp.book.prose import Code, Formula, inlines
from manual_bp.book.tree import Fraction, Sum, nodes

NAMES = {"weight", "bias", "lam", "eps", "alpha", "running_var", "limit"}


def tex(text):
    return latex(parse(text, NAMES)).replace(r" \, ", " ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = x² + 1", "y = x^{2} + 1"),
        ("−x", "{- x}"),
        ("1/(2n)", r"\frac{1}{2 n}"),
        ("a b / c", r"\frac{a b}{c}"),
        ("a/b c", r"\frac{a}{b} c"),
        ("(a + b) / (c + d)²", r"\frac{a + b}{\left( c + d \right)^{2}}"),
        ("(2/s) x", r"\frac{2}{s} x"),
        ("log (a / b)", r"\text{log} \left( \frac{a}{b} \right)"),
        ("½ s³", r"\frac{1}{2} s^{3}"),
        ("√(8/π)", r"\sqrt{\frac{8}{\pi}}"),
        ("e^x_i", "e^{x_{i}}"),
        ("e^−2|x|", r"e^{{- 2 \left| x \right|}}"),
        ("e^(−x²/2)", r"e^{{- x^{2} \text{/} 2}}"),
        ("e⁻ˣ", "e^{{- x}}"),
        ("Wᵀ", "W^{T}"),
        ("W_oi", "W_{o i}"),
        ("W_{i_b}", "W_{i_{b}}"),
        ("Σ_rows dy", r"\sum\limits_{\text{rows}} \text{d} y"),
        ("Σ_{j≠k} p_j", r"\sum\limits_{j \neq k} p_{j}"),
        ("max_q x", r"\max\limits_{q} x"),
        ("x̂ ẋ μ̇", r"\hat{x} \dot{x} \dot{\mu}"),
        ("σ'(x)", r"\sigma^{\prime}\left( x \right)"),
        ("g(x)²", r"{g\left( x \right)}^{2}"),
        ("cosh² x", r"\text{cosh}^{2} x"),
        ("∂y_j/∂x_i", r"\frac{\partial y_{j}}{\partial x_{i}}"),
        ("‖W_o‖ ≤ limit", r"\left\| W_{o} \right\| \leq \text{limit}"),
        ("[i = j] − p", r"\left[ i = j \right] - p"),
        ("u · −v", r"u \cdot - v"),
        ("10⁴", "{10}^{4}"),
        ("12n + 2e", "12 n + 2 e"),
        ("1e−3", r"1 \cdot 10^{-3}"),
        ("1.8e19", r"1.8 \cdot 10^{19}"),
        ("dweight_o", r"\text{dweight}_{o}"),
        ("running_var + eps", r"\text{running\_var} + \varepsilon"),
        ("lam/n Σ W²", r"\frac{\lambda}{n} \sum W^{2}"),
        ("h_{t−1}", "h_{t - 1}"),
        ("⌊n/s⌋", r"\left\lfloor \frac{n}{s} \right\rfloor"),
        ('reduction = "sum"', r'\text{reduction} = \texttt{"sum"}'),
    ],
)
def test_plain_text_is_mathematics(text, expected):
    assert tex(text) == expected


def test_a_name_of_the_page_is_none_of_its_words():
    assert tex("where weight is x") == r"\text{ where } \text{weight} \text{ is } x"
    assert tex("any i") == r"\text{ any } i"
    assert tex("scale = 2") == r"\text{scale} = 2"


def test_names_and_code_are_letters_and_no_space():
    """To MathML mtext is space: a relation between two of them would have none around it."""
    pytest.importorskip("latex2mathml", reason="the book needs latex2mathml: pip install 'manual-bp[book]'")
    from manual_bp.book.mathml import formula

    assert formula(parse('eps_root = "a_b" ∞', NAMES)) == (
        '<math><mrow><msub><mi>ε</mi><mrow><mi>root</mi></mrow></msub><mo>=</mo><mi class="code">"a_b"</mi>'
        '<mspace width="0.167em" /><mi>∞</mi></mrow></math>'
    )
    assert formula(parse("the x, and dy", NAMES)) == (
        'the <span class="whole"><math><mrow><mi>x</mi></mrow></math>,</span> and '
        '<math><mrow><mi mathvariant="normal">d</mi><mi>y</mi></mrow></math>'
    )


def test_a_slash_stands_in_a_line_of_text():
    assert latex(slashed(parse("a/(1 − p)", ()))) == r"a \text{/} \left( 1 - p \right)"
    assert not any(isinstance(node, Fraction) for node in nodes(slashed(parse("(a/b) / c", ()))))


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("y = (x", "'(' is not closed", 4),
        ("y = x)", "nothing is open that ')' could close", 5),
        ("y = (x]]", "nothing is open", 7),
        ("y = ⌊x)", "'⌋' must close '⌊'; came ')'", 6),
        ("|x", "'|' is not closed", 0),
        ("a / b · c", "what ' / ' divides is not clear", 2),
        ("a / b / c", "what ' / ' divides is not clear", 2),
        ("x + ", "something is missing", 4),
        ("x_", "an index or exponent is missing", 2),
        ("e^ x", "an index or exponent is missing", 3),
        ("a / / b", "something is missing before '/'", 4),
        ("x_i_j_", "an index or exponent is missing", 6),
        ("x²³^2", "there is a second exponent", 4),
        ("x @ y", "no formula holds '@'", 2),
        ("² x", "stands behind nothing", 0),
    ],
)
def test_what_is_no_formula_says_where(text, message, position):
    with pytest.raises(NotationError) as error:
        parse(text)
    assert message in str(error.value)
    assert error.value.position == position


def test_an_interval_may_be_half_open():
    assert tex("[0, 1)") == r"\left[ 0 ,\; 1 \right)"


PAGE = """Twice x, and some.

    y = 2 x         x > 0
    y = k (x + 1)   x ≤ 0
            own  shift

where `k` is any number.

Derivation.  Each branch is linear, with slope 2 and k:

    dx   = 2 dy,   h = 1

Source: Somebody, "A book" (1999).
"""


def test_a_docstring_has_sections_and_rows():
    text = read(PAGE)
    assert text.summary == "Twice x, and some."
    assert text.source == 'Somebody, "A book" (1999).'
    assert [section.title for section in text.sections] == ["", "Derivation"]
    rows, sentence = text.sections[0].blocks
    assert isinstance(rows, Display)
    cells = [[cell.text for cell in row.cells] for row in rows.rows]
    assert cells == [["y = 2 x", "x > 0"], ["y = k (x + 1)", "x ≤ 0"]]
    assert [node.labels for cell in rows.rows[1].cells for node in nodes(cell.tree) if isinstance(node, Sum)] == [
        ["own", "shift"]
    ]
    assert isinstance(sentence, Paragraph)
    assert inlines(sentence.text, ()) == ["where ", Code("k"), " is any number."]
    derivation = text.sections[1].blocks
    assert derivation[0].text == "Each branch is linear, with slope 2 and k:"
    assert [cell.text for cell in derivation[1].rows[0].cells] == ["dx   = 2 dy,", "h = 1"]


def test_names_of_narrow_terms_stand_close():
    (section,) = read("Summary.\n\n    y = x (a + b)\n           own gate\n    no other", ()).sections
    (display,) = section.blocks
    assert display.rows[0].labels.split() == ["own", "gate"]
    assert display.rows[1].text.strip() == "no other"


def test_terms_and_what_is_said_of_them_are_a_list():
    block = """    eps     here √v + eps; elsewhere another
            one, inside the root
    `k`     of this step
"""
    (section,) = read(f"Summary.\n\nChoices.\n{block}\nSource: none.", NAMES).sections
    assert section.title == "Choices"
    assert section.blocks[0].items == (
        ("eps", "here √v + eps; elsewhere another one, inside the root"),
        ("`k`", "of this step"),
    )
    assert section.blocks[0].text == block.rstrip()
    assert isinstance(read(PAGE).sections[0].blocks[0], Display)


def test_what_cannot_be_read_says_file_line_and_column():
    with pytest.raises(PageError, match=r"mine\.py:9:11: '\(' is not closed, in the formula 'y = k \(x \+ 1"):
        read(PAGE.replace("x + 1)", "x + 1 "), where="mine.py", first=6)
    with pytest.raises(PageError, match=r"mine\.py:5: 3 names of terms .* stand below no sum of 3 terms"):
        read(PAGE.replace("own  shift", "own  shift  more"), where="mine.py")
    with pytest.raises(PageError, match=r"mine\.py:15: there is one source"):
        read(f"{PAGE}\nSource: another.", where="mine.py")


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Since Σ_j y_j = 1, dy_k can be brought into the sum.", ["Σ_j y_j = 1", "dy_k"]),
        ("The kink at 0 has every slope in [0, 1]; from x = 17 (float32) on.", ["x = 17"]),
        ("written as (1 + tanh(t/2)) / 2 it is a difference", ["(1 + tanh(t/2)) / 2"]),
        ("a row of one value (a dot is a change), and/or none.", []),
        ("the bias reaches every y, and the weight too", ["y"]),
        ("where y = weight + bias, the weight is", ["y = weight + bias"]),
        ("It is −dy_k (e^y_k − 1), for which there is expm1:", ["−dy_k (e^y_k − 1)"]),
        (
            "the parabola (x² + 3x)/6 has (2x + 3)/6, since e^x = y/alpha + 1 at 3",
            ["(x² + 3x)/6", "(2x + 3)/6", "e^x = y/alpha + 1"],
        ),
        ("At 0 the slopes are λ and λ α = 1.758; this page", ["λ", "λ α = 1.758"]),
        ("σ' and tanh' are taken at x, the page's own", ["σ'", "tanh'", "x"]),
        ("as min(weight, (1 + t)/(10 + t)) in others", ["min(weight, (1 + t)/(10 + t))"]),
        ("takes alpha there (x is 2), as https://example.org/x_y does", ["alpha", "x"]),
    ],
)
def test_formulas_in_sentences_are_recognised(text, formulas):
    found = inlines(text, NAMES)
    assert [part.text for part in found if isinstance(part, Formula)] == formulas
    assert "".join(part if isinstance(part, str) else part.text for part in found) == text


def test_a_name_of_a_program_is_code():
    assert inlines("see torch.nn.utils.clip_grad_norm_ there", ())[1] == Code("torch.nn.utils.clip_grad_norm_")
    found = inlines("as in (adamw_update), where running_var is constant.", NAMES)
    assert [type(part) for part in found] == [str, Code, str, Formula, str]
    assert found[1] == Code("adamw_update")


def test_every_page_can_be_read(rule):
    """Write formulas in the notation of manual_bp/rules/README.md; the error says at which line."""
    text = text_of(rule)
    shown = [block for section in text.sections for block in section.blocks if isinstance(block, Display)]
    assert shown, f"{rule.name}: display a formula, on a line of its own indented by four spaces"
    assert text.source, f"{rule.name}: say where it is from, in a last paragraph that begins with 'Source: '"
    assert all(latex(cell.tree) for block in shown for row in block.rows for cell in row.cells)
