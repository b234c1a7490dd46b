"""The steps of a study: what each needs, what it runs, and what a change of the study leaves as it was."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.study.steps import Steps
from sgnet_nnunet.study.study_file import read_study


def steps_of(path, *, device="cpu"):
    return Steps(read_study(path), device=device, cores=2).make()


def test_each_step_comes_after_those_that_it_needs_and_all_lead_to_the_report(write_study):
    steps = steps_of(write_study())
    seen = set()
    for step in steps.values():
        assert seen.issuperset(step.needs), step.id
        seen.add(step.id)
    reached, waiting = set(), ["report/study"]
    while waiting:
        step = waiting.pop()
        reached.add(step)
        waiting += [need for need in steps[step].needs if need not in reached]
    assert reached == steps.keys()
    kinds = [step.kind for step in steps.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "convert": 1, "fingerprint": 1, "plan": 1, "preprocess": 1, "train": 4, "tune": 2, "best": 1,
        "compare": 1, "predict": 4, "gather": 2, "evaluate": 2, "report": 1,
    }  # fmt: skip


def test_no_two_steps_write_the_same(write_study):
    steps = steps_of(write_study("", "seeds: [0, 1]\n"))
    written = [path for step in steps.values() if step.kind != "preprocess" for path in step.outputs]
    assert len(written) == len(set(written))


SHARING = """batch_size: 2}
  Lossy:
    planner: SGNetPlanner
    settings: {data_identifier: nnUNetPlans_3d_fullres, loss: {bicc_weight: 0.5}}
