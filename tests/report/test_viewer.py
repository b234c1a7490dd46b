import base64
import gzip
import hashlib
import json
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.report.case_pictures import CaseJob, draw_case
from sgnet_nnunet.report.figures import colours_of
from sgnet_nnunet.report.viewer import viewer_of_results


def written(results, folder):
    colours = colours_of(results.models)
    draw_case(
        CaseJob(
            answers=tuple(case for case in results.cases if case.name == "a"),
            results=results,
            colours=colours,
            viewer=folder,
        )
    )
    text = (folder / "cases" / "a.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("showCase(").removesuffix(");\n"))


def decode(volume):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume["data"])))


@pytest.mark.parametrize("axes", ["RAS", "LPS"])
def test_masks_and_images_keep_their_place_in_the_world(write_results, tmp_path, axes):
    results = write_results(axes=axes)
    content = written(results, tmp_path)
    reference = nib.load(results.cases[0].reference)
    voxels = np.argwhere(np.asarray(reference.dataobj) > 0)
    expected = nib.affines.apply_affine(reference.affine, voxels)
    mask = decode(content["masks"][0])
    found = nib.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))
    np.testing.assert_allclose(sorted(found.tolist()), sorted(expected.tolist()), atol=1e-4)
    assert decode(content["images"][0]).shape == mask.shape
    assert any(np.allclose(content["centre"], place, atol=1e-4) for place in expected)


def test_volumes_are_small_and_cropped(write_results, tmp_path):
    content = written(write_results(), tmp_path)
    for volume in (*content["images"], *content["masks"]):
        assert decode(volume).get_data_dtype() == np.uint8
        assert np.prod(decode(volume).shape) < 30 * 36 * 12


def test_a_large_volume_is_shown_in_blocks_that_lose_no_lesion(write_results, tmp_path, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.report.viewer.MOST_VOXELS", 30 * 36 * 12 // 20)
    results = write_results()
    content = written(results, tmp_path)
    assert content["notes"] == ["shown in blocks of 3 x 3 x 3 voxels"]
    mask = decode(content["masks"][0])
    assert np.prod(mask.shape) <= 10 * 12 * 4
    assert content["masks"][0]["voxels"] == 4 * 5 * 3 + 4
    reference = nib.load(results.cases[0].reference)
    labels = np.asarray(reference.dataobj)
    places = nib.affines.apply_affine(np.linalg.inv(mask.affine) @ reference.affine, np.argwhere(labels))
    blocks = np.unique(np.rint(places).astype(int), axis=0)
    np.testing.assert_array_equal(blocks, np.argwhere(np.asarray(mask.dataobj)))


def test_every_model_has_a_mask_and_an_empty_one_says_so(write_results, tmp_path):
    content = written(write_results(missing=(("second", "a"),)), tmp_path)
    assert [mask["name"] for mask in content["masks"]] == ["Reference", "first", "second"]
    assert [mask["voxels"] for mask in content["masks"]] == [4 * 5 * 3 + 4, 60, 0]


def test_without_images_there_are_only_masks(write_results, tmp_path):
    content = written(write_results(images=False), tmp_path)
    assert content["images"] == []
    assert decode(content["masks"][0]).shape == (30, 36, 12)


def test_the_page_brings_niivue_and_its_licence(write_results, tmp_path):
    results = write_results(names=("a b", "c&d"), images=False)
    viewer_of_results(results, tmp_path, colours=colours_of(results.models))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'value="cases/c%26d.js"' in page
    assert "c&amp;d" in page
    assert "BSD 2-Clause" in (tmp_path / "LICENSE.txt").read_text(encoding="utf-8")
    assert "https:" not in page


def test_the_bundled_niivue_is_the_one_whose_sum_is_noted():
    assets = files("sgnet_nnunet.report") / "viewer_assets"
    found = hashlib.sha256((assets / "niivue.umd.js").read_bytes()).hexdigest()
    assert found in (assets / "VERSION").read_text(encoding="utf-8")
