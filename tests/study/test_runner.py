"""A step is run once, goes on where it was killed, and is run again if what it is to do has changed."""

import json
import os
import sys
from pathlib import Path

import pytest

from sgnet_nnunet.study import runner
from sgnet_nnunet.study.runner import (
    DONE,
    LOGS,
    STEPS,
    checksum_of_tree,
    read_record,
    run_step,
    states_of,
)


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_step(name="train/a", code="", **values):
    """Write a step that runs Python code, the number of its runs appended to the file `runs`."""
    path = Path(STEPS, f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    body = f"open('runs', 'a').write('x')\n{code}"
    path.write_text(json.dumps({"commands": [[sys.executable, "-c", body]], "outputs": ["out"], **values}))
    return name


def runs():
    return Path("runs").read_text() if Path("runs").exists() else ""


def test_a_step_that_is_done_is_not_run_again():
    step = write_step(code="open('out', 'w').write('1')")
    assert run_step(step, cpus=1, gpus=0) == 0
    done = Path(DONE, "train/a.json")
    first = done.read_text()
    done.unlink()  # as Snakemake does with outputs it does not know
    assert run_step(step, cpus=1, gpus=0) == 0
    assert (runs(), done.read_text()) == ("x", first)


@pytest.mark.parametrize("changed", ["step", "need"])
def test_a_step_is_run_anew_if_its_command_or_an_input_has_changed(changed):
    need = Path(DONE, "plan/p.json")
    need.parent.mkdir(parents=True)
    need.write_text("1")
    values = {"needs": ["plan/p"], "fresh": ["state"], "code": "open('state', 'a').write('y')"}
    run_step(write_step(**values), cpus=1, gpus=0)
    if changed == "need":
        need.write_text("2")
    else:
        values["environment"] = {"SGNET_EPOCHS": "3"}
    run_step(write_step(**values), cpus=1, gpus=0)
    assert runs() == "xx"
    assert Path("state").read_text() == "y"


def test_a_step_that_failed_goes_on_from_its_checkpoint_and_names_its_last_line():
    code = (
        "import sys, pathlib\npathlib.Path('fold').mkdir(exist_ok=True)\n"
        "pathlib.Path('fold/checkpoint_latest.pth').touch()\nprint('out of memory')\n"
        "sys.exit('--c' not in sys.argv)"
    )
    step = write_step(code=code, resume="fold", fresh=["fold"])
    assert run_step(step, cpus=1, gpus=0) == 1
    record = read_record(step)
    assert record["state"] == "failed"
    assert record["problem"].endswith("ended with status 1: out of memory")
    assert run_step(step, cpus=1, gpus=0) == 0
    assert Path(LOGS, "train/a.log").read_text().splitlines().count("out of memory") == 2


def test_an_action_or_a_store_that_fails_is_a_failed_step_with_its_traceback_in_the_log():
    values = {"action": "gather", "arguments": {"parts": ["nowhere"], "masks": "m", "table": "t"}}
    assert run_step(write_step(**values), cpus=1, gpus=0) == 1
    record = read_record("train/a")
    assert (record["state"], record["problem"]) == (
        "failed", "nowhere/lesions.csv: FileNotFoundError: No such file or directory",
    )  # fmt: skip
    assert "Traceback" in Path(LOGS, "train/a.log").read_text()


def test_data_that_change_while_they_are_read_are_changed_data():
    Path("in").write_text("1")
    step = write_step(code="open('in', 'a').write('2')", sources=["in"])
    run_step(step, cpus=1, gpus=0)
    record = read_record(step)
    assert states_of(Path("in"), {})["."][2] != record["sources"]["in"]["."][2]


def test_a_status_that_is_accepted_is_a_success():
    assert run_step(write_step(code="import sys; sys.exit(3)", accepted=[0, 3]), cpus=1, gpus=0) == 0


def test_each_step_gets_gpus_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(runner.GPUS, "4,7,9")
    with runner._reserved(2) as first, runner._reserved(1) as second:
        assert (first, second) == (["4", "7"], ["9"])
    code = "import os; open('out', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    run_step(write_step(code=code), cpus=1, gpus=1)
    assert Path("out").read_text() == "4"


def test_a_folder_has_the_checksum_of_its_names_and_contents():
    for name in ("a", "b"):
        Path(name, "sub").mkdir(parents=True)
        Path(name, "sub/x").write_text("1")
        Path(name, ".hidden").write_text(name)
    assert checksum_of_tree(Path("a")) == checksum_of_tree(Path("b"))
    Path("b/sub/x").rename("b/sub/y")
    assert checksum_of_tree(Path("a")) != checksum_of_tree(Path("b"))


def test_only_files_of_another_time_are_read_again(monkeypatch):
    for name in ("x", "y"):
        Path("in").mkdir(exist_ok=True)
        Path("in", name).write_text(name)
    before = states_of(Path("in"), {})
    os.utime("in/y", ns=(1, 1))
    read = []
    monkeypatch.setattr(runner, "checksum_of", lambda path: read.append(path.name) or before["y"][2])
    after = states_of(Path("in"), before)
    assert read == ["y"]
    assert [state[2] for state in after.values()] == [state[2] for state in before.values()]
