"""Volumes keep their voxels, their place and their bytes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.nifti import Volume, write_volume

OBLIQUE = np.array([[0.0, -0.8, 0.6, 5], [2.0, 0, 0, -7], [0, 0.6, 0.8, 1], [0, 0, 0, 1]])


def test_spacing_and_voxel_volume_of_an_oblique_grid():
    volume = Volume(np.zeros((2, 2, 2)), OBLIQUE)
    assert volume.spacing == pytest.approx((2.0, 1.0, 1.0))
    assert volume.voxel_volume == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_volume_is_written_as_it_is_and_always_to_the_same_bytes(tmp_path: Path, dtype: type):
    volume = Volume(np.arange(60).reshape(5, 4, 3).astype(dtype), OBLIQUE)
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    write_volume(first, volume)
    write_volume(second, volume)
    assert first.read_bytes() == second.read_bytes()
    image = nib.load(first)
    np.testing.assert_array_equal(image.dataobj, volume.data)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
    assert image.get_data_dtype() == dtype
    assert image.header.get_xyzt_units()[0] == "mm"
