"""Snakemake runs the steps that are missing; what is in the way is refused before the first one."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.study import engine
from sgnet_nnunet.study.engine import LOCK, Run, estimate, visible_gpus
from sgnet_nnunet.study.runner import COMMANDS_DONE, LOGS, STEPS, run_step
from sgnet_nnunet.study.status import read_status
from sgnet_nnunet.study.steps import Step
from sgnet_nnunet.study.study_file import read_study

SLEEPING = int(os.environ.get("SGNET_SLEEPING_STEPS", "0"))


def write(path, text):
    return [sys.executable, "-c", f"open({str(path)!r}, 'a').write({text!r})"]


def completed(work):
    """Return how many times the commands of each step have succeeded."""
    logs = (work / LOGS).glob("*/*.log")
    found = {f"{log.parent.name}/{log.stem}": log.read_text().count(COMMANDS_DONE) for log in logs}
    return {step: number for step, number in found.items() if number}


def counts(status):
    return Counter(step.state for step in status)


def ignore(_):
    pass


REFUSED = {
    "no such executor": ("lsf", {}, "Snakemake has no such plug-in; run: pip install snakemake-exec"),
    "no cluster": ("slurm", {"PATH": "/nowhere"}, "there is no command sinfo; run this on a host"),
    "no Kubernetes": ("kubernetes", {"PATH": "/nowhere"}, "there is no command kubectl"),
    "no command that submits": ("cluster-generic", {}, "has no command that submits; give cluster.options"),
}  # fmt: skip


@pytest.mark.parametrize(("executor", "environment", "message"), REFUSED.values(), ids=REFUSED)
def test_a_cluster_that_is_not_there_is_refused(write_study, monkeypatch, executor, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = importlib.util.find_spec
    monkeypatch.setattr(  # the plug-in is of an extra of its own
        importlib.util, "find_spec", lambda name: name.endswith("kubernetes") or found(name)
    )
    run = Run(read_study(write_study()), executor=executor)
    with pytest.raises(SGNetError, match=f"executor {executor}: {message}"):
        run.check()
    assert not run.work.exists()


def test_a_cluster_that_does_not_answer_is_refused(write_study, monkeypatch, tmp_path):
    command = tmp_path / "bin/sinfo"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho 'slurm_load_partitions: unable to contact controller' >&2; exit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    run = Run(read_study(write_study()), executor="slurm")
    with pytest.raises(SGNetError, match=r"does not answer \(slurm_load_partitions: unable to contact"):
        run.check()


def test_a_gpu_that_is_not_there_is_refused(write_study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SGNetError, match="device cuda: nvidia-smi lists no GPU"):
        Run(read_study(write_study("device: cpu", "device: cuda"))).check()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == ["2", "3"]
    path = write_study("device: cpu", "device: cuda")
    path.write_text(path.read_text().replace("er: SGNetTrainer", "er: SGNetTrainer\n    gpus: 3"))
    with pytest.raises(
        SGNetError, match=r"8: networks.0..gpus: there are no 3 GPUs; give at most 2, as many"
    ):
        Run(read_study(path)).check()


def test_a_work_folder_of_another_run_is_refused(make_run):
    first, second = make_run([])[0], make_run([])[0]
    message = f"another study runs there .process {os.getpid()}."
    with first.locked(), pytest.raises(SGNetError, match=message), second.locked():
        pass
    with second.locked():
        assert (second.work / LOCK).exists()


def test_data_that_change_after_a_training_are_refused_and_touching_is_no_change(write_study, monkeypatch):
    file = read_study(write_study())
    run = Run(file)
    run.work.mkdir()
    steps = run.prepare()
    image = file.resolve("raw/Dataset501_Tiny/imagesTr/case0_0000.nii.gz")
    with monkeypatch.context() as context:
        context.chdir(run.work)
        run_step("convert/data", cpus=1, gpus=0)
    done = run.work / "study/done/convert/data.json"
    trained = run.work / "study/done/train/x.json"
    trained.parent.mkdir()
    trained.touch()
    image.touch()
    run.prepare()
    assert done.exists()
    image.write_bytes(image.read_bytes() + b"0")
    with pytest.raises(
        SGNetError, match=r"case0_0000.nii.gz has changed .*--accept-changes, which repeats 1"
    ):
        run.prepare()
    dry = Run(file)
    dry.prepare(accept_changes=True, dry_run=True)
    assert dry.changed == ["study/done/convert/data.json"]
    assert done.exists()
    Run(file).prepare(accept_changes=True)
    assert not done.exists()
    assert steps["convert/data"].sources


def test_estimates_are_those_of_the_steps_that_are_missing(write_study):
    run = Run(read_study(write_study()))
    run.work.mkdir()
    steps = run.prepare()
    found = estimate(steps, [step.id for step in steps.values() if step.kind == "train"])
    assert list(found) == ["train"]
    number, hours, gpu_hours, _ = found["train"]
    assert (number, gpu_hours) == (4, 0)
    assert 0 < hours < 1


@pytest.mark.slow
def test_one_step_that_fails_does_not_stop_the_others_and_only_the_missing_are_run_again(make_run, tmp_path):
    flag = tmp_path / "flag"
    code = f"import os, sys; sys.exit(not os.path.exists({str(flag)!r}))"
    steps = [
        Step(kind="train", name="bad", commands=[[sys.executable, "-c", code]], retries=0),
        Step(kind="train", name="good", commands=[write("good", "x")], outputs=["good"]),
        Step(
            kind="tune", name="good", commands=[write("tuned", "x")], needs=["train/good"], outputs=["tuned"]
        ),
    ]
    run, _ = make_run(steps, notify=f"echo $SGNET_STUDY_STATUS > {tmp_path}/outcome")
    status = run.run(watch=ignore)
    assert counts(status) == {"failed": 1, "done": 2, "waiting": 1}
    run.finish(status)
    assert (tmp_path / "outcome").read_text() == "failed\n"
    assert run.missing() == ["train/bad", "report/study"]
    flag.touch()
    assert counts(run.run(watch=ignore)) == {"done": 4}
    assert (run.work / "good").read_text() == (run.work / "tuned").read_text() == "x"


HOOKS = {"exit 3": "status 3", "sleep 9": "no end in 0.1 s"}


@pytest.mark.parametrize(("hook", "problem"), HOOKS.items())
def test_a_notification_that_fails_is_a_warning_without_its_command(
    make_run, caplog, monkeypatch, hook, problem
):
    monkeypatch.setattr(engine, "_HOOK_S", 0.1)
    run, _ = make_run([], notify=f"{hook}; : password")
    run._notify(read_status(run.work))
    assert f"notify: the command failed ({problem})" in caplog.text
    assert "password" not in caplog.text


@pytest.mark.slow
def test_a_step_that_is_killed_has_failed_and_names_with_odd_characters_are_no_obstacle(make_run, tmp_path):
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    steps = [Step(kind="train", name="a", commands=[[sys.executable, "-c", code]], retries=0)]
    run, _ = make_run(steps, work="a work folder, {of} Jürgen's $HOME")
    (failed, _) = run.run(watch=ignore)
    assert (failed.state, failed.problem) == (
        "failed",
        "its process was killed (out of memory, or out of time?)",
    )


@pytest.mark.slow
def test_a_changed_step_redoes_what_hangs_on_it_and_nothing_else(make_run):
    def steps(text):
        return [
            Step(kind="train", name="a", commands=[write("a", text)], outputs=["a"], fresh=["a"]),
            Step(kind="train", name="b", commands=[write("b", "x")], outputs=["b"]),
            Step(kind="tune", name="a", commands=[write("ta", "x")], needs=["train/a"], outputs=["ta"]),
            Step(kind="tune", name="b", commands=[write("tb", "x")], needs=["train/b"], outputs=["tb"]),
        ]

    run, _ = make_run(steps("x"))
    run.run(watch=ignore)
    for path in (run.work / STEPS).rglob("*.json"):
        path.touch()
    assert run.missing() == []
    run, _ = make_run(steps("y"))
    run.run(watch=ignore)
    assert completed(run.work) == {
        "train/a": 2, "tune/a": 2, "train/b": 1, "tune/b": 1, "report/study": 1,
    } | {"report/study": 2}  # fmt: skip


SLEEPER = """
import sys
from pathlib import Path
from sgnet_nnunet.study.study_file import Data, Network, Study, StudyFile
from sgnet_nnunet.study.engine import Run

