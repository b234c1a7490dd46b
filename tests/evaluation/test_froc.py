"""Lesions at many thresholds, their counts, and FROC curves from nnU-Net's saved probabilities."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.froc import (
    Candidates,
    LesionCounts,
    MonotoneFroc,
    SearchGrid,
    count_against,
    count_lesions,
    froc_of,
    read_probabilities,
)
from sgnet_nnunet.inference.operating_point import apply_operating_point
from sgnet_nnunet.inference.plan import labels_of, read_description
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import Volume, read_channel, reader_class, write_volume

MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"
THRESHOLDS = (0.2, 0.5, 0.8)
LABELS = {
    "one label": labels_of({"background": 0, "tumour": 1}, None),
    "three labels": labels_of({"background": 0, "oedema": 1, "core": 2, "cyst": 3}, None),
    "regions": labels_of({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2]),
}


def one_label(tumour):
    return np.stack([1 - tumour, tumour]).astype(np.float32)


def count(tumour, reference, *, spacing=(1.0, 1.0, 1.0), thresholds=THRESHOLDS, volumes=(0.0,)):
    grid = SearchGrid(thresholds=thresholds, volumes_mm3=volumes, mean_probabilities=(1.0,))
    return count_lesions(one_label(tumour), reference, grid=grid, labels=LABELS["one label"], spacing=spacing)


def test_found_and_false_lesions_are_those_counted_by_hand():
    reference, tumour = np.zeros((2, 8, 12), dtype=bool), np.zeros((2, 8, 12))
    reference[0, 0, 0:3] = True  # found up to 0.5: 3 mm3 at 0.2, 2 mm3 at 0.5
    tumour[0, 0, 0:3] = 0.6, 0.6, 0.3
    reference[0, 4, 0] = True  # both overlapped by one predicted lesion of 5 mm3 at 0.2,
    reference[0, 4, 2] = True  # and by two of 1 and 3 mm3 at 0.5 and 0.8
    tumour[0, 4, 0:5] = 0.9, 0.3, 0.9, 0.9, 0.9
    reference[0, 7, 11] = True  # missed
    tumour[1, 7, 0:2] = 0.7  # false, 2 mm3
    volumes = (0.0, 2.0, 2.5, 4.0, 6.0)
    counts, default, _ = count(tumour, reference, spacing=(4.0, 0.5, 0.5), volumes=volumes)
    assert counts.lesions.tolist() == default.lesions.tolist() == [4]
    assert counts.found[0].tolist() == [[3, 3, 3, 2, 0], [3, 2, 1, 0, 0], [2, 1, 1, 0, 0]]
    assert counts.false_positives[0].tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert (default.found.tolist(), default.false_positives.tolist()) == ([3], [1])


def blobs(rng, shape, sigma):
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return field / field.std()


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("three labels", 4), ("regions", 2)])
def test_every_count_is_that_of_the_mask_which_prediction_writes(label_managers, kind, heads):
    manager, rng = label_managers[kind], np.random.default_rng(7)
    shape, spacing, volumes = (10, 24, 26), (3.0, 0.7, 0.8), (0.0, 5.04, 20.0, 60.0)
    logits = np.stack([blobs(rng, shape, 1.2) * 2 - 2 * (head > 0) for head in range(heads)])
    exp = np.exp(logits)
    probabilities = (exp / (1 + exp) if kind == "regions" else exp / exp.sum(axis=0)).astype(np.float32)
    reference = blobs(rng, shape, 1.5) > 1.5
    labels = LABELS[kind]
    grid = SearchGrid(thresholds=THRESHOLDS, volumes_mm3=volumes, mean_probabilities=(1.0, 0.75, 0.6))
    counts, default, candidates = count_lesions(
        probabilities, reference, grid=grid, labels=labels, spacing=spacing
    )
    lesions = find_lesions(reference, spacing=spacing)
    assert counts.lesions.tolist() == [lesions.number]

    def counted(mask):
        components, number = ndimage.label(mask > 0, structure=np.ones((3, 3, 3)))
        true = [i for i in range(1, number + 1) if reference[components == i].mean() >= 0.1]
        found = set(lesions.labels[np.isin(components, true) & reference])
        return len(found), number - len(true)

    for i in range(len(THRESHOLDS)):
        for j in range(len(grid.rules)):
            point = grid.point((i, j))
            mask = apply_operating_point(probabilities, point, labels, spacing)
            assert (counts.found[0, i, j], counts.false_positives[0, i, j]) == counted(mask)
    own = counted(manager.convert_probabilities_to_segmentation(probabilities))
    assert (default.found[0], default.false_positives[0]) == own
    assert counts.false_positives[0].min() < counts.false_positives[0].max()
    false = np.bincount(candidates.threshold[~candidates.is_true], minlength=len(THRESHOLDS))
    assert counts.false_positives[0, :, 0].tolist() == false.tolist()


def test_candidates_have_their_volume_and_mean_probability():
    reference, tumour = np.zeros((2, 4, 8), dtype=bool), np.zeros((2, 4, 8))
    tumour[0, 0, 0:3] = 0.6, 0.9, 0.3
    tumour[1, 3, 6] = 0.8
    reference[0, 0, 1] = True
    found = count(tumour, reference, spacing=(2.0, 1.0, 1.0), thresholds=(0.2, 0.5)).candidates
    order = np.lexsort([found.volume_mm3, found.threshold])
    rows = zip(found.threshold, found.volume_mm3, found.mean_probability, found.is_true, strict=True)
    rows = np.array(list(rows), dtype=float)[order]
    expected = [(0, 2, 0.8, False), (0, 6, 0.6, True), (1, 2, 0.8, False), (1, 4, 0.75, True)]
    np.testing.assert_allclose(rows, np.array(expected, dtype=float), rtol=1e-6)


def test_candidates_of_several_cases_are_numbered_in_order():
    tumour = np.zeros((2, 4, 8))
    tumour[0, 0, 0] = tumour[1, 3, 6] = 0.9
    each = [count(tumour, tumour > 0, thresholds=(0.5,)).candidates] * 2
    assert Candidates.join(each).case.tolist() == [0, 0, 1, 1]


def test_default_foreground_below_the_lowest_threshold_is_not_cropped_away():
    tumour, reference = np.zeros((4, 5, 6)), np.zeros((4, 5, 6), dtype=bool)
    tumour[1, 1, 1] = 0.6
    counts, default, _ = count(tumour, reference, thresholds=(0.9,))
    assert default.false_positives.tolist() == [1]
    assert counts.false_positives.tolist() == [[[0]]]


def test_flood_that_overlaps_every_lesion_finds_none():
    reference, tumour = np.zeros((5, 10, 10), dtype=bool), np.full((5, 10, 10), 0.3)
    reference[0, 0, :3] = reference[4, 9, :3] = reference[2, 5, 5:8] = True
    tumour[reference] = 0.9
    counts = count(tumour, reference).at_grid
    assert counts.found[0, :, 0].tolist() == [0, 3, 3]
    assert counts.false_positives[0, :, 0].tolist() == [1, 0, 0]


def test_predicted_lesion_is_true_from_a_tenth_of_its_voxels_on():
    reference, tumour = np.zeros((1, 1, 11), dtype=bool), np.zeros((1, 1, 11))
    reference[0, 0, 0] = True
    for length, true in [(10, 1), (11, 0)]:
        tumour[0, 0, :length] = 0.9
        counts = count(tumour, reference, thresholds=(0.5,)).at_grid
        assert (counts.found.item(), counts.false_positives.item()) == (true, 1 - true)


def test_case_without_lesions_or_predictions_counts_nothing():
    nothing = np.zeros((4, 5, 6))
    for counts in count(nothing, nothing > 0, volumes=(0.0, 10.0))[:2]:
        assert counts.lesions.tolist() == [0]
        assert not counts.found.any()
        assert not counts.false_positives.any()


def test_counts_of_several_cases_are_joined_in_order():
    first = LesionCounts(np.array([1, 2]), np.array([[1], [0]]), np.array([[0], [3]]))
    joined = LesionCounts.join([first, first.of(np.array([False, True]))])
    assert joined.lesions.tolist() == [1, 2, 2]
    assert joined.found.tolist() == [[1], [0], [0]]
    assert joined.false_positives.tolist() == [[0], [3], [3]]


def test_rates_are_micro_averaged():
    counts = LesionCounts(np.array([6, 4]), np.array([6, 2]), np.array([0, 2]))
    assert counts.sensitivity == 0.8
    assert counts.false_positives_per_case == 1
    assert counts.f1 == 2 * 8 / (2 * 8 + 2 + 2)


def test_references_without_a_lesion_give_no_curve(make_model, add_case):
    folder = make_model()
    cases = [add_case(folder, "a", np.ones((3, 3, 3)), np.zeros((3, 3, 3)))]
    assert froc_of(cases, model_folder=folder) is None


@pytest.fixture
def two_cases(make_model, add_case):
    """Two cases with three lesions; the weakest is seen at 0.3, and so is a false one."""
    folder = make_model()
    first, second = np.zeros((6, 8, 9)), np.zeros((6, 8, 9))
    first[1, 1:3, 1:3], first[4, 6, 6] = 0.9, 0.6
    second[1, 1:3, 1:3], second[4, 6, 7] = 0.3, 0.3
    reference = first > 0.1
    return folder, [
        add_case(folder, "a", first, reference),
        add_case(folder, "b", second, (second > 0.1) & (np.arange(6) < 3)[:, None, None]),
    ]


def test_curve_is_that_worked_by_hand(two_cases):
    froc = froc_of(two_cases[1], model_folder=two_cases[0])
    points = np.searchsorted(froc.thresholds, [0.2, 0.5, 0.8])
    assert froc.thresholds[points].tolist() == [0.2, 0.5, 0.8]
    np.testing.assert_allclose(froc.sensitivity[points], [1, 2 / 3, 1 / 3])
    assert froc.false_positives_per_case[points].tolist() == [0.5, 0, 0]
    assert froc.min_lesion_volume_mm3 == 0
    assert froc.lesions.case.tolist() == [0, 0]  # at 0.5
    assert sorted(froc.lesions.mean_probability) == pytest.approx([0.6, 0.9], abs=1e-3)
    assert froc.lesions.is_true.all()


@pytest.mark.slow
def test_two_workers_give_the_same_curve(two_cases):
    alone, together = (froc_of(two_cases[1], model_folder=two_cases[0], workers=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.sensitivity, together.sensitivity)


def test_there_is_no_curve_unless_every_case_has_probabilities(two_cases):
    folder, (first, second) = two_cases
    assert froc_of([first, replace(second, probabilities=None)], model_folder=folder) is None
    assert froc_of([], model_folder=folder) is None


def test_probabilities_that_do_not_give_the_evaluated_mask_are_refused(two_cases):
    """A training without `--npz` leaves those of the weights before it next to its own masks."""
    folder, (first, second) = two_cases
    cases = [first, replace(second, prediction=first.prediction)]
    with pytest.raises(InputFileError, match=r"b\.npz: does not give the mask .*a\.nii\.gz.*other weights"):
        froc_of(cases, model_folder=folder)
    with pytest.raises(InputFileError, match=r"b\.npz: does not give the mask that is evaluated \(None\)"):
        froc_of([first, replace(second, prediction=None)], model_folder=folder)


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("three labels", 4), ("regions", 2)])
def test_one_voxel_of_another_class_tells_that_probabilities_are_of_other_weights(
    make_model, add_case, label_managers, kind, heads
):
    manager, rng = label_managers[kind], np.random.default_rng(5)
    labels = {"background": 0, "whole": [1, 2], "core": [2]} if kind == "regions" else manager.label_dict
    order = {"regions_class_order": [1, 2]} if kind == "regions" else {}
    folder = make_model(labels=labels, **order)
    case = add_case(folder, "case", np.zeros((4, 5, 6)), np.ones((4, 5, 6)))
    logits = rng.normal(size=(heads, 4, 5, 6))
    exp = np.exp(logits)
    probabilities = (exp / (1 + exp) if kind == "regions" else exp / exp.sum(axis=0)).astype(np.float32)
    np.savez_compressed(case.probabilities, probabilities=probabilities)
    mask = np.asarray(manager.convert_probabilities_to_segmentation(probabilities)).astype(np.uint8)
    write_volume(case.prediction, Volume(mask.T, np.eye(4)))
    assert froc_of([case], model_folder=folder) is not None
    voxel = tuple(rng.integers(mask.shape))
    mask[voxel] = (mask[voxel] + 1) % (max(manager.foreground_labels) + 1)
    write_volume(case.prediction, Volume(mask.T, np.eye(4)))
    with pytest.raises(InputFileError, match="other weights predicted it"):
        froc_of([case], model_folder=folder)


def test_bad_file_is_an_error(two_cases):
    folder, cases = two_cases
    cases[1].probabilities.write_bytes(b"")
    with pytest.raises(InputFileError, match=r"b\.npz: cannot be read"):
        froc_of(cases, model_folder=folder)


def test_lesions_below_an_ignore_label_give_no_curve(make_model, add_case):
    folder = make_model(labels={"background": 0, "tumour": 1, "ignore": 2})
    cases = [add_case(folder, "a", np.zeros((3, 3, 3)), np.ones((3, 3, 3)))]
    assert froc_of(cases, model_folder=folder) is None


@pytest.fixture
def saved_case(make_model, add_case):
    tumour = np.zeros((4, 5, 6))
    tumour[1, 2, 3] = 0.9
    return add_case(make_model(), "case", tumour, tumour > 0.5, spacing=(5, 0.7, 0.6))


def damage(case, array=None, **arrays):
    np.savez_compressed(case.probabilities, **({"probabilities": array} if array is not None else arrays))


def test_case_is_read_in_the_order_z_y_x(saved_case):
    probabilities = read_probabilities(saved_case.probabilities, heads=2)
    assert probabilities.shape == (2, 4, 5, 6)
    assert np.argwhere(probabilities[1] > 0.5).tolist() == [[1, 2, 3]]


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
    # Probabilities have the axes of nnU-Net's reader.
    (seen,), _ = reader_class(reader)().read_seg(str(case.reference))
    volume = 3 * 5 * 0.7 * 0.6
    grid = SearchGrid(thresholds=(0.5,), volumes_mm3=(volume, 1.01 * volume), mean_probabilities=(1.0,))
    counted = count_against(case.reference, one_label(seen), model=read_description(folder), grid=grid)
    counts = counted.at_grid
    assert counts.found.tolist() == [[[1, 0]]]
    assert not counts.false_positives.any()


def test_reference_on_another_grid_than_the_images_is_refused(make_model, add_case):
    folder = make_model()
    tumour = np.zeros((4, 5, 6))
    case = add_case(folder, "case", tumour, tumour > 0)
    model, grid = read_description(folder), SearchGrid()
    _, image = read_channel(case.reference, reader=model.reader)
    counted = count_against(case.reference, one_label(tumour), model=model, grid=grid, image=image)
    assert not counted.at_grid.total_lesions
    nib.save(nib.Nifti1Image(tumour.T.astype(np.uint8), None), case.reference)
    with pytest.raises(InputFileError, match="is on another grid than the images"):
        count_against(case.reference, one_label(tumour), model=model, grid=grid, image=image)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 4, 5, 6), np.nan), "has values from nan to nan, which are no probabilities"),
        (np.full((2, 4, 5, 6), np.inf), "has values from inf to inf"),
        (np.full((2, 4, 5, 6), -3.0), "has values from -3 to -3"),
        (np.full((2, 4, 5, 6), 1.5), r"has values from 1\.5 to 1\.5"),
        (np.zeros((3, 4, 5, 6)), r"shape \(3, 4, 5, 6\) of float64; \(2, z, y, x\)"),
        (np.zeros((4, 5, 6)), r"has shape \(4, 5, 6\)"),
        (np.array([{}], dtype=object), "cannot be read as nnU-Net's probabilities"),
    ],
)
def test_arrays_that_are_no_probabilities_are_refused(saved_case, array, message):
    damage(saved_case, array)
    with pytest.raises(InputFileError, match=message) as error:
        read_probabilities(saved_case.probabilities, heads=2)
    assert "\n" not in str(error.value)


def test_one_nan_among_probabilities_is_found(saved_case):
    array = np.full((2, 4, 5, 6), 0.5)
    array[1, 3, 4, 5] = np.nan
    damage(saved_case, array)
    with pytest.raises(InputFileError, match="no probabilities"):
        read_probabilities(saved_case.probabilities, heads=2)


def test_archive_without_probabilities_is_refused(saved_case):
    damage(saved_case, softmax=np.zeros(3))
    with pytest.raises(InputFileError, match="cannot be read as nnU-Net's probabilities"):
        read_probabilities(saved_case.probabilities, heads=2)


@pytest.mark.parametrize("kept", [0, 100, -20])
def test_truncated_files_are_refused(saved_case, kept):
    path = saved_case.probabilities
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputFileError, match=r"case\.npz: cannot be read as nnU-Net's probabilities"):
        read_probabilities(saved_case.probabilities, heads=2)


def test_shapes_that_differ_are_refused(make_model, add_case):
    folder = make_model()
    case = add_case(folder, "case", np.zeros((4, 6, 5)), np.zeros((4, 5, 6)))
    with pytest.raises(InputFileError, match=r"has shape \(4, 5, 6\) \(z, y, x\), .* have \(4, 6, 5\)"):
        froc_of([case], model_folder=folder)


def test_reference_that_cannot_be_read_is_named(saved_case):
    saved_case.reference.write_bytes(saved_case.reference.read_bytes()[:40])
    folder = saved_case.reference.parents[1] / MODEL
    with pytest.raises(InputFileError, match=r"gt_segmentations/case\.nii\.gz: "):
        froc_of([saved_case], model_folder=folder)


# --- monotone curves ---------------------------------------------------------------------------------------

FEW = st.integers(0, 9)


@st.composite
def weighted_counts(draw, *, thresholds=5, cases=4, curves=3):
    """Draw counts at thresholds, and how often each case counts in each curve; some lesion in all of them."""
    lesions = np.array(draw(st.lists(st.integers(1, 5), min_size=cases, max_size=cases)))
    shares = [draw(st.lists(st.floats(0, 1), min_size=thresholds, max_size=thresholds)) for _ in lesions]
    found = np.round(lesions[:, None] * np.array(shares)).astype(int)
    false = np.array(draw(st.lists(st.lists(FEW, min_size=5, max_size=5), min_size=cases, max_size=cases)))
    weights = draw(st.lists(st.lists(FEW, min_size=cases, max_size=cases), min_size=curves, max_size=curves))
    return LesionCounts(lesions, found, false), np.array(weights, dtype=float) + np.eye(curves, cases)


def points_of(counts, weights):
    """Return a curve's points as exact sums over repeated cases, rising in false positives."""
    cases = np.repeat(np.arange(counts.cases), weights.astype(int))
    points = [(0.0, 0.0)]
    for threshold in range(counts.found.shape[1]):
        found = sum(counts.found[case, threshold] for case in cases)
        false = sum(counts.false_positives[case, threshold] for case in cases)
        points.append((false / len(cases), found / sum(counts.lesions[case] for case in cases)))
    points.sort()  # of points with as many false positives the best counts
    return points[:1] + [(false, max(s for f, s in points if f <= false)) for false, _ in points]


