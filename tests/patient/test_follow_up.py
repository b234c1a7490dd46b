import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset
from scipy.ndimage import gaussian_filter
from visits_of_phantoms import draw_pair, write_visit

from sgnet_nnunet.dataset.registration import RigidTransform
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient import visits as visits_module
from sgnet_nnunet.patient.dicom import patient_code
from sgnet_nnunet.patient.follow_up import (
    Observation,
    as_markdown,
    choose_targets,
    compare_visits,
    follow,
    respond,
    write_changes,
)
from sgnet_nnunet.patient.lesion_table import measure_lesions
from sgnet_nnunet.patient.pipeline import PatientFiles, segment_patient
from sgnet_nnunet.patient.visits import Visit, read_visit
from sgnet_nnunet.phantom.fields import rotation

SHAPE = (40, 36, 30)
PAIRS = int(os.environ.get("SGNET_FOLLOW_PAIRS", "2"))
"""Phantoms that are followed; the documentation reports SGNET_FOLLOW_PAIRS=20."""


def visit_of(*boxes) -> Visit:
    """Return a visit with a lesion for each box ((i, j, k), side), on voxels of 1 mm."""
    mask = np.zeros(SHAPE, dtype=bool)
    for (i, j, k), side in boxes:
        mask[i : i + side, j : j + side, k : k + side] = True
    brain = Volume(np.ones(SHAPE, dtype=np.float32), np.eye(4))
    lesions = find_lesions(mask, spacing=(1.0, 1.0, 1.0))
    kept = np.ones(lesions.number, dtype=bool)
    found = measure_lesions(lesions, kept, probability=mask.astype(np.float32), brain=brain)
    return Visit(folder=None, brain=brain, labels=found.labels, records=found.records, run={})


def statuses(*visits, **options) -> list[list[str]]:
    return [[seen.status for seen in lesion] for lesion in compare_visits(visits, **options).lesions]


LARGE, SMALL = ((4, 4, 4), 8), ((25, 20, 18), 5)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([LARGE, SMALL], [["first", "stable"], ["first", "stable"]]),
        ([((4, 4, 4), 10), ((25, 20, 18), 4)], [["first", "grown"], ["first", "shrunk"]]),
        ([SMALL], [["first", "gone"], ["first", "stable"]]),
        ([LARGE, SMALL, ((30, 6, 6), 3)], [["first", "stable"], ["first", "stable"], ["absent", "new"]]),
        ([], [["first", "gone"], ["first", "gone"]]),
        # Without overlap, but 3.5 mm apart.
        ([LARGE, ((27, 22, 20), 2)], [["first", "stable"], ["first", "shrunk"]]),
        ([LARGE, ((25, 27, 18), 5)], [["first", "stable"], ["first", "gone"], ["absent", "new"]]),
    ],
)
def test_lesions_are_matched_and_classed(after, expected):
    assert statuses(visit_of(LARGE, SMALL), visit_of(*after)) == expected


def test_first_visit_without_lesions_gives_new_ones():
    assert statuses(visit_of(), visit_of(LARGE)) == [["absent", "new"]]
    assert statuses(visit_of(), visit_of()) == []


def test_lesions_that_merge_count_together():
    found = compare_visits([visit_of(((4, 4, 4), 6), ((12, 4, 4), 5)), visit_of(((4, 4, 4), 13))])
    (first, second) = found.lesions
    assert [second[1].status, second[1].note] == ["merged", "into lesion 1"]
    assert first[1].note == "with lesion 2"
    change = np.cbrt(6 / np.pi * 13**3) - np.cbrt(6 / np.pi * (6**3 + 5**3))
    assert first[1].change_mm == pytest.approx(change)


def test_parts_of_a_split_lesion_are_one_lesion_with_the_sum_of_diameters():
    before = visit_of(((4, 4, 4), 10))
    after = visit_of(((4, 4, 4), 4), ((10, 10, 10), 4))
    (lesion,) = compare_visits([before, after]).lesions
    assert lesion[1].lesions == (1, 2)
    assert (lesion[1].status, lesion[1].note) == ("shrunk", "in 2 parts")
    assert lesion[1].diameter_axial_mm == pytest.approx(sum(each.diameter_axial_mm for each in after.records))


