"""A whole study of two networks and two folds, from its command to its report; killed, it goes on."""

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

KILLS = int(os.environ.get("SGNET_STUDY_KILLS", "0"))
"""As many times a whole study is killed."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("study")]


def completed(work):
    logs = (work / "study/logs").glob("*/*.log")
    return Counter({log.stem: log.read_text().count("all commands done") for log in logs})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_dataset, study_text, start_study):
    """Return the file of a study that has run."""
    folder = tmp_path_factory.mktemp("study")
    make_dataset(folder / "raw", cases=4)
    path = folder / "study.yaml"
    path.write_text(study_text)
    process = start_study(path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "21 of 21 steps done" in output
    return path


def test_a_study_ends_with_a_report_of_every_network_and_set(finished):
    work = finished.parent / "out"
    table = pd.read_csv(work / "reports/study.csv")
    assert set(table["images"]) == {"validation", "test"}
    assert len(table) == 4
    assert table["dice"].notna().all()
    page = (work / "reports/study.html").read_text()
    assert all(name in page for name in ("SGNetTrainer", "SGNetNoGateTrainer", "validation-s0/report.html"))
    (lesions,) = work.glob("predictions/test/s0/SGNetTrainer*/lesions.csv")
    assert pd.read_csv(lesions)["case"].tolist() == [f"case{i}" for i in range(4)]
    assert (work / "results/seed0/Dataset501_Tiny/inference_information.json").is_file()
    assert "21 done" in (work / "study_status.html").read_text()
    assert (work / "snakemake_report.html").is_file()
    assert set(completed(work).values()) == {1}


def test_a_finished_study_runs_nothing_and_a_longer_training_only_what_hangs_on_it(finished, start_study):
    work = finished.parent / "out"
    before = completed(work)
    for path in finished.parent.glob("raw/*/*/*"):
        path.touch()
    output = start_study(finished, "--dry-run").communicate()[0]
    assert "all" in output
    assert "train" not in output
    assert completed(work) == before
    longer = finished.with_name("longer.yaml")
    longer.write_text(finished.read_text().replace("er: SGNetTrainer", "er: SGNetTrainer\n    epochs: 3"))
    output = start_study(longer, "--dry-run").communicate()[0]
    rows = [line.split() for line in output.splitlines()]
    found = {row[0]: row[1] for row in rows if len(row) == 5 and row[1].isdigit()}
    wanted = {
        "train": "2",
        "tune": "1",
        "predict": "2",
        "gather": "1",
        "evaluate": "1",
        "compare": "1",
        "best": "1",
    }
    assert found == wanted | {"report": "1", "all": "10"}


@pytest.mark.skipif(not KILLS, reason="minutes, see tests/study/test_engine.py: SGNET_STUDY_KILLS=10")
def test_a_study_that_is_killed_many_times_ends_with_the_same_report(finished, start_study, tmp_path):
    shutil.copytree(finished.parent / "raw", tmp_path / "raw")
    path = Path(shutil.copy(finished, tmp_path))
    rng = np.random.default_rng(1)
    for _ in range(KILLS):
        process = start_study(path)
        time.sleep(rng.uniform(4, 25))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start_study(path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    before, after = (folder / "out/reports/study.csv" for folder in (finished.parent, tmp_path))
    assert after.read_text() == before.read_text()
    assert set(completed(tmp_path / "out").values()) == {1}
