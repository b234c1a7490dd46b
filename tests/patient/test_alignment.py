"""FLAIR on the T1ce grid: by the headers where these are right, else registered."""

import numpy as np
import pytest
from heads import draw_brain, real_scans
from scipy.spatial.transform import Rotation

from sgnet_nnunet.dataset import registration
from sgnet_nnunet.dataset.registration import RigidTransform
from sgnet_nnunet.dataset.resampling import resample_image
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.nifti import Volume, read_image
from sgnet_nnunet.patient.alignment import align
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import draw_patient, patient_rng


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    """T1ce and FLAIR, float32; FLAIR on another grid of the same world."""
    scans = draw_brain(np.random.default_rng(0), spacing=3.0)
    t1ce, flair = (Volume(each.data.astype(np.float32), each.affine) for each in scans.values())
    return t1ce, Volume(flair.data[:, :, ::2], flair.affine @ np.diag([1, 1, 2, 1])).oriented("SRP")


def motion(grid, degrees: float, mm: float) -> np.ndarray:
    """Return a rotation about the centre of a grid, and a shift."""
    matrix, centre = np.eye(4), grid.bounds().mean(axis=0)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + mm * np.array([0.0, 0.8, -0.6])
    return matrix


def test_the_headers_alone_place_flair_without_similarity(pair: tuple[Volume, Volume]):
    t1ce, flair = pair
    aligned = align(t1ce, flair, mode="never")
    assert np.array_equal(aligned.volume.data, resample_image(flair, t1ce.grid))
    assert np.array_equal(aligned.volume.affine, t1ce.affine)
    assert aligned.volume.data.dtype == np.float32
    assert not aligned.registered
    assert (aligned.similarity_before, aligned.similarity_after, aligned.warnings) == (None, None, ())
    assert np.array_equal(aligned.transform, np.eye(4))


@pytest.mark.parametrize(
    ("gain", "mm", "mode", "registered"),
    [
        (0.05, 3.0, "auto", True),
        (0.05, 0.4, "auto", False),
        (0.001, 3.0, "auto", False),
        (0.001, 0.4, "always", True),
    ],
)
def test_a_registration_is_taken_only_if_the_similarity_says_so(
    pair: tuple[Volume, Volume],
    monkeypatch: pytest.MonkeyPatch,
    gain: float,
    mm: float,
    mode: str,
    registered: bool,
):
    found = RigidTransform(motion(pair[0].grid, 0, mm), before=0.5, after=0.5 * (1 + gain))
    monkeypatch.setattr(registration, "register_rigid", lambda *_: found)
    monkeypatch.setattr(registration, "probe", lambda *_: (0.5, 0.51))
    aligned = align(*pair, mode=mode)
    assert aligned.registered == registered
    assert aligned.tried == "registration"
    assert (aligned.similarity_before, aligned.similarity_after) == (found.before, found.after)
    assert aligned.moved_mm == pytest.approx(mm)
    expected = found.world_map if registered else np.eye(4)
    assert np.array_equal(aligned.transform, expected)
    assert np.array_equal(aligned.volume.data, resample_image(pair[1], pair[0].grid, world_map=expected))
    assert len(aligned.warnings) == registered


@pytest.mark.parametrize(
    ("before", "note", "warned"),
    [
        (None, "the fields of view share too few voxels", True),
        (0.2, "the optimiser moved the centre by 60 mm", True),
        (0.2, registration.UNIMPROVED, False),
    ],
)
def test_a_registration_that_failed_is_not_taken_but_told(
    pair: tuple[Volume, Volume],
    monkeypatch: pytest.MonkeyPatch,
    before: float | None,
    note: str,
    warned: bool,
):
    failed = RigidTransform(np.eye(4), before, before, f"not registered: {note}")
    monkeypatch.setattr(registration, "register_rigid", lambda *_: failed)
    aligned = align(*pair, mode="always")
    assert not aligned.registered
    assert aligned.similarity_before == before
    assert [note in warning for warning in aligned.warnings] == [True] * warned


