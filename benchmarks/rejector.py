"""What the component rejector of `sgnet tune` gains and costs, on cases that a model has not seen.

    python benchmarks/rejector.py DATASET [--model MODEL] [--transfer OTHER] [--gates]

DATASET is a folder with imagesTr and labelsTr; the model is by default the one in the package.
Printed are false positives a case at equal lesion sensitivity, the lesions above one threshold taken in the
order of a confidence (the rejector's is cross-fitted in five groups of patients); then what `sgnet tune
--rejector` does at a threshold, and what its rejectors do on the cases of OTHER.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation import rejection
from sgnet_nnunet.evaluation.froc import MonotoneFroc
from sgnet_nnunet.evaluation.rejection import Components, RejectorSettings
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import foreground_probability
from sgnet_nnunet.inference.predictor import Logits, PredictionOptions, Predictor
from sgnet_nnunet.inference.shipped import shipped_model
from sgnet_nnunet.nifti import read_channel
from sgnet_nnunet.nnunet import find_cases

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SENSITIVITIES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.85, 0.9, 0.95)
GROUPS = 5


def components_of(
    model: Path, dataset: Path, settings: RejectorSettings
) -> tuple[Components, NDArray[np.str_]]:
    """Predict a data set's cases, and return their lesions and each case's patient."""
    predictor = Predictor.open([model], options=PredictionOptions(), operating_point="none")
    known, found = predictor.description, {}

    def keep(case: str, logits: Logits, properties: list[dict[str, Any]], scene: Scene) -> None:
        reference = dataset / "labelsTr" / f"{case}{known.file_ending}"
        probabilities = predictor.mean_probabilities(logits, properties)
        found[case] = rejection.find_components(
            foreground_probability(probabilities, known.labels),
            read_channel(reference, reader=known.reader)[0] > 0,
            thresholds=THRESHOLDS,
            scene=settings.scene(scene),
            spacing=tuple(properties[0]["spacing"]),
        )

    cases = find_cases(dataset / "imagesTr", file_ending=known.file_ending, channels=len(known.channels))
    predictor.predict_cases(cases, keep, with_scenes=True)
    patients = np.array(["_".join(case.split("_")[:2]) for case in cases])
    return Components.join([found[case] for case in cases]), patients


def curve_of(components: Components, scores: NDArray[np.float64], lesions: NDArray[np.intp]) -> MonotoneFroc:
    """Return the FROC curve of lesions that are taken in the order of their scores."""
    counts = [components.of(scores >= cut).counts(lesions) for cut in np.unique(scores)]
    found, false = (
        np.stack([getattr(each, name) for each in counts], 1) for name in ("found", "false_positives")
    )
    return MonotoneFroc.of(replace(counts[0], found=found, false_positives=false))


def show(*values: object) -> None:
    """Print values."""
    sys.stdout.write(" ".join(map(str, values)) + "\n")


def main() -> None:
    """Print what is found at each threshold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", type=Path, default=shipped_model().folder / "openvino")
    parser.add_argument("--transfer", type=Path)
    parser.add_argument("--gates", action="store_true")
    options = parser.parse_args()
    settings = RejectorSettings(gates=options.gates)
    components, patients = components_of(options.model, options.dataset, settings)
    others = components_of(options.model, options.transfer, settings)[0] if options.transfer else None
    groups = np.array([f"group {number % GROUPS}" for number in np.unique(patients, return_inverse=True)[1]])
    lesions = np.bincount(components.case, minlength=len(patients))
    show("threshold, confidence |", *(f"{each:.0%}" for each in SENSITIVITIES), "(false positives a case)")
    for index, threshold in enumerate(THRESHOLDS):
        at = components.of(components.candidates.threshold == index)
        scores = {"mean probability": at.candidates.mean_probability, "volume": at.candidates.volume_mm3}
        if (fitted := rejection.cross_fitted_scores(at, groups, patients)) is not None:
            scores["rejector"] = fitted
        for name, values in scores.items():
            curve = curve_of(at, values, lesions)
            show(threshold, name, "|", *(f"{curve.false_positives_at(s)[0]:.2f}" for s in SENSITIVITIES))
        for most_lost in (0.0, 0.02, 0.05):
            everything = np.ones(at.candidates.case.size, dtype=bool)
            points = dict.fromkeys(np.unique(groups).tolist(), everything)
            fit = partial(
                rejection.fit_rejection, at, at_point=everything, at_points=points, most_lost=most_lost
            )
            if (found := fit(groups=groups, patients=patients)) is None:
                continue
            show(threshold, "rejector that may lose", most_lost, found.report(len(patients)))
            if others is not None:
                before = others.of(others.candidates.threshold == index)
                after = before.of(found.rejector.keeps(before.features))
                show("  transfer", replace(found, before=before, after=after).report(len(set(others.case))))


if __name__ == "__main__":
    main()
