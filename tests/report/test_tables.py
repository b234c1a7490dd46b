import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.comparison import compare
from sgnet_nnunet.evaluation.registry import find_metric
from sgnet_nnunet.report.figures import breakable
from sgnet_nnunet.report.tables import (
    NOTHING,
    Table,
    count,
    differences_table,
    escape_latex,
    escape_markdown,
    headline_table,
    number,
    p_value,
    pooled_table,
    ranking_table,
    span,
    table_to_html,
    table_to_latex,
    table_to_markdown,
    tables_of,
    verdict,
    write_csv,
    write_summary,
)

pytestmark = pytest.mark.filterwarnings("error")

LABEL = "tumour"
NASTY = Table(
    title="100% of a_b & {c}",
    frame=pd.DataFrame({"Model_name": ["[UNet]__x", "*Model-1*"], "Dice #1": ["-0.9 ± 0.1", "–"]}),
    details=pd.DataFrame({"Dice #1": ["-∞ to 1.0", ""]}),
    best=pd.DataFrame({"Dice #1": [True, False]}),
    note="p < 0.001 ~ ^ \\ $",
)


def compared(per_case, **options):
    return compare(per_case, resamples=50, **options)


@pytest.fixture(scope="module")
def comparison(random_figures):
    figures = random_figures()
    return compared(figures.per_case, models=figures.results.models, dataset="Dataset501_Tiny")


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.12345, False, "0.123"),
        (0.12345, True, "+0.123"),
        (-0.0001, True, "0.000"),
        (-1.5, True, "-1.500"),
        (math.nan, True, NOTHING),
        (math.inf, False, "∞"),
        (-math.inf, False, "-∞"),
    ],
)
def test_numbers(value, sign, text):
    assert number(value, 3, sign=sign) == text


def test_counts_have_commas():
    assert count(670_000) == "670,000"


def test_an_interval_without_ends_or_width_is_no_text():
    assert span(-0.4, 6.46, 1) == "-0.4 to 6.5"
    assert span(math.nan, math.nan, 1) == span(1.0, 1.0, 1) == ""


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "< 0.001"), (0.04, "0.040"), (0.0496, "0.0496"), (0.0504, "0.0504"), (math.nan, NOTHING)],
)
def test_p_shows_on_which_side_of_five_percent_it_is(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("metric", "changes", "expected"),
    [
        ("dice", {}, "better"),
        ("dice", {"mean": -0.1, "low": -0.2, "high": -0.05, "effect": -0.3}, "worse"),
        ("hd95_directed_mm", {}, "worse"),
        ("hd95_directed_mm", {"mean": -3, "low": -5, "high": -1, "effect": -0.3}, "better"),
        ("dice", {"p_holm": 0.05}, "no difference shown"),
        ("dice", {"low": -0.01}, "inconclusive"),
        ("dice", {"effect": -0.2}, "inconclusive"),
        ("dice", {"low": math.nan, "high": math.nan}, "inconclusive"),
        ("dice", {"p_holm": math.nan}, "not tested"),
    ],
)
def test_a_difference_is_shown_only_if_p_interval_and_ranks_agree(metric, changes, expected):
    difference = {"mean": 0.1, "low": 0.05, "high": 0.2, "effect": 0.3, "p_holm": 0.01}
    assert verdict(difference | changes, find_metric(metric)) == expected


def test_every_table_has_rows_and_no_title_twice(comparison):
    for table in tables_of(comparison, label=LABEL):
        assert len(table.frame)
        assert table.frame.columns.is_unique
        assert table.frame.map(lambda cell: isinstance(cell, str)).all(axis=None)


def test_headline_cells_hold_mean_deviation_and_interval(rows):
    table = headline_table(compared(rows(dice=[0.2, 0.6])), label=LABEL)
    assert list(table.frame["Dice"]) == ["0.400 ± 0.283"]
    assert list(table.details["Dice"]) == ["0.200 to 0.600"]
    assert table.best.empty  # a single model is not the best of any


def test_the_best_is_the_highest_share_and_the_lowest_distance(rows):
    tables = [
        rows(model="A", dice=[0.5, 0.6], hd95_directed_mm=[9.0, 9.0]),
        rows(model="B", dice=[0.7, 0.8], hd95_directed_mm=[11.0, 12.0]),
    ]
    table = headline_table(compared(pd.concat(tables)), label=LABEL)
    assert list(table.best["Dice"]) == [False, True]
    assert list(table.best["HD95 directed (mm)"]) == [True, False]


def test_models_that_print_alike_are_both_best_and_one_without_values_is_none(rows):
    tables = [
        rows(model="A", dice=[0.50001, 0.5]),
        rows(model="B", dice=[0.5, 0.5]),
        rows(model="C", dice=[math.nan, math.nan]),
    ]
    table = headline_table(compared(pd.concat(tables)), label=LABEL)
    assert list(table.best["Dice"]) == [True, True, False]
    assert table.frame["Dice"].iloc[2] == NOTHING


def test_parameters_and_seconds_are_shown_if_known(rows, comparison):
    known = headline_table(comparison, label=LABEL).frame.iloc[0]
    assert (known["Parameters"], known["Seconds per case"]) == ("670,000", "1.50 (sparse)")
    assert "Parameters" not in headline_table(compared(rows(dice=[0.2, 0.6])), label=LABEL).frame


