"""The statistics of a comparison as files: JSON, Markdown and LaTeX."""

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from sgnet_nnunet.comparison import latex, markdown
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.tables import tables_of
from sgnet_nnunet.comparison.words import words
from sgnet_nnunet.io.atomic import write_text


def write_summary(summary: Summary, folder: Path) -> None:
    """Write `summary.json`, `summary.md` and `summary.tex` into an existing folder."""
    write_text(folder / "summary.json", to_json(summary))
    write_text(folder / "summary.md", to_markdown(summary))
    write_text(folder / "summary.tex", to_latex(summary))


def to_json(summary: Summary) -> str:
    """Return everything as strict JSON: null stands for figures that are not numbers, or infinite."""
    return json.dumps(_plain(asdict(summary)), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_markdown(summary: Summary) -> str:
    """Return the statistics in words and all tables as Markdown."""
    sentences = "\n".join(f"- {markdown.escape(sentence)}" for sentence in words(summary))
    tables = (markdown.to_markdown(table) for table in tables_of(summary))
    title = f"# Comparison on {markdown.escape(summary.dataset)}"
    return "\n\n".join((title, sentences, *tables)) + "\n"


def to_latex(summary: Summary) -> str:
    """Return all tables as LaTeX."""
    return "\n".join((latex.PREAMBLE, *map(latex.to_latex, tables_of(summary))))


def _plain(value: object) -> object:
    """Return a value out of dictionaries, lists, texts, finite numbers and None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return None if isinstance(value, float) and not isfinite(value) else value