def height(points, at):
    """Return the sensitivity of the curve at a number of false positives, the upper end of a jump."""
    left = max(point for point in points if point[0] <= at)
    if left[0] == at or left == points[-1]:
        return left[1]
    right = min(point for point in points if point[0] > at)
    return left[1] + (right[1] - left[1]) * (at - left[0]) / (right[0] - left[0])


@given(weighted_counts())
@settings(max_examples=15, deadline=None)
def test_area_and_false_positives_are_those_of_a_curve_that_is_walked_along(drawn):
    counts, weights = drawn
    curves = MonotoneFroc.of(counts, weights)
    steps = np.linspace(0, 4, 81)
    for curve, own in enumerate(weights):
        points = points_of(counts, own)
        heights = np.array([height(points, at) for at in steps])
        middles = np.mean([height(points, at) for at in (steps[:-1] + steps[1:]) / 2])
        assert curves.partial_area(most=4.0)[curve] == pytest.approx(middles, abs=0.03)
        for sensitivity in (0.3, 0.6, 0.9):
            found = curves.false_positives_at(sensitivity)[curve]
            if points[-1][1] < sensitivity:
                assert np.isnan(found)
                continue
            assert height(points, found) >= sensitivity - 1e-9
            assert (heights[steps < found - 1e-9] < sensitivity).all()


