"""Real scans, laid out as the collection is, become a data set."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.mark.parametrize("target", ["whole", "core", "regions"])
def test_masks_on_the_t1ce_grid_are_kept_to_the_voxel(
    real_data: Path, convert, accepted_by_nnunet, target: str
):
    root = real_data / "real_tcia_layout"
    result = convert(root=root, target=target)
    assert (result.used, result.exit_status) == (3, 0)
    assert accepted_by_nnunet(result.dataset_folder)
    part = "core_seg" if target == "core" else "whole_seg"
    for row in result.report:
        label = nib.load(result.dataset_folder / "labelsTr" / f"{row.case}.nii.gz")
        source = nib.load(root / row.patient / f"{row.accession}_{part}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(label.dataobj) > 0, np.asanyarray(source.dataobj) > 0)
