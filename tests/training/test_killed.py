"""Trainings that are killed, continued, repeated or handed a stranger's checkpoint."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.run import run_training

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.trust import load_pickle

KILLS = int(os.environ.get("SGNET_KILLS", "3"))
ALONE = "SGNET_TEST_ALONE"
EPOCHS, WARM_UP, SAVE_EVERY = 8, 4, 3
WORST = (False, float("-inf"))
LATEST, BEST, FINAL = (f"checkpoint_{name}.pth" for name in ("latest", "best", "final"))


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def start(make_trainer, preprocessed, monkeypatch, tmp_path):
    """Return a function that makes a seeded trainer, continued by nnU-Net's `--c` if it is to be."""
    monkeypatch.setenv("SGNET_SEED", "7")
    monkeypatch.setenv("SGNET_EPOCHS", str(EPOCHS))
    plans = json.loads((preprocessed / "nnUNet_preprocessed/Dataset501_Tiny/nnUNetPlans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["arch_kwargs"] |= {"features_per_stage": [4, 8, 8, 8]}
    small = {"architecture": architecture, "gate_supervision": {"warm_up": WARM_UP / EPOCHS}}

    def begin(name="SGNetTrainer", *, continued=False, folder="run"):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / folder))
        trainer = make_trainer(name, continue_training=continued, patch=(16, 16, 16), configuration=small)
        trainer.save_every = SAVE_EVERY
        run_training.maybe_load_checkpoint(trainer, continued, validation_only=False)
        return trainer

    return begin


def weights_of(path):
    return load_pickle(path)["network_weights"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rank_of(path):
    """Return how good a checkpoint is: any with enabled gates is better than those of the warm-up."""
    content = load_pickle(path)
    assert content["_best_ema"] == content["logging"]["ema_fg_dice"][-1]
    return content["current_epoch"] > WARM_UP, content["_best_ema"]


def train_silently(begin, continued):
    os.setsid()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    begin(continued=continued).run_training()


def train_in_a_child(begin, *, continued, seconds=None):
    """Train in a process of its own, kill it after some seconds, and return its exit code and duration."""
    child = multiprocessing.get_context("fork").Process(target=train_silently, args=(begin, continued))
    started = time.monotonic()
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode, time.monotonic() - started


needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


@needs_fork
@pytest.mark.slow
def test_killed_and_continued_training_ends_as_one_in_one_go(request):
    """`SGNET_KILLS` sets the number of kills, at moments drawn from the duration of a training.

    The trainings are forks. PyTorch refuses backward passes in forks of a process that has run others in
    threads, as the other tests may have: this one runs in a process of its own.
    """
    if ALONE not in os.environ:
        test = f"{__file__}::{request.node.name}"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
            cwd=request.config.rootpath,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
            | {ALONE: "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    start = request.getfixturevalue("start")
    draw = random.Random(KILLS)
    code, whole = train_in_a_child(start, continued=False)
    assert code == 0
    reference = start().output_folder
    expected = {name: weights_of(Path(reference, name)) for name in (BEST, FINAL)}
    folder, kills, best = Path(reference), 0, WORST
    shutil.rmtree(folder)
    while kills < KILLS:
        code, _ = train_in_a_child(start, continued=folder.exists(), seconds=draw.uniform(0, whole))
        kills += code == -signal.SIGKILL
        for path in folder.glob("checkpoint_*.pth"):
            load_pickle(path)  # whole
        if (folder / BEST).exists():
            assert rank_of(folder / BEST) >= best
            best = rank_of(folder / BEST)
        if code == 0:  # a training of its own each time one ends
            check_ended(folder, expected)
            shutil.rmtree(folder)
            best = WORST
    if folder.exists():
        assert train_in_a_child(start, continued=True)[0] == 0
        check_ended(folder, expected)


def check_ended(folder, expected):
    final = load_pickle(folder / FINAL)
    assert final["current_epoch"] == EPOCHS
    assert len(final["logging"]["train_losses"]) == EPOCHS
    assert not list(folder.glob(".partial-*"))
    assert not (folder / LATEST).exists()
    for name, weights in expected.items():
        assert same(weights_of(folder / name), weights)


@pytest.fixture(scope="module")
def trained():
    """Return the files of `checkpoint`, filled by the first test that needs them."""
    return {}


@pytest.fixture
def checkpoint(start, trained):
    """Return the latest checkpoint of a training that was stopped after its third epoch, and its best."""
    trainer = start()
    paths = [Path(trainer.output_folder, name) for name in (LATEST, BEST)]
    if not trained:
        train_epochs(trainer, 3)
        trained.update({path.name: path.read_bytes() for path in paths})
    for path in paths:
        path.write_bytes(trained[path.name])
    return tuple(paths)


def train_epochs(trainer, number):
    """Train up to an epoch; what follows is as if the process had been killed."""
    end = trainer.on_epoch_end

    def end_or_stop():
        end()
        if trainer.current_epoch == number:
            raise KeyboardInterrupt

    trainer.on_epoch_end = end_or_stop
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()


def rewrite(path, **changes):
    torch.save(load_pickle(path) | changes, path)


def test_payload_of_a_checkpoint_runs_only_if_it_is_trusted(start, checkpoint, monkeypatch, tmp_path):
    latest, best = checkpoint
    shutil.copy(latest, best)
    for path in (latest, best):
        whole = path.read_bytes()
        rewrite(path, extra=Payload(tmp_path / "marker"))
        with pytest.raises(
            InputFileError, match=r"holds more than weights \(posix\.mkdir\).*SGNET_TRUST=1"
        ) as caught:
            start(continued=True)
        assert caught.value.path == path
        assert not (tmp_path / "marker").exists()
        dangerous = path.read_bytes()
        path.write_bytes(whole)
    best.write_bytes(dangerous)
    monkeypatch.setenv("SGNET_TRUST", "1")
    assert start(continued=True).current_epoch == 3
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"current_epoch": -1}, r"\$\.current_epoch"),
        ({"current_epoch": "3"}, r"\$\.current_epoch: expected int, got '3'"),
        ({"logging": []}, r"\$\.logging: expected object"),
        ({"optimizer_state": None}, r"\$\.optimizer_state"),
        ({"network_weights": [1]}, r"\$\.network_weights"),
        ({"init_args": None}, r"\$\.init_args"),
    ],
)
def test_checkpoint_that_cannot_be_continued_is_named(start, checkpoint, changes, words):
    rewrite(checkpoint[0], **changes)
    with pytest.raises(InputFileError, match=words) as caught:
        start(continued=True)
    assert caught.value.path == checkpoint[0]


