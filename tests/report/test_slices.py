import numpy as np
import pytest
from PIL import Image

from sgnet_nnunet.inference.gate_maps import GatedCase
from sgnet_nnunet.report.figures import GATE_COLOUR, PREDICTION_COLOUR, REFERENCE_COLOUR, rgb
from sgnet_nnunet.report.slices import (
    LARGEST_PANEL,
    SMALLEST_PANEL,
    Contour,
    Panel,
    Picture,
    attempt,
    draw_panels,
    encode,
    gate_panels,
    radiological_slice,
    to_grey,
    view_of,
)

PIXELS_PER_MM = 4.0
COLOUR = "#D55E00"


def draw(grey, *, spacing=(1.0, 1.0, 1.0), masks=(), k=0):
    shown = grey > 0
    for mask in masks:
        shown = shown | mask
    view = view_of(shown, spacing=spacing, pixels_per_mm=PIXELS_PER_MM)
    contours = [Contour(mask=mask, colour=COLOUR, width=2) for mask in masks]
    return np.asarray(draw_panels([Panel(grey=grey, k=k, title="", contours=contours)], view)).astype(int)


def centre_of(places):
    return np.argwhere(places).mean(axis=0)


def test_slice_shows_anterior_up_and_the_patients_right_on_the_left():
    volume = np.zeros((3, 4, 2))  # RAS: x grows to the right, y to the front
    volume[2, 3, 1] = 1  # right, anterior
    shown = radiological_slice(volume, 1)
    assert shown.shape == (4, 3)
    assert shown[0, 0] == 1


def test_right_of_the_patient_is_on_the_left_and_anterior_is_up():
    grey = np.full((40, 60, 3), 40, dtype=np.uint8)
    grey[30:36, 48:54, 1] = 255  # right and anterior in RAS
    picture = draw(grey, k=1)
    row, column = centre_of(picture.sum(axis=2) > 600)
    height, width, _ = picture.shape
    assert column < width / 2
    assert row < height / 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.5, 5.0)])
def test_a_contour_runs_around_the_same_voxels_of_the_scan(spacing):
    mask = np.zeros((40, 50, 2), dtype=bool)
    mask[8:18, 30:36, 1] = True
    grey = np.where(mask, 255, 30).astype(np.uint8)
    picture = draw(grey, spacing=spacing, masks=[mask], k=1)
    ink = np.abs(picture - np.array(rgb(COLOUR))).sum(axis=2) < 60
    inside = picture.min(axis=2) > 200
    inside[:, :14] = inside[:, -14:] = False  # R and L are white too
    assert ink.any()
    assert inside.any()
    np.testing.assert_allclose(centre_of(ink), centre_of(inside), atol=1.0)
    rows, columns = np.nonzero(ink)
    inner_rows, inner_columns = np.nonzero(inside)
    assert rows.min() <= inner_rows.min() <= inner_rows.max() <= rows.max()
    assert columns.min() <= inner_columns.min() <= inner_columns.max() <= columns.max()
    # From the middle of the outermost voxels to those beside them.
    assert (
        abs((rows.max() - rows.min()) - 6 * spacing[1] * PIXELS_PER_MM)
        <= 0.5 * spacing[1] * PIXELS_PER_MM + 2
    )


def test_a_single_voxel_has_a_contour():
    mask = np.zeros((30, 30, 1), dtype=bool)
    mask[10, 20, 0] = True
    picture = draw(np.full(mask.shape, 30, dtype=np.uint8), masks=[mask])
    assert (picture.max(axis=2) - picture.min(axis=2) > 60).any()


def test_a_slice_without_the_mask_has_no_contour():
    mask = np.zeros((30, 30, 2), dtype=bool)
    mask[10:14, 20:24, 0] = True
    picture = draw(np.full(mask.shape, 30, dtype=np.uint8), masks=[mask], k=1)
    assert (picture.max(axis=2) - picture.min(axis=2)).max() < 20


def test_a_millimetre_is_as_long_in_both_directions():
    view = view_of(np.ones((20, 40, 3), dtype=bool), spacing=(2.0, 0.5, 5.0), pixels_per_mm=6.0)
    assert view.size == (240, 120)


def test_a_view_is_around_what_must_be_seen():
    shown = np.zeros((100, 80, 3), dtype=bool)
    shown[40:50, 20:30, 1] = True
    view = view_of(shown, spacing=(1.0, 1.0, 1.0), pixels_per_mm=10.0)
    assert view.size == (180, 180)
    assert view.box == (slice(46, 64), slice(46, 64))


def test_without_anything_to_see_all_is_shown():
    view = view_of(np.zeros((10, 20, 3), dtype=bool), spacing=(1.0, 1.0, 1.0), pixels_per_mm=10.0)
    assert view.size == (100, 200)


def test_grey_runs_from_zero_to_the_brightest_tissue():
    scan = np.linspace(-1, 1000, 30**3).reshape(30, 30, 30)
    grey = to_grey(scan)
    assert grey.dtype == np.uint8
    assert grey[scan <= 0].max() == 0
    assert grey.max() == 255