def test_lesion_that_comes_back_has_recurred_and_merged_ones_stay_merged():
    visits = [visit_of(LARGE, SMALL), visit_of(LARGE), visit_of(LARGE, SMALL)]
    assert statuses(*visits)[1] == ["first", "gone", "recurred"]
    merged = visit_of(((4, 4, 4), 13))
    parts = visit_of(((4, 4, 4), 6), ((12, 4, 4), 5))
    assert statuses(parts, merged, merged)[1] == ["first", "merged", "absent"]


def test_smallest_change_can_be_given():
    visits = visit_of(LARGE), visit_of(((4, 4, 4), 10))
    assert statuses(*visits, smallest_change_mm=3.0) == [["first", "stable"]]
    assert statuses(*visits, smallest_change_mm=2.0) == [["first", "grown"]]


@pytest.mark.parametrize("seed", range(8))
def test_each_lesion_of_each_visit_belongs_to_one_lesion(seed):
    rng = np.random.default_rng(seed)
    visits = [
        visit_of(*[(rng.integers(0, 24, 3), rng.integers(1, 7)) for _ in range(rng.integers(0, 9))])
        for _ in range(4)
    ]
    found = compare_visits(visits)
    assert all(len(lesion) == len(visits) for lesion in found.lesions)
    for index, visit in enumerate(visits):
        numbers = [number for lesion in found.lesions for number in lesion[index].lesions]
        assert sorted(numbers) == [record.number for record in visit.records]
        total = sum(lesion[index].volume_mm3 for lesion in found.lesions)
        assert total == pytest.approx(np.count_nonzero(visit.labels))
    as_markdown(replace(found, visits=(visits[0],), responses=()))


def seen(
    diameter: float, perpendicular: float | None = None, *, slices: int = 2, status: str = ""
) -> Observation:
    present = (1,) if diameter else ()
    short = diameter if perpendicular is None else perpendicular
    status = status or ("stable" if diameter else "absent")
    sizes = {"diameter_axial_mm": diameter, "perpendicular_mm": short, "axial_slices": slices}
    return Observation(status=status, lesions=present, **sizes)


def response(*lesions) -> str:
    """Return the response at the last visit to lesions given as their diameters."""
    table = [
        [
            seen(each, status="new" if each and not any(lesion[:visit]) and visit else "")
            for visit, each in enumerate(lesion)
        ]
        for lesion in lesions
    ]
    targets = choose_targets([lesion[0] for lesion in table])
    return respond(table, targets, len(table[0]) - 1).response


@pytest.mark.parametrize(
    ("lesions", "expected"),
    [
        ([(20, 24), (10, 12)], "SD"),  # 20 % more, but neither by 5 mm
        ([(20, 25), (10, 11)], "PD"),
        ([(30, 35), (10, 10)], "SD"),  # 5 mm, but only 12.5 % more
        ([(20, 14), (10, 7)], "PR"),
        ([(20, 15), (10, 7)], "SD"),
        ([(20, 0), (6, 0)], "CR"),
        ([(20, 0), (6, 6)], "PR"),
        ([(20, 20), (0, 6)], "PD"),
        ([(20, 20), (0, 5)], "SD"),  # equivocal
        ([(20, 20, 20), (0, 5, 4)], "PD"),  # found twice
        ([(20, 20, 20), (0, 5, 0)], "SD"),
        ([(20, 20, 20), (8, 0, 8)], "SD"),  # missed once
        ([(20, 0, 8), (8, 0, 0)], "PD"),  # recurs after CR
        ([(20, 0, 0), (8, 0, 8)], "PD"),
        ([(8, 0, 4)], "non-CR/non-PD"),  # equivocal
        ([(20, 0), (0, 4)], "PR"),
        ([(9, 9)], "non-CR/non-PD"),
        ([(9, 0)], "CR"),
        ([(0, 0)], "no lesions"),
        ([(20, 10, 16)], "PD"),  # from the minimum
        ([(20, 18, 22)], "SD"),
    ],
)
def test_response_is_that_of_rano_bm(lesions, expected):
    assert response(*lesions) == expected