def test_a_single_model_has_no_differences_and_no_ranking(rows):
    titles = [table.title for table in tables_of(compared(rows(dice=[0.2, 0.6])), label=LABEL)]
    assert not [title for title in titles if "differences" in title or "ranking" in title]


def test_differences_are_to_the_baseline_with_their_sign(comparison):
    table = differences_table(comparison, label=LABEL)
    row = table.frame.set_index(["Metric", "Model"]).loc[("Dice", "Model_2")]
    found = comparison.differences.set_index(["metric", "model"]).loc[("dice", "Model_2")]
    assert row["Difference"] == f"{found['mean']:+.3f}"
    assert "Model_0" not in set(table.frame["Model"])


def test_the_ranking_names_its_metrics(comparison):
    table = ranking_table(comparison, label=LABEL)
    assert len(table.frame) == 3
    assert "Dice" in table.note


def test_pooled_lesions_begin_with_those_of_any_size(write_figures):
    table = pooled_table(compared(write_figures(images=False).per_case), label=LABEL)
    first = table.frame.iloc[0]
    assert (first["Lesions"], first["Detected"], first["Missed"]) == ("any size", "3", "3")
    assert list(table.details.columns) == list(table.frame.columns)[-4:]


def test_a_wide_table_is_printed_in_parts_that_repeat_the_names():
    frame = pd.DataFrame({"Model": ["A"]} | {f"m{i}": ["1"] for i in range(11)})
    parts = list(Table(title="t", frame=frame).parts())
    assert [next(iter(part.frame)) for part in parts] == ["Model", "Model"]
    assert [title for part in parts for title in list(part.frame)[1:]] == list(frame)[1:]


def test_markdown_has_details_in_brackets_and_the_best_in_bold():
    lines = table_to_markdown(NASTY).split("\n")
    assert lines[2:6] == [
        "| Model_name | Dice #1 |",
        "| --- | --- |",
        "| [UNet]\\_\\_x | **-0.9 ± 0.1** (-∞ to 1.0) |",
        "| \\*Model-1\\* | – |",
    ]


def test_only_underscores_that_would_be_markup_are_escaped():
    assert escape_markdown("a__b __c__ _d *e* <f> < 1") == "a__b \\_\\_c\\_\\_ \\_d \\*e\\* \\<f> < 1"


def test_html_is_escaped_and_long_texts_are_whole():
    name = "<b>" + "x" * 200
    table = Table(title="t", frame=pd.DataFrame({"<Model>": [name]}))
    text = table_to_html(table, escape=breakable)
    assert "&lt;b&gt;" + "x" * 200 in text
    assert "&lt;" in text.split("<tbody>")[0]


def test_latex_has_booktabs_rules_a_caption_and_safe_rows():
    text = table_to_latex(NASTY)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"\caption{100\% of a\_b \& \{c\}. p \textless{} 0.001" in text
    assert r"Model\_name & Dice \#1 \\" in text
    assert (
        r"{[}UNet]\_\_x & \shortstack[r]{\textbf{$-$0.9 $\pm$ 0.1}\\{\scriptsize $-$$\infty$ to 1.0}} \\"
        in text
    )
    assert escape_latex("Model-1 -1 to -∞") == "Model-1 $-$1 to $-$$\\infty$"
    markup = re.sub(r"\\[\\{}]", "", text)
    assert markup.count("{") == markup.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(comparison, tmp_path):
    body = "\n".join(table_to_latex(table) for table in (*tables_of(comparison, label=LABEL), NASTY))
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "tables.tex").write_text(document % body, encoding="utf-8")
    # Draft mode needs no fonts, which small installations lack.
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]


def strict(path: Path):
    def refuse(constant: str):
        raise AssertionError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_summary_is_three_files_the_same_each_time(comparison, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_summary(comparison, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["summary.json", "summary.md", "summary.tex"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# Comparison on Dataset501_Tiny\n\n## tumour: headline metrics\n\n| Model |")
    assert "nan" not in text


def test_the_json_is_strict_and_reads_back_as_a_table(comparison, tmp_path):
    write_summary(comparison, tmp_path)
    content = strict(tmp_path / "summary.json")
    assert content["protocol"]["baseline"] == "Model_0"
    table = pd.json_normalize(content["descriptions"])
    dice = table[(table["model"] == "Model_1") & (table["metric"] == "dice")].iloc[0]
    assert dice["low"] < dice["mean"] < dice["high"]


def test_values_that_are_not_numbers_are_null(rows, tmp_path):
    with np.errstate(invalid="ignore"):
        write_summary(compared(rows(dice=[math.nan, math.nan], volume_error_mm3=[1.0, math.inf])), tmp_path)
    descriptions = strict(tmp_path / "summary.json")["descriptions"]
    assert [each["mean"] for each in descriptions] == [None, None]


def test_an_unknown_column_is_refused(rows):
    with pytest.raises(SGNetError, match="dise"):
        compared(rows(dise=[0.5]))


def test_csv_has_empty_cells_for_what_is_no_number(tmp_path):
    table = pd.DataFrame({"model": ["m"], "empty": [""], "missing": [False], "dice": [math.nan]})
    write_csv(table, tmp_path / "per_case.csv")
    assert (tmp_path / "per_case.csv").read_text() == "model,empty,missing,dice\nm,,False,\n"
