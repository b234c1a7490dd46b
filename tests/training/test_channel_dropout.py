import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.plan import MISSING_CHANNELS, read_description
from sgnet_nnunet.training.channel_dropout import RESULT_FILE, drop_channels, dropout_of_plan

SHARE = 0.3
WITHOUT_SECOND = {"channel_dropout": {"MR1": SHARE}}


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)  # noqa: NPY002 - nnU-Net's loaders draw from it


def log_of(trainer):
    return Path(trainer.log_file).read_text()


@pytest.mark.parametrize("name", ["SGNetTrainer", "SGNetNotebookTrainer", "BaselineUNetTrainer"])
def test_the_planned_share_of_the_training_patches_loses_its_channel_and_no_other(
    make_trainer, monkeypatch, name
):
    trainer = make_trainer(name, configuration=WITHOUT_SECOND)
    seen = []
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda _, batch: seen.append(batch["data"]) or {})
    trainer.train_step({"data": torch.ones(4000, 2, 1, 1, 1)})
    (patches,) = seen
    assert (patches[:, 0] == 1).all()
    assert (patches[:, 1] == 0).float().mean() == pytest.approx(SHARE, abs=0.04)


@pytest.mark.slow
def test_validation_patches_keep_every_channel(make_trainer):
    trainer = make_trainer("BaselineUNetTrainer", configuration={"channel_dropout": {"MR1": 0.99}})
    trainer.initialize()
    batch = {"data": torch.rand(2, 2, 16, 32, 32), "target": torch.zeros(2, 1, 16, 32, 32)}
    before = batch["data"].clone()
    trainer.validation_step(batch)
    assert torch.equal(batch["data"], before)


def test_a_plan_without_the_setting_draws_no_random_number_and_changes_nothing(make_trainer):
    trainer = make_trainer()
    plans, state = json.dumps(trainer.plans_manager.plans), str(np.random.get_state())  # noqa: NPY002
    batch = torch.rand(4, 2, 3, 3, 3)
    before = batch.clone()
    drop_channels(batch, trainer.channel_dropout)
    assert str(np.random.get_state()) == state  # noqa: NPY002
    trainer.initialize()
    trainer.on_train_start()
    trainer.validate_without_channels()
    assert torch.equal(batch, before)
    assert json.loads(Path(trainer.output_folder_base, "plans.json").read_text()) == json.loads(plans)
    assert "dropout" not in log_of(trainer)
    assert not Path(trainer.output_folder, "validation", RESULT_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGNetTrainer", "BaselineUNetTrainer"])
def test_the_model_says_so_and_its_loss_is_logged(make_trainer, name):
    trainer = make_trainer(name, configuration=WITHOUT_SECOND)
    trainer.run_training()
    description = read_description(Path(trainer.output_folder_base))
    assert description.plans[MISSING_CHANNELS] == ["MR1"]
    assert description.optional_channels == {1}
    checkpoint = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=False)
    assert checkpoint["init_args"]["plans"][MISSING_CHANNELS] == ["MR1"]

    trainer.validate_without_channels()
    log = log_of(trainer)
    assert "Channel dropout: 30% of the training patches are without MR1" in log
    assert "with all channels" in log
    assert "without MR1" in log
    written = json.loads(Path(trainer.output_folder, "validation", RESULT_FILE).read_text())
    scores = written["left_out"]["MR1"]
    assert list(scores["per_case"]) == trainer.do_split()[1]
    assert set(scores["mean"]) == {"dice", "dice_without", "loss"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, "whole"])
def test_the_loss_is_measured_in_every_validation_of_the_fold(make_trainer, monkeypatch, engine):
    trainer = make_trainer("SGNetNoGateTrainer", configuration=WITHOUT_SECOND)
    trainer.initialize()
    trainer.validation_engine = engine
    for name in ("_predict_validation_cases", "_evaluate_validation_cases"):
        monkeypatch.setattr(trainer, name, lambda *_, **__: None)
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    trainer.perform_actual_validation()
    assert Path(trainer.output_folder, "validation", RESULT_FILE).is_file()
    assert log_of(trainer).count("with all channels") == 1
    assert trainer.sgnet.return_gates


def test_the_figures_are_the_dice_of_the_case_with_the_channel_and_with_zeros(make_trainer, monkeypatch):
    trainer = make_trainer("BaselineUNetTrainer", kind="ignore", configuration=WITHOUT_SECOND)
    trainer.initialize()

    def bright(image):
        foreground = image[1] > 0.5
        return np.stack([~foreground, foreground]).astype(np.float32)

    monkeypatch.setattr(trainer, "whole_image_logits", lambda: bright)
    trainer.validate_without_channels()
    scores = json.loads(Path(trainer.output_folder, "validation", RESULT_FILE).read_text())
    for case, figures in scores["left_out"]["MR1"]["per_case"].items():
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case])
        data, labels, *_ = dataset.load_case(case)
        counts = np.asarray(labels[0]) != trainer.label_manager.ignore_label
        found, reference = (np.asarray(data[1]) > 0.5) & counts, (np.asarray(labels[0]) > 0) & counts
        expected = 2 * (found & reference).sum() / (found.sum() + reference.sum())
        assert figures == pytest.approx({"dice": expected, "dice_without": 0, "loss": expected})


@pytest.mark.parametrize(
    ("planned", "problem"),
    [
        (0.25, "Expected `object`"),
        ({"FLAIR": 1}, "Expected `float` < 1"),
        ({"FLAIR": "often"}, "Expected `float`"),
        ({"T2": 0.5}, "must name some of the channels T1ce, FLAIR"),
        ({"FLAIR": 0.5, "T1ce": 0.5}, "not all"),
    ],
)
def test_what_is_no_probability_of_a_channel_is_refused(planned, problem):
    with pytest.raises(SGNetError, match=problem):
        dropout_of_plan(planned, ["T1ce", "FLAIR"])


def test_a_probability_of_zero_is_no_dropout():
    assert dropout_of_plan({"FLAIR": 0.0}, ["T1ce", "FLAIR"]) == {}