def test_a_curve_that_turns_back_is_made_monotone():
    """Two merged lesions are lost at the lowest threshold, which has the most false positives."""
    counts = LesionCounts(np.array([10]), np.array([[5, 9, 8]]), np.array([[6, 2, 1]]))
    curve = MonotoneFroc.of(counts)
    assert curve.sensitivity.tolist() == [[0, 0.8, 0.9, 0.9]]
    assert curve.false_positives_at(0.85).tolist() == pytest.approx([1.5])
    assert curve.false_positives_at(0.4).tolist() == pytest.approx([0.5])  # on the way from (0, 0)
    assert np.isnan(curve.false_positives_at(0.95)).all()
    assert curve.partial_area(most=4.0).tolist() == pytest.approx([(0.4 + 0.85 + 2 * 0.9) / 4])


def test_a_sensitivity_without_false_positives_costs_none():
    counts = LesionCounts(np.array([10]), np.array([[9, 8]]), np.array([[0, 0]]))
    curve = MonotoneFroc.of(counts)
    assert curve.false_positives_at(0.85).tolist() == [0]
    assert curve.partial_area().tolist() == [0.9]


def test_a_curve_of_cases_without_a_lesion_is_not_a_number():
    counts = LesionCounts(np.array([0, 1]), np.array([[0], [1]]), np.array([[2], [0]]))
    curves = MonotoneFroc.of(counts, np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(curves.partial_area()).tolist() == [True, False]
    assert np.isnan(curves.false_positives_at(0.5)).tolist() == [True, False]
