"""`sgnet tune` on results as nnU-Net leaves them."""

import json

import pytest

from sgnet_nnunet.cli.main import main

MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    return ended.value.code or 0


@pytest.fixture
def model(nnunet_paths, make_results):
    """Return the folder of a model with probabilities, in the paths that nnU-Net is told."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (nnunet_paths / name).rmdir()
    make_results(nnunet_paths, models=("BaselineUNetTrainer", "SGNetTrainer"), probabilities=True)
    folder = nnunet_paths / "nnUNet_results/Dataset501_Tiny" / MODEL
    plans = {"dataset_name": "Dataset501_Tiny", "plans_name": "nnUNetPlans", "configurations": {}}
    plans |= {"image_reader_writer": "NibabelIO", "label_manager": "LabelManager"}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_point_and_picture_are_written_into_the_models_folder(model, capsys):
    assert run("-d", "501", "-tr", "SGNetTrainer", "-f", "0", "1", "2", "-np", "1") == 0
    content = json.loads((model / "operating_point.json").read_text())
    assert content["tuned_for"]["model"] == f"Dataset501_Tiny/{MODEL}"
    assert (content["cases"], content["patients"], content["tuned_for"]["folds"]) == (6, 3, ["0", "1", "2"])
    # The second model's masks are shifted by a voxel and each has a false positive of 16 mm3.
    assert content["default"]["false_positives_per_case"] == 1
    assert content["point"]["min_lesion_volume_mm3"] > 16
    assert content["cross_fitted"]["false_positives_per_case"] == 0
    assert files(model) == {"dataset.json", "plans.json", "operating_point.json", "operating_point.png"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "highest lesion F1: threshold 0.5, lesions below 20 mm3 removed" in shown


def test_output_and_one_fold_can_be_named(model, tmp_path):
    path = tmp_path / "new/point.json"
    status = run(
        *("-d", "501", "-tr", "SGNetTrainer", "-f", "0", "1", "--sensitivity", "0.9"),
        *("-o", str(path), "-np", "1"),
    )
    assert status == 0
    assert json.loads(path.read_text())["wanted_sensitivity"] == 0.9
    assert files(path.parent) == {"point.json", "point.png"}
    assert files(model) == {"dataset.json", "plans.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "7"], "has 3 folds, no fold 7"),
        (["-f", "all"], "fold all is validated on the cases it was trained on"),
        (
            ["-f", "0", "1", "--sensitivity", "1"],
            "no operating point reaches a lesion sensitivity of 1: the best is",
        ),
        (["-f", "0", "-p", "otherPlans"], "there is no such model"),
        (["-f", "0", "-o", "froc.png"], "-o froc.png: is not the name of a JSON file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model, capsys, monkeypatch, arguments, message):
    if "--sensitivity" in arguments:
        references = model.parents[2] / "nnUNet_preprocessed/Dataset501_Tiny/gt_segmentations"
        move_a_lesion(next(references.glob("*A000.nii.gz")))
    assert run("-d", "501", "-tr", "SGNetTrainer", "-np", "1", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("sgnet: ")]) == 1
    assert files(model) == {"dataset.json", "plans.json"}


def test_missing_probabilities_name_the_file_and_the_command(model, capsys):
    (model / "fold_1/validation/YG_P002_YG_A004.npz").unlink()
    assert run("-d", "501", "-tr", "SGNetTrainer", "-f", "0", "1", "-np", "1") == 2
    error = capsys.readouterr().err
    assert (
        "fold_1/validation/YG_P002_YG_A004.npz: there is no such file; run nnUNetv2_train 501 3d_fullres 1"
        in error
    )
    assert "-tr SGNetTrainer --val --npz" in error


def move_a_lesion(path):
    import nibabel as nib  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[20:22, 0:2, 0:2] = 1
    nib.save(nib.Nifti1Image(data, image.affine), path)
