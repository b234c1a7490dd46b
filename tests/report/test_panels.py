import numpy as np
import pytest
from PIL import Image

from sgnet_nnunet.report.figures import rgb
from sgnet_nnunet.report.slices import Contour, Panel, draw_panels, encode, to_grey, view_of

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
    view = view_of(np.ones((20, 40, 3), dtype=bool), spacing=(2.0, 0.5, 5.0), pixels_per_mm=3.0)
    assert view.size == (120, 60)


def test_a_view_is_around_what_must_be_seen():
    shown = np.zeros((100, 80, 3), dtype=bool)
    shown[40:50, 20:30, 1] = True
    view = view_of(shown, spacing=(1.0, 1.0, 1.0), pixels_per_mm=1.0)
    assert view.size == (18, 18)
    assert view.box == (slice(46, 64), slice(46, 64))


def test_without_anything_to_see_all_is_shown():
    view = view_of(np.zeros((10, 20, 3), dtype=bool), spacing=(1.0, 1.0, 1.0), pixels_per_mm=1.0)
    assert view.size == (10, 20)


def test_grey_runs_from_zero_to_the_brightest_tissue():
    scan = np.linspace(-50, 1000, 30**3).reshape(30, 30, 30)
    grey = to_grey(scan)
    assert grey.dtype == np.uint8
    assert grey[scan <= 0].max() == 0
    assert grey.max() == 255


def test_an_image_of_zeros_is_black():
    assert to_grey(np.zeros((6, 6, 6), dtype=np.int16)).max() == 0


def test_a_file_is_webp():
    content = encode(Image.new("RGB", (8, 6), "red"), quality=80)
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"WEBP"
