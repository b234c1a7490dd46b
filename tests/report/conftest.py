"""Tables of figures, drawn at random or written by hand."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.evaluation.comparison import compare
from sgnet_nnunet.evaluation.measurement import Measurements, measure_results
from sgnet_nnunet.evaluation.results import Model, PredictedCase, Results, Target
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.report.page import write_report

SHAPE = (30, 36, 12)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
LESIONS = ((slice(5, 9), slice(20, 25), slice(5, 8)), (slice(20, 22), slice(8, 10), slice(3, 4)))
FALSE = (slice(22, 25), slice(24, 27), slice(8, 10))


def boxes(*places: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def _head(rng: np.random.Generator, lesions: np.ndarray) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.9
    head = rng.normal(300, 20, size=SHAPE) * inside
    return (head + 400.0 * lesions * inside).clip(0).astype(np.int16)


def written(
    folder: Path,
    *,
    affine: np.ndarray = AFFINE,
    names: tuple[str, ...] = ("a", "b", "c"),
    models: tuple[str, ...] = ("first", "second"),
    images: bool = True,
    missing: tuple[tuple[str, str], ...] = (),
    targets: tuple[Target, ...] = (Target(name="tumour", values=(1,)),),
    axes: str = "RAS",
) -> Results:
    """Write two models' answers to a few cases."""
    rng = np.random.default_rng(0)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    affine = affine @ nib.orientations.inv_ornt_aff(turn, SHAPE)

    def save(kind: str, name: str, array: np.ndarray) -> Path:
        path = folder / kind / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_volume(path, Volume(nib.orientations.apply_orientation(array, turn), affine))
        return path

    cases = []
    answers = (boxes(LESIONS[0]), boxes(*LESIONS, FALSE), boxes(FALSE))
    for i, name in enumerate(names):
        lesions = boxes(*LESIONS)
        reference = save("references", name, lesions)
        scans = [save("images", f"{name}_{c:04d}", _head(rng, lesions)) for c in range(2)] if images else []
        for m, model in enumerate(models):
            prediction = save(f"model{m}", name, answers[(i + m) % len(answers)])
            cases.append(
                PredictedCase(
                    model=model,
                    fold=str(i),
                    name=name,
                    patient=name,
                    reference=reference,
                    prediction=None if (model, name) in missing else prediction,
                    images=tuple(scans),
                )
            )
    cases.sort(key=lambda case: (models.index(case.model), case.name))
    return Results(
        dataset="Dataset501_Tiny",
        targets=targets,
        known_values=frozenset({0, 1}),
        models=tuple(Model(name=model, parameters=1000 * (i + 1)) for i, model in enumerate(models)),
        cases=tuple(cases),
    )


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Results]:
    """Return a function that writes two models' answers to a few cases."""
    return partial(written, tmp_path)


@pytest.fixture
def write_figures(tmp_path: Path) -> Callable[..., Measurements]:
    """Return a function that writes answers to a temporary folder, and measures them."""
    return lambda **options: measure_results(written(tmp_path, **options))


def report_on(figures: Measurements, folder: Path, **options: object) -> None:
    """Write the report of figures, with few resamples."""
    results = figures.results
    comparison = compare(figures.per_case, models=results.models, dataset=results.dataset, resamples=50)
    write_report(comparison, folder, measurements=figures, **options)


@pytest.fixture
def write_page() -> Callable[..., str]:
    """Return a function that writes the report of figures to a folder, and returns its page."""

    def write(figures: Measurements, folder: Path, **options: object) -> str:
        report_on(figures, folder, **options)
        return (folder / "report.html").read_text(encoding="utf-8")

    return write


@pytest.fixture(scope="session")
def hostile() -> str:
    """Return a name that a page must escape."""
    return """A & B"<img src=x onerror=alert(1)>'"""


@pytest.fixture(scope="session")
def report(hostile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report on a model with a hostile name, which lacks a prediction."""
    folder = tmp_path_factory.mktemp("report")
    results = written(
        tmp_path_factory.mktemp("data"),
        names=("a", "b", "c & d"),
        models=("first", hostile),
        missing=((hostile, "b"),),
    )
    report_on(measure_results(results), folder, viewer=True, workers=1)
    return folder
