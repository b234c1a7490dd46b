"""Tables as LaTeX, for a document that loads booktabs."""

import re

import pandas as pd

from sgnet_nnunet.comparison.table import Cell, Table

PREAMBLE = (
    "% Tables for a LaTeX document: \\usepackage{booktabs} in its preamble, \\input{summary} in its text.\n"
)

_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "–": "--",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        # At the beginning of a row they would belong to the line break before it.
        "[": "{[}",
        "*": "{*}",
    }
)
_MINUS = re.compile(r"(?<!\w)-(?=\d|\$\\infty)")


def to_latex(table: Table) -> str:
    """Return a floating table, its title and note as caption, intervals below and the best in bold."""
    header = [escape(title) for title in table.header]
    frame = pd.DataFrame([[_cell(cell) for cell in row] for row in table.rows], columns=header)
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" * table.names + "r" * (len(header) - table.names),
        position="tbp",
        position_float="centering",
        caption=f"{escape(table.title)}. {escape(table.note)}".strip(),
    )
    return text.replace("\\centering\n", "\\centering\n\\footnotesize\n", 1)


def escape(text: str) -> str:
    """Return text without characters that LaTeX would read as commands."""
    return _MINUS.sub("$-$", text.translate(_SPECIAL))


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{escape(cell.text)}}}" if cell.best else escape(cell.text)
    if not cell.detail:
        return text
    # The figure, not the interval below it, stands in line with the row's other cells.
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{text}\\\scriptsize {escape(cell.detail)}\end{{tabular}}"
