from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.froc import read_case, read_model

COMMAND = r"run nnUNetv2_train 501 3d_fullres 0 -tr SGNetTrainer --val --npz"


@pytest.fixture
def model(make_model, add_case):
    folder = make_model()
    tumour = np.zeros((4, 5, 6))
    tumour[1, 2, 3] = 0.9
    return read_model(folder), add_case(folder, "case", tumour, tumour > 0.5, spacing=(5, 0.7, 0.6))


def damage(case, array=None, **arrays):
    np.savez_compressed(case.probabilities, **({"probabilities": array} if array is not None else arrays))


def test_case_is_read_in_the_order_z_y_x(model):
    saved = read_case(model[1], model[0])
    assert saved.probabilities.shape == (2, 4, 5, 6)
    assert np.argwhere(saved.reference).tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(saved.spacing, (5, 0.7, 0.6), rtol=1e-6)


def test_model_is_named_by_its_data_set_and_folder(model):
    assert model[0].name == "Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "IPR"])
@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIO", "NibabelIO"])
def test_reference_is_read_as_the_images_were_however_its_axes_lie(make_model, add_case, codes, reader):
    folder = make_model(reader=reader)
    reference = np.zeros((4, 5, 6))
    reference[0, 1, 2:5] = 1
    case = add_case(folder, "case", reference, reference > 0, spacing=(5, 0.7, 0.6))
    image = nib.load(case.reference)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    nib.save(nib.Nifti1Image.from_bytes(image.as_reoriented(turn).to_bytes()), case.reference)
    model = read_model(folder)
    # What nnU-Net saves lies as its reader reads the images, which lie as their reference.
    seen, _ = model.plans.image_reader_writer_class().read_seg(str(case.reference))
    damage(case, np.stack([1 - seen[0], seen[0]]).astype(np.float32))
    saved = read_case(case, model)
    np.testing.assert_array_equal(saved.reference, saved.probabilities[1] > 0.5)
    assert saved.reference.sum() == 3
    assert np.isclose(np.prod(saved.spacing), 5 * 0.7 * 0.6)
    if reader == "NibabelIOWithReorient":
        np.testing.assert_array_equal(saved.reference, reference > 0)


def test_missing_probabilities_name_the_file_and_the_command(model):
    model[1].probabilities.unlink()
    with pytest.raises(InputFileError, match=rf"validation/case\.npz: there is no such file; {COMMAND}"):
        read_case(model[1], model[0])


def test_fold_that_is_not_trained_is_to_be_trained_with_probabilities(model, add_case):
    case = replace(model[1], fold="3", probabilities=None)
    with pytest.raises(
        InputFileError, match=r"fold_3/validation/case\.npz.*3d_fullres 3 -tr SGNetTrainer --npz"
    ):
        read_case(case, model[0])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 4, 5, 6), np.nan), "holds values from nan to nan, which are no probabilities"),
        (np.full((2, 4, 5, 6), np.inf), "holds values from inf to inf"),
        (np.full((2, 4, 5, 6), -3.0), "holds values from -3 to -3"),
        (np.full((2, 4, 5, 6), 1.5), r"holds values from 1\.5 to 1\.5"),
        (np.zeros((2, 4, 6, 5)), r"has the shape \(4, 6, 5\) \(z, y, x\), its reference .*\(4, 5, 6\)"),
        (np.zeros((3, 4, 5, 6)), r"of shape \(3, 4, 5, 6\), \(classes or regions, z, y, x\) with 2 of"),
        (np.zeros((4, 5, 6)), r"of shape \(4, 5, 6\)"),
        (np.array([{}], dtype=object), "cannot be read as nnU-Net's probabilities"),
    ],
)
def test_arrays_that_are_no_probabilities_are_refused(model, array, message):
    damage(model[1], array)
    with pytest.raises(InputFileError, match=message) as error:
        read_case(model[1], model[0])
    assert "\n" not in str(error.value)


def test_one_nan_among_probabilities_is_found(model):
    array = np.full((2, 4, 5, 6), 0.5)
    array[1, 3, 4, 5] = np.nan
    damage(model[1], array)
    with pytest.raises(InputFileError, match="no probabilities"):
        read_case(model[1], model[0])


def test_archive_without_probabilities_is_refused(model):
    damage(model[1], softmax=np.zeros(3))
    with pytest.raises(InputFileError, match="cannot be read as nnU-Net's probabilities"):
        read_case(model[1], model[0])


@pytest.mark.parametrize("kept", [0, 100, -20])
def test_truncated_files_are_refused(model, kept):
    path = model[1].probabilities
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputFileError, match=r"case\.npz: cannot be read as nnU-Net's probabilities"):
        read_case(model[1], model[0])


def test_reference_that_cannot_be_read_is_named(model):
    model[1].reference.write_bytes(model[1].reference.read_bytes()[:40])
    with pytest.raises(InputFileError, match=r"gt_segmentations/case\.nii\.gz: cannot be read"):
        read_case(model[1], model[0])


def test_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"plans\.json: cannot be read"):
        read_model(tmp_path)
