"""Headers of the output, pictures and pages."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from sgnet_nnunet.inference.operating_point import OperatingPoint
from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient.outputs import RESEARCH_ONLY, header_of, write_like
from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions, segment_patient
from sgnet_nnunet.patient.scans import Scan

OPTIONS = SegmentOptions(register="never")
KEPT = ("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z")
KEPT += ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def drawn_image(rng, kind, codes):
    """Return an image of drawn affine, with texts in its header, and codes of qform and sform."""
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 3, 3)
    affine[:3, 3] = rng.normal(0, 50, 3)
    image = kind(rng.integers(0, 500, (6, 7, 8)).astype(np.int16), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header["descrip"] = b"Doe^Jane"
    image.header["aux_file"] = b"Doe^Jane"
    image.header["cal_max"] = 500
    image.header.set_slope_inter(2.0, 1.0)
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_header_is_the_inputs_without_its_texts(tmp_path, kind, codes, dtype):
    rng = np.random.default_rng(sum(codes))
    nib.save(drawn_image(rng, kind, codes), tmp_path / "scan.nii.gz")
    image = nib.load(tmp_path / "scan.nii.gz")
    plain = tmp_path / "plain.nii.gz"  # some writers leave the compression out
    plain.write_bytes(gzip.decompress((tmp_path / "scan.nii.gz").read_bytes()))
    path = plain if dtype is np.uint8 else tmp_path / "scan.nii.gz"
    scan = Scan(volume=Volume(image.get_fdata(), image.affine), path=path, sources=())
    data = rng.integers(0, 200, image.shape).astype(dtype)
    write_like(tmp_path / "out.nii.gz", data, header_of(scan))
    written = nib.load(tmp_path / "out.nii.gz")
    assert type(written) is kind
    for name in KEPT:
        np.testing.assert_array_equal(written.header[name], image.header[name])
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    assert written.get_data_dtype() == dtype
    assert b"Doe" not in b"".join(np.asarray(written.header[name]).tobytes() for name in written.header)
    assert not written.header.extensions


def test_header_of_another_format_has_the_scans_grid(tmp_path):
    affine = np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 7], [0, 1.5, 0, 9], [0, 0, 0, 1]])
    scan = Scan(volume=Volume(np.zeros((4, 5, 6)), affine), path=tmp_path / "scan.nrrd", sources=())
    write_like(tmp_path / "out.nii.gz", np.ones((4, 5, 6), dtype=np.uint8), header_of(scan))
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), affine, atol=1e-5)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    assert written.header.get_xyzt_units()[0] == "mm"


def test_report_shows_the_lesions_the_viewer_and_that_it_is_for_research(
    write_patient, make_predictor, tmp_path
):
    point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=150)
    segment_patient(
        PatientFiles(**write_patient()),
        tmp_path / "out",
        predictor=make_predictor(point=point),
        options=OPTIONS,
    )
    page = (tmp_path / "out/report.html").read_text()
    assert RESEARCH_ONLY in page
    assert page.count("<tr><td>") == 2
    assert page.count('<tr class="removed"><td>3</td>') == 1
    assert '<iframe src="viewer/index.html"' in page
    assert (tmp_path / "out/viewer/cases/patient.js").stat().st_size > 1000
    assert RESEARCH_ONLY in (tmp_path / "out/viewer/cases/patient.js").read_text()
    picture = Image.open(tmp_path / "out/overview.png")
    assert picture.width > 2 * 150  # a panel for each kept lesion


def test_patient_without_lesions_has_pictures_and_a_report(write_patient, make_predictor, tmp_path):
    point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=1e6)
    lesion_map = segment_patient(
        PatientFiles(**write_patient()),
        tmp_path / "out",
        predictor=make_predictor(point=point),
        options=OPTIONS,
    )
    assert not lesion_map.kept
    assert "0 lesions, 0 mm" in (tmp_path / "out/report.html").read_text()
    assert (tmp_path / "out/overview.png").is_file()
