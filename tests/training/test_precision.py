from pathlib import Path

import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training import settings as precision_module
from sgnet_nnunet.training.settings import Precision, emulates_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize("environment", [{}, {"SGNET_BF16": "0"}, {"SGNET_BF16": ""}])
def test_bfloat16_is_off_by_default(environment):
    assert not Precision.from_environment(torch.device("cuda"), environment).bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_each_step_runs_in_bfloat16_with_the_weights_of_its_time():
    layer = torch.nn.Linear(2, 1, bias=False)
    precision = Precision.from_environment(CPU, {"SGNET_BF16": "1"})
    outputs = []
    for weight in (1.0, 2.0):
        torch.nn.init.constant_(layer.weight, weight)
        with precision.of_a_step():
            outputs.append(layer(torch.ones(1, 2)))
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    assert [output.item() for output in outputs] == [2.0, 4.0]
    assert not torch.is_autocast_enabled("cpu")


def test_what_is_neither_0_nor_1_is_refused():
    with pytest.raises(SGNetError, match="SGNET_BF16='yes': must be 1"):
        Precision.from_environment(CPU, {"SGNET_BF16": "yes"})


def test_another_device_is_refused():
    with pytest.raises(SGNetError, match="the device is cuda; unset it"):
        Precision.from_environment(torch.device("cuda"), {"SGNET_BF16": "1"})


def test_instance_norms_are_refused_before_the_training(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_BF16", "1")
    with pytest.raises(SGNetError, match=r"UNet has instance norms, .* \(NaN\); unset it"):
        make_trainer("BaselineUNetTrainer").initialize()


def test_a_trainer_trains_in_bfloat16_and_says_so(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_BF16", "1")
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.initialize()
    seen = []
    trainer.network.head.register_forward_hook(lambda *passed: seen.append(passed[-1].dtype))
    trainer.run_training()
    assert set(seen) == {torch.bfloat16}
    assert next(trainer.network.parameters()).dtype == torch.float32
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    assert "in bfloat16 (SGNET_BF16=1)" in Path(trainer.log_file).read_text()


@pytest.mark.parametrize(
    ("machine", "capability", "emulates"),
    [
        ("x86_64", "AVX2", True),
        ("AMD64", "DEFAULT", True),
        ("x86_64", "AVX512", False),
        ("arm64", "DEFAULT", False),
    ],
)
def test_cpus_that_only_imitate_bfloat16_are_known(machine, capability, emulates):
    assert emulates_bfloat16(machine, capability) == emulates


@pytest.mark.parametrize("emulates", [True, False])
def test_the_log_warns_where_bfloat16_is_imitated(monkeypatch, emulates):
    monkeypatch.setattr(precision_module, "emulates_bfloat16", lambda: emulates)
    assert ("WARNING" in Precision(bfloat16=True).note()) == emulates
    assert "WARNING" not in Precision().note()
