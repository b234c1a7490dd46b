"""The table of phantoms next to real scans, on phantoms of few voxels and on made-up images."""

import json

import calibration
import numpy as np
import pandas as pd
import pytest
from calibration import Scan, clipped_share, compare, edge_widths, intensities, measure, texture
from scipy import ndimage
from typer.testing import CliRunner

from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms

COARSE = PhantomConfig(
    t1ce_in_plane=(2.0, 2.2), t1ce_slice=(2.0, 2.4), flair_in_plane=(1.8, 2.0), flair_slice=(5.0, 6.0),
    vessels=20, diameter_median=20, diameter_sigma=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "phantoms"
    write_phantoms(folder, patients=1, seed=2, config=COARSE)
    return folder


@pytest.mark.slow
def test_a_phantom_has_every_figure_of_both_channels(root):
    (accession,) = scan_collection(root)
    rows = measure(accession)
    names = [name.partition(": ")[2] for name in rows]
    assert names[: len(names) // 2] == names[len(names) // 2 :]
    assert np.isfinite(list(rows.values())).all()
    assert 0.34 < rows["t1ce: brain's box / field of view"] < 0.41
    assert rows["flair: P50"] == pytest.approx(1)
    assert rows["flair: edge width along z, mm"] > rows["t1ce: edge width along z, mm"]


@pytest.mark.slow
def test_the_table_is_written_and_phantoms_lie_in_their_own_range(root, tmp_path):
    arguments = [str(each) for each in (root, root, tmp_path / "results")]
    app = CliRunner()
    command = calibration.typer.Typer()
    command.command()(calibration.main)
    assert app.invoke(command, arguments, catch_exceptions=False).exit_code == 0
    rows = json.loads((tmp_path / "results/calibration.json").read_text())
    assert {row["inside"] for row in rows.values()} == {"yes"}
    assert "1 real patients, 1 phantoms" in (tmp_path / "results/calibration.md").read_text()


def test_a_row_is_inside_only_if_every_phantom_is():
    real = pd.DataFrame({"a": (1.0, 3.0), "b": (1.0, 3.0)})
    frame = compare(real, pd.DataFrame({"a": (1.0, 2.0), "b": (2.0, 3.1)}))
    assert list(frame["inside"]) == ["yes", "no"]


@pytest.mark.parametrize("seed", range(5))
def test_the_clipped_share_is_that_of_the_percentile_and_does_not_depend_on_the_size(seed):
    rng = np.random.default_rng(seed)
    healthy, tumour = rng.normal(1, 0.3, 50_000), rng.normal(1.6, 0.4, rng.integers(500, 5000))
    share = tumour.size / (healthy.size + tumour.size)
    limit = np.percentile(np.concatenate((healthy, tumour)), 99.5)
    assert clipped_share(healthy, tumour, share) == pytest.approx((tumour > limit).mean(), abs=1e-3)
    assert clipped_share(healthy, np.tile(tumour, 3), 0.05) == pytest.approx(
        clipped_share(healthy, tumour, 0.05), abs=2e-3
    )


@pytest.mark.parametrize(("radius", "clipped"), [(8, True), (12, False)])
def test_a_bright_tumour_loses_its_contrast_to_the_clip_if_it_is_small(radius, clipped):
    rng = np.random.default_rng(0)
    values = rng.normal(1, 0.05, (80, 80, 80)).astype(np.float32)
    brain = np.ones(values.shape, dtype=bool)
    distance = np.linalg.norm(np.indices(values.shape) - 40, axis=0)
    tumour = distance <= radius  # 0.4 or 1.4 % of the brain
    values[tumour] = 3
    rows = intensities(Scan(values, brain, tumour, distance > radius + 5, np.full(values.shape, 50.0)))
    assert rows["tumour, contrast: P90 above the median, SD"] == pytest.approx(40, rel=0.01)
    assert (rows["tumour, contrast lost to the clip, %"] > 90) == clipped
    assert rows["tumour above the brain's P99.5, %"] == (100 if clipped else 0)


def test_an_edge_is_as_wide_as_its_blur():
    inner = np.zeros((40, 40, 40), dtype=bool)
    inner[5:35, 5:35, 5:35] = True
    step = np.repeat((0.0, 1.0), 20).astype(np.float32)[:, None, None] * np.ones((1, 40, 40), np.float32)
    blurred = [ndimage.gaussian_filter1d(step, sigma, axis=0) for sigma in (0.7, 1.2, 1.6)]
    sharp, middle, dull = (float(np.median(edge_widths(each, inner, 0))) for each in blurred)
    assert sharp < middle < dull
    # The range of a blurred step over its slope.
    assert middle == pytest.approx(1.2 * np.sqrt(2 * np.pi), rel=0.2)


def test_noise_is_measured_in_units_of_the_brain():
    rng = np.random.default_rng(0)
    values = (1 + 0.02 * rng.standard_normal((50, 50, 50))).astype(np.float32)
    everywhere = np.ones(values.shape, dtype=bool)
    scan = Scan(values, everywhere, ~everywhere, everywhere, np.full(values.shape, 50.0))
    assert texture(scan)["noise in flat tissue"] == pytest.approx(0.02, rel=0.1)
