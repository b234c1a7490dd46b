import re
import shutil
import subprocess

import numpy as np
import pytest

from sgnet_nnunet.evaluation.summary import summarise
from sgnet_nnunet.report.tables import Cell, Table, escape_latex, table_to_latex
from sgnet_nnunet.report.tables import to_latex as summary_to_latex

NASTY = Table(
    title="100% of a_b & {c}",
    header=("Model_name", "Dice #1"),
    rows=(
        (Cell(text="[UNet]__x"), Cell(text="-0.9 ± 0.1", detail="-∞ to 1.0", best=True)),
        (Cell(text="*Model-1*"), Cell(text="–")),
    ),
    note="p < 0.001 ~ ^ \\ $",
)


def test_a_table_has_booktabs_rules_a_caption_and_its_rows():
    text = table_to_latex(NASTY)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"\caption{100\% of a\_b \& \{c\}. p \textless{} 0.001" in text
    assert r"Model\_name & Dice \#1 \\" in text
    assert r"\textbf{$-$0.9 $\pm$ 0.1}\\\scriptsize $-$$\infty$ to 1.0" in text
    assert text.count("&") - text.count(r"\&") == 3


def test_words_with_a_hyphen_keep_it():
    assert escape_latex("Model-1 -1 to -∞") == "Model-1 $-$1 to $-$$\\infty$"


def test_environments_and_braces_are_balanced():
    text = table_to_latex(NASTY)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    markup = re.sub(r"\\[\\{}]", "", text)
    assert markup.count("{") == markup.count("}")
    assert markup.count("$") % 2 == text.count(r"\$") % 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_it_compiles(random_figures, tmp_path):
    summary = summarise(random_figures(), rng=np.random.default_rng(0), resamples=50)
    body = summary_to_latex(summary) + table_to_latex(NASTY)
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "tables.tex").write_text(document % body, encoding="utf-8")
    # Draft mode needs no fonts, which small installations lack.
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
