import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.registry import case_metrics
from sgnet_nnunet.evaluation.summary import summarise
from sgnet_nnunet.report.tables import write_summary

METRICS = tuple(metric.name for metric in case_metrics()[:17])
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def written(random_figures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    write(random_figures(models=2, metrics=METRICS), folder)
    return folder


def write(figures, folder: Path) -> None:
    write_summary(summarise(figures, rng=np.random.default_rng(4)), folder)


def strict(path: Path):
    def refuse(constant: str):
        raise AssertionError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_three_files_and_nothing_else_are_written(written):
    assert sorted(path.name for path in written.iterdir()) == ["summary.json", "summary.md", "summary.tex"]


def test_the_json_is_strict_and_says_how_it_was_made(written):
    content = strict(written / "summary.json")
    protocol = content["protocol"]
    assert (protocol["reference"], protocol["resamples"], protocol["zeros"]) == ("Model_0", 2000, "pratt")
    definitions = {each["name"]: each for each in content["definitions"]}
    assert set(definitions) == set(METRICS)
    assert definitions["hd95_directed_mm"]["higher_is_better"] is False
    assert definitions["reference_volume_mm3"]["best"] is None
    assert content["counts"][0]["both_empty"] == 1
    assert content["missing"]["Model_1"] == ["case001"]


def test_the_json_reads_back_as_a_table(written):
    table = pd.json_normalize(strict(written / "summary.json")["descriptions"])
    dice = table[(table["model"] == "Model_1") & (table["metric"] == "dice")].iloc[0]
    assert dice["interval.low"] < dice["mean"] < dice["interval.high"]


def test_the_same_seed_writes_the_same_bytes(random_figures, written, tmp_path):
    write(random_figures(models=2, metrics=METRICS), tmp_path)
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_markdown_has_words_and_tables(written):
    text = (written / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# Comparison on Dataset501_Tiny\n\n- Model_0 and Model_1 were judged on 20 cases")
    assert "| Model_1 |" in text
    assert "nan" not in text


def test_figures_that_are_not_numbers_are_null(rows, figures_of, tmp_path):
    write(figures_of(rows(dice=[math.nan, math.nan], volume_error_mm3=[1.0, math.inf])), tmp_path)
    descriptions = strict(tmp_path / "summary.json")["descriptions"]
    assert [each["mean"] for each in descriptions] == [None, None]


def test_bad_figures_leave_no_file_behind(rows, figures_of, tmp_path):
    with pytest.raises(SGNetError, match="dise"):
        write(figures_of(rows(dise=[0.5])), tmp_path)
    assert list(tmp_path.iterdir()) == []
