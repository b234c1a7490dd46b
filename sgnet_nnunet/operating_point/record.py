"""`operating_point.json`: a tuning as a file, and the point that prediction reads from it."""

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.io.atomic import write_text
from sgnet_nnunet.io.json_object import read_json
from sgnet_nnunet.operating_point.counts import Tally
from sgnet_nnunet.operating_point.froc import Froc
from sgnet_nnunet.operating_point.gain import Difference
from sgnet_nnunet.operating_point.levels import SMALLEST_SHARE
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.operating_point.tuning import Tuning

FILE_NAME = "operating_point.json"
FORMAT = "sgnet operating point"
VERSION = 1
FIGURES = ("f1", "sensitivity", "false_positives_per_case")

_REMEDY = "write it anew with sgnet tune"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What prediction needs to know of a tuning.

    Attributes:
        path: The file.
        model: The data set's name and the model folder's.
        point: The operating point.
    """

    path: Path
    model: str
    point: OperatingPoint


def write_record(path: Path, tuning: Tuning) -> None:
    """Write a tuning as JSON, atomically. A figure that does not exist is null."""
    write_text(path, json.dumps(_content(tuning), indent=2, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read the point of a tuning.

    Raises:
        InputFileError: If the file cannot be read or is not what `write_record` writes.
    """
    content = read_json(path, remedy=_REMEDY)
    if content.get("format") != FORMAT:
        raise InputFileError(path, "is not an operating point of sgnet tune", "name the right file")
    if content.get("version") != VERSION:
        raise InputFileError(
            path, f"has the version {content.get('version')}, this program reads {VERSION}", _REMEDY
        )
    try:
        point = OperatingPoint(**{name: float(value) for name, value in content["point"].items()})
        return Record(path=path, model=str(content["model"]), point=point)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputFileError(path, f"holds no usable point ({error})", _REMEDY) from error


def _content(tuning: Tuning) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": tuning.model,
        "folds": list(tuning.folds),
        "cases": tuning.default.cases,
        "patients": tuning.patients,
        "lesions": tuning.default.lesions,
        "smallest_share_of_true_lesions": SMALLEST_SHARE,
        "objective": str(tuning.objective),
        "wanted_sensitivity": tuning.objective.sensitivity,
        "point": asdict(tuning.point),
        "default": _figures(tuning.default),
        "cross_fitted": _figures(tuning.cross_fitted),
        "resubstitution": _figures(tuning.resubstitution),
        "gain": {name: _difference(getattr(tuning.gain, name)) for name in FIGURES},
        "points_chosen_without": {group: asdict(point) for group, point in tuning.fold_points.items()},
        "grid": asdict(tuning.grid),
        "froc": [_froc(froc) for froc in tuning.frocs],
    }


def _figures(tally: Tally) -> dict[str, float]:
    return {
        **{name: float(getattr(tally, name)) for name in FIGURES},
        "found": int(tally.found),
        "missed": tally.lesions - int(tally.found),
        "false_positives": int(tally.false),
    }


def _difference(difference: Difference) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(difference).items()}


def _froc(froc: Froc) -> dict[str, Any]:
    return {
        "smallest_lesion_mm3": froc.smallest_lesion_mm3,
        "thresholds": froc.thresholds.tolist(),
        "sensitivity": froc.sensitivity.tolist(),
        "false_positives_per_case": froc.false_positives_per_case.tolist(),
    }
