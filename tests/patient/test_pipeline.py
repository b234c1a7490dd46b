"""A patient from files to folder: the same lesions whatever the files' axes, and what the output says."""

import gzip
import itertools
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pydicom
import pytest
from dicom_series import FLAIR, T1CE, Patient, write_classic, write_enhanced, zip_folder
from heads import turned
from nibabel.orientations import aff2axcodes
from scipy import ndimage
from scipy.spatial.transform import Rotation
from visits_of_phantoms import SmallPhantom

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.component_rejector import Rejector, Tree
from sgnet_nnunet.inference.operating_point import Calibration, OperatingPoint
from sgnet_nnunet.inference.predictor import PlanProcessing, PredictionOptions, Predictor
from sgnet_nnunet.nifti import Volume, read_image, write_volume
from sgnet_nnunet.patient import pipeline
from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions, segment_patient

POINT = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=150, min_mean_probability=0.85)
ORDERS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]
FILES = {"mask.nii.gz", "t1ce.nii.gz", "lesions.csv", "lesions.json", "lesions.seg.nrrd", "overview.png"}
OPTIONS = SegmentOptions(register="never")
FILES |= {"report.html", "viewer", "run.json"}


@pytest.fixture
def segment(write_patient, make_predictor, tmp_path):
    """Return a function that segments the head as written, and returns the lesions and the predictor."""

    def run(codes="LPS", *, point=POINT, options=OPTIONS, model=None, **move):
        predictor = make_predictor(point=point, **(model or {}))
        files = PatientFiles(**write_patient(codes, **move))
        return segment_patient(files, tmp_path / "out", predictor=predictor, options=options), predictor

    return run


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Return the folder of the output of `expected`."""
    return tmp_path_factory.mktemp("head") / "out"


@pytest.fixture(scope="module")
def expected(write_head, make_predictor, output):
    """Return the lesions of the head in LPS, and the network's input."""
    files, predictor = PatientFiles(**write_head(output.with_name("scans"))), make_predictor(point=POINT)
    lesion_map = segment_patient(files, output, predictor=predictor, options=OPTIONS)
    assert [record.kept for record in lesion_map.records] == [True, True, False]
    return lesion_map.records, predictor.models[0].engine.images[0]


def world_volumes(folder, name="mask.nii.gz"):
    """Return the world places of a mask's foreground in the output, sorted."""
    image = nib.load(folder / name)
    places = nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)))
    return places[np.lexsort(np.round(places, 3).T)]


@pytest.mark.slow
def test_all_orders_of_axes_give_one_network_input_and_the_same_lesions(segment, expected, output, tmp_path):
    records, image = expected
    places = world_volumes(output)
    for codes in ORDERS:
        lesion_map, predictor = segment(codes)
        np.testing.assert_array_equal(predictor.models[0].engine.images[0], image)
        assert "".join(aff2axcodes(nib.load(tmp_path / "out/mask.nii.gz").affine)) == codes
        np.testing.assert_allclose(world_volumes(tmp_path / "out"), places, atol=1e-3)
        assert [
            replace(each, centroid_voxel=(0, 0, 0), centroid_mm=(0, 0, 0)) for each in lesion_map.records
        ] == [replace(each, centroid_voxel=(0, 0, 0), centroid_mm=(0, 0, 0)) for each in records]
        for record, other in zip(lesion_map.records, records, strict=True):
            np.testing.assert_allclose(record.centroid_mm, other.centroid_mm, atol=1e-6)
            if record.kept:
                inside = np.argwhere(lesion_map.labels == record.number)
                np.testing.assert_allclose(inside.mean(axis=0), record.centroid_voxel, atol=1e-6)


def paired(found, expected, move=None):
    """Return the pairs of each lesion and that whose centroid is nearest, with their distance in mm."""
    move = np.eye(4) if move is None else move
    places = nib.affines.apply_affine(move, [record.centroid_mm for record in expected.records])
    distances = np.linalg.norm(places[:, None] - [record.centroid_mm for record in found.records], axis=2)
    nearest = distances.argmin(axis=1)
    assert len(found.records) == len(expected.records) == len(set(nearest))
    return [
        (found.records[other], record, distances[index, other])
        for index, (record, other) in enumerate(zip(expected.records, nearest, strict=True))
    ]


