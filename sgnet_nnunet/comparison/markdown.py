"""Tables as Markdown."""

import re

from sgnet_nnunet.comparison.table import Cell, Table

# An underscore within a word is safe, and escaped names could not be searched for.
_SPECIAL = re.compile(r"[\\|*`]|<(?=\S)|(?<!\w)_+|(?<!_)_+(?!\w)")


def to_markdown(table: Table) -> str:
    """Return a table under a heading, its note below, intervals in brackets and the best in bold."""
    header, rule = (escape(title) for title in table.header), ("---" for _ in table.header)
    lines = [header, rule, *((_cell(cell) for cell in row) for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(part for part in (f"## {escape(table.title)}", body, escape(table.note)) if part)


def escape(text: str) -> str:
    """Return text without characters that Markdown would read as markup."""
    return _SPECIAL.sub(lambda match: "".join(f"\\{character}" for character in match[0]), text)


def _cell(cell: Cell) -> str:
    text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
    return f"{text} ({escape(cell.detail)})" if cell.detail else text
