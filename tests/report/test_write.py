"""A report's folder appears whole or not at all."""

import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.measurement import Figures
from sgnet_nnunet.evaluation.results import Results
from sgnet_nnunet.report.tables import report_folder, write_tables


def write(folder, **files):
    with report_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def test_report_appears_in_a_folder_that_was_not_there(tmp_path):
    write(tmp_path / "a/b/report", one="1")
    assert content(tmp_path / "a/b/report") == {"one": "1"}
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["report"]


def test_next_report_takes_the_place_of_the_last(tmp_path):
    write(tmp_path / "report", one="1", two="2")
    write(tmp_path / "report", one="new")
    assert content(tmp_path / "report") == {"one": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "report").mkdir()
    write(tmp_path / "report", one="1")
    assert content(tmp_path / "report") == {"one": "1"}


@pytest.mark.parametrize("error", [SGNetError("bad mask"), KeyboardInterrupt(), ValueError("bug")])
def test_failure_leaves_nothing_behind_and_the_last_report_as_it_was(tmp_path, error):
    write(tmp_path / "report", one="1")

    def fail():
        with report_folder(tmp_path / "report") as partial:
            (partial / "one").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert content(tmp_path / "report") == {"one": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("before", [False, True])
def test_folder_with_a_file_of_somebody_else_is_refused(tmp_path, before):
    if before:
        write(tmp_path / "report", one="1")
    (tmp_path / "report").mkdir(exist_ok=True)
    (tmp_path / "report/thesis.docx").write_text("years of work")
    with pytest.raises(SGNetError, match=r"thesis\.docx: was not written by a report; move it"):
        write(tmp_path / "report", one="new")
    assert (tmp_path / "report/thesis.docx").read_text() == "years of work"


def test_file_that_comes_while_a_report_is_made_is_not_lost(tmp_path):
    write(tmp_path / "report", one="1")

    def disturbed():
        with report_folder(tmp_path / "report"):
            (tmp_path / "report/notes").write_text("mine")

    with pytest.raises(SGNetError, match="notes: was not written by a report"):
        disturbed()
    assert content(tmp_path / "report") == {"one": "1", "notes": "mine"}


def test_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(SGNetError, match="is a file"):
        write(tmp_path / "report", one="1")


def test_damaged_list_of_contents_is_refused(tmp_path):
    write(tmp_path / "report", one="1")
    (tmp_path / "report/.sgnet_report.json").write_text("{")
    with pytest.raises(SGNetError, match="is damaged"):
        write(tmp_path / "report", one="new")


def test_remains_of_a_killed_run_are_replaced(tmp_path):
    (tmp_path / ".partial-report").mkdir()
    (tmp_path / ".partial-report/half").write_text("")
    write(tmp_path / "report", one="1")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SGNetError, match="cannot be written"):
        write(tmp_path / "file/report", one="1")


def test_tables_are_written_with_empty_cells_for_what_is_no_number(tmp_path):
    table = pd.DataFrame(
        {"model": ["m"], "empty": [""], "missing": [False], "dice": [float("nan")], "x": [0.1]}
    )
    results = Results(dataset="d", targets=(), known_values=frozenset(), models=(), cases=())
    write_tables(Figures(results=results, per_case=table, per_lesion=table), tmp_path)
    assert (tmp_path / "per_case.csv").read_text() == "model,empty,missing,dice,x\nm,,False,,0.1\n"
    assert (tmp_path / "per_lesion.csv").exists()