@pytest.mark.slow
def test_phantom_has_the_same_lesions_however_its_files_and_the_scanner_are_turned(
    make_predictor, tmp_path, monkeypatch
):
    """Scans of a scanner that is turned are sampled anew: 1 % of a small lesion is then a voxel or two."""
    monkeypatch.setattr(pipeline, "write_outputs", lambda *_, **__: ())
    monkeypatch.setattr(pipeline, "write_run", lambda *_: None)
    rng, phantom = np.random.default_rng(1), SmallPhantom(0)
    predictor = make_predictor(spacing=1.0)

    def segmented(volumes):
        files = {name: tmp_path / f"{name}.nii" for name in ("t1ce", "flair")}
        for path, volume in zip(files.values(), volumes, strict=True):
            write_volume(path, volume)
        return segment_patient(PatientFiles(**files), tmp_path / "out", predictor=predictor, options=OPTIONS)

    scans = [volume.oriented("LPS") for volume in phantom.scan(np.eye(3))]
    expected = segmented(scans)
    assert len(expected.records) == 5
    for codes in ORDERS:
        degrees = rng.choice([0, 7, 20])
        rotation = Rotation.from_rotvec(np.deg2rad(degrees) * normed(rng.normal(size=3))).as_matrix()
        move = nib.affines.from_matvec(rotation, rng.normal(0, 40, 3))
        found = segmented([turned(each, codes, shift=move[:3, 3], rotation=rotation) for each in scans])
        for one, other, apart in paired(found, expected, move):
            assert one.volume_mm3 == pytest.approx(other.volume_mm3, rel=0.01)
            assert apart < 0.5
    for degrees in (7, 7, 20, 20):
        rotation = Rotation.from_rotvec(np.deg2rad(degrees) * normed(rng.normal(size=3))).as_matrix()
        for one, other, apart in paired(segmented(phantom.scan(rotation)), expected):
            radii = np.cbrt(3 / (4 * np.pi) * np.array([one.volume_mm3, other.volume_mm3]))
            assert abs(radii[0] - radii[1]) < 0.1  # mm
            assert apart < 0.5


def normed(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("codes", ["RAS", "PIR", "ASL"])
def test_orders_of_axes_change_nothing(segment, expected, codes):
    records, image = expected
    lesion_map, predictor = segment(codes)
    np.testing.assert_array_equal(predictor.models[0].engine.images[0], image)
    for record, other in zip(lesion_map.records, records, strict=True):
        assert record.volume_mm3 == other.volume_mm3
        np.testing.assert_allclose(record.centroid_mm, other.centroid_mm, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_shifts_and_oblique_turns_keep_lesions_and_their_place_in_the_head(segment, expected, seed):
    records, _ = expected
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(0, 0.2, 3)).as_matrix()
    shift = rng.normal(0, 40, 3)
    lesion_map, _ = segment("".join(rng.choice(ORDERS)), rotation=rotation, shift=shift)
    for record, other in zip(lesion_map.records, records, strict=True):
        assert record.volume_mm3 == pytest.approx(other.volume_mm3, rel=0.01)
        np.testing.assert_allclose(record.centroid_mm, rotation @ other.centroid_mm + shift, atol=0.5)
        assert record.diameter_3d_mm == pytest.approx(other.diameter_3d_mm)
        assert record.hemisphere == other.hemisphere


def test_lesions_are_where_they_were_put(expected):
    records, _ = expected
    frontal, occipital, small = records
    np.testing.assert_allclose(frontal.centroid_mm, np.add((20, 28, 15), (3, -10, 20)), atol=1)
    np.testing.assert_allclose(occipital.centroid_mm, np.add((-22, -32, 5), (3, -10, 20)), atol=1)
    assert (frontal.hemisphere, frontal.location) == ("right", "frontal")
    assert (occipital.hemisphere, occipital.location) == ("left", "occipital")
    assert frontal.volume_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.25)  # bright above a threshold
    assert frontal.gate_shares == {"1/2": 1.0}
    assert small.volume_mm3 < 150
    assert not small.kept


def test_mask_is_that_of_the_folders_prediction(segment, write_patient, make_predictor, tmp_path):
    segment("ASR", options=replace(OPTIONS, save_probability=True))
    images = tmp_path / "images"
    images.mkdir()
    for channel, path in enumerate(write_patient("ASR").values()):
        path.rename(images / f"case_{channel:04d}.nii.gz")
    make_predictor(point=POINT).predict_folder(images, tmp_path / "predicted")
    one, other = (nib.load(tmp_path / name) for name in ("out/mask.nii.gz", "predicted/case.nii.gz"))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    probability = np.asarray(nib.load(tmp_path / "out/probability.nii.gz").dataobj)
    assert ((probability > 0.5) >= (np.asarray(one.dataobj) > 0)).all()


