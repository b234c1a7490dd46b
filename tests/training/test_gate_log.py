import numpy as np
from PIL import Image

from sgnet_nnunet.training.gate_monitor import KEYS, GateLogger


def log_epochs(logger, epochs):
    for epoch in range(epochs):
        for key in logger.my_fantastic_logging:
            value = [0.1 * epoch, 0.5] if key in KEYS else [0.5] if "per_class" in key else 0.5
            logger.log(key, value, epoch)


def test_progress_plot_gains_a_panel(tmp_path):
    logger = GateLogger(["1/4", "1/2"])
    log_epochs(logger, 3)
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        assert image.height > 1.3 * 54 / 30 * image.width / 1.2
        panel = np.asarray(image)[image.width * 54 // 30 :]
    assert panel.min() < 200  # something is drawn there


def test_network_without_gates_has_nnunets_plot(tmp_path):
    logger = GateLogger([])
    log_epochs(logger, 1)
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        assert abs(image.height / image.width - 54 / 30) < 0.01


def test_log_comes_back_from_a_checkpoint():
    logger, other = GateLogger(["1/2"]), GateLogger(["1/2"])
    log_epochs(logger, 2)
    other.load_checkpoint(logger.get_checkpoint())
    assert other.get_value("gate_open_fraction", step=None) == [[0.0, 0.5], [0.1, 0.5]]


def test_log_of_a_network_without_gates_can_be_loaded():
    logger = GateLogger(["1/2"])
    logger.load_checkpoint({"train_losses": []})
    assert logger.get_value("gate_open_fraction", step=None) == []