networks:
  - {trainer: SGNetTrainer, plans: Lossy}"""


def test_a_plan_can_share_the_preprocessed_images_of_another(write_study):
    steps = steps_of(write_study("batch_size: 2}\nnetworks:", SHARING))
    assert "preprocess/Lossy" not in steps
    train = steps["train/SGNetTrainer__Lossy__3d_fullres-f0-s0"]
    assert train.needs == ["preprocess/nnUNetPlans", "plan/Lossy"]
    change = steps["plan/Lossy"].arguments["change"]
    assert change == {"data_identifier": "nnUNetPlans_3d_fullres", "loss": {"bicc_weight": 0.5}}


CHANGES = {
    "a longer training": ("epochs: 2", "epochs: 3", {"train"}),
    "another patch": ("batch_size: 2", "batch_size: 3", {"plan"}),
    "a setting of the plan": (
        "batch_size: 2", "batch_size: 2, settings: {loss: {top_k: 0.1}}", {"plan"},
    ),
    "no setting of the plan": ("batch_size: 2", "batch_size: 2, settings: {}", set()),
    "mirroring": ("mirroring: false", "mirroring: true", {"train"}),
    "one more seed": ("mirroring: false", "mirroring: false\nseeds: [0, 1]", {"report"}),
    "without tuning": ("mirroring: false", "mirroring: false\ntune: false", {"predict"}),
    "resources alone": (
        "mirroring: false",
        "mirroring: false\nresources:\n  train: {cpus: 1, hours: 9, memory_gb: 4, retries: 5, gpus: 2}",
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "kinds"), CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_study_changes_the_steps_that_it_concerns(write_study, old, new, kinds):
    before, after = steps_of(write_study()), steps_of(write_study(old, new))
    changed = {
        step.kind for step in before.values()
        if step.id in after and step.identity() != after[step.id].identity()
    }  # fmt: skip
    assert changed == kinds


def test_a_training_is_that_of_its_network_fold_and_seed(write_study):
    steps = steps_of(
        write_study("er: SGNetTrainer", "er: SGNetTrainer\n    gpus: 2\n    epochs: 7"), device="cuda"
    )
    step = steps["train/SGNetTrainer__nnUNetPlans__3d_fullres-f1-s0"]
    assert step.commands == [
        ["nnUNetv2_train", "501", "3d_fullres", "1", "-tr", "SGNetTrainer", "-p", "nnUNetPlans", "-device",
         "cuda", "--npz", "-num_gpus", "2"]
    ]  # fmt: skip
    assert (step.gpus, step.planned()["epochs"], step.planned()["resources"]["gpu"]) == (2, 7, 2)
    expected = {"SGNET_EPOCHS": "7", "SGNET_ITERS": "2", "SGNET_SEED": "0", "SGNET_MIRRORING": "0"}
    assert expected.items() <= step.environment.items()
    assert step.folders["nnUNet_results"] == "results/seed0"


TRAINERS = {"nnUNetTrainer": 1000, "nnUNetTrainer_250epochs": 250, "nnUNetTrainer_1epoch": 1}


@pytest.mark.parametrize(("trainer", "epochs"), TRAINERS.items())
def test_trainers_of_nnunet_have_epochs_of_their_own(write_study, trainer, epochs):
    steps = steps_of(write_study("BaselineUNetTrainer", trainer))
    assert steps[f"train/{trainer}__nnUNetPlans__3d_fullres-f0-s0"].planned()["epochs"] == epochs


def test_a_training_is_given_more_time_on_a_slower_gpu(write_study):
    def minutes(gpu):
        steps = steps_of(write_study("", f"gpu: {gpu}\n"), device="cuda")
        return next(step.cost.minutes for step in steps.values() if step.kind == "train")

    assert minutes("T4") > minutes("A100") > minutes("H200")


def test_resources_are_those_of_the_study_and_a_job_has_twice_the_expected_time(write_study):
    given = "mirroring: false\nresources:\n  train: {cpus: 1, hours: 9, memory_gb: 4.5}"
    steps = steps_of(write_study("mirroring: false", given))
    (planned, *_) = [step.planned() for step in steps.values() if step.kind == "train"]
    assert (planned["cpus"], planned["resources"]["runtime"], planned["resources"]["mem_mb"]) == (
        1,
        540,
        4500,
    )


@pytest.mark.parametrize("seed", range(3))
def test_cases_stay_in_their_shard_when_others_come_and_go(write_study, seed):
    path = write_study("    references: raw/Dataset501_Tiny/labelsTr\n", "")
    folder, rng = path.parent / "raw/Dataset501_Tiny/imagesTr", np.random.default_rng(seed)

    def shards():
        steps = [step for step in steps_of(path).values() if step.kind == "predict"]
        return [frozenset(Path(file).name for file in step.sources) for step in steps[: len(steps) // 2]]

    before = shards()
    for number in rng.choice(20, 5, replace=False):
        (folder / f"new{number}_0000.nii.gz").touch()
    after = shards()
    assert after[: len(before)] == before
    assert set().union(*after) == {each.name for each in folder.iterdir()}
    assert all(len({name[:-12] for name in shard}) <= 2 for shard in after)
    for gone in before[0]:
        (folder / gone).unlink()
    assert shards() == after[1:]


def test_a_folder_without_images_is_refused(write_study):
    path = write_study("images: raw/Dataset501_Tiny/imagesTr", "images: raw/Dataset501_Tiny/labelsTr")
    with pytest.raises(InputFileError, match="holds no image CASE_0000"):
        steps_of(path)


BULK = """
import resource, sys, time
from pathlib import Path
from sgnet_nnunet.study import steps
from sgnet_nnunet.study.engine import Run
from sgnet_nnunet.study.study_file import read_study

patients = int(sys.argv[2])
images = {f"p{i:06d}": [f"/archive/p{i:06d}_{c:04d}.nii.gz" for c in (0, 1)] for i in range(patients)}
steps.list_images = lambda place: images
began = time.monotonic()
run = Run(read_study(Path(sys.argv[1])))
with run.locked():
    run.prepare()
    number = len(run.missing())  # by Snakemake
# Its own maximum by getrusage would include that of the process that started it.
own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
of_snakemake = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(number, time.monotonic() - began, max(own, of_snakemake) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("patients", [100_000])
def test_the_plan_of_many_patients_is_made_in_a_minute_and_two_gigabytes(write_study, patients):
    path = write_study("shard_size: 2", "shard_size: 500")
    output = subprocess.run(
        [sys.executable, "-c", BULK, str(path), str(patients)], check=True, capture_output=True, text=True
    ).stdout
    number, seconds, gigabytes = map(float, output.split())
    sys.stdout.write(f"{seconds:.1f} s, {gigabytes:.2f} GB\n")
    assert number == 13 + 4 + 2 * patients / 500
    assert seconds < 60
    assert gigabytes < 2
