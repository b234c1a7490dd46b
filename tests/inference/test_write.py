"""Masks as nnU-Net writes them."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from sgnet_nnunet.files import PARTIAL_PREFIX
from sgnet_nnunet.inference.postprocessing import write_mask
from sgnet_nnunet.nifti import read_channels, reader_class


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIO"])
def test_mask_lies_where_the_image_lies(make_case, turned, pool, tmp_path, reader):
    files = make_case("a", affine=turned)
    channels, properties = read_channels(files, reader=reader, pool=pool)
    bright = (channels[0] > 350).astype(np.uint8)
    path, expected = tmp_path / "a.nii.gz", tmp_path / "expected.nii.gz"
    write_mask(path, bright, properties, reader=reader)
    reader_class(reader)().write_seg(bright, str(expected), properties)
    assert nib.load(path).header == nib.load(expected).header
    image = nib.load(files[0])
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), np.asarray(image.dataobj) > 350)
    ours, theirs = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(files[0]))
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(ours, geometry)(), getattr(theirs, geometry)(), atol=1e-6)


def test_interrupted_writing_leaves_nothing(make_case, pool, tmp_path):
    channels, properties = read_channels(make_case("a"), reader="NibabelIO", pool=pool)
    with pytest.raises(KeyError):
        write_mask(tmp_path / "a.nii.gz", channels[0].astype(np.uint8), {}, reader="NibabelIO")
    assert not list(tmp_path.glob("*.nii.gz")) + list(tmp_path.glob(f"{PARTIAL_PREFIX}*"))
    assert properties