def test_folder_holds_the_output_and_what_was_run(segment, write_patient, tmp_path):
    point = replace(POINT, calibration=Calibration(slope=1.0, intercept=0.0))
    lesion_map, _ = segment(point=point)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."} == FILES
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["lesions"] == 2
    assert run["removed_by_operating_point"] == 1
    assert run["settings"]["operating_point"]["min_mean_probability"] == 0.85
    assert run["models"][0]["weights_sha256"] == "abc"
    assert set(run["inputs"]) == {"t1ce", "flair"}
    assert {"read", "align", "preprocess", "network", "postprocess", "measure", "write"} <= set(
        run["seconds"]
    )
    assert [record.confidence for record in lesion_map.records] == pytest.approx(
        [record.mean_probability for record in lesion_map.records]
    )


def test_rejector_removes_lesions_and_the_record_says_so(segment, tmp_path):
    leaves = {"left": (1, -1, -1), "right": (2, -1, -1), "value": (0, -1, 1), "nan_left": (True,) * 3}
    tree = Tree(feature=(0, -1, -1), threshold=(149.99, 0, 0), **leaves)
    rejector = Rejector(features=("volume_mm3",), baseline=0, trees=(tree,), min_score=0)
    lesion_map, _ = segment(point=OperatingPoint(threshold=0.5, rejector=rejector))
    assert {record.volume_mm3 >= 150 for record in lesion_map.kept} == {True}
    assert {record.volume_mm3 >= 150 for record in lesion_map.records if not record.kept} == {False}
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["operating_point"]["rejector"]["sha256"] == rejector.summary()["sha256"]


def test_no_path_is_in_the_output_unless_identity_is_kept(segment, tmp_path):
    folder = tmp_path / "Doe_Jane_19500102"
    for keep in (False, True):
        segment(folder=folder, options=replace(OPTIONS, keep_identity=keep))
        texts = [
            path.read_bytes()
            for path in (tmp_path / "out").rglob("*")
            if path.suffix != ".gz" and path.is_file()
        ]
        assert any(b"Doe_Jane" in text for text in texts) == keep


def test_output_replaces_earlier_output_and_nothing_else(segment, tmp_path):
    segment()
    segment("RAS")
    assert "".join(aff2axcodes(nib.load(tmp_path / "out/mask.nii.gz").affine)) == "RAS"
    (tmp_path / "out/thesis.docx").write_text("mine")
    with pytest.raises(InputFileError, match=r"thesis\.docx: was not written by an earlier run"):
        segment()
    assert (tmp_path / "out/thesis.docx").read_text() == "mine"


def test_without_an_operating_point_all_lesions_are_kept(segment):
    lesion_map, _ = segment(point=None)
    assert [record.kept for record in lesion_map.records] == [True] * 3


@pytest.mark.parametrize("channels", [("FLAIR", "T1ce"), ("t1ce", "t2_flair")])
def test_channels_are_found_by_their_names(segment, expected, channels):
    _, image = expected
    _, predictor = segment(model={"channels": channels})
    order = [1, 0] if channels[0] == "FLAIR" else [0, 1]
    np.testing.assert_array_equal(predictor.models[0].engine.images[0], image[order])


@pytest.mark.parametrize("channels", [("T1ce", "T2"), ("T1", "T1ce"), ("FLAIR",), ("T1ce", "FLAIR", "DWI")])
def test_model_of_other_channels_is_refused(segment, channels):
    with pytest.raises(SGNetError, match="sgnet segment is for models of T1ce and FLAIR"):
        segment(model={"channels": channels})


def test_missing_flair_is_refused_unless_the_model_was_trained_without(
    write_patient, make_predictor, tmp_path
):
    files = PatientFiles(t1ce=write_patient()["t1ce"])
    with pytest.raises(
        SGNetError, match=r"--flair is missing, and the model needs FLAIR; .*modality dropout"
    ):
        segment_patient(files, tmp_path / "out", predictor=make_predictor(), options=OPTIONS)
    assert not (tmp_path / "out").exists()
    predictor = make_predictor(sgnet_missing_channels=["FLAIR"])
    lesion_map = segment_patient(files, tmp_path / "out", predictor=predictor, options=OPTIONS)
    assert not predictor.models[0].engine.images[0][1].any()
    assert len(lesion_map.records) == 3


