"""The command's own part; `tests/inference/test_predict.py` predicts with a network."""

from pathlib import Path

import pytest

from sgnet_nnunet.cli import predict as module
from sgnet_nnunet.cli.main import main
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.shipped import shipped_model


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["predict", "-i", "in", "-o", "out", *arguments])
    return ended.value.code or 0


@pytest.fixture
def calls(monkeypatch):
    """Replace the prediction; return the calls."""
    calls = []

    def predict_folder(images, output, *, on_start, on_done, **options):
        on_start(1)
        on_done()
        calls.append((images, output, options))
        return 3

    monkeypatch.setattr(module, "predict_folder", predict_folder)
    monkeypatch.setattr(module, "find_model_folder", lambda dataset, name: Path("results", dataset, name))
    return calls


def test_defaults_are_fit_for_a_cpu(calls, capsys):
    assert run("-d", "501") == 0
    folder = Path("results/501/SGNetTrainer__nnUNetPlans__3d_fullres")
    options = {"model_folders": [folder], "operating_point": "auto", "options": PredictionOptions()}
    assert calls == [(Path("in"), Path("out"), options)]
    assert PredictionOptions().mirroring is False
    assert "3 masks" in capsys.readouterr().out


def test_options_of_nnunet_are_passed_on(calls):
    arguments = "-m model -f 0 2 -chk best.pth -device cpu -step_size 0.75 --tta -npp 1 -nps 2"
    assert (
        run(*arguments.split(), "--continue_prediction", "--save_probabilities", "--operating-point", "none")
        == 0
    )
    assert calls[0][2] == {
        "model_folders": [Path("model")],
        "operating_point": "none",
        "options": PredictionOptions(
            folds=("0", "2"),
            checkpoint="best.pth",
            device="cpu",
            step_size=0.75,
            mirroring=True,
            preprocessing_threads=1,
            export_threads=2,
            continue_prediction=True,
            save_probabilities=True,
        ),
    }


def test_mirroring_can_be_disabled_in_nnunets_words(calls):
    assert run("-m", "model", "--disable_tta") == 0
    assert calls[0][2]["options"].mirroring is False


@pytest.mark.parametrize("arguments", ["", "-m synthetic", "-m synthetic -device cpu"])
def test_without_a_model_the_one_in_the_package_predicts(calls, arguments):
    assert run(*arguments.split()) == 0
    assert calls[0][2]["model_folders"] == [shipped_model().folder / "openvino"]


@pytest.mark.parametrize("arguments", ["-device cuda", "-m synthetic --runtime torch", "-step_size 0.75"])
def test_what_only_pytorch_can_do_is_done_by_the_packages_weights_for_it(calls, arguments):
    assert run(*arguments.split()) == 0
    assert calls[0][2]["model_folders"] == [shipped_model().trained]


def test_the_model_is_named_in_one_way(calls, capsys):
    assert run("-d", "501", "-m", "model") == 2
    assert "name the model either by -d" in capsys.readouterr().err
    assert not calls


def test_options_of_engines_are_passed_on(calls):
    arguments = "-m one two -m three --engine sparse --runtime openvino --precision bf16 --max-memory 2.5"
    assert run(*arguments.split(), "-num_parts", "4", "--part-id", "3") == 0
    assert calls[0][2]["model_folders"] == [Path("one"), Path("two"), Path("three")]
    assert calls[0][2]["options"] == PredictionOptions(
        engine="sparse",
        runtime="openvino",
        precision="bf16",
        max_memory=2_500_000_000,
        num_parts=4,
        part_id=3,
    )


@pytest.mark.parametrize(
    "arguments", ["--engine quick", "--runtime jax", "--precision f16", "--max-memory 0", "--num-parts 0"]
)
def test_what_is_not_offered_is_refused(calls, capsys, arguments):
    assert run("-m", "model", *arguments.split()) == 2
    assert "Invalid value" in capsys.readouterr().err
    assert not calls


@pytest.mark.slow
def test_bar_is_drawn_in_a_terminal_only(calls, capsys, monkeypatch):
    assert run("-m", "model") == 0
    assert not capsys.readouterr().err
    monkeypatch.setattr(module.err, "_force_terminal", True)
    assert run("-m", "model") == 0
    assert "predicting" in capsys.readouterr().err
