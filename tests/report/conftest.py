"""Tables of figures, drawn at random or written by hand."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.evaluation.lesion_metrics import lesion_rows
from sgnet_nnunet.evaluation.measurement import CASE_COLUMNS, LESION_COLUMNS, Figures
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import measure
from sgnet_nnunet.evaluation.results import Model, PredictedCase, Results, Target
from sgnet_nnunet.evaluation.summary import Summary, summarise
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


def figures_of_results(results: Results) -> Figures:
    """Measure every case."""
    cases, lesions = [], []
    for case in results.cases:
        reference = nib.load(case.reference)
        reference = np.asarray(reference.dataobj)
        predicted = (
            np.zeros_like(reference)
            if case.prediction is None
            else np.asarray(nib.load(case.prediction).dataobj)
        )
        for target in results.targets:
            masks = (np.isin(mask, target.values) for mask in (predicted, reference))
            pair = MaskPair(*masks, affine=reference.affine)
            keys = (case.model, case.fold, case.name, case.patient, target.name)
            state = (pair.empty or "", case.prediction is None)
            cases.append(dict(zip(CASE_COLUMNS, (*keys, *state), strict=True)) | measure(pair))
            lesions += [(*keys, *vars(row).values()) for row in lesion_rows(pair)]
    return Figures(
        results=results,
        per_case=pd.DataFrame(cases),
        per_lesion=pd.DataFrame(lesions, columns=list(LESION_COLUMNS)),
    )


def written(
    folder: Path,
    *,
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
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, SHAPE)

    def save(kind: str, name: str, array: np.ndarray) -> Path:
        path = folder / kind / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_volume(path, Volume(nib.orientations.apply_orientation(array, turn), affine))
        return path

    cases = []
    answers = (boxes(LESIONS[0]), boxes(*LESIONS, FALSE), boxes(FALSE))
    for i, name in enumerate(names):
        reference = boxes(*LESIONS)
        reference = save("references", name, reference)
        scans = [save("images", f"{name}_{c:04d}", _head(rng, reference)) for c in range(2)] if images else []
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
def write_figures(tmp_path: Path) -> Callable[..., Figures]:
    """Return a function that writes answers to a temporary folder, and measures them."""
    return lambda **options: figures_of_results(written(tmp_path, **options))


def summary_of(figures: Figures) -> Summary:
    """Return the statistics of figures, with few resamples."""
    return summarise(figures, rng=np.random.default_rng(0), resamples=50)


@pytest.fixture
def write_page() -> Callable[..., str]:
    """Return a function that writes the report of figures to a folder, and returns its page."""

    def write(figures: Figures, folder: Path, **options: object) -> str:
        folder.mkdir(exist_ok=True)
        write_report(figures, summary_of(figures), folder, **options)
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
    figures = figures_of_results(results)
    write_report(figures, summary_of(figures), folder, viewer=True, workers=1)
    return folder