def test_scans_that_are_swapped_by_their_brightness_are_refused(segment, tmp_path, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.patient.scans.SWAPPED_RANK", np.inf)  # any pair's profiles are
    monkeypatch.setattr("sgnet_nnunet.patient.scans.SWAPPED_STEP", np.inf)
    monkeypatch.setattr("sgnet_nnunet.patient.scans._FEWEST_VOXELS", 1)
    with pytest.raises(InputFileError, match="exchange T1ce and FLAIR"):
        segment()
    assert not (tmp_path / "out").exists()


def test_missing_flair_is_zero_after_normalisation_and_refused_if_one_of_several_models_needs_it(
    write_patient, make_predictor, tmp_path
):
    files = PatientFiles(t1ce=write_patient()["t1ce"])
    (model,) = make_predictor(sgnet_missing_channels=["FLAIR"]).models
    settings = {"normalisations": ("PercentileTo01Normalization",) * 2, "masked": (True, True)}
    plan = replace(model.description, **settings)
    model = replace(model, description=plan, processing=PlanProcessing(plan))
    predictor = Predictor([model], options=PredictionOptions())
    segment_patient(files, tmp_path / "out", predictor=predictor, options=OPTIONS)
    (image,) = predictor.models[0].engine.images
    assert image[0].max() == 1
    assert not image[1].any()
    needing = Predictor([model, *make_predictor().models], options=PredictionOptions())
    with pytest.raises(SGNetError, match="--flair is missing"):
        segment_patient(files, tmp_path / "other", predictor=needing, options=OPTIONS)


def test_model_of_t1ce_alone_needs_no_flair(write_patient, make_predictor, tmp_path):
    files = PatientFiles(t1ce=write_patient()["t1ce"])
    predictor = make_predictor(channels=("T1ce",))
    assert len(segment_patient(files, tmp_path / "out", predictor=predictor, options=OPTIONS).records) == 3


def write_classic_folder(folder, head, patient):
    for volume, tags in zip(head, (T1CE, FLAIR), strict=True):
        write_classic(folder / tags["SeriesDescription"], volume, tags, patient=patient)
    return folder


def write_enhanced_zip(folder, head, patient):
    for volume, tags in zip(head, (T1CE, FLAIR), strict=True):
        write_enhanced(folder / f"{tags['SeriesDescription']}.dcm", volume, tags, patient=patient)
    return zip_folder(folder, folder.with_suffix(".zip"))


@pytest.mark.parametrize("write", [write_classic_folder, write_enhanced_zip])
def test_dicom_gives_the_same_lesions_and_objects_that_refer_to_the_series(
    head, expected, make_predictor, tmp_path, write
):
    patient = Patient()
    scans = write(tmp_path / "Doe_Jane", head, patient)
    files = PatientFiles(t1ce=scans, flair=scans)
    predictor, out = make_predictor(point=POINT), tmp_path / "dicom"
    lesion_map = segment_patient(files, out, predictor=predictor, options=OPTIONS)
    for record, other in zip(lesion_map.records, expected[0], strict=True):
        assert record.volume_mm3 == pytest.approx(other.volume_mm3, rel=0.01)
        np.testing.assert_allclose(record.centroid_mm, other.centroid_mm, atol=0.1)
    seg, rtstruct, report = (pydicom.dcmread(out / f"{name}.dcm") for name in ("seg", "rtstruct", "sr"))
    for each in (seg, rtstruct, report):
        assert (str(each.PatientName), each.StudyInstanceUID) == (patient.name, patient.study_uid)
    assert seg.pixel_array.sum() == np.count_nonzero(lesion_map.labels)
    assert len(rtstruct.StructureSetROISequence) == len(seg.SegmentSequence) == 2
    others = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    texts = [
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in others
    ]
    for identity in (patient.name, "Jane", patient.id, patient.birth_date, patient.study_uid):
        assert not any(identity.encode() in text for text in texts)


@pytest.mark.slow
def test_dicom_without_lesions_has_no_objects(head, make_predictor, tmp_path):
    scans = write_classic_folder(tmp_path / "scans", head, Patient())
    point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=1e6)
    files = PatientFiles(t1ce=scans, flair=scans)
    segment_patient(files, tmp_path / "out", predictor=make_predictor(point=point), options=OPTIONS)
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.mark.slow
def test_real_head_is_refused_and_goes_through_with_a_brain_mask(native_scans, make_predictor, tmp_path):
    """The mask is rough: what is 18 mm below the surface."""
    files = PatientFiles(t1ce=native_scans["t1ce"], flair=native_scans["flair"])
    predictor = make_predictor()
    with pytest.raises(SGNetError):
        segment_patient(files, tmp_path / "out", predictor=predictor)
    assert not (tmp_path / "out").exists()
    brain = rough_brain(tmp_path / "brain.nii.gz", read_image(files.t1ce))
    files = replace(files, brain_mask=tmp_path / "brain.nii.gz")
    segment_patient(files, tmp_path / "out", predictor=predictor)
    scan, mask = nib.load(files.t1ce), nib.load(tmp_path / "out/mask.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    for name in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[name] == scan.header[name]
    assert not np.asarray(mask.dataobj)[~brain].any()
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert not run["skull"]["stripped"]
    assert run["alignment"]["similarity_after"] >= run["alignment"]["similarity_before"]


def rough_brain(path, t1ce):
    """Write a mask of what is 18 mm below the surface of a head, and return it."""
    smooth = ndimage.gaussian_filter(t1ce.data.astype(np.float32), 2 / np.array(t1ce.grid.spacing))
    head = ndimage.binary_fill_holes(smooth > smooth.mean())
    brain = ndimage.distance_transform_edt(head, sampling=t1ce.grid.spacing) > 18
    write_volume(path, Volume(brain.astype(np.uint8), t1ce.affine))
    return brain


@pytest.fixture(params=["head of common size", "real scans on their own grids"])
def whole_patient(request, head, tmp_path):
    """Return the files of a patient of 240 x 240 x 155 voxels, and those of a real one with a brain mask."""
    if request.param != "head of common size":
        scans = request.getfixturevalue("native_scans")
        rough_brain(tmp_path / "brain.nii.gz", read_image(scans["t1ce"]))
        return PatientFiles(t1ce=scans["t1ce"], flair=scans["flair"], brain_mask=tmp_path / "brain.nii.gz")
    paths = {}
    for name, volume in zip(("t1ce", "flair"), head, strict=True):
        paths[name] = tmp_path / f"{name}.nii.gz"
        data = ndimage.zoom(volume.data, np.divide((240, 240, 155), volume.data.shape), order=1)
        affine = volume.affine @ np.diag([*np.divide(volume.data.shape, data.shape), 1])
        write_volume(paths[name], Volume(data.astype(np.int16), affine))
    return PatientFiles(**paths)


@pytest.mark.slow
def test_all_but_network_registration_and_stripping_takes_3_seconds_and_2_gb(
    whole_patient, make_predictor, tmp_path, monkeypatch
):
    """In seconds of one core, the median of three runs; `pytest --log-cli-level=INFO` prints both figures.

    The memory of a process that has run other tests is what is added; a command's own starts at 0.5 GB.
    """
    monkeypatch.setattr(pipeline.time, "perf_counter", time.process_time)
    before = psutil.Process().memory_info().rss / 1e9
    seconds = []
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the memory
        segment_patient(whole_patient, tmp_path / "out", predictor=make_predictor(), options=OPTIONS)
        run = json.loads((tmp_path / "out/run.json").read_text())
        left_out = ("network", "align", "strip")
        seconds.append(sum(each for stage, each in run["seconds"].items() if stage not in left_out))
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e6
    logging.getLogger("cost").info("%.2f s, %.2f GB, %.2f GB before", np.median(seconds), peak, before)
    assert np.median(seconds) < 3
    assert peak - before < 1.5


def test_texts_lose_paths_and_nothing_else(tmp_path):
    files = PatientFiles(
        t1ce=tmp_path / "Doe/a", flair=tmp_path / "Doe/b.nii.gz", brain_mask=Path("Doe/m.nii")
    )
    text = f"{tmp_path}/Doe/a/IM01: a scan and {tmp_path}/Doe/b.nii.gz; b.nii.gz, Doe/m.nii and m.nii"
    assert files.anonymous(text) == "T1ce: a scan and FLAIR; FLAIR, brain mask and brain mask"
    assert files.anonymous("a.b is no b, but m.nii.gz") == "a.b is no b, but m.nii.gz"
    error = InputFileError(tmp_path / "Doe/a/IM01", "IM01 is damaged", "copy it again")
    assert files.problem(error) == "T1ce: the file is damaged; copy it again"
    assert files.problem(InputFileError(Path("/else"), "is bad", "go")) == "a file: is bad; go"
    assert files.problem(ValueError("Doe/m.nii")) == "ValueError: brain mask"
