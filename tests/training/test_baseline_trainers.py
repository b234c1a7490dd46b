from pathlib import Path

import numpy as np
import pytest
import torch

NAMES = ("BaselineUNetTrainer", "BaselineResUNetTrainer", "BaselineAttentionUNetTrainer")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_baseline_trains_and_loads_its_checkpoint(make_trainer, name, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer(name)
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    assert not trainer.enable_deep_supervision
    final = Path(trainer.output_folder, "checkpoint_final.pth")
    content = torch.load(final, weights_only=False)
    assert content["trainer_name"] == name
    resumed = make_trainer(name, continue_training=True)
    # The name that version 0.1.0 wrote, given by the content of the file.
    resumed.load_checkpoint(content | {"trainer_name": name.removeprefix("Baseline")})
    assert resumed.current_epoch == 1


def test_the_parameters_are_those_of_the_sgnet_table(make_trainer):
    counts = []
    for name in NAMES:
        trainer = make_trainer(name)
        trainer.initialize()
        counts.append(sum(p.numel() for p in trainer.network.parameters()))
    # 1.98 M, 4.81 M and 5.91 M, and a second head.
    assert [round(count / 1e6, 2) for count in counts] == [1.98, 4.81, 5.91]