def test_partial_cover_is_noted_and_half_of_it_refused(pair: tuple[Volume, Volume]):
    t1ce, flair = pair
    for share, refused in ((0.8, False), (0.3, True)):
        part = flair.oriented("RAS")
        part = Volume(part.data[:, :, : int(share * part.data.shape[2])], part.affine)
        if refused:
            with pytest.raises(SGNetError, match=r"covers \d+% of the head"):
                align(t1ce, part, mode="never")
        else:
            aligned = align(t1ce, part, mode="never")
            assert 0.5 < aligned.coverage < 0.95
            assert any("covers" in warning for warning in aligned.warnings)


def displaced(volume: Volume, rng: np.random.Generator, degrees: float, mm: float) -> Volume:
    """Return a volume that is turned about its centre and shifted, both along drawn axes."""
    matrix, centre = np.eye(4), volume.grid.bounds().mean(axis=0)
    axis, shift = (each / np.linalg.norm(each) for each in rng.normal(size=(2, 3)))
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + mm * shift
    return Volume(volume.data, matrix @ volume.affine)


def tried(t1ce: Volume, flair: Volume, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what `align` tries, without registering."""
    failed = RigidTransform(np.eye(4), None, None, f"not registered: {registration.UNIMPROVED}")
    monkeypatch.setattr(registration, "register_rigid", lambda *_: failed)
    return align(t1ce, flair).tried


@pytest.mark.slow
def test_a_registration_is_tried_for_flair_that_is_3_mm_or_3_degrees_off_only(
    monkeypatch: pytest.MonkeyPatch,
):
    rng = np.random.default_rng(4)
    parts = draw_patient(patient_rng(20, 0), PhantomConfig())
    t1ce, flair = parts["t1ce_img"], parts["flair_img"]
    far = rng.uniform((3, 3), (20, 30))
    for degrees, mm in [(0, 0), (0, 0.3), (0.3, 0), (3, 0), (3, 0), (0, 3), (0, 3), far, far * [0, 1]]:
        expected = "registration" if max(degrees, mm) >= 3 else "small moves"
        assert tried(t1ce, displaced(flair, rng, degrees, mm), monkeypatch) == expected, (degrees, mm)


@pytest.mark.slow
def test_real_scans_on_one_grid_are_not_registered(monkeypatch: pytest.MonkeyPatch):
    folders = sorted(real_scans().glob("*_tcia_layout/*"))
    assert folders
    for folder in folders:
        t1ce, flair = (read_image(next(folder.glob(f"*{name}*"))) for name in ("t1ce", "flair"))
        assert tried(t1ce, flair, monkeypatch) == "small moves"


@pytest.mark.slow
def test_headers_that_are_right_are_kept_and_wrong_ones_are_corrected(pair: tuple[Volume, Volume]):
    t1ce, flair = pair
    kept = align(t1ce, flair)
    assert (kept.registered, kept.tried) == (False, "small moves")
    assert kept.similarity_after < kept.similarity_before
    assert not align(t1ce, flair, mode="always").moved_mm > 1
    moved = motion(t1ce.grid, 4, 5)
    corrected = align(t1ce, Volume(flair.data, moved @ flair.affine))
    assert corrected.registered
    assert corrected.similarity_after > corrected.similarity_before
    corners = t1ce.grid.world(t1ce.grid.corners / 2)
    error = (corrected.transform - moved)[:3] @ np.c_[corners, np.ones(8)].T
    assert np.linalg.norm(error, axis=0).max() < 1.5
    brain = t1ce.data > 0
    difference = np.abs(corrected.volume.data - kept.volume.data)[brain].mean()
    assert difference < 0.3 * kept.volume.data[brain].std()


@pytest.mark.slow
def test_the_head_whose_headers_are_wrong_is_registered():
    folder = real_scans() / "real_native_grids"
    t1ce, flair = (read_image(next(folder.glob(f"*{name}*"))) for name in ("t1ce", "flair"))
    aligned = align(t1ce, flair)
    assert aligned.registered
    assert aligned.moved_mm > 20
    assert aligned.similarity_after > 1.5 * aligned.similarity_before
    assert aligned.volume.data.shape == t1ce.data.shape
