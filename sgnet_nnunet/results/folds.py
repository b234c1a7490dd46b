"""Which cases each fold of a training validates on."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError

ALL = "all"
"""nnU-Net's fold that is trained, and validated, on every case."""

logger = logging.getLogger(__name__)


def validation_cases(splits: Path, folds: Sequence[str], every_case: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the validation cases of each fold, sorted.

    Args:
        splits: nnU-Net's `splits_final.json`; not needed for the fold `all`.
        folds: The folds, numbers or `all`.
        every_case: Names of all cases.

    Raises:
        SGNetError: If a fold is no number, is not in the splits, or shares a case with another.
        InputFileError: If there are no splits, or not as nnU-Net writes them.
    """
    wanted = list(dict.fromkeys(folds))
    if not wanted:
        raise SGNetError("no fold is named; give -f 0 1 2 3 4, for example")
    if wanted == [ALL]:
        logger.warning("fold all is validated on the cases it was trained on: its figures flatter")
        return {ALL: sorted(every_case)}
    content = _read(splits)
    cases = {fold: _cases(splits, content, fold) for fold in wanted}
    fold_of: dict[str, str] = {}
    for fold, names in cases.items():
        for name in names:
            if name in fold_of:
                raise SGNetError(
                    f"{splits}: folds {fold_of[name]} and {fold} both validate on {name}; name one of them"
                )
            fold_of[name] = fold
    return cases


def _cases(splits: Path, content: list[dict[str, list[str]]], fold: str) -> list[str]:
    if not fold.isdigit():
        raise SGNetError(f"fold {fold!r} is not a number; give -f 0 1 2 3 4, or all by itself")
    if int(fold) >= len(content):
        raise SGNetError(f"{splits}: has {len(content)} folds, no fold {fold}; name those it has")
    return sorted(content[int(fold)]["val"])


def _read(splits: Path) -> list[dict[str, list[str]]]:
    remedy = "nnUNetv2_train writes it; name the fold all if there is no split"
    try:
        content = json.loads(splits.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputFileError(splits, f"cannot be read ({detail})", remedy) from error
    if not isinstance(content, list) or not all(isinstance(f, dict) and "val" in f for f in content):
        raise InputFileError(splits, "is not a list of folds with train and val", remedy)
    return content
