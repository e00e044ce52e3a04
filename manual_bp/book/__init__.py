"""The pages as a book: what a docstring says in plain text is read by a grammar, and written as mathematics.

    lexer, expression, tree      a formula of plain text as tokens, and as a tree
    docstring, prose             a docstring as sections, paragraphs and displayed rows; formulas inside sentences
    latex, mathml, displayed     a tree as LaTeX, that as MathML, which browsers draw without a script; rows as HTML
    page                         one page with all that it says of itself, for the terminal and for the book
    curves, failures, planes     functions and their derivatives, errors in ulp; what each mistake makes of a cotangent
    measured                     what benchmarks/results say of a rule
    chapters, environment, site  the order of chapters; what the templates need; the files of the book

The notation is in manual_bp/rules/README.md.
"""