def test_background_does_not_count_in_the_white_level():
    scan = np.zeros((30, 30, 30))
    scan[12:18, 12:18, 12:18] = np.random.default_rng(0).uniform(50, 100, (6, 6, 6))
    assert to_grey(scan)[12:18, 12:18, 12:18].min() > 100


def test_the_background_of_a_normalised_scan_is_black():
    scan = np.full((30, 30, 30), -2.0)
    scan[5:25, 5:25, 5:25] = np.random.default_rng(0).normal(size=(20, 20, 20)).clip(-1.5, 3)
    grey = to_grey(scan)
    assert grey[0].max() == 0
    assert np.median(grey[5:25, 5:25, 5:25]) > 60


def test_an_image_of_zeros_is_black():
    assert to_grey(np.zeros((6, 6, 6), dtype=np.int16)).max() == 0


@pytest.mark.parametrize(("step", "longer"), [(100.0, LARGEST_PANEL), (1e-3, SMALLEST_PANEL)])
def test_a_panel_is_within_the_limits_whatever_the_size_of_a_voxel(step, longer):
    view = view_of(np.ones((300, 20, 3), dtype=bool), spacing=(step, step, 5.0), pixels_per_mm=4.0)
    assert max(view.size) == longer


def test_many_panels_are_drawn_in_rows():
    grey = np.full((20, 20, 2), 30, dtype=np.uint8)
    view = view_of(grey > 0, spacing=(1.0, 1.0, 1.0), pixels_per_mm=1.0)
    sheet = draw_panels([Panel(grey=grey, k=0, title="")] * 20, view)
    assert sheet.width < 7 * SMALLEST_PANEL
    assert sheet.height > 3 * SMALLEST_PANEL


def test_the_name_of_a_contour_has_its_colour():
    mask = np.zeros((80, 80, 1), dtype=bool)
    mask[40:50, 50:60, 0] = True
    grey = np.full(mask.shape, 30, dtype=np.uint8)
    view = view_of(grey > 0, spacing=(1.0, 1.0, 1.0), pixels_per_mm=4.0)
    pictures = [
        np.asarray(
            draw_panels(
                [Panel(grey=grey, k=0, title="", contours=[Contour(mask=mask, colour=COLOUR, name=name)])],
                view,
            )
        ).astype(int)
        for name in ("", "Prediction")
    ]
    ink = [(np.abs(picture - np.array(rgb(COLOUR))).sum(axis=2) < 60).sum() for picture in pictures]
    assert ink[1] > ink[0]


def test_a_picture_is_webp():
    content = encode(Image.new("RGB", (8, 6), "red")).content
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"WEBP"


@pytest.mark.parametrize("error", [ValueError("no  such\nthing"), ZeroDivisionError("no such thing")])
def test_a_picture_that_fails_says_why(error):
    def draw():
        raise error

    assert attempt(draw) == Picture(problem="no such thing")


def box(*ends, shape=(8, 24, 20)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*end) for end in ends)] = True
    return mask


def gate_picture(**changes):
    values = {
        "name": "case",
        "image": np.random.default_rng(0).random((2, 8, 24, 20)).astype(np.float32),
        "spacing": (1.0, 4.0, 4.0),
        "gates": {f"1/{2**level}": box((2, 6), (4, 16), (4, 16)) for level in (3, 2, 1)},
        "prediction": box((3, 5), (6, 12), (6, 12)),
        "reference": box((3, 5), (6, 12), (6, 12)),
    }
    return np.asarray(gate_panels(GatedCase(**values | changes))).astype(int)


def has(picture, colour):
    return bool((np.abs(picture - np.array(rgb(colour))).sum(axis=2) < 60).any())


def test_reference_and_prediction_have_their_colours_in_the_picture_of_the_gates():
    picture = gate_picture(prediction=box((3, 5), (8, 14), (9, 15)))
    assert has(picture, REFERENCE_COLOUR)
    assert has(picture, PREDICTION_COLOUR)


def test_nothing_predicted_and_no_reference_draws_no_outline():
    nothing = box((0, 0), (0, 0), (0, 0))
    picture = gate_picture(reference=None, prediction=nothing, gates={"1/2": nothing})
    assert not has(picture[: picture.shape[0] // 2], PREDICTION_COLOUR)
    assert not has(picture, REFERENCE_COLOUR)
    assert not has(picture, GATE_COLOUR)


def test_what_a_gate_suppresses_is_darker():
    suppressed = gate_picture(gates={"1/2": box((0, 0), (0, 0), (0, 0))}).mean()
    is_open = gate_picture(gates={"1/2": box((0, 8), (0, 24), (0, 20))}).mean()
    assert suppressed < is_open


@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_channels_can_be_drawn(channels):
    image = np.random.default_rng(0).random((channels, 8, 24, 20)).astype(np.float32)
    assert gate_picture(image=image).size