work = Path(sys.argv[1])
study = Study(data=Data(phantoms=1), networks=[Network(trainer="SGNetTrainer")], work=str(work), device="cpu")
run = Run(StudyFile(work / "study.yaml", study, {}, (0,)), cores=2)
with run.locked():
    run.run(watch=lambda status: None)
"""


@pytest.mark.slow
def test_a_study_that_is_killed_ten_times_runs_each_step_to_completion_once(make_run):
    steps = [
        Step(kind="train", name=f"s{i}", outputs=[f"out{i}"],
             commands=[["sh", "-c", f"sleep 0.3; echo {i} > out{i}"]])
        for i in range(40)
    ]  # fmt: skip
    run, _ = make_run(steps)
    rng = np.random.default_rng(0)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", SLEEPER, str(run.work)]) as process:
            time.sleep(rng.uniform(1, 6))
            process.send_signal(signal.SIGKILL)
    with run.locked():
        assert counts(run.run(watch=ignore)) == {"done": 41}
    assert set(completed(run.work).values()) == {1}
    assert [Path(run.work, f"out{i}").read_text() for i in range(40)] == [f"{i}\n" for i in range(40)]


@pytest.mark.slow
@pytest.mark.skipif(not SLEEPING, reason="two minutes of sleeping: SGNET_SLEEPING_STEPS=200")
def test_steps_that_sleep_take_little_more_than_the_ideal_time_on_two_slots(make_run):
    run, _ = make_run([Step(kind="train", name=f"s{i}", commands=[["sleep", "1"]]) for i in range(SLEEPING)])
    began = time.monotonic()
    assert counts(run.run(watch=ignore)) == {"done": SLEEPING + 1}
    assert time.monotonic() - began < 1.15 * SLEEPING / 2


@pytest.mark.slow
def test_a_step_costs_little_besides_its_own_work(make_run):
    run, _ = make_run([Step(kind="train", name=f"s{i}", commands=[["true"]]) for i in range(40)])
    before = os.times()
    assert counts(run.run(watch=ignore)) == {"done": 41}
    after = os.times()
    spent = sum(after[2:4]) - sum(before[2:4])
    # Two at a time, a second each, with 15 % more than their own time. Snakemake itself starts in 3 s.
    assert (spent - 3) / 40 < 0.3
