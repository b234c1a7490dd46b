"""What the gates of a model admit on the few cases that are shown large."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.report.choice import Choice
from sgnet_nnunet.results.case import PredictedCase, Results


@dataclass(frozen=True, kw_only=True)
class GatePictures:
    """Pictures of the gates, and why there are none.

    Attributes:
        pictures: PNG files by model and case.
        skipped: For each model that has gates but no pictures, a sentence.
    """

    pictures: dict[tuple[str, str], bytes]
    skipped: tuple[str, ...]


def gates_of(results: Results, choices: Sequence[Choice]) -> GatePictures:
    """Run every gated model on its chosen cases, each with the weights of the fold that predicted it.

    This takes the network's time on a CPU for each case, or less on a GPU if there is one.

    Args:
        results: The models and their cases.
        choices: What is shown large.
    """
    pictures: dict[tuple[str, str], bytes] = {}
    skipped = []
    for model in results.models:
        if model.folder is None or "SGNet" not in model.folder.name:
            continue
        wanted = {choice.case for choice in choices if choice.model == model.name}
        cases = [case for case in results.cases if case.model == model.name and case.name in wanted]
        if not cases:
            continue
        try:
            pictures |= {(model.name, name): png for name, png in _look(model.folder, cases)}
        # Any trouble with weights or images only costs the reader these pictures.
        except (SGNetError, RuntimeError, OSError, KeyError, ValueError) as error:
            skipped.append(f"The gates of {model.name} are not shown: {' '.join(str(error).split())}.")
    return GatePictures(pictures=pictures, skipped=tuple(skipped))


def _look(folder: Path, cases: Sequence[PredictedCase]) -> Iterator[tuple[str, bytes]]:
    # PyTorch takes seconds to import.
    import torch  # noqa: PLC0415

    from sgnet_nnunet.inference.gates import look_at_case  # noqa: PLC0415
    from sgnet_nnunet.inference.model import load_predictor  # noqa: PLC0415
    from sgnet_nnunet.pictures.gates import draw_gates  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            if not case.images:
                raise SGNetError(f"the images of {case.name} are not at hand")
            if case.fold not in predictors:
                predictors[case.fold] = load_predictor(folder, fold=case.fold, device=device)
            if not getattr(predictors[case.fold].network, "gate_names", ()):
                return
            picture = Path(scratch) / "gates.png"
            seen = look_at_case(predictors[case.fold], case.name, list(case.images), truth=case.reference)
            draw_gates(seen, picture)
            yield case.name, picture.read_bytes()