def test_targets_are_the_five_longest_measurable_lesions():
    first = [seen(each) for each in (9.99, 30, 12, 15, 40, 11, 10)]
    first += [seen(50, perpendicular=4.9), seen(50, slices=1)]
    assert choose_targets(first) == (4, 1, 3, 2, 5)


def test_visits_of_other_runs_are_named_in_a_warning(head, tmp_path):
    mask = head[0].data > 750
    folders = [write_visit(tmp_path / name, head[0], mask, models=[name]) for name in "ab"]
    (warning,) = compare_visits([read_visit(folder) for folder in folders]).warnings
    assert "different models" in warning


@pytest.fixture(scope="module")
def followed(head, tmp_path_factory):
    """The folders of two visits of a head that has moved and lost a lesion, the move, and the findings."""
    root = tmp_path_factory.mktemp("Jane_Doe")
    first, mask = head[0], head[0].data > 750
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation(np.array([9.0, -4.0, 7.0])), (40, -60, 25)
    lesions = find_lesions(mask, spacing=first.grid.spacing)
    later = mask & (lesions.labels != 1 + int(lesions.voxels.argmin()))
    scan = np.where(first.data > 0, 3 * np.sqrt(first.data), 0).astype(np.float32)
    second = Volume(scan[::-1].copy(), move @ first.affine @ flip(0))
    folders = [
        write_visit(root / "1", first, mask, patient_code="abc"),
        write_visit(root / "2", second, later[::-1], patient_code="abc"),
    ]
    return folders, move, follow(folders)