def test_half_a_checkpoint_is_named(start, checkpoint):
    os.truncate(checkpoint[0], 1000)
    with pytest.raises(InputFileError, match="cannot be read"):
        start(continued=True)


def test_training_continues_from_the_later_of_its_checkpoints(start, checkpoint):
    latest, best = checkpoint
    content = load_pickle(latest)
    assert start(continued=True).current_epoch == 3
    log = content["logging"] | {"ema_fg_dice": [0.1, 0.2, 0.3, 0.9]}
    rewrite(best, current_epoch=4, logging=log, _best_ema=0.9)
    trainer = start(continued=True)
    assert (trainer.current_epoch, trainer._best_ema) == (4, 0.9)
    rewrite(best, current_epoch=2, _best_ema=0.2, logging=log | {"ema_fg_dice": [0.1, 0.2]})
    rewrite(latest, _best_ema=0.2, logging=log | {"ema_fg_dice": [0.1, 0.2, 0.1]})
    trainer = start(continued=True)
    assert (trainer.current_epoch, trainer._best_ema) == (3, 0.2)
    assert load_pickle(best)["current_epoch"] == 2


@pytest.mark.parametrize("absent", [True, False])
def test_training_killed_between_both_files_of_its_best_epoch_gets_the_second(start, checkpoint, absent):
    latest, best = checkpoint
    log = load_pickle(latest)["logging"] | {"ema_fg_dice": [0.1, 0.2, 0.3]}
    rewrite(latest, _best_ema=None if absent else 0.2, logging=log)
    if absent:
        best.unlink()
    else:
        rewrite(best, current_epoch=2, _best_ema=0.2, logging=log | {"ema_fg_dice": [0.1, 0.2]})
    assert start(continued=True)._best_ema == 0.3
    found = load_pickle(best)
    assert (found["current_epoch"], found["_best_ema"]) == (3, 0.3)
    assert same(found["network_weights"], weights_of(latest))


def test_halves_that_a_kill_left_are_removed_at_the_next_start(start, checkpoint):
    left = [checkpoint[0].with_name(f".partial-{name}") for name in (LATEST, BEST, FINAL)]
    other = checkpoint[0].with_name(".partial-notes.txt")
    for path in (*left, other):
        path.write_bytes(b"half")
    start(continued=True).on_train_start()
    assert [path.exists() for path in (*left, other)] == [False] * 3 + [True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGNetTrainer", "SGNetNotebookTrainer"])
def test_seeded_training_repeats_bit_for_bit_also_if_it_is_continued(start, name):
    folders = []
    for folder in ("one", "other"):
        trainer = start(name, folder=folder)
        trainer.run_training()
        folders.append(Path(trainer.output_folder))
    train_epochs(start(name, folder="continued"), 4)
    trainer = start(name, continued=True, folder="continued")
    assert 3 <= trainer.current_epoch <= 4
    trainer.run_training()
    folders.append(Path(trainer.output_folder))
    first, *others = (weights_of(folder / FINAL) for folder in folders)
    assert all(same(first, each) for each in others)


def test_other_seed_gives_another_network(start, monkeypatch):
    found = []
    for seed in ("7", "7", "8"):
        monkeypatch.setenv("SGNET_SEED", seed)
        trainer = start()
        trainer.initialize()
        found.append(trainer.network.state_dict())
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
