"""The status of a study, read from its folder."""

import json
import time
from dataclasses import replace

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.study.runner import DONE, RECORDS, identity_of, run_step
from sgnet_nnunet.study.status import duration, read_status, rows_of, summary, table_of, write_status
from sgnet_nnunet.study.steps import Step

LOG = """
2026-11-28 01:00:00: Epoch {epoch}
2026-11-28 01:00:00: train_loss {loss}
2026-11-28 01:00:00: Epoch time: 30.0 s
"""


@pytest.fixture
def work(make_run):
    """Return the work folder of a study of four trainings, of which one is done, one fails and one runs."""
    steps = [
        Step(kind="train", name=name, resume=f"fold_{name}", epochs=10)
        for name in ("waits", "fails", "runs", "done")
    ]
    run, _ = make_run(steps)
    now = time.time()
    for name, record in {
        "runs": {"state": "running", "began": now - 100},
        "fails": {"state": "failed", "began": now - 50, "ended": now, "problem": "out of \x1bmemory"},
        "done": {
            "state": "done",
            "began": now - 7300,
            "ended": now,
            "identity": identity_of("train/done", run.work),
        },
    }.items():
        path = run.work / RECORDS / f"train/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    folder = run.work / "fold_runs"
    folder.mkdir()
    (folder / "training_log_1.txt").write_text("".join(LOG.format(epoch=i, loss=-i / 10) for i in range(4)))
    return run.work


def test_a_training_has_its_epoch_its_loss_and_the_time_that_is_left(work):
    (running,) = (step for step in read_status(work) if step.state == "running")
    assert (running.epoch, running.loss, running.left) == ("4 of 10", "-0.300", 7 * 30)
    assert running.seconds == pytest.approx(100, abs=5)


def test_what_runs_and_fails_comes_first_and_control_characters_are_escaped(work):
    rows = rows_of(read_status(work))
    assert [row[1] for row in rows] == ["running", "failed", "waiting", "waiting", "done"]
    assert rows[1][-1] == r"out of \x1bmemory"
    assert rows[-1][4] == "2:01:40"
    assert summary(read_status(work)).startswith("1 running, 1 failed, 2 waiting, 1 done; about ")
    assert table_of(read_status(work)).row_count == 4


def test_the_page_loads_itself_anew_until_all_is_done(work):
    write_status(work, read_status(work), title="study.yaml")
    page = (work / "study_status.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert 'href="study/logs/train/fails.log"' in page
    done = [step for step in read_status(work) if step.state == "done"]
    write_status(work, done, title="study.yaml")
    assert 'http-equiv="refresh"' not in (work / "study_status.html").read_text()


def test_a_record_that_is_half_written_is_a_step_that_waits(work):
    (work / RECORDS / "train/runs.json").write_text('{"state": "runn')
    assert [step.state for step in read_status(work)].count("waiting") == 3


def test_what_hangs_on_a_changed_step_waits(make_run, monkeypatch):
    steps = [
        Step(kind="train", name="first", outputs=["out"]),
        Step(kind="tune", name="second", needs=["train/first"]),
        Step(kind="tune", name="third"),
    ]
    run, _ = make_run(steps)
    with monkeypatch.context() as context:
        context.chdir(run.work)
        assert [run_step(step.id, cpus=1, gpus=0) for step in steps] == [0, 0, 0]

    def states():
        return [step.state for step in read_status(run.work)]

    assert states() == ["done", "done", "done", "waiting"]
    (run.work / DONE / "train/first.json").write_text("{}")
    assert states() == ["done", "waiting", "done", "waiting"]
    make_run([replace(steps[0], environment={"SGNET_EPOCHS": "2"}), *steps[1:]])
    assert states() == ["waiting", "waiting", "done", "waiting"]


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(InputFileError, match="start the study, which writes it"):
        read_status(tmp_path)


TIMES = {None: "", 40: "0:00:40", 11_100: "3:05:00", 90_000: "1 day, 1:00:00"}


@pytest.mark.parametrize(("seconds", "text"), TIMES.items())
def test_a_time_is_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