def flip(axis: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[axis, axis], matrix[axis, 3] = -1, 43
    return matrix


@pytest.mark.slow
def test_head_in_another_position_and_contrast_is_registered(followed, head):
    _, move, found = followed
    grid = head[0].grid
    corners = np.c_[grid.world(grid.corners), np.ones(8)].T
    apart = np.linalg.norm((found.visits[1].world_map @ corners - move @ corners)[:3], axis=0)
    assert apart.max() < 3  # its texture is coarse; a phantom's corners are 0.3 mm off
    assert [[each.status for each in lesion] for lesion in found.lesions] == [
        ["first", "stable"],
        ["first", "stable"],
        ["first", "gone"],
    ]
    assert not found.warnings


def test_files_of_a_follow_up_hold_the_changes_and_no_path(followed, tmp_path):
    write_changes(tmp_path / "change", followed[2])
    rows = list(csv.DictReader((tmp_path / "change/changes.csv").open()))
    assert [(row["lesion"], row["visit"], row["status"]) for row in rows][-2:] == [
        ("3", "1", "first"),
        ("3", "2", "gone"),
    ]
    changes = json.loads((tmp_path / "change/changes.json").read_text())
    assert changes["responses"][0]["response"] == "SD"
    assert changes["lesions"][2]["visits"][1]["status"] == "gone"
    assert (tmp_path / "change/changes.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "change/changes.md").read_text()
    assert "Research use only" in text
    assert "Lancet Oncol 2015" in text
    for path in (tmp_path / "change").iterdir():
        assert b"Jane_Doe" not in path.read_bytes()
    write_changes(tmp_path / "change", followed[2])  # over its own output


@pytest.fixture
def without_registration(monkeypatch):
    found = RigidTransform(np.eye(4), 0.5, 0.6)
    monkeypatch.setattr(visits_module, "register_rigid", lambda *_: found)


@pytest.mark.usefixtures("without_registration")
def test_visits_of_another_patient_are_refused_unless_that_is_known_to_be_wrong(followed, head, tmp_path):
    other = write_visit(tmp_path / "other", head[0], head[0].data > 750, patient_code="abd")
    folders = [followed[0][0], other]
    with pytest.raises(InputFileError, match=r"other: is of another patient than .*--same-patient"):
        follow(folders)
    assert len(follow(folders, same_patient=True).lesions) == 3


@pytest.mark.usefixtures("without_registration")
def test_brain_of_another_structure_is_refused_unless_it_is_known_to_be_one_patient(head, tmp_path):
    brain = head[0]
    texture = gaussian_filter(np.random.default_rng(1).normal(size=brain.data.shape), 2)
    other = np.where(brain.data > 0, 400 + 200 * texture / texture.std(), 0).clip(0).astype(np.float32)
    folders = [
        write_visit(tmp_path / str(number), Volume(data, brain.affine), brain.data > 750)
        for number, data in enumerate((brain.data, other))
    ]
    with pytest.raises(InputFileError, match=r"1: its brain has another structure .*--same-patient"):
        follow(folders)
    (warning,) = follow(folders, same_patient=True).warnings
    assert "another patient?" in warning


@pytest.mark.usefixtures("without_registration")
@pytest.mark.parametrize(("cut", "is_refused"), [(12, False), (18, True)])
def test_brain_of_another_shape_is_doubted_or_refused(head, tmp_path, cut, is_refused):
    other = head[0].data.copy()
    other[..., :cut] = 0
    folders = [
        write_visit(tmp_path / str(number), Volume(data, head[0].affine), data > 750)
        for number, data in enumerate((head[0].data, other))
    ]
    if is_refused:
        with pytest.raises(SGNetError, match="its brain is another than that of"):
            follow(folders)
    else:
        assert any("another patient?" in warning for warning in follow(folders).warnings)


def test_folder_that_is_not_one_of_segment_is_refused(followed, tmp_path):
    with pytest.raises(InputFileError, match=r"run\.json: .*name a folder that sgnet segment wrote"):
        follow([followed[0][0], tmp_path])
    with pytest.raises(SGNetError, match="two folders"):
        follow(followed[0][:1])


def test_mask_that_was_changed_after_its_table_is_refused(head, tmp_path):
    mask = head[0].data > 750
    folder = write_visit(tmp_path / "visit", head[0], mask)
    lesions = find_lesions(mask, spacing=head[0].grid.spacing)
    write_visit(tmp_path / "other", head[0], mask & (lesions.labels != 1))
    (tmp_path / "other/mask.nii.gz").replace(folder / "mask.nii.gz")
    with pytest.raises(
        InputFileError, match=r"mask\.nii\.gz: holds other lesions \(2\) than lesions\.json \(3\)"
    ):
        read_visit(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(PAIRS))
def test_every_lesion_of_a_phantom_is_classed_as_it_was_made(tmp_path, seed):
    folders, fates, voxel = draw_pair(np.random.default_rng(seed), tmp_path)
    found = follow(folders)
    assert len(found.lesions) == len(fates)
    for fate in fates:
        then = int(fate.name == "new")
        centroids = found.visits[then].centroids
        places = [
            centroids[each[then].lesions[0] - 1] if each[then].lesions else np.inf for each in found.lesions
        ]
        nearest = int(np.argmin([np.linalg.norm(place - fate.centre) for place in places]))
        change = abs(fate.diameters[1] - fate.diameters[0])
        if fate.name == "stable" or change >= voxel:
            assert found.lesions[nearest][1].status == fate.name


@pytest.mark.slow
@pytest.mark.usefixtures("without_registration")
def test_folders_that_segment_wrote_are_followed(write_patient, make_predictor, tmp_path):
    folders = []
    for codes in ("LPS", "RAS"):
        files = PatientFiles(**write_patient(codes, folder=tmp_path / codes))
        folders.append(tmp_path / f"of_{codes}")
        segment_patient(files, folders[-1], predictor=make_predictor())
    found = follow(folders)
    assert [[each.status for each in lesion] for lesion in found.lesions] == [["first", "stable"]] * 3
    assert not found.warnings


def test_code_of_a_patient_is_short_and_the_same_at_each_visit():
    headers = [Dataset(), Dataset(), Dataset(), Dataset()]
    for header, name in zip(headers, ("MRN-0047", "mrn-0047 ", "MRN-0048"), strict=False):
        header.PatientID = name
    codes = [patient_code(header) for header in headers]
    assert codes[0] == codes[1] != codes[2]
    assert [len(code) for code in codes] == [3, 3, 3, 0]
